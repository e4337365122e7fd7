"""End-to-end training with FedProx and with adaptive steps at the coordinator."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skinml.models.networks import (
    build_network,
    input_tensor,
    network_arrays,
)
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.settings import PrivacySettings
from skinml.records import Samples
from skinml.seeding import Seeds
from skinml.training.checkpoint import load_progress, save_progress
from skinml.training.fit import Exchanged, fit
from skinml.training.network import NetworkLearner, flatten
from skinml.training.server_optimisers import ServerOptimiser, optimised, with_moments
from skinml.training.settings import NetworkSettings

STEPS, RATE, PATIENTS = 4, 0.2, 6


def build():
    return build_network("small_cnn", 2, Seeds(0).stream("weights"))


def learner(trust="none", steps=STEPS, **changes):
    settings = NetworkSettings(
        rounds=3,
        steps_per_round=steps,
        expected_patients=PATIENTS,
        sampling_prob=1.0,
        learning_rate=RATE,
    )
    # A clip that no gradient reaches: what is left is plain gradient descent.
    return NetworkLearner(settings, PrivacySettings(trust=trust, clip_norm=1e3), build, **changes)


def samples(seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (PATIENTS, 8, 8, 3), dtype=np.uint8)
    return Samples(images, rng.integers(0, 2, PATIENTS), np.array(list("abcdef")))


def answer(recipe, round_, query, items):
    stream = np.random.default_rng(1)
    return recipe.contributor(items).contribute(round_, query, Mechanism(0.0), stream)


def by_autograd(items, proximal_mu):
    """The paper's local objective, written down for torch: mean loss + mu/2 ||w - w0||^2."""
    network = build()
    network.train()
    began = [p.detach().clone() for p in network.parameters()]
    images, labels = input_tensor(items.inputs), torch.from_numpy(items.labels)
    for _ in range(STEPS):
        away = sum(((p - b) ** 2).sum() for p, b in zip(network.parameters(), began, strict=True))
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        network.zero_grad()
        (loss + proximal_mu / 2 * away).backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= RATE * parameter.grad
    return network_arrays(network)


@pytest.mark.parametrize("proximal_mu", [0.0, 0.1, 2.0])
def test_local_steps_descend_the_proximal_objective(proximal_mu):
    recipe, items = learner(proximal_mu=proximal_mu), samples()
    sent = answer(recipe, recipe.rounds[0], recipe.start(), items)["weights"]
    expected = flatten(by_autograd(items, proximal_mu))
    moved = np.linalg.norm(expected - flatten(recipe.start()))
    assert np.linalg.norm(sent - expected) < 1e-4 * moved


def test_the_pull_changes_no_release():
    """It reads no patient: noise, events and budget are those of plain local steps."""
    assert learner("local", proximal_mu=1.0).rounds == learner("local").rounds


@pytest.mark.parametrize(("trust", "steps"), [("none", STEPS), ("central", 1)])
@pytest.mark.parametrize("name", ["fedadam", "fedyogi"])
def test_the_coordinator_steps_along_what_plain_averaging_would_do(trust, steps, name):
    optimiser = ServerOptimiser(name, learning_rate=0.02)
    plain, adaptive = learner(trust, steps), learner(trust, steps, optimiser=optimiser)
    state, round_ = adaptive.start(), adaptive.rounds[0]
    query = adaptive.query(round_, state)
    assert query.keys() == plain.start().keys()
    sums = answer(adaptive, round_, query, samples())
    averaged = plain.advance(round_, plain.start(), sums, 1)
    start = with_moments(optimiser, plain.start(), list(averaged))
    moves = {n: averaged[n].astype(np.float64) - start[n] for n in averaged}
    expected = optimised(optimiser, start, moves)
    found = adaptive.advance(round_, state, sums, 1)
    assert found.keys() == state.keys()
    for key in averaged:
        np.testing.assert_allclose(found[key], expected[key], atol=1e-4)
        assert found[key].dtype == averaged[key].dtype
    assert any(np.abs(found[key] - averaged[key]).max() > 1e-3 for key in averaged)


def test_an_adaptive_run_goes_on_from_its_checkpoint_alone(tmp_path):
    items, path = samples(), tmp_path / "checkpoint"

    def go(resume=None, keep=None):
        recipe = learner(optimiser=ServerOptimiser("fedyogi", learning_rate=0.02))
        rounds = recipe.rounds

        def exchange(round_, query):
            return Exchanged(answer(recipe, round_, query, items), 1)

        def kept(progress):
            if progress.rounds_done == keep:
                save_progress(path, "run", rounds, progress)

        loaded = load_progress(path, "run", rounds) if resume else None
        return fit(recipe, exchange, resume=loaded, keep=kept).arrays

    whole = go(keep=1)
    rest = go(resume=True)
    assert whole.keys() == rest.keys() == build().state_dict().keys()
    for name, values in whole.items():
        np.testing.assert_array_equal(values, rest[name])
