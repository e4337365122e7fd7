"""Bounds from canaries' scores: silent without an effect, above the truth by chance only."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, norm, ttest_ind
from sklearn.metrics import roc_auc_score

from skinml.errors import ConfigError, DataError
from skinml.privacy.allowance import gaussian_epsilon
from skinml.privacy.audit.estimators import (
    auc,
    gaussian_fit,
    one_run_bound,
    refined_bound,
)

DELTA = 1e-5


def _draw(mu: float, num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of canaries under a Gaussian mechanism of mu."""
    rng = np.random.default_rng(seed)
    included = rng.random(num) < 0.5
    return rng.standard_normal(num) + mu * included, included


def test_auc_equals_the_independent_one_with_ties() -> None:
    rng = np.random.default_rng(0)
    scores, included = rng.integers(0, 9, 200).astype(float), rng.random(200) < 0.4
    assert auc(scores, included) == pytest.approx(roc_auc_score(included, scores))


@pytest.mark.parametrize("seed", range(5))
def test_without_an_effect_no_estimator_finds_one(seed: int) -> None:
    scores, included = _draw(0.0, 1000, seed)
    assert one_run_bound(scores, included, DELTA, 0.999) == 0
    assert refined_bound(scores, included, DELTA, 0.999) == 0
    fit = gaussian_fit(scores, included, DELTA, 0.999)
    assert fit.lower_limit == 0
    assert fit.estimate < 0.5


def test_the_bounds_stay_below_the_truth_and_the_refined_one_lies_nearer() -> None:
    truth = gaussian_epsilon(1.4142, DELTA)
    scores, included = _draw(1.4142, 3000, 3)
    plain = one_run_bound(scores, included, DELTA, 0.95)
    refined = refined_bound(scores, included, DELTA, 0.95)
    fit = gaussian_fit(scores, included, DELTA, 0.95)
    # Two guesses of 90% right, for instance, show an epsilon of log(9) only.
    assert 1.5 < plain < refined < fit.lower_limit < truth
    assert fit.estimate == pytest.approx(truth, abs=0.6)


@pytest.mark.parametrize("wrong", [0.5, 2.0])
def test_the_estimate_follows_the_noise(wrong: float) -> None:
    scores, included = _draw(1 / wrong, 4000, 7)
    expected = gaussian_epsilon(1 / wrong, DELTA)
    assert gaussian_fit(scores, included, DELTA, 0.99).estimate == pytest.approx(expected, rel=0.1)


def test_the_limit_of_mu_inverts_students_test() -> None:
    scores, included = _draw(0.6, 60, 1)
    p_value = ttest_ind(scores[included], scores[~included], alternative="greater").pvalue
    # The limit is above zero just where the one-sided t test refutes zero.
    assert 1e-4 < p_value < 0.2
    assert gaussian_fit(scores, included, DELTA, 1 - p_value * 0.99).lower_mu == 0
    assert gaussian_fit(scores, included, DELTA, 1 - p_value * 1.01).lower_mu > 0


def test_bounds_pass_the_truth_no_oftener_than_they_say() -> None:
    above = np.zeros(3)
    truth = gaussian_epsilon(0.7, DELTA)
    for seed in range(100):
        scores, included = _draw(0.7, 100, seed)
        above += [
            one_run_bound(scores, included, DELTA, 0.95) > truth,
            refined_bound(scores, included, DELTA, 0.95) > truth,
            gaussian_fit(scores, included, DELTA, 0.95).lower_limit > truth,
        ]
    # Of 100 limits at 95% at most 12 are too high, but for a chance of 1 in 300.
    assert (above <= binom.ppf(1 - 1 / 300, 100, 0.05)).all()


def test_guessing_all_of_pure_randomised_response_bounds_its_epsilon() -> None:
    # Each canary's bit is answered truly with e / (1 + e): epsilon is 1 and nothing else leaks.
    rng = np.random.default_rng(5)
    included = rng.random(4000) < 0.5
    truthful = rng.random(4000) < np.e / (1 + np.e)
    scores = np.where(truthful, included, ~included) + 1e-9 * rng.random(4000)
    # By hand: the lower limit of the rate, as log odds, at 95% over six attempts.
    right = int(truthful.sum())
    limit = right / 4000 - norm.ppf(1 - 0.05 / 6) * np.sqrt(
        right / 4000 * (1 - right / 4000) / 4000
    )
    found = one_run_bound(scores, included, 0.0, 0.95)
    assert found <= 1
    assert found >= np.log(limit / (1 - limit)) - 0.03


def test_scores_without_any_noise_give_no_end() -> None:
    included = np.arange(40) % 2 == 0
    fit = gaussian_fit(included.astype(float), included, DELTA, 0.999)
    assert fit.lower_limit == float("inf")
    # 40 of 40 right under epsilon 2 has a chance of 0.6%.
    assert one_run_bound(included + np.linspace(0, 1e-3, 40), included, 0.0, 0.95) > 2


@pytest.mark.parametrize("estimator", [one_run_bound, refined_bound])
def test_canaries_of_one_kind_only_are_refused(estimator: object) -> None:
    assert callable(estimator)
    with pytest.raises(ConfigError, match="0 out"):
        estimator(np.zeros(9), np.ones(9, dtype=bool), DELTA, 0.95)
    with pytest.raises(ConfigError, match="finite"):
        estimator(np.full(9, np.nan), np.arange(9) < 4, DELTA, 0.95)
    with pytest.raises(DataError, match="one length"):
        estimator(np.zeros(9), np.ones(8, dtype=bool), DELTA, 0.95)
