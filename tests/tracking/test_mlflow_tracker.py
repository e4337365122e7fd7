from __future__ import annotations

import json
import logging
import resource
import signal

import pytest

from skinml.errors import EnvironmentProblem
from skinml.tracking.mlflow_tracker import MlflowTracker, tracking_uri
from skinml.tracking.quiet import quiet
from skinml.tracking.settings import TrackingSettings


@pytest.fixture(scope="module")
def client(finished):
    with quiet():
        from mlflow import MlflowClient

        return MlflowClient(finished.uri, registry_uri=finished.uri)


@pytest.fixture(scope="module")
def run(client, finished):
    return client.get_run(finished.run_id)


def test_the_store_is_in_the_working_folder_by_default(finished):
    assert (finished.folder / "work" / "mlflow.db").is_file()
    assert (finished.folder / "work" / "mlartifacts").is_dir()


def test_the_whole_config_is_there(run):
    params = run.data.params
    assert params["privacy.epsilon"] == "3.0"
    assert params["data.groups"] == "skin_tone, sex"
    assert params["data.bins.skin_tone.0-2"] == "0, 1, 2"
    assert len(params["training.notes"]) <= 6000
    assert "cut; whole value sha256" in params["training.notes"]
    assert params["tracking.uri"] == "postgresql://***@host/db"


def test_rounds_are_steps_of_a_metric(client, finished):
    history = client.get_metric_history(finished.run_id, "update_norm")
    assert [(each.step, each.value) for each in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("auroc", 0.9),
        ("auroc.low", 0.85),
        ("auroc.high", 0.94),
        ("auroc.skin_tone.0-2", 0.9),
        ("auroc.skin_tone.0-2.high", 0.94),
        ("n_patients.skin_tone.0-2", 8.0),
        ("n_patients.skin_tone._5", 3.0),
        ("n_patients.skin_tone._5_2", 5.0),
        ("n_patients.anatomical_site.head_neck", 6.0),
        ("yardstick.harbour alone.auroc", 0.9),
        ("brier", 0.0),
        ("epsilon", 2.9),
        ("epsilon.hillside", 2.8),
        ("total_epsilon.harbour", 4.1),
        ("wall_s", 12.5),
        ("num_rounds", 2.0),
        ("num_attempts", 3.0),
        ("num_incomplete_rounds", 1.0),
        ("num_resumes", 1.0),
        ("least_survivors", 1.0),
        ("least_noise_ratio", 1.25),
        ("secure_sum_threshold", 1.0),
        ("secure_sum_colluding", 0.0),
    ],
)
def test_final_figures_are_there(run, name, value):
    assert run.data.metrics[name] == value


def test_an_undefined_figure_is_absent_and_not_zero(run):
    names = run.data.metrics.keys()
    assert not [name for name in names if name.startswith("sensitivity")]
    assert "brier.low" not in names


