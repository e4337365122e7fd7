"""Paths of accounting and ledger that no other test here takes, each with its property."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from skinml.errors import IntegrityError
from skinml.journal import Journal, KeyedSeal, Mark
from skinml.privacy.accounting import _greatest, calibrate_noise, epsilon, only_gaussians
from skinml.privacy.events import (
    DiscreteGaussianEvent,
    GaussianEvent,
    SampledGaussianEvent,
    UnprotectedEvent,
)
from skinml.privacy.ledger import Binding, Ledger
from skinml.privacy.noise import NoiseSource

KEY = bytes(range(32))
BINDING = Binding("run-1", 1, 1, ("a",), "local", "patient_within_clinic", "k", True)
RELEASE = ("gradient", "training", "train", GaussianEvent(4.0))


@pytest.fixture
def ledger(tmp_path):
    found = Ledger(tmp_path / "ledger.jsonl", "a", KEY)
    for _ in range(3):
        found.reserve(BINDING, [RELEASE])
    return found


def test_a_ledger_went_past_each_of_its_own_marks_and_no_other(ledger):
    marks = [ledger.mark_at(count) for count in (1, 2, 3)]
    assert ledger.mark() == marks[-1]
    assert ledger.marks() == tuple(marks)
    assert len({mark.head for mark in marks}) == 3
    ledger.reserve(BINDING, [RELEASE])
    assert all(ledger.passed(mark) for mark in marks)
    assert ledger.mark_at(3) == marks[-1] != ledger.mark()
    assert not ledger.passed(Mark(2, marks[2].head))
    assert not ledger.passed(Mark(9, marks[2].head))
    assert not ledger.passed(Mark(0, ""))


@pytest.mark.parametrize("count", [0, 4])
def test_a_mark_of_lines_that_are_not_there_is_refused(ledger, count):
    with pytest.raises(IntegrityError, match="3 lines"):
        ledger.mark_at(count)


@pytest.mark.parametrize(
    "change",
    [
        {"index": 7},  # an entry of another place, sealed and chained as it should be
        {"index": "1"},
        {"binding": None},
        {"binding": {"run": "run-1"}},
        {"event": None},
        {"event": {"type": "gaussian", "noise_multiplier": 0.0, "count": 1}},
        {"guarantee": None, "name": None, "time": None},
    ],
)
def test_an_entry_that_the_key_holder_wrote_wrongly_is_refused(ledger, change):
    """The seal alone is not enough: each entry is decoded, written anew and compared."""
    body = json.loads(ledger.path.read_bytes().splitlines()[0])["body"]
    journal = Journal(ledger.path, "privacy ledger of clinic a", KeyedSeal(KEY))
    wrong = {name: value for name, value in change.items() if value is not None}
    gone = set(change) - set(wrong)
    body = {name: value for name, value in (body | {"index": 3}).items() if name not in gone}
    journal.append(lambda _: [body | wrong])
    with pytest.raises(IntegrityError):
        Ledger(ledger.path, "a", KEY).entries()


@pytest.mark.parametrize("answer", range(9))
@pytest.mark.parametrize("guess", range(9))
def test_the_greatest_number_is_found_from_below_and_from_above(answer, guess):
    """A guess above the answer is one that a coarser grid would have to make; none is trusted."""
    asked = []

    def within(number):
        asked.append(number)
        return number <= answer

    assert _greatest(within, guess, 8) == answer
    assert set(asked) <= set(range(9))


def test_noise_on_a_coarse_grid_is_enough_on_every_grid():
    def events_at(scale):
        return [GaussianEvent(scale, 10)]

    fine, coarse = (calibrate_noise(events_at, 1.0, 1e-5, grid=grid) for grid in (1e-4, 1e-3))
    assert epsilon(events_at(coarse), 1e-5) <= 1.0
    assert fine <= coarse * 1.001
    assert coarse == pytest.approx(fine, rel=5e-3)


def test_on_a_grid_no_noise_draws_no_words():
    def words(count):
        raise AssertionError(count)

    drawn = NoiseSource(words, guarantee=True).on_grid((2, 3), 0.0, 2.0**-28)
    assert np.array_equal(drawn, np.zeros((2, 3)))


def test_what_is_not_a_plain_sum_has_no_closed_form():
    grid = DiscreteGaussianEvent(5.0, 1e6, 6, 10)
    assert only_gaussians([GaussianEvent(5.0), grid]) is not None
    sampled = replace(grid, sampling_prob=0.5)
    for other in (SampledGaussianEvent(5.0, 0.5), sampled, UnprotectedEvent()):
        assert only_gaussians([GaussianEvent(5.0), other]) is None
