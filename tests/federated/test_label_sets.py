"""Counts for label sets leave with the validation scores, in one charged release."""

from __future__ import annotations

from dataclasses import replace
from threading import Event

import numpy as np
import pytest

from skinml.fairness.label_sets import BINS, SetsLayout
from skinml.federated.clinic import Clinic, schedule
from skinml.federated.coordinator import exchange_with, grid_asker
from skinml.federated.validation_scores import score_table
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.noise import fixed_noise
from skinml.privacy.quantise import GRID
from tests.federated.conftest import NAMES
from tests.federated.test_counted_evaluation import request, with_groups

LAYOUT = SetsLayout("skin_tone", ("light", "dark", "unknown"), apart=False, share=0.5)
PAST_NOISE = 7


@pytest.fixture
def by_group(make):
    """A world whose clinics count validation patients for label sets, too."""

    def build(trust):
        world = make(trust)
        shape = (2 + LAYOUT.rows, BINS)
        release = replace(world.validation, name="validation_scores_by_group", shape=shape)
        for place, name in enumerate(NAMES):
            setup, rng = world.setups[name], np.random.default_rng(place)
            parts = {
                split: replace(
                    part,
                    groups={"skin_tone": rng.choice(["light", "dark", "own"], len(part.labels))},
                )
                for split, part in setup.samples.items()
            }
            world.change(
                name,
                validation=release,
                label_sets=LAYOUT,
                samples=parts,
                predict=with_groups(setup.predict),
            )
        return replace(world, validation=release)

    return build


def exact(world):
    """What the clinics hold together, computed beside them."""
    found = 0
    for name in NAMES:
        setup = world.setups[name]
        said = setup.predict(request(world).query, setup.samples["validation"])
        found = found + score_table(said, LAYOUT, 1)
    return found


def test_the_sum_of_all_clinics_has_noise_on_the_grid_and_is_charged_once(by_group):
    world = by_group("local")
    ask = grid_asker(world.grid(), world.terms(), Event())
    last = schedule(world.learner, world.validation)[-1]
    made = exchange_with(ask, world.terms(), world.record, last, request(world).query).total
    assert list(made) == [world.validation.name]
    total = made[world.validation.name]
    off = np.abs(total - exact(world))
    assert 0 < off.max() < PAST_NOISE * world.validation.noise_multiplier * np.sqrt(len(NAMES))
    assert (total / GRID % 1 == 0).all()
    (entry,) = world.ledger("north")
    told = (entry.name, entry.purpose, entry.split)
    assert told == ("validation_scores_by_group", "validation", "validation")
    assert entry.event == world.validation.event


def test_they_go_through_secure_sums_too(by_group):
    world = by_group("distributed")
    _, total = world.run()
    assert total.shape == (2 + LAYOUT.rows, BINS)
    assert (total / GRID % 1 == 0).all()
    assert world.ledger("north")[-1].name == world.validation.name


def test_without_noise_a_clinic_sends_exactly_the_table_of_its_patients(by_group):
    world = by_group("local")
    rng = np.random.default_rng(0)
    sent = 0
    for name in NAMES:
        world.change(name, mechanism=Mechanism(0.0, lambda: fixed_noise(rng)), book=None)
        sent = sent + Clinic(world.setups[name]).answer(request(world))[world.validation.name]
    assert np.array_equal(sent, exact(world))
