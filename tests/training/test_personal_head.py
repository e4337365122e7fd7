"""A clinic's own head: what it minimises, and what it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp

from skinml.errors import ConfigError
from skinml.models.linear_head import head_inputs
from skinml.records import Labels, Samples
from skinml.training.personal_head import personal_head

CLASSES = Labels(("a", "b", "c"), (False, True, False))
FEATURES = 4


def model(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "centre": (0.2 * rng.normal(size=FEATURES)).astype(np.float32),
        "weight": rng.normal(size=(FEATURES + 1, 3)).astype(np.float32),
        "offset": rng.normal(size=3).astype(np.float32),
    }


def samples(count=30, seed=1):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(count, FEATURES))
    inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
    names = np.array([f"p{i}" for i in range(count)])  # one image each: nothing to average
    return Samples(inputs.astype(np.float32), rng.integers(0, 3, count), names)


def fitted(items, pull, begin=None):
    return personal_head(begin or model(), items, CLASSES, pull=pull, bias_input=0.1)


def by_scipy(items, pull):
    """The same objective, written down again and given to another optimiser."""
    begin = model()
    inputs = head_inputs(items.inputs, begin["centre"], 0.1).astype(np.float64)
    start = begin["weight"].astype(np.float64)
    rows = np.arange(len(inputs))

    def objective(flat):
        weight = flat.reshape(start.shape)
        logits = inputs @ weight + begin["offset"]
        loss = (logsumexp(logits, axis=1) - logits[rows, items.labels]).mean()
        return loss + pull / 2 * np.square(weight - start).sum()

    return minimize(objective, start.ravel(), tol=1e-10).x.reshape(start.shape)


@pytest.mark.parametrize("pull", [0.01, 0.1, 1.0])
def test_it_minimises_loss_and_distance_together(pull):
    items = samples()
    np.testing.assert_allclose(fitted(items, pull)["weight"], by_scipy(items, pull), atol=2e-3)


def test_a_strong_pull_leaves_the_runs_model():
    found = fitted(samples(), 1e6)
    np.testing.assert_allclose(found["weight"], model()["weight"], atol=1e-5)


def test_only_the_weights_change_and_the_model_given_does_not():
    begin = model()
    kept = {name: values.copy() for name, values in begin.items()}
    found = fitted(samples(), 0.01, begin)
    assert found.keys() == begin.keys()
    for name in ("centre", "offset"):
        np.testing.assert_array_equal(found[name], kept[name])
    np.testing.assert_array_equal(begin["weight"], kept["weight"])
    assert found["weight"].dtype == np.float32
    assert np.abs(found["weight"] - kept["weight"]).max() > 0.1


def test_a_patient_counts_once_and_one_that_is_not_finite_not_at_all():
    items = samples()
    first = np.r_[0 : len(items.labels), 0:5]
    repeated = Samples(items.inputs[first], items.labels[first], items.patients[first])
    np.testing.assert_allclose(
        fitted(repeated, 0.1)["weight"], fitted(items, 0.1)["weight"], atol=1e-5
    )
    spoilt = Samples(
        np.concatenate([items.inputs, np.full((1, FEATURES), np.nan, np.float32)]),
        np.append(items.labels, 0),
        np.append(items.patients, "spoilt"),
    )
    np.testing.assert_array_equal(fitted(spoilt, 0.1)["weight"], fitted(items, 0.1)["weight"])


def test_a_clinic_without_patients_has_the_runs_model():
    found = fitted(samples(1).take(np.zeros(1, dtype=bool)), 0.1)
    np.testing.assert_array_equal(found["weight"], model()["weight"])


def test_a_pull_of_nothing_is_refused():
    with pytest.raises(ConfigError):
        fitted(samples(), 0.0)
