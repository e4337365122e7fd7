"""What events cost, against closed forms and three independent accountants."""

from __future__ import annotations

import itertools
import warnings
from math import inf, sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from skinml.errors import ConfigError
from skinml.privacy.accounting import (
    CERTIFICATE_GRID,
    calibrate_noise,
    epsilon,
    gaussian_delta,
    gaussian_mu,
    gaussian_mu_for,
)
from skinml.privacy.events import GaussianEvent, SampledGaussianEvent, UnprotectedEvent

DELTA = 1e-5
COARSE = 1e-3


def pld_accountant(grid=COARSE):
    from dp_accounting import privacy_accountant
    from dp_accounting.pld import pld_privacy_accountant

    return pld_privacy_accountant.PLDAccountant(
        privacy_accountant.NeighboringRelation.ADD_OR_REMOVE_ONE,
        value_discretization_interval=grid,
    )


def rdp_epsilon(prob, noise, steps):
    from dp_accounting import dp_event, privacy_accountant, rdp

    accountant = rdp.RdpAccountant(
        neighboring_relation=privacy_accountant.NeighboringRelation.ADD_OR_REMOVE_ONE
    )
    one = dp_event.PoissonSampledDpEvent(prob, dp_event.GaussianDpEvent(noise))
    return accountant.compose(one, steps).get_epsilon(DELTA)


def opacus_epsilon(mechanism, segments):
    from opacus.accountants import create_accountant

    accountant = create_accountant(mechanism)
    for prob, noise, steps in segments:
        accountant.history.append((noise, prob, steps))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus' RDP remarks on its range of orders
        return accountant.get_epsilon(DELTA)


@pytest.mark.parametrize("mu", [0.05, 0.2681, 0.7191, 1.666, 5.0])
def test_a_gaussian_costs_what_the_closed_form_says(mu):
    eps = epsilon([GaussianEvent(1 / mu)], DELTA)
    assert gaussian_delta(mu, eps) == pytest.approx(DELTA, rel=2e-3)
    assert gaussian_delta(mu, eps) <= DELTA * (1 + 1e-9)  # the grid errs on the safe side


@pytest.mark.parametrize(("mu", "eps"), [(0.3, 0.5), (1.0, 1.0), (2.0, 6.0), (20.0, 300.0)])
def test_the_closed_form_is_the_integral_it_stands_for(mu, eps):
    """Delta is the integral of (p - e^eps q)+ for p = N(mu, 1) and q = N(0, 1)."""
    start = eps / mu + mu / 2  # where the ratio of the densities passes e^eps

    def excess(x):
        return norm.pdf(x, mu) - norm.pdf(x) * 2.718281828459045**eps

    whole = quad(excess, start, start + 12, epsabs=1e-14)[0]
    assert gaussian_delta(mu, eps) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize(("eps", "mu"), [(0.5, 0.1422), (1.0, 0.2681), (3.0, 0.7191), (8.0, 1.666)])
def test_the_budget_of_a_gaussian_is_the_published_mu(eps, mu):
    assert gaussian_mu_for(eps, DELTA) == pytest.approx(mu, rel=3e-4)
    assert gaussian_delta(gaussian_mu_for(eps, DELTA), eps) == pytest.approx(DELTA, rel=1e-6)


def test_gaussians_joined_cost_what_gaussians_composed_cost():
    """Against an accountant that was given each release by itself and joined nothing."""
    from dp_accounting import dp_event

    events = [GaussianEvent(8.0, 20), GaussianEvent(30.0), GaussianEvent(20.0, 3)]
    oracle = pld_accountant()
    for event in events:
        for _ in range(event.count):
            oracle.compose(dp_event.GaussianDpEvent(event.noise_multiplier))
    assert gaussian_mu(events) == pytest.approx(sqrt(20 / 64 + 1 / 900 + 3 / 400))
    assert epsilon(events, DELTA) == pytest.approx(oracle.get_epsilon(DELTA), abs=1e-3)


