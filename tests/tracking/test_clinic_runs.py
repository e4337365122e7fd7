"""Clinics' own runs in MLflow: there while the parent goes on, taken up again after a restart."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from skinml.errors import PolicyError
from skinml.tracking.allowlist import CLINIC_ROUND_METRICS, checked_clinic_rounds
from skinml.tracking.mlflow_tracker import MlflowTracker
from skinml.tracking.quiet import quiet
from skinml.tracking.settings import TrackingSettings
from skinml.tracking.tracker import MemoryTracker

HERE = {"took_part": 1.0, "rounds_share": 1.0, "answer_s": 2.5}
AWAY = {"took_part": 0.0, "rounds_share": 0.5}
MORE_THAN_A_FLUSH_S = 2.1


@pytest.fixture(scope="module")
def client(finished):
    with quiet():
        from mlflow import MlflowClient

        return MlflowClient(finished.uri, registry_uri=finished.uri)


def children(client: Any, run: str) -> dict[str, Any]:
    """Clinics' runs by the clinics' names."""
    (parent,) = client.search_runs(["1"], f"tags.`skinml.run` = '{run}'")
    found = client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert len({each.data.tags["skinml.clinic"] for each in found}) == len(found), "each once"
    return {each.data.tags["skinml.clinic"]: each for each in found}


def steps(client: Any, run: Any, name: str) -> list[tuple[int, float]]:
    return [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, name)]


def test_clinics_runs_grow_with_the_rounds_and_outlive_a_restart(finished, client, make_record):
    first = MlflowTracker(TrackingSettings(), finished.folder / "work")
    first.start("growing", "toy", {"seed": 4}, ())
    first.log_round(1, {"update_norm": 1.0}, {"harbour": HERE, "hillside": HERE})
    time.sleep(MORE_THAN_A_FLUSH_S)
    first.log_round(2, {"update_norm": 0.5}, {"harbour": HERE, "hillside": AWAY})
    found = children(client, "growing")
    assert {each.info.status for each in found.values()} == {"RUNNING"}
    assert steps(client, found["hillside"], "rounds_share") == [(1, 1.0), (2, 0.5)]
    assert steps(client, found["hillside"], "answer_s") == [(1, 2.5)]

    # Its process dies; the next one takes the same runs up.
    history = ({"update_norm": 1.0}, {"update_norm": 0.5})
    second = MlflowTracker(TrackingSettings(), finished.folder / "work")
    second.start("growing", "toy", {"seed": 4}, (), history)
    second.log_round(3, {"update_norm": 0.2}, {"harbour": HERE, "hillside": HERE})
    page, report = (
        Path(finished.folder / "output" / f"report.{kind}") for kind in ("html", "json")
    )
    second.finish(make_record(), page, report, None)
    after = children(client, "growing")
    assert {name: each.info.run_id for name, each in after.items()} == {
        name: each.info.run_id for name, each in found.items()
    }
    assert {each.info.status for each in after.values()} == {"FINISHED"}
    assert steps(client, after["harbour"], "took_part") == [(1, 1.0), (2, 1.0), (3, 1.0)]
    assert after["harbour"].data.metrics["epsilon"] == 2.9


def test_the_clinics_runs_of_a_failed_run_have_failed(finished, client):
    tracker = MlflowTracker(TrackingSettings(), finished.folder / "work")
    tracker.start("failing", "toy", {"seed": 4}, ())
    tracker.log_round(1, {"update_norm": 1.0}, {"harbour": HERE})
    tracker.fail("too few clinics")
    assert children(client, "failing")["harbour"].info.status == "FAILED"


@pytest.mark.parametrize(
    "clinics",
    [
        {"harbour": {"n_patients": 12.0}},
        {"harbour": {"train_loss": 0.2}},
        {"harbour": {"epsilon": 1.0}},
        {"patient_00123": {"took_part": 1.0}},
        {"IMG_4711.jpg": {"took_part": 1.0}},
    ],
)
def test_nothing_else_is_told_of_a_clinic_after_a_round(clinics):
    with pytest.raises(PolicyError) as refused:
        checked_clinic_rounds(clinics)
    assert "00123" not in str(refused.value)
    tracker = MemoryTracker()
    with pytest.raises(PolicyError):
        tracker.log_round(1, {"update_norm": 1.0}, clinics)


def test_what_is_told_after_a_round_is_kept_by_round_and_clinic():
    tracker = MemoryTracker()
    tracker.log_round(2, {"update_norm": 1.0}, {"harbour": HERE | {"answer_s": float("nan")}})
    assert tracker.clinic_rounds == {2: {"harbour": {"took_part": 1.0, "rounds_share": 1.0}}}
    assert set(HERE) == set(CLINIC_ROUND_METRICS)
