"""End-to-end DP-SGD over the local grid: one account for all rounds, and what a crash costs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from threading import Event

import numpy as np
import pytest
import torch
from torch import nn

from skinml.errors import EnvironmentProblem, IncompleteRunError, IntegrityError
from skinml.federated.clinic import Clinic
from skinml.federated.coordinator import exchanger, grid_asker
from skinml.models.networks import input_tensor, load_network_arrays
from skinml.privacy.accounting import epsilon
from skinml.privacy.events import SampledGaussianEvent
from skinml.privacy.ledger import spent
from skinml.records import Labels, Samples
from skinml.training.checkpoint import load_progress, save_progress
from skinml.training.evaluate import evaluate
from skinml.training.fit import fit
from skinml.training.network import NetworkLearner
from skinml.training.settings import NetworkSettings

CLASSES = Labels(("benign", "malignant"), (False, True))
ROUNDS, PROB = 3, 0.4
STEPS = {"none": 2, "local": 2, "central": 1, "distributed": 1}


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 2))


def predict(arrays, items):
    network = build()
    load_network_arrays(network, arrays)
    scores = network(input_tensor(items.inputs)).detach().numpy().astype(np.float64)
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares = odds / odds.sum(axis=1, keepdims=True)
    return evaluate(lambda _: (shares, shares.argmax(axis=1)), CLASSES, items)


def pictures(seed, count=12):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    patients = np.array([f"{seed}-{i // 2}" for i in range(count)])
    return Samples(images, rng.integers(0, 2, count), patients)


@pytest.fixture
def end_to_end(make):
    def of(trust):
        world = make(trust)
        settings = NetworkSettings(
            rounds=ROUNDS,
            steps_per_round=STEPS[trust],
            sampling_prob=PROB,
            expected_patients=6,
            gradient_mode="auto",
        )
        world.learner = NetworkLearner(settings, world.privacy, build)
        for place, name in enumerate(world.setups):
            parts = enumerate(("train", "validation", "test"))
            world.change(
                name,
                learner=world.learner,
                samples={split: pictures(10 * place + part) for part, split in parts},
                predict=predict,
            )
        return world

    return of


def training(entries):
    return [entry for entry in entries if entry.split == "train"]


@pytest.mark.parametrize(
    "trust", ["none", "distributed", "local", pytest.param("central", marks=pytest.mark.slow)]
)
def test_all_rounds_are_in_one_account_that_holds_the_budget(end_to_end, trust):
    """P7: an independent composition of the schedule gives what the ledger says."""
    world = end_to_end(trust)
    fitted, _ = world.run()
    assert all(np.isfinite(values).all() for values in fitted.arrays.values())
    for name in world.setups:
        entries = training(world.ledger(name))
        assert len(entries) == ROUNDS
        assert sum(entry.event.count for entry in entries) == ROUNDS * STEPS[trust]
        total = spent(entries, 1e-5)
        if trust == "none":
            assert total == np.inf
            continue
        (noise,) = {entry.event.noise_multiplier for entry in entries}
        whole = SampledGaussianEvent(noise, PROB, ROUNDS * STEPS[trust])
        assert total == pytest.approx(epsilon([whole], 1e-5), abs=1e-3)
        assert 2.9 < total <= 3.0


@pytest.mark.parametrize("trust", ["none", "local"])
def test_the_same_round_asked_twice_is_another_sample_and_another_charge(end_to_end, trust):
    world = end_to_end(trust)
    clinic = Clinic(world.setups["north"])
    request = world.request(1, query=world.learner.start())
    first, second = (clinic.answer(request) for _ in range(2))
    for name, sums in first.items():
        assert not np.array_equal(sums, second[name])
        if trust != "none":
            assert np.isclose(sums, second[name]).mean() < 0.1
    assert [entry.binding.round for entry in world.ledger("north")] == [1, 1]


def test_an_interrupted_round_is_resumed_and_charged_again(end_to_end, tmp_path):
    world = end_to_end("distributed")
    path = tmp_path / "checkpoint"
    full = [True]

    def note(entries, masks):
        """The disk of one clinic is full in the second round, after its reservation."""
        if full and entries[0].binding.round == 2:
            full.clear()
            raise EnvironmentProblem(rule="room", got="none", do="Make room.")

    world.change("south", note=note)
    rounds = world.learner.rounds

    def go():
        ask = grid_asker(world.grid(), world.terms(), Event())
        return fit(
            world.learner,
            exchanger(ask, world.terms(), world.record),
            resume=load_progress(path, "run-1", rounds),
            keep=partial(save_progress, path, "run-1", rounds),
        )

    with pytest.raises(IncompleteRunError):
        go()
    kept = load_progress(path, "run-1", rounds)
    assert kept.rounds_done == 1
    fitted = go()
    assert [p.round for p in world.record.participation] == [1, 2, 2, 3]
    assert len(fitted.history) == ROUNDS
    assert load_progress(path, "run-1", rounds).rounds_done == ROUNDS
    for name in world.setups:
        entries = training(world.ledger(name))
        # The others had sent their masked sums, which are sent again as they were.
        charged = [1, 2, 2, 3] if name == "south" else [1, 2, 3]
        assert [entry.binding.round for entry in entries] == charged
        once_more = SampledGaussianEvent(entries[0].event.noise_multiplier, PROB, len(charged))
        assert spent(entries, 1e-5) == pytest.approx(epsilon([once_more], 1e-5), abs=1e-3)


def test_a_checkpoint_of_another_run_or_schedule_or_a_changed_one_is_refused(end_to_end, tmp_path):
    world = end_to_end("none")
    path, rounds = tmp_path / "checkpoint", world.learner.rounds
    assert load_progress(path, "run-1", rounds) is None
    kept = []

    def exchange(round_, query):
        ask = grid_asker(world.grid(), world.terms(), Event())
        return exchanger(ask, world.terms(), world.record)(round_, query)

    fit(world.learner, exchange, keep=kept.append)
    save_progress(path, "run-1", rounds, kept[-1])
    again = load_progress(path, "run-1", rounds)
    assert again.history == kept[-1].history
    assert again.state.keys() == kept[-1].state.keys()
    assert all(np.array_equal(v, again.state[n]) for n, v in kept[-1].state.items())
    other = replace(rounds[0].releases[0], sensitivity=2.0)
    for run, schedule_ in (("run-2", rounds), ("run-1", (replace(rounds[0], releases=(other,)),))):
        with pytest.raises(IntegrityError, match="another run"):
            load_progress(path, run, schedule_)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(IntegrityError, match="digest"):
        load_progress(path, "run-1", rounds)