def test_each_clinic_has_a_child_run_with_its_ledger(client, run, finished):
    children = client.search_runs(
        [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{finished.run_id}'"
    )
    found = {child.data.tags["skinml.clinic"]: child.data.metrics for child in children}
    assert found == {
        "harbour": {
            "epsilon": 2.9,
            "total_epsilon": 4.1,
            "num_events": 8.0,
            "rounds_taken_part": 2.0,
            "rounds_expected": 2.0,
        },
        "hillside": {
            "epsilon": 2.8,
            "total_epsilon": 2.8,
            "num_events": 7.0,
            "rounds_taken_part": 1.0,
            "rounds_expected": 2.0,
        },
    }
    assert {child.info.status for child in children} == {"FINISHED"}


def test_tags_say_what_kind_of_evidence_it_is(run):
    tags = run.data.tags
    assert tags["skinml.private"] == "True"
    assert tags["skinml.simulated"] == "True"
    assert tags["skinml.complete"] == "False"
    assert tags["skinml.unit"] == "patient_within_clinic"
    assert not {name for name in tags if name.startswith(("mlflow.user", "mlflow.source"))}


def test_datasets_are_known_by_digest(run):
    found = {each.dataset.name: each.dataset for each in run.inputs.dataset_inputs}
    assert set(found) == {"toy/harbour", "toy/hillside"}
    source = json.loads(found["toy/harbour"].source)["tags"]
    assert source["digest"] == "hmac-sha256:" + "ab" * 32
    assert source["num_patients"] == "41"
    assert source["digest"].startswith(found["toy/harbour"].digest)


def test_reports_are_artifacts(client, finished):
    names = {each.path for each in client.list_artifacts(finished.run_id, "report")}
    assert names == {"report/report.html", "report/report.json"}


def test_the_model_is_registered_with_a_signature_and_no_pickle(client, finished):
    version = client.get_model_version("skinml-toy", "1")
    assert version.run_id == finished.run_id
    assert version.tags["skinml.simulated"] == "True"
    with quiet():
        import mlflow
        from mlflow.models import get_model_info

        mlflow.set_tracking_uri(finished.uri)
        try:
            info = get_model_info("models:/skinml-toy/1")
        finally:
            mlflow.set_tracking_uri(None)
    assert info.signature.inputs.to_dict()[0]["name"] == "image"
    assert info.signature.outputs.input_names()[:3] == ["benign", "malignant", "decision"]
    kept = [path.suffix for path in (finished.folder / "work").rglob("*") if path.is_file()]
    assert not {".pkl", ".pickle", ".pt", ".pth"} & set(kept)


def test_the_registered_model_scores_images(client):
    with quiet():
        import mlflow.pyfunc
        import pandas as pd

        model = mlflow.pyfunc.load_model(client.get_model_version_download_uri("skinml-toy", "1"))
        scored = model.predict(pd.DataFrame({"image": [b"x" * 25, b"x" * 50]}))
    assert scored["malignant"].tolist() == [0.25, 0.5]
    assert scored["decision"].tolist() == ["benign", "benign"]


def test_a_second_run_gets_its_own_version(finished, client, make_record, tmp_path):
    for name in ("report.html", "report.json"):
        (tmp_path / name).write_text("{}")
    tracker = MlflowTracker(
        TrackingSettings(), finished.folder / "work", finished.folder / "served.py"
    )
    tracker.start("again", "toy", {"seed": 4}, ())
    bundle = finished.folder / "output" / "bundle"
    tracker.finish(make_record(), tmp_path / "report.html", tmp_path / "report.json", bundle)
    assert {each.version for each in client.search_model_versions("name = 'skinml-toy'")} >= {2}


def test_without_a_script_the_bundle_is_a_plain_artifact(finished, client, make_record, tmp_path):
    for name in ("report.html", "report.json"):
        (tmp_path / name).write_text("{}")
    tracker = MlflowTracker(TrackingSettings(), finished.folder / "work")
    tracker.start("plain", "other", {"seed": 4}, ())
    bundle = finished.folder / "output" / "bundle"
    run_id = tracker.finish(
        make_record(), tmp_path / "report.html", tmp_path / "report.json", bundle
    )
    assert [each.path for each in client.list_artifacts(run_id, "model")] == ["model/labels.json"]


def test_a_failed_run_says_why_and_points_at_nobody(finished, client):
    tracker = MlflowTracker(TrackingSettings(), finished.folder / "work")
    tracker.start("broken", "toy", {"seed": 4}, ())
    tracker.log_round(1, {"update_norm": 1.0})
    tracker.fail("cannot read HAM_0099123.jpg")
    runs = client.search_runs(["1"], "tags.`skinml.run` = 'broken'")
    assert [each.info.status for each in runs] == ["FAILED"]
    assert runs[0].data.metrics == {"update_norm": 1.0}
    assert "HAM_" not in runs[0].data.tags["skinml.failure"]


def test_failing_before_the_start_is_harmless(tmp_path):
    MlflowTracker(TrackingSettings(), tmp_path).fail("too early")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["the folder is a file", "the database is a folder"])
def test_a_store_that_cannot_be_written_is_the_machines_fault(tmp_path, kind):
    if kind == "the folder is a file":
        (tmp_path / "work").write_text("")
    else:
        (tmp_path / "work" / "mlflow.db").mkdir(parents=True)
    tracker = MlflowTracker(TrackingSettings(), tmp_path / "work")
    with pytest.raises(EnvironmentProblem, match=r"tracking\.enabled=false"):
        tracker.start("x", "toy", {"seed": 1}, ())


def test_a_full_disk_is_the_machines_fault_and_leaves_no_half_made_store(tmp_path):
    # A limit on the size of files stands in for the disk.
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(EnvironmentProblem):
            MlflowTracker(TrackingSettings(), tmp_path).start("x", "toy", {"seed": 1}, ())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(tmp_path.iterdir())


def test_an_address_that_nothing_answers_at_is_the_machines_fault(tmp_path):
    tracker = MlflowTracker(TrackingSettings(uri="nonsense://host"), tmp_path)
    with pytest.raises(EnvironmentProblem):
        tracker.start("x", "toy", {"seed": 1}, ())


def test_the_settings_address_wins(tmp_path):
    assert tracking_uri(TrackingSettings(uri="https://host"), tmp_path) == "https://host"


def test_logging_levels_are_put_back():
    logger = logging.getLogger("alembic")
    before = logger.level
    with quiet():
        assert logger.level == logging.ERROR
    assert logger.level == before


def test_a_run_is_quiet_and_leaves_no_global_state(finished):
    assert finished.errors == ""
    assert finished.words == "None False"


def test_nothing_is_left_in_the_folder_the_process_was_in(finished):
    left = [path.name for path in (finished.folder / "clinic" / "Zebedee-Quill").iterdir()]
    assert left == ["lesion_zq_77.jpg"]


def test_no_planted_name_is_in_any_byte_of_the_store(finished):
    store = [path for path in (finished.folder / "work").rglob("*") if path.is_file()]
    assert len(store) > 5
    for path in store:
        held = path.read_bytes()
        for planted in (b"Zebedee-Quill", b"HAM_0099123", b"lesion_zq_77", b"hunter2"):
            assert planted not in held
    assert b"harbour" in (finished.folder / "work" / "mlflow.db").read_bytes()