@pytest.mark.parametrize(
    ("prob", "noise", "steps", "expected"),
    [
        (0.02, 1.1, 50, 0.8855),  # one round of P7, which other projects report as the whole
        (0.02, 1.1, 20 * 50, 3.25),  # P7: all twenty rounds
        (0.02, 1.1, 500, 2.293),
        (0.02, 1.1, 5 * 500, 5.31),  # five runs compose, they do not add up to 11.47
        (0.02, 2.0, 1000, 1.33),  # P9, first column
        (0.01, 1.0, 300, 1.068),
        (0.001, 5.0, 10, 0.0012),
    ],
)
def test_golden_figures_of_sampled_training(prob, noise, steps, expected):
    event = SampledGaussianEvent(noise, prob, steps)
    assert epsilon([event], DELTA) == pytest.approx(expected, abs=0.5 * 10 ** -_decimals(expected))


def _decimals(value):
    return len(str(value).split(".")[1])


def test_rounds_and_runs_are_recomputed_from_their_events():
    """P7: the epsilon of twenty rounds is neither one round's nor the sum of twenty."""
    rounds = [SampledGaussianEvent(1.1, 0.02, 50)] * 20
    assert epsilon(rounds, DELTA) == epsilon([SampledGaussianEvent(1.1, 0.02, 1000)], DELTA)
    one = epsilon(rounds[:1], DELTA)
    assert 3 * one < epsilon(rounds, DELTA) < 4 * one


@pytest.mark.parametrize(
    ("prob", "noise", "steps"), [(0.02, 1.1, 500), (0.1, 2.0, 200), (0.01, 1.0, 300)]
)
def test_renyi_accounting_is_an_upper_bound(prob, noise, steps):
    tight = epsilon([SampledGaussianEvent(noise, prob, steps)], DELTA)
    for loose in (
        rdp_epsilon(prob, noise, steps),
        opacus_epsilon("rdp", [(prob, noise, steps)]),
    ):
        assert tight < loose < 1.45 * tight


def test_the_renyi_figure_of_the_notes():
    assert rdp_epsilon(0.02, 1.1, 500) == pytest.approx(2.58, abs=0.005)


@pytest.mark.parametrize(
    "segments",
    [
        [(0.02, 1.1, 1000)],
        [(0.1, 2.0, 200)],
        [(0.02, 1.1, 300), (0.05, 2.0, 100), (0.01, 1.0, 50)],
    ],
)
def test_opacus_prv_agrees_within_its_own_error(segments):
    events = [SampledGaussianEvent(noise, prob, steps) for prob, noise, steps in segments]
    assert opacus_epsilon("prv", segments) == pytest.approx(epsilon(events, DELTA), abs=0.012)


def test_sampling_everybody_is_no_sampling():
    """P15, q = 1."""
    sampled = epsilon([SampledGaussianEvent(5.0, 1.0, 50)], DELTA)
    assert sampled == pytest.approx(epsilon([GaussianEvent(5.0, 50)], DELTA), abs=1e-3)


def test_nothing_released_costs_nothing():
    """P15: no events, and events that sample nobody."""
    assert epsilon([], DELTA) == 0
    assert epsilon([SampledGaussianEvent(1.0, 0.0, 100)], DELTA) == 0


def test_one_unprotected_release_costs_everything():
    assert epsilon([GaussianEvent(100.0), UnprotectedEvent()], DELTA) == inf


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, float("nan")])
def test_impossible_deltas_are_refused(delta):
    with pytest.raises(ConfigError, match="delta"):
        epsilon([GaussianEvent(1.0)], delta)


EVENTS = (
    GaussianEvent(4.0, 2),
    SampledGaussianEvent(1.5, 0.03, 40),
    SampledGaussianEvent(2.0, 0.1, 5),
    GaussianEvent(9.0),
)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5])
def test_the_order_of_events_does_not_matter(order):
    mixed = [EVENTS[i] for i in order]
    assert epsilon(mixed, DELTA, grid=COARSE) == epsilon(EVENTS, DELTA, grid=COARSE)


