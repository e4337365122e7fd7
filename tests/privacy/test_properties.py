"""Properties that no example shows: whatever the events, their order, their damage.

Those of single functions are with their functions: clip bounds in test_clipping.py and
test_quantise.py, monotonicity of epsilon and delta in test_accounting.py and
test_accounting_inverse.py.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from dataclasses import replace
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skinml.errors import IntegrityError
from skinml.privacy.accounting import delta, epsilon
from skinml.privacy.clipping import clip_rows, mean_by_patient
from skinml.privacy.events import (
    CompositionEvent,
    DiscreteGaussianEvent,
    GaussianEvent,
    RepeatAndSelectEvent,
    SampledGaussianEvent,
    UnprotectedEvent,
    event_from_json,
    event_to_json,
    merged,
    with_noise_divided,
)
from skinml.privacy.ledger import Binding, Entry, Ledger, compositions
from skinml.privacy.quantise import GRID, on_grid
from skinml.records import EVERY_SPLIT, SPLITS
from skinml.stewardship.anchors import Anchors

DELTA = 1e-5
KEY = bytes(range(32))
BINDING = Binding("run", 1, 1, ("a",), "local", "patient_within_clinic", "k", True)

noises = st.floats(0.5, 50).map(lambda x: round(x, 2))
counts = st.integers(1, 40)
gaussians = st.builds(GaussianEvent, noises, counts)
sampled = st.builds(SampledGaussianEvent, noises, st.floats(0, 1), counts)
discrete = st.builds(
    DiscreteGaussianEvent, noises, st.floats(8, 1e9), st.integers(1, 50), counts, count=counts
)
simple = st.one_of(gaussians, sampled, discrete, st.builds(UnprotectedEvent, counts))
composed = st.builds(CompositionEvent, st.lists(simple, max_size=4).map(tuple), counts)
selected = st.builds(RepeatAndSelectEvent, simple, st.floats(1.5, 40), st.floats(0.5, 2), counts)
events = st.one_of(simple, composed, selected, st.builds(CompositionEvent, st.tuples(composed)))
many = settings(max_examples=60, deadline=None, derandomize=True)
few = settings(max_examples=6, deadline=None, derandomize=True)


@many
@given(events)
def test_an_event_survives_the_way_through_json(event):
    assert event_from_json(json.loads(json.dumps(event_to_json(event)))) == event


@many
@given(events, st.sampled_from(["type", "count", "more", "deeper"]))
def test_an_event_with_a_field_changed_is_refused(event, what):
    values = event_to_json(event)
    for _ in range(6 if what == "deeper" else 0):
        values = event_to_json(CompositionEvent(())) | {"events": [values]}
    values |= {"type": {"type": "lost"}, "count": {"count": 0}, "more": {"x": 1}}.get(what, {})
    with pytest.raises(IntegrityError):
        event_from_json(values)


@many
@given(st.lists(events, max_size=5), st.randoms(use_true_random=False))
def test_merging_forgets_order_and_nesting_and_nothing_else(listed, order):
    shuffled = list(listed)
    order.shuffle(shuffled)
    assert merged(shuffled) == merged(listed) == merged([CompositionEvent(tuple(shuffled))])
    assert merged(merged(listed)) == merged(listed)
    twice = Counter({replace(each, count=1): each.count for each in merged([*listed, *listed])})
    once = Counter({replace(each, count=1): each.count for each in merged(listed)})
    assert twice == once + once


@few
@given(st.lists(st.one_of(gaussians, discrete), min_size=2, max_size=4), st.floats(0.1, 3))
def test_one_release_more_never_costs_less_in_any_order(listed, eps):
    whole = epsilon(listed, DELTA, grid=1e-3)
    assert epsilon(listed[::-1], DELTA, grid=1e-3) == whole
    assert epsilon(listed[1:], DELTA, grid=1e-3) <= whole + 1e-3
    assert delta(listed[1:], eps, grid=1e-3) <= delta(listed, eps, grid=1e-3) + 1e-9


@few
@given(st.one_of(gaussians, discrete), st.floats(1.1, 4))
def test_somebody_who_moves_a_sum_further_loses_more(event, times):
    further = with_noise_divided(event, times)
    assert epsilon([further], DELTA, grid=1e-3) >= epsilon([event], DELTA, grid=1e-3)


@few
@given(st.lists(st.one_of(sampled, gaussians), min_size=1, max_size=3))
def test_a_composition_is_worth_its_parts(listed):
    whole = CompositionEvent((CompositionEvent(tuple(listed)),))
    assert epsilon([whole], DELTA, grid=1e-3) == epsilon(listed, DELTA, grid=1e-3)


splits = st.sampled_from([*SPLITS, EVERY_SPLIT])
entries = st.builds(
    lambda split, key, noise, guarantee: Entry(
        0,
        "2026-01-01T00:00:00+00:00",
        replace(BINDING, split_key_id=key),
        "sum",
        "training",
        split,
        GaussianEvent(noise),
        guarantee,
    ),
    splits,
    st.sampled_from(["k", "k", "k", "other"]),
    noises,
    st.booleans(),
)


@many
@given(st.lists(entries, max_size=6), entries)
def test_whoever_was_read_before_is_read_no_less_after_one_release_more(held, fresh):
    """Each composition of before is inside one of after: no total can fall."""
    after = [Counter(map(repr, found)) for found in compositions([*held, fresh]).values()]
    for found in compositions(held).values():
        before = Counter(map(repr, found))
        assert any(before <= each for each in after)


@many
@given(st.lists(entries, min_size=1, max_size=6))
def test_every_release_is_charged_to_somebody_and_order_does_not_matter(held):
    found = compositions(held)
    charged = Counter()
    for each in found.values():
        charged |= Counter(map(repr, each))
    assert sum(charged.values()) >= len({repr(each.event) for each in held if each.guarantee})
    again = compositions(held[::-1])
    assert {name: Counter(map(repr, each)) for name, each in again.items()} == {
        name: Counter(map(repr, each)) for name, each in found.items()
    }


values = st.floats(allow_nan=True, allow_infinity=True, width=32)


@many
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(1, 5)), elements=values),
    st.floats(0.01, 4),
    st.randoms(use_true_random=False),
)
def test_any_patient_moves_a_clipped_sum_by_at_most_the_bound(rows, bound, order):
    """Averaged, clipped, cut down to the grid: whoever leaves, and whatever they brought."""
    patients = np.array([order.randrange(4) for _ in rows])

    def total(kept):
        means, _ = mean_by_patient(rows[kept].astype(np.float64), patients[kept])
        exact = on_grid(means, bound)
        assert (np.linalg.norm(clip_rows(means, bound), axis=1) <= bound * (1 + 1e-9)).all()
        return exact.sum(axis=0) / GRID

    everybody = total(np.ones(len(rows), dtype=bool))
    for leaving in set(patients.tolist()):
        moved = (everybody - total(patients != leaving)).astype(object)
        assert sum(int(each) ** 2 for each in moved) <= int(bound / GRID) ** 2


def written(folder: Path, count: int) -> Ledger:
    ledger = opened(folder)
    for number in range(count):
        release = ("sum", "training", "train", GaussianEvent(4.0 + number))
        ledger.reserve(replace(BINDING, round=number + 1), [release])
    return ledger


def opened(folder: Path) -> Ledger:
    anchors = Anchors(folder / "anchors", "a", KEY)
    if not anchors.path.exists():
        anchors.create()
    return Ledger(folder / "ledger", "a", KEY, anchors.journal("ledger"))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(2, 5), st.data())
def test_however_the_lines_of_a_ledger_are_damaged_it_shows(count, data):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        path = written(folder, count).path
        honest = path.read_bytes()
        lines = honest.splitlines(keepends=True)
        chosen = data.draw(st.lists(st.integers(0, count - 1), max_size=count + 2))
        cut = data.draw(st.integers(0, max(0, len(b"".join(lines[i] for i in chosen)) - 1)))
        damaged = b"".join(lines[i] for i in chosen)[cut:]
        whole = damaged.startswith(honest)  # a torn copy of a line may follow and is dropped
        path.write_bytes(damaged)
        if whole and damaged[len(honest) :].count(b"\n") == 0:
            assert len(opened(folder).entries()) == count
        else:
            with pytest.raises(IntegrityError):
                opened(folder).entries()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(1, 3), noises), min_size=1, max_size=5))
def test_what_a_ledger_holds_is_what_was_reserved_whoever_opens_it(batches):
    with tempfile.TemporaryDirectory() as place:
        expected = []
        for size, noise in batches:
            release = ("sum", "training", "train", GaussianEvent(noise))
            expected += opened(Path(place)).reserve(BINDING, [release] * size)
        held = opened(Path(place)).entries()
        assert list(held) == expected
        assert [entry.index for entry in held] == list(range(len(held)))
        mu = sqrt(sum(size / noise**2 for size, noise in batches))
        found = compositions(held)["train"]
        assert sqrt(sum(e.count / e.noise_multiplier**2 for e in found)) == pytest.approx(mu)
