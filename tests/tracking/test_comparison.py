"""Comparisons in MLflow: a parent above its runs, names from the allow-list, nobody's id."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from skinml.errors import PolicyError
from skinml.tracking.comparison import ArmMetric, comparison_metrics, log_comparison
from skinml.tracking.mlflow_tracker import opened_store
from skinml.tracking.settings import GROUP_ATTRIBUTES, TrackingSettings

TAGS = {"skinml.run": "toy-compare-1", "skinml.experiment": "toy", "skinml.private": False}


def metric(**changes) -> ArmMetric:
    usual = {
        "arm": "epsilon 8",
        "kind": "figure",
        "figure": "auroc",
        "attribute": "skin_tone",
        "group": "0-2",
        "of_gap": False,
        "values": {"": 0.8, "low": 0.7, "high": None, "seed_sd": float("nan")},
    }
    return ArmMetric(**{**usual, **changes})


def named(*every: ArmMetric) -> dict[str, float]:
    return comparison_metrics(every, GROUP_ATTRIBUTES)


def test_names_say_arm_question_figure_and_group_and_nothing_undefined_is_written():
    assert named(metric()) == {
        "epsilon 8/auroc.skin_tone.0-2": 0.8,
        "epsilon 8/auroc.skin_tone.0-2.low": 0.7,
    }
    gap = metric(kind="change", of_gap=True, values={"": -0.1})
    assert named(gap) == {"epsilon 8/change.gap.auroc.skin_tone.0-2": -0.1}
    everybody = metric(attribute="overall", group="overall", values={"": 0.9})
    assert named(everybody) == {"epsilon 8/auroc": 0.9}


def test_an_arm_whose_name_a_store_would_refuse_gets_another():
    (name,) = named(metric(arm="training.x=[1,2]/../y", values={"": 1.0}))
    assert name == "training.x__1_2__.._y/auroc.skin_tone.0-2"


@pytest.mark.parametrize(
    "odd",
    [
        {"figure": "loss_of_patient"},
        {"attribute": "postcode"},
        {"group": "patient_0001234"},
        {"arm": "data.root=il_1234567.jpg"},
    ],
)
def test_what_is_not_on_the_list_is_refused(odd):
    with pytest.raises(PolicyError):
        named(metric(**odd))


def test_a_comparison_is_above_its_runs_and_holds_its_files(tmp_path: Path):
    settings = TrackingSettings()
    with opened_store(settings, tmp_path) as (client, experiment):
        runs = [str(client.create_run(experiment).info.run_id) for _ in range(2)]
        client.set_tag(runs[1], "mlflow.parentRunId", "another")
    page = tmp_path / "compare.html"
    page.write_text("<p>page</p>")
    own = log_comparison(
        settings,
        tmp_path,
        tags=TAGS,
        note="**toy**",
        params={"model.kind": "linear_head"},
        metrics=[metric()],
        runs=[*runs, "0" * 32],
        files=[page],
    )
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    found = client.get_run(own)
    assert found.info.status == "FINISHED"
    assert found.data.tags["skinml.kind"] == "compare"
    assert found.data.metrics["epsilon 8/auroc.skin_tone.0-2"] == 0.8
    assert found.data.params["model.kind"] == "linear_head"
    assert [each.path for each in client.list_artifacts(own, "compare")] == ["compare/compare.html"]
    parents = [client.get_run(run).data.tags["mlflow.parentRunId"] for run in runs]
    assert parents == [own, "another"]


def test_nothing_is_written_where_tracking_is_off(tmp_path: Path):
    settings = TrackingSettings(enabled=False)
    told = log_comparison(
        settings, tmp_path, tags=TAGS, note="**toy**", params={}, metrics=(), runs=(), files=()
    )
    assert told is None
    assert list(tmp_path.iterdir()) == []
