"""Weighted AUROC, recalibration and calibration error against scikit-learn, scipy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from skinml.fairness.calibration import (
    bin_rows,
    calibration_error,
    calibration_intercept_statistic,
    calibration_slope_statistic,
    equal_mass_bins,
)
from skinml.fairness.discrimination import auroc_statistic


def sample(seed, n=300, ties=False):
    rng = np.random.default_rng(seed)
    scores = expit(rng.normal(size=n) * 1.5 - 0.5)
    positive = rng.random(n) < expit(0.6 * logit(scores) + 0.3)
    if ties:
        scores = np.round(scores, 1)
    return scores, positive, rng.integers(0, 4, size=(n, 7)).astype(float)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_auroc_of_every_weighting_agrees_with_scikit_learn(seed, ties):
    scores, positive, weights = sample(seed, ties=ties)
    found = auroc_statistic(scores, positive)(weights)
    oracle = [roc_auc_score(positive, scores, sample_weight=column) for column in weights.T]
    assert found == pytest.approx(oracle)


def test_auroc_is_undefined_where_a_class_has_no_weight():
    weights = np.array([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    found = auroc_statistic(np.array([0.1, 0.9, 0.3]), np.array([False, True, False]))(weights)
    assert found[0] == 1.0
    assert np.isnan(found[1])


def test_constant_scores_have_an_auroc_of_one_half():
    area = auroc_statistic(np.full(9, 0.3), np.arange(9) < 4)
    assert area(np.ones((9, 1)))[0] == 0.5


@pytest.mark.parametrize("seed", range(3))
def test_calibration_slope_agrees_with_scikit_learn_on_weighted_resamples(seed):
    scores, positive, weights = sample(seed)
    found = calibration_slope_statistic(scores, positive)(weights)
    for column, slope in zip(weights.T, found, strict=True):
        model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
        model.fit(logit(scores)[:, None], positive, sample_weight=column)
        assert slope == pytest.approx(model.coef_[0, 0], rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_calibration_intercept_balances_expected_and_observed(seed):
    scores, positive, weights = sample(seed)
    found = calibration_intercept_statistic(scores, positive)(weights)
    for column, intercept in zip(weights.T, found, strict=True):
        oracle = brentq(lambda a, w=column: w @ (positive - expit(logit(scores) + a)), -9, 9)
        assert intercept == pytest.approx(oracle, abs=1e-8)


def test_intercept_is_found_from_far_away():
    scores, positive = np.full(40, 1e-6), np.arange(40) < 20
    found = calibration_intercept_statistic(scores, positive)(np.ones((40, 1)))
    assert found[0] == pytest.approx(-logit(1e-6))


@pytest.mark.parametrize(
    ("scores", "positive"),
    [
        ([0.1, 0.2, 0.8, 0.9], [False, False, True, True]),
        ([0.4, 0.4, 0.4, 0.4], [False, True, True, True]),
        ([0.1, 0.2, 0.8, 0.9], [True, True, True, True]),
    ],
    ids=["separated", "constant", "one class"],
)
def test_a_slope_without_a_finite_fit_is_undefined(scores, positive):
    statistic = calibration_slope_statistic(np.array(scores), np.array(positive))
    assert np.isnan(statistic(np.ones((4, 1)))[0])


def ece(scores, outcomes, patients=None, bins=10):
    patients = np.arange(len(scores)) if patients is None else patients
    num = int(patients.max()) + 1
    rows = bin_rows(scores, outcomes, patients, num_patients=num, greatest_bins=bins)
    return calibration_error(rows.weigh(np.ones((num, 1))))[0]


def test_always_certain_and_half_wrong_is_half_miscalibrated():
    assert ece(np.ones(2000), np.arange(2000) % 2 == 0) == pytest.approx(0.5, abs=5e-4)


def test_calibration_error_is_unbiased_on_the_square_scale():
    rng = np.random.default_rng(1)
    for shift in (0.0, 0.15):
        squares = []
        for _ in range(800):
            truth = rng.uniform(0.2, 0.8, size=60)
            found = ece(np.clip(truth + shift, 0, 1), rng.random(60) < truth)
            squares.append(found * abs(found))
        error = np.std(squares) / np.sqrt(len(squares))
        assert np.mean(squares) == pytest.approx(shift**2, abs=4 * error)


def test_calibration_error_does_not_see_that_images_were_duplicated():
    rng = np.random.default_rng(2)
    scores = rng.random(80)
    outcomes = rng.random(80) < scores
    once = ece(scores, outcomes)
    thrice = ece(np.repeat(scores, 3), np.repeat(outcomes, 3), np.repeat(np.arange(80), 3))
    assert thrice == pytest.approx(once)


def test_calibration_error_by_hand():
    scores = np.array([0.2, 0.2, 0.4, 0.4])
    outcomes = np.array([False, False, False, True])
    gap = np.mean(outcomes - scores)
    variance = np.var(outcomes - scores, ddof=1) / 4
    assert ece(scores, outcomes) == pytest.approx(
        np.sign(gap**2 - variance) * np.sqrt(abs(gap**2 - variance))
    )


def test_whole_weights_are_the_same_as_repeated_patients():
    rng = np.random.default_rng(3)
    scores = np.round(rng.random(50), 2)
    outcomes = rng.random(50) < 0.5
    made = bin_rows(scores, outcomes, np.arange(50), num_patients=50, greatest_bins=1)
    weights = rng.integers(0, 3, size=50)
    rows = np.repeat(np.arange(50), weights)
    assert calibration_error(made.weigh(weights[:, None].astype(float)))[0] == pytest.approx(
        ece(scores[rows], outcomes[rows], bins=1)
    )


def test_bins_hold_like_numbers_and_keep_equal_scores_together():
    scores = np.concatenate([np.zeros(500), np.linspace(0.1, 1, 500)])
    bins = equal_mass_bins(scores, np.arange(1000), 10)
    assert set(bins[:500]) == {0}
    assert np.bincount(bins)[1:].max() <= 101
    assert (np.diff(bins) >= 0).all()
