"""Guessing and swapping: what a composition allows beside its epsilon, against closed forms."""

from __future__ import annotations

from math import exp, inf

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from skinml.errors import ConfigError
from skinml.privacy.accounting import delta, epsilon
from skinml.privacy.events import (
    DiscreteGaussianEvent,
    GaussianEvent,
    SampledGaussianEvent,
    UnprotectedEvent,
)
from skinml.privacy.ledger import Binding, Entry
from skinml.privacy.readings import advantage, recognised, replace_one_epsilon

DELTA = 1e-5
BINDING = Binding("run", 1, 1, ("a",), "local", "patient_within_clinic", "k", True)


def entries(*events, split="train"):
    return [
        Entry(at, "2026-01-01T00:00:00+00:00", BINDING, "sum", "training", split, event, True)
        for at, event in enumerate(events)
    ]


@pytest.mark.parametrize("mu", [0.1, 0.719, 2.0])
def test_guesses_about_a_gaussian_are_those_of_its_trade_off(mu):
    """A guess at even odds is right at most Phi(mu / 2) of the time."""
    released = entries(GaussianEvent(2 / mu, 4))
    right = (1 + advantage(released)) / 2
    assert norm.cdf(mu / 2) - 1e-9 <= right <= norm.cdf(mu / 2) + 1e-4
    for false_alarms in (0.001, 0.01, 0.5):
        exact = norm.cdf(norm.ppf(false_alarms) + mu)
        assert exact - 1e-9 <= recognised(released, false_alarms) <= exact + 1e-4


def best_of_samples(prob, noise, false_alarms):
    """Power of the best test on one sampled Gaussian sum, both ways, by the Neyman-Pearson lemma.

    The likelihood ratio is monotone in the sum, so that the best test is a threshold.
    """

    def upper(x):  # the patient was there with chance prob
        return (1 - prob) * norm.sf(x / noise) + prob * norm.sf((x - 1) / noise)

    cut = norm.isf(false_alarms) * noise
    added = upper(cut)
    low = brentq(lambda x: 1 - upper(x) - false_alarms, -60, 60)
    return max(added, norm.cdf(low / noise))


@pytest.mark.parametrize(("prob", "noise"), [(0.1, 0.8), (0.5, 1.0)])
def test_sampled_releases_are_bounded_by_their_best_test(prob, noise):
    event = entries(SampledGaussianEvent(noise, prob))
    for false_alarms in (0.01, 0.1):
        exact = best_of_samples(prob, noise, false_alarms)
        assert exact - 1e-9 <= recognised(event, false_alarms) <= exact + 3e-3
    # The total variation distance: prob times that of the two Gaussians.
    assert advantage(event) == pytest.approx(prob * (2 * norm.cdf(0.5 / noise) - 1), abs=1e-3)


@pytest.mark.parametrize("mu", [0.05, 0.719])
def test_a_swapped_patient_moves_a_sum_twice_as_far(mu):
    exact = epsilon([GaussianEvent(1 / (2 * mu))], DELTA)
    assert replace_one_epsilon(entries(GaussianEvent(1 / mu)), DELTA) == pytest.approx(
        exact, abs=2e-3
    )


def test_a_swap_among_sampled_patients_is_one_taken_out_and_one_put_in():
    """Between the exact loss of one step, by integration, and three times that of one patient."""
    prob, noise = 0.1, 1.0
    event = SampledGaussianEvent(noise, prob)
    grid = np.linspace(-12, 12, 200_001)
    there = (1 - prob) * norm.pdf(grid) + prob * norm.pdf(grid - 1)
    other = (1 - prob) * norm.pdf(grid) + prob * norm.pdf(grid + 1)  # pulls the other way

    def leak(eps):
        return np.clip(there - exp(eps) * other, 0, None).sum() * (grid[1] - grid[0])

    exact = brentq(lambda eps: leak(eps) - DELTA, 0, 20)
    found = replace_one_epsilon(entries(event), DELTA)
    assert exact <= found <= 3 * epsilon([event], DELTA)


def test_nothing_released_tells_nothing_and_bare_sums_tell_all():
    bare = entries(GaussianEvent(5.0), UnprotectedEvent())
    assert (advantage([]), recognised([], 0.01), replace_one_epsilon([], DELTA)) == (0, 0.01, 0)
    assert (advantage(bare), recognised(bare, 0.01)) == (1, 1)
    assert replace_one_epsilon(bare, DELTA) == inf
    quiet = entries(SampledGaussianEvent(1.0, 0.0, 9))
    assert replace_one_epsilon(quiet, DELTA) == 0


def test_splits_are_told_apart_and_the_greatest_counts():
    train, other = entries(GaussianEvent(2.0)), entries(GaussianEvent(5.0), split="validation")
    assert advantage([*train, *other]) == advantage(train) > advantage(other)
    assert recognised([*other, *train], 0.1) == recognised(train, 0.1)


@pytest.mark.parametrize("false_alarms", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_of_false_alarms_is_a_share(false_alarms):
    with pytest.raises(ConfigError, match="false_alarms"):
        recognised(entries(GaussianEvent(1.0)), false_alarms)


def test_noise_on_a_grid_allows_hardly_more_than_continuous_noise():
    """Also at epsilon 0, where the slack of the discrete bounds leaves no delta below 1."""
    continuous = entries(GaussianEvent(2.0))
    for grid_std, shares in ((8.0, 1), (1e6, 6)):
        released = entries(DiscreteGaussianEvent(2.0, grid_std, shares, 50))
        assert delta([released[0].event], 0.0) == 1
        for read, slack in (
            (advantage, 0.04),
            (lambda held: recognised(held, 0.01), 0.01),
            (lambda held: replace_one_epsilon(held, DELTA), 0.2),
        ):
            assert read(continuous) - 1e-4 <= read(released) <= read(continuous) + slack


def test_a_sample_on_a_grid_is_read_like_one_off_it():
    plain = entries(SampledGaussianEvent(2.0, 0.1, 9))
    grid = entries(DiscreteGaussianEvent(2.0, 1e6, 1, 5, sampling_prob=0.1, count=9))
    assert advantage(grid) == pytest.approx(advantage(plain), abs=1e-4)
    assert replace_one_epsilon(grid, DELTA) == pytest.approx(
        replace_one_epsilon(plain, DELTA), abs=1e-2
    )
