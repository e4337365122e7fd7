"""Events: what they may hold, and that they survive the ledger."""

from __future__ import annotations

import json

import pytest

from skinml.errors import ConfigError, IntegrityError
from skinml.privacy.accounting import delta, divergence, epsilon
from skinml.privacy.events import (
    CompositionEvent,
    DiscreteGaussianEvent,
    GaussianEvent,
    RepeatAndSelectEvent,
    SampledGaussianEvent,
    UnprotectedEvent,
    event_from_json,
    event_to_json,
    least_noise,
    merged,
    with_noise_divided,
)

DISCRETE = DiscreteGaussianEvent(1 / 3, 2.0**28, 100, 9000, count=100)
SAMPLED = SampledGaussianEvent(0.1 + 0.2, 1 / 3, 50)
BOTH = CompositionEvent((DISCRETE, CompositionEvent((SAMPLED,), 2)), 3)
ALL = (
    GaussianEvent(1.1, 7),
    SAMPLED,
    DISCRETE,
    UnprotectedEvent(2),
    BOTH,
    RepeatAndSelectEvent(BOTH, 10.5, 1.0),
)


@pytest.mark.parametrize("event", ALL, ids=lambda e: type(e).__name__)
def test_an_event_survives_json_to_the_last_bit(event):
    assert event_from_json(json.loads(json.dumps(event_to_json(event)))) == event


@pytest.mark.parametrize(
    "values",
    [
        {"type": "laplace", "noise_multiplier": 1.0, "count": 1},
        {"noise_multiplier": 1.0, "count": 1},
        {"type": "gaussian", "noise_multiplier": 1.0},
        {"type": "gaussian", "noise_multiplier": 1.0, "count": 1, "sampling_prob": 0.1},
        {"type": "gaussian", "noise_multiplier": "1.0", "count": 1},
        {"type": "gaussian", "noise_multiplier": 1.0, "count": True},
        {"type": "gaussian", "noise_multiplier": 1.0, "count": 0.5},
        {"type": "gaussian", "noise_multiplier": -1.0, "count": 1},
        {"type": "gaussian", "noise_multiplier": float("inf"), "count": 1},
        {"type": "gaussian", "noise_multiplier": float("nan"), "count": 1},
        {"type": "gaussian", "noise_multiplier": 1.0, "count": -3},
        {"type": "sampled_gaussian", "noise_multiplier": 1.0, "sampling_prob": 1.5, "count": 1},
        {"type": "unprotected", "count": 0},
        {"type": "composition", "events": 1, "count": 1},
        {"type": "composition", "events": [{"type": "laplace"}], "count": 1},
        {"type": "composition", "events": ["gaussian"], "count": 1},
        {"type": "repeat_and_select", "event": 3.0, "mean": 10.0, "shape": 1.0, "count": 1},
        {
            "type": "repeat_and_select",
            "event": {"type": "unprotected", "count": 1},
            "mean": 1.0,
            "shape": 1.0,
            "count": 1,
        },
        {
            "type": "discrete_gaussian",
            "noise_multiplier": 1.0,
            "grid_std": 7.9,
            "shares": 1,
            "dimension": 1,
            "sampling_prob": 1.0,
            "count": 1,
        },
        {
            "type": "discrete_gaussian",
            "noise_multiplier": 1.0,
            "grid_std": 8.0,
            "shares": 1.5,
            "dimension": 1,
            "sampling_prob": 1.0,
            "count": 1,
        },
    ],
)
def test_an_unknown_or_impossible_event_is_refused_rather_than_guessed(values):
    """P15: a reader that cannot tell what was spent must not go on."""
    with pytest.raises(IntegrityError):
        event_from_json(values)


@pytest.mark.parametrize("count", [0, -1, 0.5, 1.0, True])
def test_half_a_release_does_not_exist(count):
    with pytest.raises(ConfigError, match="count"):
        GaussianEvent(1.0, count)


def test_equal_events_are_counted_together_whatever_their_order():
    steps = [SampledGaussianEvent(1.0, 0.1), SampledGaussianEvent(1.0, 0.2)] * 500
    whole = (SampledGaussianEvent(1.0, 0.1, 500), SampledGaussianEvent(1.0, 0.2, 500))
    assert merged(steps) == merged(reversed(steps)) == whole


def test_a_composition_that_holds_itself_too_deeply_is_refused():
    event = GaussianEvent(1.0)
    for _ in range(6):
        event = CompositionEvent((event,))
    with pytest.raises(IntegrityError):
        event_from_json(event_to_json(event))


def test_a_composition_costs_what_its_parts_cost():
    parts = [GaussianEvent(4.0, 6), SampledGaussianEvent(1.0, 0.01, 30)]
    whole = CompositionEvent((CompositionEvent((GaussianEvent(4.0, 2),), 3), parts[1]))
    assert merged([whole]) == merged(parts)
    assert epsilon([whole], 1e-5) == epsilon(parts, 1e-5)


def test_selecting_among_repeated_runs_costs_more_than_one_and_less_than_all():
    """The figures of the pitfalls' P14, by Renyi differential privacy."""
    run = SampledGaussianEvent(1.1, 0.02, 500)
    for mean, golden in ((10, 4.92), (30, 5.61)):
        selected = RepeatAndSelectEvent(run, mean)
        assert epsilon([selected], 1e-5) == pytest.approx(golden, abs=0.005)
        assert epsilon([run], 1e-5) < epsilon([selected], 1e-5)
        assert epsilon([selected], 1e-5) < epsilon([CompositionEvent((run,), mean)], 1e-5)
        assert delta([selected], golden + 0.005) <= 1e-5


def test_a_selection_among_unprotected_runs_is_unbounded():
    selected = RepeatAndSelectEvent(CompositionEvent((GaussianEvent(1.0), UnprotectedEvent())), 5.0)
    assert epsilon([selected], 1e-5) == float("inf")
    assert delta([CompositionEvent((selected,))], 1.0) == 1.0
    assert least_noise(selected) == 0.0


def test_a_selection_among_discrete_runs_pays_for_the_grid_of_every_repetition():
    run = DiscreteGaussianEvent(30.0, 2.0**28, 100, 9000, count=10)
    plain = epsilon([RepeatAndSelectEvent(GaussianEvent(30.0, 10), 10.0)], 1e-5)
    # Two of the divergence for each repetition, and room for a thousand times their mean.
    assert epsilon([RepeatAndSelectEvent(run, 10.0)], 1e-5) > plain + 2e4 * divergence(run)


def test_more_sensitivity_is_less_noise_wherever_the_noise_stands():
    for event in ALL:
        assert least_noise(with_noise_divided(event, 2.0)) == pytest.approx(least_noise(event) / 2)
