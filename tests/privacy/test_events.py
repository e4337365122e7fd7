"""Events: what they may hold, and that they survive the ledger."""

from __future__ import annotations

import json

import pytest

from skinml.errors import ConfigError, IntegrityError
from skinml.privacy.events import (
    GaussianEvent,
    SampledGaussianEvent,
    UnprotectedEvent,
    event_from_json,
    event_to_json,
    merged,
)

ALL = (GaussianEvent(1.1, 7), SampledGaussianEvent(0.1 + 0.2, 1 / 3, 50), UnprotectedEvent(2))


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