few = settings(max_examples=12, deadline=None, derandomize=True)
noises = st.floats(0.8, 5.0).map(lambda x: round(x, 2))
probs = st.floats(0.005, 0.3).map(lambda x: round(x, 3))


@few
@given(noises, probs, st.integers(1, 200), st.integers(1, 100))
def test_more_steps_cost_no_less(noise, prob, steps, more):
    def cost(n):
        return epsilon([SampledGaussianEvent(noise, prob, n)], DELTA, grid=COARSE)

    assert cost(steps) <= cost(steps + more) + 1e-9


@few
@given(noises, probs, st.integers(1, 200), st.floats(1.05, 2.0))
def test_more_noise_costs_no_more(noise, prob, steps, factor):
    def cost(s):
        return epsilon([SampledGaussianEvent(s, prob, steps)], DELTA, grid=COARSE)

    assert cost(noise * factor) <= cost(noise) + 1e-9


@few
@given(noises, probs, st.integers(1, 200), st.floats(1.05, 3.0))
def test_a_greater_sample_costs_no_less(noise, prob, steps, factor):
    def cost(q):
        return epsilon([SampledGaussianEvent(noise, q, steps)], DELTA, grid=COARSE)

    assert cost(prob) <= cost(min(1.0, prob * factor)) + 1e-9


@few
@given(noises, probs, st.integers(1, 200), st.floats(1e-8, 1e-3), st.floats(1.1, 100.0))
def test_a_greater_delta_costs_no_more(noise, prob, steps, delta, factor):
    events = [SampledGaussianEvent(noise, prob, steps), GaussianEvent(3 * noise)]
    small, great = (epsilon(events, d, grid=COARSE) for d in (delta, delta * factor))
    assert great <= small + 1e-9


SCHEDULES = {
    "gaussian": lambda s: [GaussianEvent(s)],
    "many gaussians": lambda s: [GaussianEvent(s, 100), GaussianEvent(3 * s)],
    "sampled": lambda s: [SampledGaussianEvent(s, 0.02, 500)],
    "mixed": lambda s: [SampledGaussianEvent(s, 0.2, 50), GaussianEvent(5 * s)],
}


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("eps", [0.5, 3.0])
def test_calibrated_noise_is_enough_and_hardly_more(schedule, eps):
    events_at = SCHEDULES[schedule]
    scale = calibrate_noise(events_at, eps, DELTA)
    assert epsilon(events_at(scale), DELTA, grid=CERTIFICATE_GRID) <= eps
    assert epsilon(events_at(scale / 1.002), DELTA, grid=CERTIFICATE_GRID) > eps


@pytest.mark.parametrize("guess", [0.3, 1.0, 300.0])
def test_calibration_does_not_depend_on_where_it_begins(guess):
    found = calibrate_noise(SCHEDULES["gaussian"], 1.0, DELTA, guess=guess)
    assert found == pytest.approx(1 / gaussian_mu_for(1.0, DELTA), rel=2e-3)


def test_a_budget_that_no_noise_can_keep_is_refused():
    with pytest.raises(ConfigError, match="budget"):
        calibrate_noise(lambda s: [GaussianEvent(1.0)], 0.1, DELTA)


def test_images_of_one_patient_multiply_the_cost_unless_clipped_together():
    """P9: two images a patient, sampled and clipped one by one, cost 2.89 and not 1.33."""
    from dp_accounting import dp_event

    prob = 0.02
    two_images = dp_event.MixtureOfGaussiansDpEvent(
        2.0, [0, 1, 2], [(1 - prob) ** 2, 2 * prob * (1 - prob), prob**2]
    )
    cost = pld_accountant().compose(two_images, 1000).get_epsilon(DELTA)
    assert cost == pytest.approx(2.89, abs=0.01)
    assert epsilon([SampledGaussianEvent(2.0, prob, 1000)], DELTA) == pytest.approx(1.33, abs=0.005)
