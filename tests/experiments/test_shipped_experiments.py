"""The shipped experiments exactly as they are shipped. Minutes each."""

from __future__ import annotations

from pathlib import Path

import pytest

from skinml.experiments.run import Finished, run

pytestmark = pytest.mark.slow


def _run(place: Path, experiment: str, *overrides: str) -> Finished:
    return run(experiment, (f"work_dir={place}", *overrides))


def _auroc(finished: Finished) -> float:
    value = finished.result["metrics"]["auroc"]
    assert isinstance(value, float)
    return value


def test_quickstart_learns_within_its_promise(tmp_path: Path) -> None:
    finished = _run(tmp_path, "quickstart")
    privacy = finished.result["privacy"]
    assert _auroc(finished) > 0.75
    assert privacy["trust"] == "distributed"
    assert len(privacy["clinics"]) == 6
    assert 2.9 < privacy["epsilon"] <= 3
    assert finished.record.complete


def test_quickstart_end_to_end_runs_within_its_promise(tmp_path: Path) -> None:
    finished = _run(tmp_path, "quickstart_end_to_end")
    privacy = finished.result["privacy"]
    assert privacy["trust"] == "local"
    assert privacy["epsilon"] <= 8
    assert privacy["epsilon_across_clinics"] > privacy["epsilon"]
    assert _auroc(finished) > 0.58
    assert finished.record.complete


@pytest.mark.derm
def test_derm_malignancy_keeps_its_accuracy_under_epsilon_three(
    derm_root: Path, tmp_path: Path
) -> None:
    root = f"data.root={derm_root}"
    private = _run(tmp_path, "derm_malignancy", root)
    open_ = _run(tmp_path, "derm_malignancy", root, "privacy.trust=none")
    assert private.result["privacy"]["epsilon"] <= 3
    assert _auroc(private) >= 0.89
    assert abs(_auroc(private) - _auroc(open_)) <= 0.01


@pytest.mark.derm
@pytest.mark.parametrize("experiment", ["derm_diagnosis", "derm_tone"])
def test_the_other_experiments_on_real_images_run_over_flower(
    derm_root: Path, tmp_path: Path, experiment: str
) -> None:
    finished = _run(tmp_path, experiment, f"data.root={derm_root}")
    assert finished.result["privacy"]["epsilon"] <= 3
    assert _auroc(finished) > 0.75
    assert finished.record.complete
