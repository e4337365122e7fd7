"""What `skinml run` prints: the JSON contract key by key, and words that a person can read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ESTIMATES = {
    "auroc",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "brier",
    "calibration_intercept",
    "calibration_slope",
    "ece",
}
COUNTS = {"n_images", "n_patients", "n_positives", "n_negatives"}
ATTRIBUTES = {"skin_tone", "sex", "age_band", "anatomical_site", "clinic"}
PRIVACY = {
    "private": bool,
    "trust": str,
    "unit": str,
    "epsilon": float,
    "total_epsilon": float,
    "delta": float,
    "simulated": bool,
    "clinics": dict,
}


@pytest.fixture(scope="module", params=["centralised", "simulated"])
def finished(request: pytest.FixtureRequest) -> tuple[Path, Any]:
    place, outcome = request.getfixturevalue(request.param)
    return place, outcome


@pytest.fixture
def result(finished: tuple[Path, Any]) -> dict[str, Any]:
    found = finished[1].json
    assert isinstance(found, dict)
    return found


def test_json_is_one_object_on_the_last_line_and_the_only_output(
    finished: tuple[Path, Any],
) -> None:
    _, outcome = finished
    assert len(outcome.out.splitlines()) == 1
    assert isinstance(json.loads(outcome.out), dict)


def test_nothing_is_drawn_where_there_is_no_terminal(finished: tuple[Path, Any]) -> None:
    assert finished[1].err == ""


def test_scalars_have_the_types_of_the_contract(result: dict[str, Any]) -> None:
    assert isinstance(result["run"], str)
    assert result["experiment"] == "quickstart"
    assert isinstance(result["seed"], int)
    assert isinstance(result["wall_s"], float)
    assert result["wall_s"] > 0
    assert result["evaluation"] == {"source": "exact"}
    metrics = result["metrics"]
    assert set(metrics) == {"balanced_accuracy", "auroc", "ece", "n_images", "n_patients"}
    assert 0 < metrics["n_patients"] <= metrics["n_images"]
    for name in ("balanced_accuracy", "auroc"):
        assert 0 <= metrics[name] <= 1


def test_every_group_has_counts_and_estimates_with_limits(result: dict[str, Any]) -> None:
    assert set(result["groups"]) == ATTRIBUTES
    groups = [group for groups in result["groups"].values() for group in groups.values()]
    for group in groups:
        assert set(group) >= COUNTS | ESTIMATES
        assert group["n_positives"] + group["n_negatives"] == group["n_images"]
        for name in set(group) - COUNTS:
            _require_estimate(group[name])


def _require_estimate(estimate: dict[str, Any]) -> None:
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    assert set(estimate) - {"reason"} == {"value", "low", "high"}
    if value is None:
        assert low is None
        assert high is None
    if low is None:
        assert estimate["reason"]
    else:
        assert low <= value <= high


def test_groups_of_an_attribute_add_up_to_everybody(result: dict[str, Any]) -> None:
    for groups in result["groups"].values():
        assert sum(g["n_images"] for g in groups.values()) == result["metrics"]["n_images"]


def test_a_group_without_positives_is_undefined_with_a_reason_and_not_zero(
    result: dict[str, Any],
) -> None:
    empty = [
        group
        for groups in result["groups"].values()
        for group in groups.values()
        if group["n_positives"] == 0
    ]
    assert empty, "the cohort has such a group by construction: the smallest sites"
    for group in empty:
        for name in ("auroc", "sensitivity"):
            assert group[name]["value"] is None
            assert group[name]["reason"] == "no malignant items"


def test_privacy_says_what_is_promised_to_whom(result: dict[str, Any]) -> None:
    privacy = result["privacy"]
    for name, kind in PRIVACY.items():
        assert isinstance(privacy[name], kind), name
    assert privacy["private"] is True
    assert privacy["trust"] == "distributed"
    assert privacy["unit"] == "patient_within_clinic"
    assert privacy["simulated"] is True
    assert 2.9 < privacy["epsilon"] <= 3
    assert privacy["total_epsilon"] == privacy["epsilon"]
    for spend in privacy["clinics"].values():
        assert set(spend) == {"epsilon", "total_epsilon", "events"}
    # Counts and feature sums are two releases, then four gradients and the validation scores.
    assert {spend["events"] for spend in privacy["clinics"].values()} == {7}


def test_participation_names_every_round_and_clinic(result: dict[str, Any]) -> None:
    clinics = sorted(result["privacy"]["clinics"])
    assert [each["round"] for each in result["participation"]] == [1, 2, 3, 4, 5, 6]
    for each in result["participation"]:
        assert set(each) == {"round", "expected", "took_part", "missing", "attempt", "noise"}
        assert sorted(each["expected"]) == sorted(each["took_part"]) == clinics
        assert not each["missing"]
        assert each["attempt"] == 1
        assert each["noise"] == pytest.approx(1)
    assert result["complete"] is True
    assert result["resumes"] == 0


def test_secure_sums_are_told_where_there_are_some(
    centralised: tuple[Path, Any], simulated: tuple[Path, Any]
) -> None:
    assert centralised[1].json["secure_sums"] is None
    assert simulated[1].json["secure_sums"] == {"clinics": 2, "threshold": 2, "colluding": 0}


def test_artifacts_are_where_the_result_says(finished: tuple[Path, Any]) -> None:
    place, outcome = finished
    result = outcome.json
    report, model = Path(result["artifacts"]["report"]), Path(result["artifacts"]["model"])
    assert report.read_text().lstrip().lower().startswith("<!doctype html>")
    assert (model / "model.safetensors").is_file()
    stored = json.loads((place / "runs" / result["run"] / "result.json").read_text())
    assert stored == result


def test_mlflow_is_named_only_where_it_was_used(
    centralised: tuple[Path, Any], simulated: tuple[Path, Any]
) -> None:
    assert centralised[1].json["artifacts"]["mlflow_run"] is None
    assert not (centralised[0] / "mlflow.db").exists()
    assert len(simulated[1].json["artifacts"]["mlflow_run"]) == 32
    assert (simulated[0] / "mlflow.db").is_file()


def test_without_json_the_outcome_is_readable_at_80_columns(
    skinml: Callable[..., Any],
    small: tuple[str, ...],
    pooled_place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    outcome = skinml(
        "run",
        "quickstart",
        *small,
        "federation=centralised",
        "training.head.rounds=2",
        f"work_dir={pooled_place}",
    )
    assert outcome.code == 0
    assert outcome.err == ""
    *shown, report = outcome.out.rstrip().splitlines()
    assert max(map(len, shown)) <= 80
    words = "\n".join(shown)
    for expected in ("SIMULATED", "everybody", "skin tone 7-10", "AUROC", "epsilon 3.000"):
        assert expected in words
    assert Path(report.removeprefix("Report:").strip()).is_file()
