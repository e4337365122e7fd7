"""Attempts at a round: what is sent again is the same and free, what is made anew is charged."""

from __future__ import annotations

from dataclasses import replace
from threading import Event

import numpy as np
import pytest

from skinml.errors import BudgetExceededError, IncompleteRunError, IntegrityError
from skinml.federated.clinic import Clinic
from skinml.federated.coordinator import exchanger, grid_asker
from skinml.federated.roll_call import DIED
from skinml.privacy.ledger import Ceilings
from skinml.records import last_attempts
from skinml.training.fit import fit
from tests.federated.conftest import NAMES, ROUNDS

SECURE_STEPS = ("keys", "shares", "masked", "survivors", "unmask")
STEPS = [
    *(("local", 0, "sums"), ("distributed", 0, "keys"), ("distributed", 0, "paired")),
    *(("distributed", 1, step) for step in SECURE_STEPS),
]
LATE = ("survivors", "unmask")
"""Where the sum is there, and two of three suffice to open it."""


def asker(world, **terms):
    return grid_asker(world.grid(), world.terms(**terms), Event())


def trained(world, ask, **terms):
    fitted = fit(world.learner, exchanger(ask, world.terms(**terms), world.record))
    assert all(np.isfinite(values).all() for values in fitted.arrays.values())


def silent_once(world, step, *, before, round_=2, away=("south",)):
    """Clinics do not hear a step once, or answer and are not heard."""
    honest, lost = asker(world), []

    def ask(requests):
        first = next(iter(requests.values()))
        if not lost and first.step == step and (first.round == round_ or step == "keys"):
            lost.append(step)
            heard = {n: r for n, r in requests.items() if n not in away or not before}
            return [(n, reply) for n, reply in honest(heard) if n not in away]
        return honest(requests)

    return ask


@pytest.fixture
def clinic(make):
    world = make("local", books="kept")
    return world, Clinic(world.setups["north"])


def test_asked_the_same_again_a_clinic_sends_the_same_plain_sum_for_one_charge(clinic):
    world, north = clinic
    first, again = (north.answer(world.request(2)) for _ in range(2))
    assert np.array_equal(first["gradient"], again["gradient"])
    assert len(world.ledger("north")) == 1
    other = Clinic(world.setups["north"])  # as after a crash
    assert np.array_equal(other.answer(world.request(2))["gradient"], first["gradient"])
    assert len(world.ledger("north")) == 1


def test_another_question_in_the_same_attempt_is_refused(clinic):
    world, north = clinic
    request = world.request(2)
    north.answer(request)
    moved = {name: values + 1 for name, values in request.query.items()}
    with pytest.raises(IntegrityError, match="to be asked once"):
        north.answer(replace(request, query=moved))
    assert len(world.ledger("north")) == 1


def test_a_new_attempt_has_other_noise_and_is_charged_and_the_old_one_is_over(clinic):
    world, north = clinic
    request = world.request(2)
    first = north.answer(request)
    second = north.answer(replace(request, attempt=2))
    assert not np.array_equal(first["gradient"], second["gradient"])
    assert [entry.binding.attempt for entry in world.ledger("north")] == [1, 2]
    for older in (request, world.request(1)):
        with pytest.raises(IntegrityError, match="not older than the latest"):
            north.answer(older)


@pytest.mark.parametrize(("trust", "dropouts", "step"), STEPS)
@pytest.mark.parametrize("before", [True, False])
def test_an_answer_that_was_lost_is_sent_again_at_no_cost(make, trust, dropouts, step, before):
    world = make(trust, books="kept", tolerated_dropouts=dropouts)
    trained(world, silent_once(world, step, before=before), resends=1)
    assert [each.took_part for each in world.record.participation] == [NAMES] * (ROUNDS + 1)
    for name in NAMES:
        assert len(world.ledger(name)) == ROUNDS + 2  # the first round makes two releases


@pytest.mark.parametrize(("trust", "dropouts", "step"), STEPS)
def test_a_second_attempt_goes_on_where_the_first_failed_and_is_charged(
    make, trust, dropouts, step
):
    world = make(trust, books="kept", tolerated_dropouts=dropouts)
    away = ("south", "studied") if step in LATE else ("south",)
    trained(world, silent_once(world, step, before=True, away=away), attempts=2)
    failed, *rest = (e for e in world.record.participation if e.attempt == 1 and e.missing)
    assert not rest
    assert failed.noise is None
    assert set(failed.missing) == set(away)
    last = last_attempts(world.record.participation)
    assert [each.round for each in last] == list(range(1, ROUNDS + 2))
    assert all(each.took_part == NAMES and each.noise >= 1 - 1e-9 for each in last)
    tried = [e.binding.attempt for e in world.ledger("north") if e.binding.round == failed.round]
    again = step != "keys"
    each = 2 if failed.round == 1 else 1
    assert tried == [1] * again * each + [2] * each


def test_a_refusal_is_not_tried_again(make):
    world = make("local", books="kept")
    world.change("south", ceilings=lambda: Ceilings(life=0.01, rule="its policy"))
    with pytest.raises(BudgetExceededError):
        trained(world, asker(world), attempts=3)
    assert [each.attempt for each in world.record.participation] == [1]
    assert world.ledger("south") == ()


@pytest.mark.parametrize("dropouts", [0, 1])
def test_attempts_end_and_every_one_is_on_record(make, dropouts):
    """Where all are needed the others are charged once: then all are asked whether they are there.

    Where some may drop out, who is away is known after the first step, before any charge.
    """
    world, gone = make("distributed", tolerated_dropouts=dropouts), []
    honest = asker(world)

    def ask(requests):
        gone.extend(["south"] * any(r.round == 2 for r in requests.values()))
        return honest({n: r for n, r in requests.items() if n not in gone})

    with pytest.raises(IncompleteRunError, match="round 2 without south"):
        trained(world, ask, attempts=3, first_attempt=11)
    tried = [(e.round, e.attempt) for e in world.record.participation]
    assert tried == [(1, 11), (2, 11), (2, 12), (2, 13)]
    charged = [e.binding.attempt for e in world.ledger("north") if e.binding.round == 2]
    assert charged == ([11, 12, 13] if dropouts else [11])
    assert all(set(e.missing) == {"south"} for e in world.record.participation[1:])


@pytest.mark.parametrize(
    ("trust", "dropouts", "ratio"),
    [("none", 0, 0.0), ("central", 0, 1.0), ("local", 0, 3**0.5), ("distributed", 1, 1.5**0.5)],
)
def test_the_record_tells_how_much_noise_was_in_each_sum(make, trust, dropouts, ratio):
    world = make(trust, tolerated_dropouts=dropouts)
    trained(world, asker(world))
    assert [each.noise for each in world.record.participation] == pytest.approx(
        [ratio] * (ROUNDS + 1)
    )


def test_where_a_process_died_nobody_is_asked_again(make):
    """In a simulation the next answers would come from the same dead worker, or never."""
    world, asked = make("local"), []

    def ask(requests):
        asked.append(sorted(requests))
        return {"north": DIED, "south": "no answer", "studied": "no answer"}

    with pytest.raises(IncompleteRunError, match="north, south, studied"):
        trained(world, ask, resends=3)
    assert asked == [list(NAMES)]
