"""A patient without finite numbers: zero in every sum, told to its own clinic and nobody else."""

from __future__ import annotations

from threading import Event

import numpy as np
import pytest

from skinml.federated.clinic import Clinic
from skinml.federated.coordinator import exchanger, grid_asker
from skinml.federated.messages import Reply, pack_reply
from skinml.privacy.ledger import Ledger
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.noise import fixed_noise
from skinml.records import Samples
from skinml.training.fit import fit

KEY = bytes(range(32))
WHERE = "south"
VALUES = [np.nan, np.inf, -np.inf]


def broken(items, value, at=(4,)):
    """The samples with a value that is not finite in one feature of some patients' last images."""
    inputs = items.inputs.copy()
    for patient in at:
        inputs[2 * patient + 1, 3] = value
    return Samples(inputs, items.labels, items.patients)


def without(items, at=(4,)):
    gone = [items.patients[2 * patient] for patient in at]
    return items.take(~np.isin(items.patients, gone))


def at_clinic(world, train, ledger):
    """One clinic with other training samples, a ledger of its own and noise that repeats."""
    setup, heard = world.setups[WHERE], []
    world.change(
        WHERE,
        samples={**setup.samples, "train": train},
        ledger=Ledger(ledger, WHERE, KEY),
        mechanism=Mechanism(setup.mechanism.share, lambda: fixed_noise(np.random.default_rng(3))),
        not_finite=lambda round_, patients: heard.append((round_, patients)),
    )
    return replies(world, Clinic(world.setups[WHERE])), heard


def replies(world, clinic):
    """What two rounds' replies hold, to the last byte."""
    found = []
    for number in (1, 2):
        packed = pack_reply(Reply(WHERE, number, clinic.answer(world.request(number)), {}))
        sums = packed.array_records["sums"]
        found.append(
            (
                dict(packed.config_records["reply"]),
                dict(packed.config_records["problem"]),
                {name: (each.dtype, each.shape, each.data) for name, each in sums.items()},
            )
        )
    return found


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("trust", ["none", "central", "local"])
def test_replies_are_byte_for_byte_those_without_the_patient(make, tmp_path, trust, value):
    """So neither the patient nor the count can be in them."""
    world = make(trust)
    items = world.setups[WHERE].samples["train"]
    ours, heard = at_clinic(world, broken(items, value), tmp_path / "ours")
    theirs, silent = at_clinic(world, without(items), tmp_path / "theirs")
    whole, _ = at_clinic(world, items, tmp_path / "whole")
    assert ours == theirs
    assert ours != whole  # the patient counts where its numbers are finite
    assert heard == [(1, 1), (2, 1)]
    assert silent == [(1, 0), (2, 0)]


@pytest.mark.parametrize("trust", ["none", "distributed"])
def test_a_whole_run_is_that_without_the_patient_and_every_round_is_told_once(make, trust):
    world, plain, heard = make(trust), make("none").learner, []
    items = world.setups[WHERE].samples["train"]
    for name in world.setups:
        world.change(name, learner=plain, mechanism=Mechanism(0.0))
    samples = {**world.setups[WHERE].samples, "train": broken(items, np.nan, at=(0, 4, 7))}
    world.change(WHERE, samples=samples, not_finite=lambda *of_round: heard.append(of_round))
    ask = grid_asker(world.grid(), world.terms(), Event())
    found = fit(plain, exchanger(ask, world.terms(), world.record)).arrays

    parts = [world.setups[name].samples["train"] for name in world.setups if name != WHERE]
    sides = [plain.contributor(part) for part in (*parts, without(items, at=(0, 4, 7)))]
    state = plain.start()
    for round_ in plain.rounds:
        sums = [side.exact(round_, plain.query(round_, state)) for side in sides]
        total = {r.name: sum(part[r.name] for part in sums) for r in round_.releases}
        state = plain.advance(round_, state, total, len(sides))
    expected = plain.model(state)
    assert set(found) == set(expected)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert heard == [(round_.number, 3) for round_ in plain.rounds]


def test_the_count_is_told_before_anything_leaves(make):
    """What hears it can stop the round: nothing was answered yet."""
    world = make("local")

    def stop(round_, patients):
        raise ConnectionError

    world.change(WHERE, not_finite=stop)
    with pytest.raises(ConnectionError):
        Clinic(world.setups[WHERE]).answer(world.request(1))
