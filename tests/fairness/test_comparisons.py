"""Differences between two models on the same patients."""

from __future__ import annotations

import numpy as np
import pytest

from skinml.errors import ConfigError, DataError
from skinml.fairness.comparisons import paired_difference
from skinml.fairness.groups import evaluate_groups, point_metrics
from skinml.fairness.settings import FairnessSettings

OPTIONS = FairnessSettings(replicates=500)


def difference(a, b, metric, **kwargs):
    rng = np.random.default_rng(0)
    return paired_difference(a, b, metric, settings=OPTIONS, rng=rng, **kwargs)


def noisier(make, predictions, rng, amount):
    scores = np.clip(
        predictions.malignancy_scores + amount * rng.normal(size=len(predictions)), 0, 1
    )
    return make.binary(scores, predictions.labels, predictions.patients)


@pytest.mark.parametrize("metric", ["auroc", "brier", "balanced_accuracy", "sensitivity", "ece"])
def test_the_difference_is_that_of_the_values(make, metric):
    rng = np.random.default_rng(1)
    a = make.clustered(rng, 150)
    a = make.binary(a.malignancy_scores, a.labels, a.patients)
    b = noisier(make, a, rng, 0.2)
    found = difference(a, b, metric, threshold_a=0.5, threshold_b=0.5)
    values = [point_metrics(one, threshold=0.5)[metric] for one in (a, b)]
    assert found.value == pytest.approx(values[0] - values[1])
    assert found.low <= found.value <= found.high


def test_pairing_makes_the_interval_narrower_than_either_model_alone(make):
    rng = np.random.default_rng(2)
    a = make.clustered(rng, 200)
    a = make.binary(a.malignancy_scores, a.labels, a.patients)
    b = noisier(make, a, rng, 0.02)
    found = difference(a, b, "auroc")
    alone, _ = evaluate_groups(a, threshold=None, settings=OPTIONS, rng=np.random.default_rng(0))
    alone = alone.estimates["auroc"]
    assert found.high - found.low < 0.4 * (alone.high - alone.low)


def test_swapping_the_models_turns_the_sign(make):
    rng = np.random.default_rng(3)
    a = make.clustered(rng)
    a = make.binary(a.malignancy_scores, a.labels, a.patients)
    b = noisier(make, a, rng, 0.3)
    there, back = difference(a, b, "auroc"), difference(b, a, "auroc")
    assert there.value == pytest.approx(-back.value)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-9)


def test_one_model_does_not_differ_from_itself(make):
    a = make.clustered(np.random.default_rng(4))
    found = difference(a, a, "auroc")
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_two_models_that_few_patients_cannot_tell_apart_are_not_called_equal(make):
    truth = np.arange(12) < 6
    a = make.binary(np.where(truth, 0.9, 0.1), truth)
    b = make.binary(np.where(truth, 0.8, 0.2), truth)
    found = difference(a, b, "sensitivity")
    assert found.value == 0
    assert found.high == pytest.approx(0.459, abs=5e-4)


def test_an_undefined_figure_has_an_undefined_difference(make):
    a = make.binary([0.1, 0.2], [0, 0])
    found = difference(a, a, "auroc")
    assert found.value is None
    assert found.reason


def test_other_items_are_refused(make):
    with pytest.raises(DataError, match="same items"):
        difference(make.binary([0.1, 0.9], [0, 1]), make.binary([0.1, 0.9], [1, 1]), "auroc")


def test_an_unknown_figure_is_refused_with_the_known_ones(make):
    a = make.binary([0.1, 0.9], [0, 1])
    with pytest.raises(ConfigError, match="balanced_accuracy"):
        difference(a, a, "accuracy")
