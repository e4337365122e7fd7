"""What a run publishes under dp_counts: public cells, a threshold on their edges, nothing exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skinml.config import load_config
from skinml.errors import ConfigError
from skinml.experiments.audit_replay import recipe_names, replay
from skinml.experiments.guarantee import EXACT
from skinml.experiments.released import (
    counts_release,
    public_layout,
    released_gaps,
    released_results,
    require_publishable,
    run_threshold,
)
from skinml.fairness.count_tables import BINS
from skinml.privacy.plan import units_of_patient
from skinml.privacy.quantise import GRID
from skinml.records import Labels

COUNTED = "fairness.evaluation=dp_counts"
RECIPE = [recipe_names(load_config("quickstart"))[0]]
CLASSES = Labels(("benign", "malignant"), (False, True))


def test_a_run_of_real_clinics_needs_counts():
    require_publishable(load_config("quickstart", (COUNTED,)))
    with pytest.raises(ConfigError, match="dp_counts"):
        require_publishable(load_config("quickstart"))


def test_counts_without_noise_are_not_called_private():
    with pytest.raises(ConfigError, match="nothing adds noise"):
        load_config("quickstart", (COUNTED, "privacy.trust=none"))


def test_exact_figures_need_no_release():
    assert counts_release(load_config("quickstart"), ("a", "b")) is None


def test_all_groups_follow_from_config_and_taxonomy():
    found = dict(public_layout(load_config("quickstart").data, ("north", "south")).columns)
    assert found["skin_tone"] == ("1-3", "4-6", "7-10", "unknown")
    assert found["age_band"] == ("0-29", "30-49", "50-69", "70+", "unknown")
    assert found["sex"] == ("male", "female", "other", "unknown")
    assert found["clinic"] == ("north", "south", "unknown")
    assert {"trunk", "head_neck"} < set(found["anatomical_site"])
    assert all(names[-1] == "unknown" for names in found.values())


def test_tones_without_bins_are_those_of_the_scale_and_need_one():
    bare = load_config("quickstart").data.model_copy(update={"bins": {}, "groups": ("skin_tone",)})
    scale = bare.model_copy(update={"tone_scale": "milk"})
    assert dict(public_layout(scale, ()).columns)["skin_tone"] == (*"012345", "unknown")
    with pytest.raises(ConfigError, match=r"data\.tone_scale"):
        public_layout(bare.model_copy(update={"tone_scale": None}), ())


def test_one_clinic_is_no_group():
    layout = public_layout(load_config("quickstart").data, ("pooled",))
    assert "clinic" not in dict(layout.columns)


@pytest.mark.parametrize("seed", range(20))
def test_the_threshold_is_an_edge_of_the_released_counts(seed):
    scores = np.random.default_rng(seed).normal(3, 4, size=(2, 64))
    value = run_threshold(load_config("quickstart", (COUNTED,)), scores).value
    assert value * BINS == round(value * BINS)


@pytest.mark.parametrize(
    ("trust", "clinics", "present", "share"),
    [("central", 4, 4, 1.0), ("local", 4, 3, 3**0.5), ("distributed", 4, 4, 1.0)],
)
def test_the_noise_that_intervals_count_on_is_that_of_the_trust_model(
    trust, clinics, present, share
):
    config = load_config("quickstart", (COUNTED, f"privacy.trust={trust}", "data.groups=[sex]"))
    plan = counts_release(config, [str(number) for number in range(clinics)])
    words = {"threshold": 0.5, "classes": CLASSES, "num_clinics": clinics, "num_present": present}
    total = np.full(plan.release.shape, units_of_patient(1, 1) * GRID)
    overall, (group, *_) = released_results(config, plan, total, **words)
    assert (overall.num_patients, group.num_patients) == (4 * 2 * BINS, 2 * BINS)
    # One attribute: everybody is the sum of its four groups, of 16 bins each.
    std = share * plan.release.noise_multiplier * (4 * BINS) ** 0.5
    assert overall.count_std == pytest.approx(std, rel=1e-6)
    # The groups' comparisons come from the same counts; the same seed draws the same chance.
    gaps = released_gaps(config, plan, total, **words)
    assert gaps == released_gaps(config, plan, total, **words)
    assert set(gaps["references"]) == {"sex"}
    assert {each["difference"]["value"] for each in gaps["gaps"]} <= {0.0, None}


@pytest.mark.slow
@pytest.mark.parametrize("trust", ["distributed", "none"])
def test_the_replay_of_neighbouring_cohorts_finds_the_counts_within_their_sensitivity(
    tmp_path: Path, trust: Any
) -> None:
    """T0 through the real path: an image of a patient taken away, all else as it was."""
    words = (
        COUNTED,
        "data.synthetic.num_patients=24",
        "data.synthetic.num_clinics=2",
        "data.synthetic.image_size=32",
        "data.limits.min_side=16",
        f"work_dir={tmp_path}",
    )
    found = replay(load_config("quickstart", words), trusts=[trust], recipes=RECIPE, drawn=True)
    assert not [each for each in found if getattr(each, "flagged", False)]
    counts = [each for each in found if getattr(each, "release", "") == "test_counts"]
    assert bool(counts) == (trust != "none")
    for each in counts:
        assert each.distance <= each.sensitivity == 1
    # Whoever has one test image moves a cell of each attribute: the bound is met, not only kept.
    removed = [each.distance for each in counts if each.change == "removed"]
    assert (max(removed, default=0.0) > 0.4) == (trust != "none")


@pytest.mark.slow
def test_a_whole_run_from_counts_shows_and_keeps_nothing_exact(run_small, cached_place: Path):
    made = run_small(
        cached_place,
        COUNTED,
        "federation=simulation",
        "data.groups=[skin_tone]",
        "privacy.epsilon=50",
    )
    record, page = made.record, (made.folder / "report.html").read_text()
    assert record.evaluation_source == made.result["evaluation"]["source"] == "dp_counts"
    assert (record.yardsticks, record.cohort_flow, record.cohort_table) == ((), (), ())
    assert record.overall.estimates["specificity"].value is not None
    assert made.result["metrics"]["n_images"] is None
    assert "EXACT METRICS" not in page
    assert not any(words in page for words in EXACT)
    assert "counts of test patients" in page
    assert set(record.guarantee.covered) >= {
        "the counts of test patients that the run's test figures are computed from"
    }
    assert record.guarantee.epsilon <= 50
    assert all(spend.num_events for spend in record.guarantee.clinics.values())
    assert record.data["patients"].startswith("not shown")
    json.loads((made.folder / "report.json").read_text())
    assert {each.group for each in record.groups} == {"1-3", "4-6", "7-10", "unknown"}


@pytest.mark.slow
def test_everybody_agrees_with_the_exact_figures_within_the_intervals(run_small, cached_place):
    """The same model on the same patients, with hardly any noise."""
    words = ("federation=simulation", "data.groups=[skin_tone]", "privacy.epsilon=50")
    exact = run_small(cached_place, *words).record.overall
    counted = run_small(cached_place, COUNTED, *words).record.overall
    assert counted.count_std < 2
    assert abs(counted.num_patients - exact.num_patients) < 7 * 2**0.5 * counted.count_std
    # So few are malignant that noise may drown what is about them alone, never what is not.
    figures = ("auroc", "sensitivity", "specificity")
    told = [name for name in figures if counted.estimates[name].low is not None]
    assert "specificity" in told
    for name in told:
        assert counted.estimates[name].low <= exact.estimates[name].high
        assert exact.estimates[name].low <= counted.estimates[name].high
