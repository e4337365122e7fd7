"""Closed-form intervals against published numbers and independent formulas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from skinml.errors import ConfigError
from skinml.fairness.intervals import (
    clopper_pearson,
    combine_mean,
    expanded_percentiles,
    logit_interval,
    newcombe_auroc,
    robust_interval,
    wilson,
)


def test_six_of_six_right_is_not_certainty():
    assert clopper_pearson(6, 6) == (pytest.approx(0.541, abs=5e-4), 1.0)
    assert wilson(6, 6) == (pytest.approx(0.610, abs=5e-4), 1.0)


@pytest.mark.parametrize(("hits", "trials"), [(0, 4), (1, 9), (7, 12), (48, 49), (30, 30)])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_proportion_intervals_agree_with_scipy(hits, trials, level):
    oracle = stats.binomtest(hits, trials)
    exact = oracle.proportion_ci(level, method="exact")
    score = oracle.proportion_ci(level, method="wilson")
    assert clopper_pearson(hits, trials, level) == pytest.approx((exact.low, exact.high))
    assert wilson(hits, trials, level) == pytest.approx((score.low, score.high), abs=1e-12)


def hanley_mcneil_variance(area, positives, negatives):
    """Hanley and McNeil 1982 with both counts at their mean inside the bracket."""
    mean = (positives + negatives) / 2
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    inner = area * (1 - area) + (mean - 1) * (q1 + q2 - 2 * area**2)
    return inner / (positives * negatives)


@pytest.mark.parametrize("area", [0.0, 0.35, 0.8, 0.97, 1.0])
@pytest.mark.parametrize(("positives", "negatives"), [(6, 6), (5, 90), (40, 200)])
def test_auroc_limits_lie_just_at_their_own_standard_error(area, positives, negatives):
    for limit in newcombe_auroc(area, positives, negatives):
        if limit in (0.0, 1.0):
            assert limit == area
        else:
            spread = hanley_mcneil_variance(limit, positives, negatives)
            assert abs(limit - area) == pytest.approx(1.959964 * np.sqrt(spread), rel=1e-5)


def test_a_perfect_auroc_is_bounded_by_the_counts():
    lows = [newcombe_auroc(1.0, count, count)[0] for count in (3, 6, 12, 100)]
    assert lows == sorted(lows)
    assert lows[0] < 0.6
    assert 0.95 < lows[-1] < 1.0


def test_expanded_percentiles_of_a_mean_match_the_t_interval():
    rng = np.random.default_rng(5)
    sample = rng.normal(size=12)
    weights = rng.multinomial(12, np.full(12, 1 / 12), size=100_000)
    low, high = expanded_percentiles(weights @ sample / 12, 12)
    oracle = stats.t.interval(0.95, 11, sample.mean(), stats.sem(sample))
    assert (low, high) == pytest.approx(oracle, abs=0.06)
    plain = np.quantile(weights @ sample / 12, [0.025, 0.975])
    assert high - low > 1.1 * (plain[1] - plain[0])


@pytest.mark.parametrize("value", [0.03, 0.5, 0.9])
def test_limits_on_the_log_odds_are_the_delta_method_with_student_t(value):
    rng = np.random.default_rng(6)
    replicates = value + 0.01 * rng.normal(size=4000)
    low, high = logit_interval(value, replicates, 20.0)
    error = np.std(replicates, ddof=1) * np.sqrt(20 / 19) / (value * (1 - value))
    half = stats.t.ppf(0.975, 19) * error
    odds = [limit / (1 - limit) for limit in (low, value, high)]
    assert np.diff(np.log(odds)) == pytest.approx([half, half])
    assert 0 < low < value < high < 1


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_log_odds_have_nothing_to_say_at_the_edges(value):
    assert logit_interval(value, np.full(100, value), 20.0) is None


def test_a_robust_interval_ignores_how_far_a_tail_strays():
    rng = np.random.default_rng(7)
    replicates = 1 + 0.1 * rng.normal(size=20_000)
    low, high = robust_interval(1.0, replicates, 1e6)
    assert (low, high) == pytest.approx((1 - 0.196, 1 + 0.196), abs=0.005)
    strayed = np.where(replicates > 1.2, 100.0, replicates)
    assert robust_interval(1.0, strayed, 1e6) == (low, high)


def test_one_patient_has_no_interval():
    assert logit_interval(0.7, np.linspace(0.6, 0.8, 9), 1.0) is None
    assert robust_interval(0.7, np.linspace(0.6, 0.8, 9), 1.0) is None
    assert expanded_percentiles(np.full(200, 0.7), 1.0) is None
    assert expanded_percentiles(np.full(200, np.nan), 9.0) is None


def test_a_mean_of_normal_estimates_recovers_the_usual_interval():
    limits = [(-1.0, 1.0), (2.0 - 3.0, 2.0 + 3.0)]
    low, high = combine_mean([0.0, 2.0], limits)
    assert (low, high) == pytest.approx((1 - np.sqrt(10) / 2, 1 + np.sqrt(10) / 2))


@pytest.mark.parametrize(("hits", "trials"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(hits, trials):
    with pytest.raises(ConfigError):
        clopper_pearson(hits, trials)
    with pytest.raises(ConfigError):
        wilson(hits, trials)
