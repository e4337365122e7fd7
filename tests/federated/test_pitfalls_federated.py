"""Pitfalls that live between clinics and coordinator: P8, P10, P14 and P16."""

from __future__ import annotations

import logging
from dataclasses import replace
from math import inf

import numpy as np
import pytest
import torch
from torch import nn

from skinml.errors import IntegrityError, UnsupportedModelError
from skinml.federated.clinic import Clinic
from skinml.federated.messages import require_sums
from skinml.privacy.clipping import clip_rows
from skinml.privacy.dpsgd import require_supported
from skinml.privacy.ledger import spent
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.noise import fixed_noise
from skinml.privacy.settings import PrivacySettings
from skinml.training.network import WEIGHTS, NetworkLearner
from skinml.training.settings import NetworkSettings

NAMES = ("north", "south", "studied")
DELTA = 1e-5
# Images at the centres of Fed-ISIC2019: the largest has 0.534 of them.
SIZES = np.array([12413, 3954, 3363, 2259, 819, 439])
CLIP = 0.5


# P8: weighted averaging


def average(updates):
    """What the coordinator makes of the clinics' weights."""
    learner = NetworkLearner(
        NetworkSettings(), PrivacySettings(trust="none"), lambda: nn.Linear(3, 2)
    )
    state = learner.start()
    total = {WEIGHTS: np.sum(updates, axis=0)}
    after = learner.advance(learner.rounds[0], state, total, len(updates))
    return np.concatenate([values.ravel() for values in after.values()])


def test_p8_no_clinic_moves_the_average_by_more_than_an_equal_share():
    """The control weighs by examples, as federated averaging does: the largest moves it 3.2 times
    as far as the accountant was told."""
    rng = np.random.default_rng(0)
    updates = clip_rows(10 * rng.normal(size=(6, 8)), CLIP)
    bound = CLIP / len(SIZES)
    weights = SIZES / SIZES.sum()
    reached = []
    for place in range(len(SIZES)):
        without = updates.copy()
        without[place] = 0
        assert np.linalg.norm(average(updates) - average(without)) <= bound * (1 + 1e-6)
        reached.append(np.linalg.norm(weights @ updates - weights @ without) / bound)
    assert max(reached) == pytest.approx(3.2, abs=0.01)


@pytest.mark.parametrize("copies", [1, 8])
def test_p8_a_patient_of_a_large_clinic_weighs_no_more_than_of_a_small_one(make, copies):
    """One patient's leaving moves the sum over clinics by at most the clip, wherever it was."""
    world = make("none", clip_norm=CLIP)
    query = world.learner.query(world.learner.rounds[1], world.learner.start())
    for name in NAMES:
        samples = world.setups[name].samples["train"]
        larger = samples.take(np.tile(np.arange(len(samples)), copies))
        larger = replace(
            larger,
            patients=np.array([f"{p}/{i // len(samples)}" for i, p in enumerate(larger.patients)]),
        )
        sums = []
        for mask in (np.ones(len(larger), bool), larger.patients != larger.patients[0]):
            part = larger.take(mask)
            everybody = {"train": np.ones(len(part), bool)}
            setup = replace(
                world.setups[name], samples={"train": part}, admitted=everybody.__getitem__
            )
            sums.append(Clinic(setup).answer(world.request(2, query))["gradient"])
        moved = np.linalg.norm(sums[0] - sums[1])
        assert 0.05 * CLIP < moved <= CLIP * (1 + 1e-6)


# P10: noise from a shared seed


def answers_of_twins(make, **changes):
    """Two clinics with the same patients and the same seeds everywhere."""
    world = make("local")
    for name in NAMES[:2]:
        twin = {"samples": world.setups["north"].samples, "sampling_root": 7}
        world.change(name, **twin, **changes)
    sent = [Clinic(world.setups[name]).answer(world.request(2)) for name in NAMES[:2]]
    return world, [each["gradient"] for each in sent]


def test_p10_two_clinics_with_equal_seeds_do_not_share_their_noise(make):
    world, (one, two) = answers_of_twins(make)
    release = world.learner.rounds[1].releases[0]
    expected = 2**0.5 * release.sensitivity * release.noise_multiplier
    assert np.std(one - two) == pytest.approx(expected, rel=0.9)
    shared = Mechanism(1.0, lambda: fixed_noise(np.random.default_rng(7)))
    _, (one, two) = answers_of_twins(make, mechanism=shared)
    assert np.abs(one - two).max() < 1e-9  # the control: subtracting them cancels the noise


def test_p10_a_run_with_fixed_noise_has_no_certificate(make):
    world = make("local")
    world.change("south", mechanism=Mechanism(1.0, lambda: fixed_noise(np.random.default_rng(3))))
    world.run()
    assert spent(world.ledger("south"), DELTA) == inf
    assert not any(entry.guarantee for entry in world.ledger("south"))
    assert spent(world.ledger("north"), DELTA) == pytest.approx(3, abs=1e-2)


# P16: integer buffers, and clinics that are lost


class Counting(nn.Module):
    """A network that counts its batches in an int64 buffer, as BatchNorm does."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64))

    def forward(self, rows):
        self.num_batches_tracked += 1
        return self.fc(rows)


def test_p16_integer_buffers_never_reach_clip_or_average():
    with pytest.raises(UnsupportedModelError, match="num_batches_tracked"):
        require_supported(Counting())
    with pytest.raises(UnsupportedModelError, match="num_batches_tracked"):
        NetworkLearner(NetworkSettings(), PrivacySettings(trust="none"), Counting)


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, np.float32])
def test_p16_sums_are_double_precision_and_nothing_else(kind):
    require_sums({"sum": np.zeros(3)}, {"sum": (3,)}, "north")
    with pytest.raises(IntegrityError):
        require_sums({"sum": np.zeros(3, dtype=kind)}, {"sum": (3,)}, "north")


def test_p16_integer_updates_are_clipped_without_an_error():
    clipped = clip_rows(np.array([[3, 4], [0, 0]], dtype=np.int64), 1.0)
    np.testing.assert_allclose(clipped, [[0.6, 0.8], [0, 0]])


class Lost:
    """A recipe whose clinic dies in one round, after its reservation."""

    def __init__(self, learner):
        self.learner = learner

    def __getattr__(self, name):
        return getattr(self.learner, name)

    def contributor(self, items):
        self.inner = self.learner.contributor(items)
        return self

    @property
    def not_finite(self):
        return self.inner.not_finite

    def contribute(self, round_, *rest):
        if round_.number == 3:
            raise ConnectionError("gone")
        return self.inner.contribute(round_, *rest)


def test_p16_a_lost_clinic_changes_the_participation_and_not_the_ledgers_truth(make, caplog):
    caplog.set_level(logging.CRITICAL, "skinml")
    world = make(tolerated_dropouts=1)
    world.change("south", learner=Lost(world.learner))
    world.run(allowed_missing=1)
    missing = {each.round: tuple(each.missing) for each in world.record.participation}
    assert missing[3] == ("south",)
    assert not any(names for number, names in missing.items() if number != 3)
    events = {name: [entry.event for entry in world.ledger(name)] for name in NAMES}
    planned = [r.event for round_ in world.learner.rounds for r in round_.releases]
    for name in NAMES:  # what was reserved counts, whether it arrived or not
        assert events[name] == [*planned, world.validation.event]
        assert spent(world.ledger(name), DELTA) <= 3
