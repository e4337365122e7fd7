from __future__ import annotations

from dataclasses import replace

import pytest

from skinml.errors import ConfigError, PolicyError
from skinml.records import ClinicSpend, Estimate, GroupResult
from skinml.tracking.allowlist import (
    COUNTS,
    FIGURES,
    RUN_METRICS,
    SPENDS,
    DatasetRef,
    checked_dataset,
    checked_params,
    checked_round_metrics,
    checked_tags,
    clean_reason,
)
from skinml.tracking.content import final_metrics
from skinml.tracking.settings import TrackingSettings
from skinml.tracking.tracker import MemoryTracker, NullTracker, make_tracker

POINTING = ["images/mel_01.jpg", "HAM_0001234", "patient_00017", "scan.DCM", "subject-0042"]


@pytest.mark.parametrize("name", ["patients", "notes", "patient_ids.0", "Data.root", "data."])
def test_a_param_that_is_not_listed_is_refused(name):
    with pytest.raises(PolicyError, match="allow-list"):
        checked_params({name: "x"})


@pytest.mark.parametrize("value", POINTING)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: ["a", v], lambda v: f"see {v} there"])
def test_a_param_that_points_at_somebody_is_refused_and_not_repeated(value, wrap):
    with pytest.raises(PolicyError) as caught:
        checked_params({"data": {"note": wrap(value)}})
    assert value not in str(caught.value)


@pytest.mark.parametrize("value", POINTING)
def test_a_name_that_points_at_somebody_is_not_repeated(value):
    for check in (checked_params, checked_tags, checked_round_metrics):
        with pytest.raises(PolicyError) as caught:
            check({value: 1.0})
        assert value not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    ["patient_within_clinic", "HAM10000", "../shared/derm", "skinml-2026", 10_000_000, "sha256:5"],
)
def test_ordinary_settings_pass(value):
    assert checked_params({"data": {"x": value}}) == {"data.x": str(value)}


@pytest.mark.parametrize("name", ["privacy.api_token", "tracking.password"])
def test_a_secret_is_masked(name):
    assert checked_params({name: "hunter2"}) == {name: "***"}


@pytest.mark.parametrize("tag", ["patient", "mlflow.user", "mlflow.source.name", "note"])
def test_a_tag_that_is_not_listed_is_refused(tag):
    with pytest.raises(PolicyError, match="tag"):
        checked_tags({tag: "x"})


def test_a_tag_that_points_at_somebody_is_refused():
    with pytest.raises(PolicyError):
        checked_tags({"skinml.clinic": "HAM_0001234"})
    with pytest.raises(PolicyError):
        checked_tags({"skinml.run": "a/lesion.png"})


@pytest.mark.parametrize("name", ["train_loss", "auroc", "patient_17", "exact.anything"])
def test_a_round_metric_that_is_not_listed_is_refused(name):
    with pytest.raises(PolicyError):
        checked_round_metrics({"update_norm": 1.0, name: 1.0})


def test_a_private_figure_of_a_round_carries_its_stamp_in_its_name():
    assert checked_round_metrics({"exact.train_loss": 0.5}) == {"exact.train_loss": 0.5}


def test_a_long_value_is_cut_but_still_told_apart():
    first, second = (checked_params({"data.x": "y" * 9000 + end})["data.x"] for end in "ab")
    assert len(first) == len(second) == 6000
    assert first != second


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"digest": "images/a.jpg and more"}, ConfigError),
        ({"name": "images/a.jpg"}, PolicyError),
        ({"source": "clinic/HAM_0001234"}, PolicyError),
    ],
)
def test_a_dataset_is_a_digest_and_words(changes, error):
    with pytest.raises(error):
        checked_dataset(replace(DatasetRef("toy", "abcd", "toy images"), **changes))


def test_a_reason_that_points_at_somebody_is_withheld():
    assert clean_reason("disk full") == "disk full"
    assert "HAM" not in clean_reason("HAM_0001234 is broken")


def finish(record, tracker=None):
    tracker = tracker or MemoryTracker()
    tracker.start(record.run, record.experiment, record.config, ())
    tracker.finish(record, None, None, None)
    return tracker


def test_a_group_of_an_attribute_that_is_not_listed_is_refused(make_record):
    group = GroupResult("surname", "Quill", 1, 1, 1, 0, {"auroc": Estimate(0.5)})
    record = make_record(groups=(group,))
    with pytest.raises(PolicyError, match="attribute=surname") as caught:
        finish(record)
    assert "Quill" not in str(caught.value)
    settings = TrackingSettings(group_attributes=("surname",))
    assert finish(record, MemoryTracker(settings)).metrics["auroc.surname.Quill"] == 0.5


def test_a_group_or_clinic_named_like_a_patient_is_refused(make_record):
    group = GroupResult("sex", "HAM_0001234", 1, 1, 1, 0, {})
    with pytest.raises(PolicyError):
        finish(make_record(groups=(group,)))
    spends = {"patient_00017": ClinicSpend(1.0, 1.0, 1)}
    guarantee = replace(make_record().guarantee, clinics=spends)
    with pytest.raises(PolicyError):
        finish(make_record(guarantee=guarantee))


def test_memory_keeps_what_mlflow_would(make_record):
    tracker = MemoryTracker()
    tracker.start("r", "toy", {"seed": 3}, (DatasetRef("toy", "abcd", "toy images"),))
    tracker.log_round(1, {"update_norm": 2.0, "noise_std": float("inf")})
    assert tracker.status == "running"
    assert tracker.finish(make_record(), None, None, None) is None
    assert tracker.rounds == {1: {"update_norm": 2.0}}
    assert tracker.clinics["hillside"]["rounds_taken_part"] == 1.0
    assert tracker.tags["skinml.complete"] == "False"
    assert "sensitivity" not in tracker.metrics
    assert tracker.status == "finished"


def test_switched_off_tracking_keeps_nothing(tmp_path, make_record):
    tracker = make_tracker(TrackingSettings(enabled=False), tmp_path)
    assert isinstance(tracker, NullTracker)
    tracker.start("r", "toy", {}, ())
    tracker.log_round(1, {})
    assert tracker.finish(make_record(), tmp_path, tmp_path, None) is None
    tracker.fail("x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "a/b", "x" * 101, "name\n"])
def test_an_experiment_name_that_mlflow_would_mangle_is_refused(name):
    with pytest.raises(ValueError, match="experiment"):
        TrackingSettings(experiment=name)


def test_what_a_run_without_secure_sums_has_none_of_is_left_out(make_record):
    record = make_record()
    central = replace(record.guarantee, trust="central")
    untold = (replace(record.participation[-1], noise=None),)
    changed = make_record(guarantee=central, participation=untold, groups=())
    metrics = final_metrics(changed, ())
    assert {"least_noise_ratio", "secure_sum_threshold", "secure_sum_colluding"}.isdisjoint(metrics)
    assert metrics["num_rounds"] == 1.0


def test_figures_of_participation_are_on_the_list(make_record):
    listed = {*RUN_METRICS, *FIGURES, *COUNTS, *SPENDS}
    found = final_metrics(make_record(groups=(), yardsticks=()), ())
    assert {name.partition(".")[0] for name in found} <= listed
