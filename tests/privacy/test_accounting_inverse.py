"""Delta of an epsilon, and how many rounds or how great samples a budget pays for."""

from __future__ import annotations

import itertools
import warnings
from math import floor, inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from skinml.errors import ConfigError
from skinml.privacy.accounting import (
    _greatest,
    calibrate_noise,
    calibrate_rounds,
    calibrate_sampling,
    delta,
    epsilon,
)
from skinml.privacy.events import GaussianEvent, SampledGaussianEvent, UnprotectedEvent

DELTA = 1e-5
COARSE = 1e-3

few = settings(max_examples=12, deadline=None, derandomize=True)
noises = st.floats(0.8, 5.0).map(lambda x: round(x, 2))
probs = st.floats(0.005, 0.3).map(lambda x: round(x, 3))
budgets = st.floats(0.2, 6.0)


def closed_delta(mu, eps):
    """Balle and Wang 2018, Theorem 8, written down anew."""
    return norm.cdf(mu / 2 - eps / mu) - 2.718281828459045**eps * norm.cdf(-mu / 2 - eps / mu)


def rdp_epsilon(events):
    """dp-accounting's Renyi accountant: another bound from above."""
    from dp_accounting import dp_event, privacy_accountant, rdp

    accountant = rdp.RdpAccountant(
        neighboring_relation=privacy_accountant.NeighboringRelation.ADD_OR_REMOVE_ONE
    )
    for event in events:
        one = dp_event.GaussianDpEvent(event.noise_multiplier)
        if isinstance(event, SampledGaussianEvent):
            one = dp_event.PoissonSampledDpEvent(event.sampling_prob, one)
        accountant.compose(one, event.count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return accountant.get_epsilon(DELTA)


def prv_epsilon(events):
    from opacus.accountants import create_accountant

    accountant = create_accountant("prv")
    for event in events:
        accountant.history.append((event.noise_multiplier, event.sampling_prob, event.count))
    return accountant.get_epsilon(DELTA)


@pytest.mark.parametrize("eps", [0.0, 0.5, 3.0, 8.0])
@pytest.mark.parametrize("mu", [0.05, 0.2681, 1.666, 5.0])  # outermost: composed once for all
def test_delta_of_a_gaussian_is_the_closed_form(mu, eps):
    found = delta([GaussianEvent(1 / mu)], eps)
    assert found == pytest.approx(closed_delta(mu, eps), rel=2e-3, abs=1e-12)
    assert found >= closed_delta(mu, eps) * (1 - 1e-9) - 1e-12  # the grid errs on the safe side


def test_nothing_released_leaks_with_no_chance():
    assert delta([], 0.0) == 0
    assert delta([SampledGaussianEvent(1.0, 0.0, 100)], 1.0) == 0


def test_an_unprotected_release_leaks_for_sure():
    assert delta([GaussianEvent(100.0), UnprotectedEvent()], 50.0) == 1


@pytest.mark.parametrize("eps", [-0.1, inf, float("nan")])
def test_impossible_epsilons_are_refused(eps):
    with pytest.raises(ConfigError, match="epsilon"):
        delta([GaussianEvent(1.0)], eps)


@few
@given(noises, probs, st.integers(1, 200), st.floats(0.1, 5.0))
def test_epsilon_and_delta_undo_each_other_up_to_the_grid(noise, prob, steps, eps):
    events = [SampledGaussianEvent(noise, prob, steps), GaussianEvent(3 * noise)]
    read = delta(events, eps, grid=COARSE)
    if read > 1e-12:
        assert epsilon(events, read, grid=COARSE) == pytest.approx(eps, abs=2 * COARSE)
    cost = epsilon(events, DELTA, grid=COARSE)
    assert delta(events, cost, grid=COARSE) <= DELTA * (1 + 1e-6)


@few
@given(noises, probs, st.integers(1, 150), st.floats(0.0, 4.0), st.floats(1.05, 2.0))
def test_delta_falls_with_noise_and_rises_with_count_and_sampling(noise, prob, steps, eps, factor):
    def leak(s, q, n):
        return delta([SampledGaussianEvent(s, min(q, 1.0), n)], eps, grid=COARSE)

    base, slack = leak(noise, prob, steps), 1e-9
    assert leak(noise * factor, prob, steps) <= base + slack
    assert leak(noise, prob, 2 * steps) >= base - slack
    assert leak(noise, prob * factor, steps) >= base - slack


@few
@given(st.lists(noises, min_size=3, max_size=3), probs, st.floats(0.0, 4.0))
def test_the_order_of_events_does_not_change_delta(scales, prob, eps):
    events = [GaussianEvent(scales[0]), *(SampledGaussianEvent(s, prob, 9) for s in scales[1:])]
    found = {delta(order, eps, grid=COARSE) for order in itertools.permutations(events)}
    assert len(found) == 1


def gaussian_rounds(noise, eps, beside=0.0):
    """The greatest count by the closed form: mu^2 left over, times the noise squared."""
    mu = brentq(lambda m: closed_delta(m, eps) - DELTA, 1e-4, 60)
    return max(0, floor((mu**2 - beside) * noise**2))


@settings(few, max_examples=6)
@given(st.floats(1.0, 60.0), budgets)
def test_rounds_that_fit_are_those_of_the_closed_form(noise, eps):
    found = calibrate_rounds(
        lambda n: [GaussianEvent(noise, n)] if n else [], eps, DELTA, most=100_000
    )
    exact = gaussian_rounds(noise, eps)
    assert exact * 0.998 - 1 <= found <= exact


@settings(few, max_examples=3)
@given(noises, probs, budgets)
def test_one_round_more_than_fits_is_too_many(noise, prob, eps):
    def events(n):
        return [SampledGaussianEvent(noise, prob, n)] if n else []

    rounds = calibrate_rounds(events, eps, DELTA)
    assert epsilon(events(rounds), DELTA) <= eps < epsilon(events(rounds + 1), DELTA)


def test_what_stands_beside_the_rounds_is_paid_first():
    beside = GaussianEvent(4.0)
    found = calibrate_rounds(
        lambda n: [beside, GaussianEvent(10.0, n)] if n else [beside], 3.0, DELTA
    )
    assert found == gaussian_rounds(10.0, 3.0, beside=1 / 16) == 45
    with pytest.raises(ConfigError, match="beside the rounds"):
        calibrate_rounds(lambda n: [GaussianEvent(0.5), *[beside] * n], 1.0, DELTA)


def test_no_round_may_fit():
    assert calibrate_rounds(lambda n: [GaussianEvent(0.5, n)] if n else [], 1.0, DELTA) == 0


@pytest.mark.parametrize("most", [1, 7, 100])
def test_the_search_for_rounds_ends_where_it_was_told(most):
    def events(n):
        return [GaussianEvent(1000.0, n)] if n else []

    assert calibrate_rounds(events, 3.0, DELTA, most=most) == most


@given(st.integers(0, 300), st.integers(1, 300), st.integers(0, 400))
def test_the_search_finds_the_last_that_fits_wherever_it_begins(guess, most, last):
    found = _greatest(lambda n: n <= last, min(guess, most), most)
    assert found == min(last, most)


@pytest.mark.parametrize(("noise", "prob", "eps"), [(1.1, 0.02, 3.0), (2.0, 0.1, 1.0)])
def test_other_accountants_agree_with_the_rounds_that_fit(noise, prob, eps):
    """The Renyi bound is above the budget's epsilon; PRV is at it, within its error of 0.01."""
    rounds = calibrate_rounds(
        lambda n: [SampledGaussianEvent(noise, prob, n)] if n else [], eps, DELTA
    )
    events = [SampledGaussianEvent(noise, prob, rounds)]
    assert eps < rdp_epsilon(events) < 1.45 * eps
    assert prv_epsilon(events) == pytest.approx(eps, abs=0.02)


@pytest.mark.parametrize(
    ("noise", "steps", "eps"),
    [(1.26, 120, 8.0), pytest.param(1.1, 500, 1.5, marks=pytest.mark.slow)],
)
def test_other_accountants_agree_with_the_greatest_sampling_rate(noise, steps, eps):
    rate = calibrate_sampling(lambda q: [SampledGaussianEvent(noise, q, steps)], eps, DELTA)
    events = [SampledGaussianEvent(noise, rate, steps)]
    assert epsilon(events, DELTA) <= eps
    assert epsilon([SampledGaussianEvent(noise, rate * 1.002, steps)], DELTA) > eps
    assert eps * 0.99 < rdp_epsilon(events) < 1.45 * eps
    assert prv_epsilon(events) == pytest.approx(eps, abs=0.03)


def test_where_everybody_may_be_sampled_the_rate_is_one():
    assert calibrate_sampling(lambda q: [SampledGaussianEvent(50.0, q, 3)], 1.0, DELTA) == 1


def test_rate_and_noise_are_two_sides_of_one_schedule():
    noise = calibrate_noise(lambda s: [SampledGaussianEvent(s, 0.15, 120)], 2.0, DELTA)
    rate = calibrate_sampling(lambda q: [SampledGaussianEvent(noise, q, 120)], 2.0, DELTA)
    assert rate == pytest.approx(0.15, rel=3e-3)


def test_a_budget_that_no_sample_is_small_enough_for_is_refused():
    beside = GaussianEvent(3.0)  # 1.27 by itself
    with pytest.raises(ConfigError, match="sampling rate"):
        calibrate_sampling(lambda q: [beside, SampledGaussianEvent(1.0, q)], 1.0, DELTA)
