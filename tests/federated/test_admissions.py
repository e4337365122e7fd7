"""Counts of admissions leave in the last round, under masks, with each clinic's share of noise."""

from __future__ import annotations

from threading import Event

import numpy as np
import pytest

from skinml.errors import BudgetExceededError, IntegrityError
from skinml.federated.clinic import Clinic, planned_entries, schedule
from skinml.federated.coordinator import exchanger, grid_asker
from skinml.privacy.ledger import Ceilings, spent
from skinml.privacy.plan import admissions_release
from skinml.privacy.quantise import GRID

EXACT = np.array([90, 5, 0, 0, 0, 2, 3, 4, 0, 1])
PAST_NOISE = 7  # standard deviations: once in 10**11 draws


@pytest.fixture
def world(make):
    made = make("distributed", admissions_share=0.2, epsilon=8.0)
    for name in made.setups:
        made.change(name, admissions=EXACT, secure=None)
    return made


def planned(world):
    return planned_entries(
        world.learner, world.validation, world.privacy, run="r", split_key_id="k"
    )


def test_the_last_round_brings_scores_and_counts_in_one_masked_sum(world):
    release, terms = admissions_release(world.privacy), world.terms()
    last = schedule(world.learner, world.validation, release)[-1]
    exchange = exchanger(grid_asker(world.grid(), terms, Event()), terms, world.record)
    total = exchange(last, world.learner.model(world.learner.start())).total
    assert list(total) == [world.validation.name, "admissions"]
    multiples = total["admissions"] / GRID
    assert (multiples == np.round(multiples)).all()
    off = np.abs(total["admissions"] - len(world.setups) * EXACT)
    assert 0 < off.max() < PAST_NOISE * release.noise_multiplier
    *_, entry = world.ledger(next(iter(world.setups)))
    assert (entry.name, entry.split, entry.event) == ("admissions", "all", release.event)
    assert planned(world)[-1].event == release.event


def test_a_run_with_counts_costs_no_more_than_it_says(world):
    assert spent(planned(world), world.privacy.delta) == pytest.approx(8.0, rel=0.005)
    assert spent(planned(world), world.privacy.delta) <= 8.0


def test_a_ceiling_below_the_run_with_its_counts_refuses_the_first_round(world):
    name, delta = next(iter(world.setups)), world.privacy.delta
    bare = [entry for entry in planned(world) if entry.name != "admissions"]
    between = (spent(bare, delta) + spent(planned(world), delta)) / 2
    world.change(name, ceilings=lambda: Ceilings(run=between), secure=None)
    with pytest.raises(BudgetExceededError):
        Clinic(world.setups[name]).answer(world.request(1))
    assert not world.ledger(name)


def test_counts_that_a_clinic_does_not_have_are_not_made_up(world):
    name, learner = next(iter(world.setups)), world.learner
    world.change(name, admissions=None, secure=None)
    request = world.request(len(learner.rounds) + 1, learner.model(learner.start()))
    with pytest.raises(IntegrityError, match="who was admitted"):
        Clinic(world.setups[name]).answer(request)
