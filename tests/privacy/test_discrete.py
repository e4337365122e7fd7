"""The discrete Gaussian: its law, its bounds, and what the accountant makes of it.

Oracles: the probabilities summed directly over the integers. The statistical tests have a level of
1e-6 each.
"""

from __future__ import annotations

from math import exp, inf, log, sqrt

import numpy as np
import pytest
from scipy import stats

from skinml.errors import ConfigError
from skinml.privacy.accounting import as_gaussian, delta, divergence, epsilon
from skinml.privacy.discrete import _TAIL, draw, rounding_divergence, sum_divergence
from skinml.privacy.events import DiscreteGaussianEvent, GaussianEvent
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.noise import fixed_noise, secret_noise
from skinml.privacy.plan import Release

LEVEL = 1e-6
DRAWS = 200_000
DELTA = 1e-5


def mass(std, centre=0.0, reach=None):
    """Probabilities of a discrete Gaussian about any centre, summed over the integers."""
    reach = reach or int(40 * std)
    grid = np.arange(-reach, reach + 1)
    weights = np.exp(-((grid - centre) ** 2) / (2 * std**2))
    return grid, weights / weights.sum()


@pytest.mark.parametrize("std", [8.0, 8.9, 25.5])
def test_drawn_numbers_have_the_law_of_the_discrete_gaussian(std):
    drawn = draw(secret_noise().words, DRAWS, std)
    grid, chances = mass(std)
    counts = np.bincount(drawn - grid[0], minlength=len(grid))
    frequent = chances * DRAWS > 10
    observed = np.append(counts[frequent], counts[~frequent].sum())
    expected = np.append(chances[frequent], chances[~frequent].sum()) * DRAWS
    assert stats.chisquare(observed, expected).pvalue > LEVEL


def test_on_a_fine_grid_the_numbers_are_normal():
    drawn = draw(secret_noise().words, DRAWS, 2.0**36) / 2.0**36
    assert stats.kstest(drawn, "norm").pvalue > LEVEL
    assert stats.binomtest(int((drawn > 3).sum()), DRAWS, stats.norm.sf(3)).pvalue > LEVEL


def test_the_words_alone_decide_the_numbers():
    first, second = (
        draw(fixed_noise(np.random.default_rng(5)).words, 1000, 20.0) for _ in range(2)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, draw(secret_noise().words, 1000, 20.0))


@pytest.mark.parametrize("std", [0.5, 7.99, 2.0**46, float("nan")])
def test_noise_that_does_not_fit_the_grid_is_refused(std):
    with pytest.raises(ConfigError, match="noise_std_in_grid_units"):
        draw(secret_noise().words, 3, std)


def test_no_numbers_are_drawn_where_none_are_asked_for():
    assert draw(secret_noise().words, 0, 8.0).tolist() == []


@pytest.mark.parametrize("shares", [2, 3])
def test_a_sum_of_shares_is_within_its_bound_of_one_discrete_gaussian(shares):
    """At one unit, where the bound is not lost in rounding."""
    std = 1.0
    one = mass(std, reach=60)[1]
    total = one
    for _ in range(shares - 1):
        total = np.convolve(total, one)
    reach = (len(total) - 1) // 2
    whole = mass(std * sqrt(shares), reach=reach)[1]
    near = np.abs(np.arange(-reach, reach + 1)) <= 12
    apart = np.abs(np.log(total[near] / whole[near])).max()
    assert 0 < apart <= sum_divergence(std, shares)
    assert sum_divergence(8.0, 100) < 1e-200


def test_a_discrete_gaussian_is_a_continuous_one_rounded_at_random_within_its_bound():
    """The bound at eight units lies below double precision; the integral agrees to that."""
    std, inner = 8.0, 2.0
    grid, chances = mass(std)
    outer = sqrt(std**2 - inner**2)
    points = np.linspace(-9 * outer, 9 * outer, 40_001)
    density = stats.norm.pdf(points, scale=outer) * (points[1] - points[0])
    offsets = np.arange(-40, 41)
    for value in (0, 1, 7, 20):
        normaliser = np.exp(-((offsets[:, None] - points % 1.0) ** 2) / (2 * inner**2)).sum(axis=0)
        rounded = (density * np.exp(-((value - points) ** 2) / (2 * inner**2)) / normaliser).sum()
        assert log(rounded / chances[grid == value][0]) == pytest.approx(0, abs=1e-9)
    assert rounding_divergence(8.0) < 1e-30


