"""Mitigation through a whole run: what is released, what is charged, what is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from skinml.config import load_config
from skinml.experiments.mitigation import mitigation_values
from skinml.experiments.run import run
from skinml.fairness.after_training import COUNTED
from skinml.records import Labels

CLASSES = Labels(("benign", "malignant"), (False, True))
SMALL = [
    "data.synthetic.num_patients=420",
    "federation=centralised",  # the wire has tests of its own
    "training.head.rounds=4",
    "fairness.replicates=100",
    "fairness.null_draws=100",
    "tracking.enabled=false",
]


def values_of(*changes: str):
    config = load_config("quickstart", changes)
    return mitigation_values(config, "a-run", {}, (), CLASSES, 0.5)


def test_of_noised_counts_nothing_is_read_and_the_reason_is_kept():
    found = values_of("fairness.evaluation=dp_counts")
    assert found is not None
    assert found["left_out"] == COUNTED
    assert found["thresholds"] == []


@pytest.mark.parametrize("change", ["mitigation.analysis=false", "mitigation.group=site"])
def test_without_an_analysis_or_such_groups_there_is_none(change):
    assert values_of(change) is None


@pytest.mark.slow
@pytest.mark.parametrize("method", ["reweigh", "group_dro"])
def test_a_run_charges_what_it_releases_and_reports_it(method: str, tmp_path: Path):
    done = run("quickstart", [f"work_dir={tmp_path}", f"mitigation.method={method}", *SMALL])
    record = done.record
    released = {each.name for each in record.guarantee.sums}
    assert "group_label_counts" in released
    assert ("group_losses" in released) == (method == "group_dro")
    assert record.guarantee.epsilon == pytest.approx(3.0, rel=1e-3)
    assert record.guarantee.epsilon <= 3.0
    words = " ".join(record.guarantee.covered)
    assert "labels by group" in words
    assert ("losses by group" in words) == (method == "group_dro")
    assert record.mitigation is not None
    assert "mitigation-h" in (done.folder / "report.html").read_text()


@pytest.mark.slow
def test_without_noise_an_equal_ratio_gives_the_same_figures(tmp_path: Path):
    """The path of groups, secure sums left out, changes nothing where all groups count the same."""
    aurocs = []
    for name, changes in (
        ("plain", []),
        ("equal", ["mitigation.method=reweigh", "mitigation.greatest_ratio=1"]),
    ):
        work = [f"work_dir={tmp_path / name}", "privacy.trust=none", *SMALL, *changes]
        aurocs.append(run("quickstart", work).record.overall.estimates["auroc"].value)
    assert aurocs[0] == aurocs[1]
