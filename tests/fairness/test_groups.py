"""Figures by group: oracles, undefined cells, patients as the unit, order of rows."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
from fairlearn.metrics import MetricFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    balanced_accuracy_score,
    brier_score_loss,
    recall_score,
    roc_auc_score,
)

from skinml.errors import DataError
from skinml.fairness.cells import cells_by_group, overall_cell
from skinml.fairness.groups import evaluate_groups, point_metrics
from skinml.fairness.settings import FairnessSettings

QUICK = FairnessSettings(replicates=300)


def evaluate(predictions, *, threshold=0.5, seed=0, options=QUICK):
    rng = np.random.default_rng(seed)
    return evaluate_groups(predictions, threshold=threshold, settings=options, rng=rng)


def by_group(results):
    return {result.group: result for result in results}


def test_values_by_group_agree_with_fairlearn_over_scikit_learn(make):
    predictions = make.clustered(np.random.default_rng(0), 200)
    truth, scores = predictions.labels, predictions.malignancy_scores
    tone = predictions.groups["skin_tone"]
    decided = (scores >= 0.4).astype(int)
    frame = MetricFrame(
        metrics={
            "sensitivity": recall_score,
            "specificity": lambda y, d: recall_score(y, d, pos_label=0),
        },
        y_true=truth,
        y_pred=decided,
        sensitive_features=tone,
    ).by_group
    smooth = MetricFrame(
        metrics={"auroc": roc_auc_score, "brier": brier_score_loss},
        y_true=truth,
        y_pred=scores,
        sensitive_features=tone,
    ).by_group
    hard = MetricFrame(
        metrics={"balanced_accuracy": balanced_accuracy_score},
        y_true=truth,
        y_pred=predictions.decisions,
        sensitive_features=tone,
    ).by_group
    for group, result in by_group(evaluate(predictions, threshold=0.4)[1]).items():
        for oracle in (frame, smooth, hard):
            for name in oracle.columns:
                assert result.estimates[name].value == pytest.approx(oracle.loc[group, name])


def test_macro_auroc_and_balanced_accuracy_of_many_classes_agree_with_scikit_learn(make):
    predictions = make.classes(np.random.default_rng(1), 500, 7)
    overall, _ = evaluate(predictions)
    auroc = roc_auc_score(predictions.labels, predictions.probabilities, multi_class="ovr")
    assert overall.estimates["auroc"].value == pytest.approx(auroc)
    hard = balanced_accuracy_score(predictions.labels, predictions.decisions)
    assert overall.estimates["balanced_accuracy"].value == pytest.approx(hard)
    binary = roc_auc_score(predictions.malignant, predictions.malignancy_scores)
    assert overall.estimates["malignancy_auroc"].value == pytest.approx(binary)


def test_counts_are_of_images_patients_and_events(make):
    predictions = make.binary(
        [0.2, 0.9, 0.8, 0.1],
        [0, 1, 1, 0],
        ["a", "a", "a", "b"],
        {"skin_tone": ["1", "1", "1", "unknown"]},
    )
    overall, groups = evaluate(predictions)
    assert (overall.num_images, overall.num_patients) == (4, 2)
    assert (overall.num_positives, overall.num_negatives) == (2, 2)
    assert [result.group for result in groups] == ["1", "unknown"]
    assert groups[1].num_patients == 1


def test_unknown_tone_is_a_group_of_its_own_and_comes_last(make):
    rng = np.random.default_rng(2)
    tones = np.array(["unknown", "zebra", "1"])[rng.integers(3, size=60)]
    predictions = make.binary(rng.random(60), rng.random(60) < 0.5, groups={"skin_tone": tones})
    groups = evaluate(predictions)[1]
    assert [result.group for result in groups] == ["1", "zebra", "unknown"]
    assert sum(result.num_images for result in groups) == 60


def test_a_perfect_classifier_with_a_group_without_positives_has_undefined_cells_only(make):
    malignant = np.array([0, 1] * 40 + [0] * 20)
    tone = ["light"] * 80 + ["dark"] * 20
    predictions = make.binary(np.where(malignant, 0.9, 0.1), malignant, groups={"skin_tone": tone})
    groups = by_group(evaluate(predictions)[1])
    for name in ("auroc", "sensitivity", "balanced_accuracy", "calibration_slope"):
        cell = groups["dark"].estimates[name]
        assert (cell.value, cell.low, cell.high) == (None, None, None)
        assert "malignant" in cell.reason
    assert groups["dark"].estimates["specificity"].value == 1.0
    assert groups["light"].estimates["sensitivity"].value == 1.0


def test_all_right_in_a_small_group_is_not_certainty(make):
    malignant = np.array([1] * 6 + [0] * 6)
    predictions = make.binary(np.where(malignant, 0.8, 0.2), malignant)
    estimates = evaluate(predictions)[0].estimates
    assert estimates["sensitivity"].low == pytest.approx(0.541, abs=5e-4)
    assert estimates["specificity"].low == pytest.approx(0.541, abs=5e-4)
    assert 0.5 < estimates["auroc"].low < 0.8
    assert "bounded by n" in estimates["auroc"].method
    assert 0.5 < estimates["balanced_accuracy"].low < 0.8
    assert estimates["brier"].high > 0.3
    for name in ("sensitivity", "auroc", "balanced_accuracy"):
        assert "few events" in estimates[name].method


@pytest.mark.parametrize("num_patients", [2, 5, 12, 40, 300])
def test_no_interval_has_zero_width(make, num_patients):
    half = num_patients // 2
    malignant = np.arange(num_patients) < half
    predictions = make.binary(np.where(malignant, 0.9, 0.1), malignant)
    for name, cell in evaluate(predictions)[0].estimates.items():
        if cell.low is not None:
            assert cell.low <= cell.value <= cell.high
            assert cell.high > cell.low + 1e-4, name


def test_sixteen_images_of_one_patient_are_not_sixteen_patients(make):
    malignant = [1] * 16 + [0] * 10
    patients = ["one"] * 16 + [f"p{number}" for number in range(10)]
    predictions = make.binary(np.where(malignant, 0.9, 0.1), malignant, patients)
    sensitivity = evaluate(predictions)[0].estimates["sensitivity"]
    assert sensitivity.low == pytest.approx(0.025)


def test_duplicating_every_image_of_every_patient_changes_no_interval(make):
    predictions = make.clustered(np.random.default_rng(3), 120)
    twice = make.reordered(predictions, np.repeat(np.arange(len(predictions)), 2))
    once_overall, once_groups = evaluate(predictions)
    twice_overall, twice_groups = evaluate(twice)
    for one, two in zip((once_overall, *once_groups), (twice_overall, *twice_groups), strict=True):
        assert two.num_patients == one.num_patients
        assert two.num_images == 2 * one.num_images
        for name, cell in one.estimates.items():
            other = two.estimates[name]
            assert other.method == cell.method
            pairs = ((cell.value, other.value), (cell.low, other.low), (cell.high, other.high))
            for before, after in pairs:
                assert after == pytest.approx(before, rel=1e-5, abs=1e-7), name


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_rows_does_not_matter(make, seed):
    rng = np.random.default_rng(seed)
    predictions = make.clustered(rng, 25)
    shuffled = make.reordered(predictions, rng.permutation(len(predictions)))
    options = FairnessSettings(replicates=100)
    before, after = evaluate(predictions, options=options), evaluate(shuffled, options=options)
    for one, two in zip((before[0], *before[1]), (after[0], *after[1]), strict=True):
        assert (one.group, one.num_patients) == (two.group, two.num_patients)
        for name, cell in one.estimates.items():
            other = two.estimates[name]
            assert (cell.method, cell.reason) == (other.method, other.reason)
            for field in ("value", "low", "high"):
                assert getattr(other, field) == pytest.approx(getattr(cell, field), abs=1e-6)


def test_the_same_stream_gives_the_same_figures(make):
    predictions = make.clustered(np.random.default_rng(4))
    assert evaluate(predictions, seed=7) == evaluate(predictions, seed=7)
    assert evaluate(predictions, seed=7) != evaluate(predictions, seed=8)


def test_classes_missing_from_a_group_are_named(make):
    predictions = make.classes(np.random.default_rng(5), 300)
    sex = np.where(predictions.labels == 2, "f", predictions.groups["sex"])
    predictions = dataclasses.replace(predictions, groups={"sex": sex})
    groups = by_group(evaluate(predictions)[1])
    for name in ("auroc", "balanced_accuracy"):
        assert groups["m"].estimates[name].value is not None
        assert groups["m"].estimates[name].reason == "left out for want of items: class 2"
        assert groups["f"].estimates[name].reason == ""


def test_one_class_leaves_discrimination_undefined(make):
    overall, _ = evaluate(make.binary([0.1, 0.4, 0.7], [0, 0, 0]))
    for name in ("auroc", "balanced_accuracy", "sensitivity", "calibration_intercept"):
        assert overall.estimates[name].value is None
        assert overall.estimates[name].reason
    assert overall.estimates["brier"].value is not None


def test_constant_scores_have_an_undefined_slope_and_chance_discrimination(make):
    overall, _ = evaluate(make.binary(np.full(80, 0.4), np.arange(80) < 32))
    assert overall.estimates["auroc"].value == 0.5
    assert overall.estimates["auroc"].high > overall.estimates["auroc"].low
    assert overall.estimates["calibration_slope"].reason == "all scores are equal"
    assert overall.estimates["calibration_intercept"].value == pytest.approx(0, abs=1e-9)
    assert overall.estimates["ece"].value == 0.0


def test_a_single_item_gives_no_number_that_it_cannot_bear(make):
    overall, _ = evaluate(make.binary([0.7], [1]))
    assert overall.estimates["sensitivity"].low == pytest.approx(0.025)
    assert overall.estimates["ece"].value is None


def test_without_a_threshold_the_decided_class_is_the_alarm(make):
    predictions = make.classes(np.random.default_rng(6))
    overall, _ = evaluate(predictions, threshold=None)
    alarms = predictions.decisions >= 2
    expected = recall_score(predictions.malignant, alarms)
    assert overall.estimates["sensitivity"].value == pytest.approx(expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.2, 1.4])
def test_scores_that_are_no_probabilities_are_refused(make, bad):
    predictions = make.binary([0.2, bad, 0.9], [0, 1, 1])
    with pytest.raises(DataError, match="first_bad_row=1"):
        evaluate(predictions)


def test_rows_that_do_not_sum_to_one_are_refused(make):
    predictions = make.binary([0.2, 0.9], [0, 1])
    with pytest.raises(DataError, match="sum to 1"):
        evaluate(dataclasses.replace(predictions, probabilities=predictions.probabilities / 2))


@pytest.mark.parametrize("field", ["labels", "decisions"])
def test_classes_that_do_not_exist_are_refused(make, field):
    predictions = make.binary([0.2, 0.9], [0, 1])
    with pytest.raises(DataError, match=field):
        evaluate(dataclasses.replace(predictions, **{field: np.array([0, 2])}))


def test_no_predictions_are_refused(make):
    with pytest.raises(DataError, match="at least one"):
        evaluate(make.binary([], []))


def test_messages_hold_no_patient_id(make):
    predictions = make.binary([0.2, np.nan], [0, 1], ["secret-1", "secret-2"])
    with pytest.raises(DataError) as caught:
        evaluate(predictions)
    assert "secret" not in str(caught.value)


def test_point_metrics_are_the_values_of_the_overall_estimates(make):
    predictions = make.clustered(np.random.default_rng(8))
    overall, _ = evaluate(predictions, threshold=0.3)
    points = point_metrics(predictions, threshold=0.3)
    assert points.pop("n_images") == overall.num_images
    assert points.pop("n_patients") == overall.num_patients
    assert points == {name: cell.value for name, cell in overall.estimates.items()}


def test_nothing_warns_on_a_hard_case(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(make.binary([0.0, 1.0, 1.0, 0.0, 0.5], [0, 1, 0, 1, 1]))


def test_tones_without_bins_stand_in_the_order_of_their_scale(make):
    predictions = make.clustered(np.random.default_rng(0), 40)
    tones = np.array(["10", "2", "1", "unknown"])[np.arange(len(predictions)) % 4]
    found = dataclasses.replace(predictions, groups={"skin_tone": tones})
    cells = cells_by_group(found, overall_cell(found, threshold=0.5), QUICK)
    assert [each.group for each in cells] == ["1", "2", "10", "unknown"]