def hockey_stick(std, shift, eps):
    """Delta at epsilon of integers moved by a shift, summed over the integers, both ways equal."""
    grid, chances = mass(std)
    moved = np.exp(-((grid - shift) ** 2) / (2 * std**2))
    moved /= moved.sum()
    return float(np.maximum(moved - exp(eps) * chances, 0).sum())


@pytest.mark.parametrize("shift", [1, 4, 9])
@pytest.mark.parametrize("eps", [0.05, 0.5, 2.0])
def test_the_accounted_delta_is_never_below_the_true_one(shift, eps):
    event = DiscreteGaussianEvent(8.0 / shift, grid_std=8.0, shares=1, dimension=1)
    assert delta([event], eps) >= hockey_stick(8.0, shift, eps)


@pytest.mark.parametrize(("shift", "eps"), [(40, 30.0), (80, 60.0), (80, 100.0), (80, 150.0)])
def test_what_the_other_cohorts_noise_never_reaches_is_accounted(shift, eps):
    """Nothing is drawn far out: at ten deviations of shift much lies where only one cohort's is."""
    numbers = np.arange(-200, 300)
    weights = [np.exp(-((numbers - at) ** 2) / 128.0) for at in (0, shift)]
    cut = [np.abs(numbers - at) <= _TAIL * 9 for at in (0, shift)]
    here, there = (w * c / (w * c).sum() for w, c in zip(weights, cut, strict=True))
    true = np.maximum(here - exp(eps) * there, 0).sum()
    event = DiscreteGaussianEvent(8.0 / shift, grid_std=8.0, shares=1, dimension=1)
    assert delta([event], eps) >= true * (1 - 1e-9)
    found = epsilon([event], 1e-5)
    assert found == inf or np.maximum(here - exp(found) * there, 0).sum() <= 1e-5
    assert (found < inf) == (shift == 40)


def test_as_many_shares_as_clinics_are_accounted_together():
    """Four shares of 8 units have the variance of one of 16 units."""
    four = DiscreteGaussianEvent(2.0, grid_std=8.0, shares=4, dimension=10)
    one = DiscreteGaussianEvent(2.0, grid_std=16.0, shares=1, dimension=10)
    assert as_gaussian(four) == as_gaussian(one)
    assert epsilon([four], DELTA) == pytest.approx(epsilon([one], DELTA), abs=1e-9)


@pytest.mark.parametrize("count", [1, 100])
def test_on_the_grid_of_a_run_it_costs_what_the_gaussian_costs(count):
    event = DiscreteGaussianEvent(30.0, grid_std=2.0**28, shares=100, dimension=9000, count=count)
    plain = epsilon([GaussianEvent(30.0, count)], DELTA)
    assert plain <= epsilon([event], DELTA) <= plain + 2e-4
    assert divergence(event) < 1e-4


def test_below_what_the_grid_costs_no_delta_is_claimed():
    event = DiscreteGaussianEvent(30.0, grid_std=2.0**28, shares=100, dimension=9000)
    assert delta([event], 1.9 * divergence(event)) == 1.0
    assert delta([event], 2.1 * divergence(event)) < 1.0


def test_a_release_on_a_grid_stays_on_it_and_has_the_noise_of_its_event():
    grid = 2.0**-10
    release = Release("sum", "training", "train", 0.5, 4.0, (DRAWS,), grid=grid)
    noisy = Mechanism(0.5).privatize(release, np.full(DRAWS, 3 * grid))
    assert np.array_equal(noisy / grid, np.round(noisy / grid))
    assert stats.kstest((noisy - 3 * grid), "norm", (0, 1.0)).pvalue > LEVEL
    assert release.event == DiscreteGaussianEvent(4.0, 2.0 / grid, 1, DRAWS)


def test_a_release_whose_noise_is_too_fine_for_its_grid_does_not_leave():
    release = Release("sum", "training", "train", 0.5, 4.0, (3,), grid=1.0)
    with pytest.raises(ConfigError, match="grid"):
        Mechanism(1.0).privatize(release, np.zeros(3))
