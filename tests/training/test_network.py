"""End-to-end training: what a clinic's weights may depend on."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy import stats
from torch import nn

from skinml.errors import ConfigError, UnsupportedModelError
from skinml.models.networks import (
    build_network,
    input_tensor,
    load_network_arrays,
    network_arrays,
)
from skinml.privacy.accounting import epsilon
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.noise import fixed_noise
from skinml.privacy.settings import PrivacySettings
from skinml.records import Samples
from skinml.seeding import Seeds
from skinml.training.fit import Exchanged, fit
from skinml.training.network import NetworkLearner, flatten, unflatten
from skinml.training.settings import NetworkSettings


def build():
    return build_network("small_cnn", 2, Seeds(0).stream("weights"))


def learner(trust="none", settings=None, **privacy):
    chosen = settings or NetworkSettings(rounds=2, steps_per_round=2, expected_patients=10)
    return NetworkLearner(chosen, PrivacySettings(trust=trust, **privacy), build)


def samples(patients="abbccd", seed=0):
    rng = np.random.default_rng(seed)
    count = len(patients)
    images = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return Samples(images, rng.integers(0, 2, count), np.array(list(patients), dtype=str))


def moved(recipe, items, mechanism, seed=0):
    """How far one round moves a clinic's flat weights."""
    state = recipe.start()
    sums = recipe.contributor(items).contribute(
        recipe.rounds[0], recipe.query(recipe.rounds[0], state), mechanism, rng_of(seed)
    )
    return sums["weights"] - flatten(state)


def rng_of(seed):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("trust", ["central", "distributed"])
def test_local_steps_refuse_noise_from_anybody_else(trust):
    with pytest.raises(ConfigError, match="local"):
        learner(trust)


def test_a_network_that_mixes_samples_is_refused_before_the_first_round():
    """P2."""
    with pytest.raises(UnsupportedModelError):
        NetworkLearner(
            NetworkSettings(),
            PrivacySettings(trust="none"),
            lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4, affine=False)),
        )


@pytest.mark.parametrize("eps", [1.0, 8.0])
def test_all_steps_of_all_rounds_cost_at_most_the_budget(eps):
    """P7 and P13: the rounds of the schedule are what the accountant is told."""
    recipe = learner("local", epsilon=eps)
    (release,) = recipe.rounds[0].releases
    assert [r.number for r in recipe.rounds] == [1, 2]
    assert release.steps == 2
    events = [r.event for round_ in recipe.rounds for r in round_.releases]
    assert 0.99 * eps < epsilon(events, 1e-5) <= eps


@pytest.mark.parametrize("clinics", [1, 3])
def test_one_patient_moves_one_step_by_at_most_the_clip(clinics):
    """P9; with K clinics a patient, each clinic has a K-th of the clip."""
    unit = "patient" if clinics > 1 else "patient_within_clinic"
    settings = NetworkSettings(rounds=1, steps_per_round=1, sampling_prob=1, expected_patients=10)
    recipe = learner(settings=settings, unit=unit, max_clinics_per_patient=clinics, clip_norm=0.2)
    whole, kept = samples(), samples().patients != "b"
    distance = np.linalg.norm(
        moved(recipe, whole, Mechanism(0.0)) - moved(recipe, whole.take(kept), Mechanism(0.0))
    )
    assert 0 < distance <= 0.5 * 0.2 / clinics / 10 * (1 + 1e-4)


@pytest.mark.parametrize("clinics", [1, 3])
def test_the_noise_does_not_shrink_with_a_shared_clip(clinics):
    """A clinic without patients moves by noise alone: steps * lr * std / divisor."""
    unit = "patient" if clinics > 1 else "patient_within_clinic"
    recipe = learner("local", unit=unit, max_clinics_per_patient=clinics)
    (release,) = recipe.rounds[0].releases
    source = fixed_noise(rng_of(3))
    drawn = moved(recipe, samples(""), Mechanism(1.0, lambda: source))
    divisor = 0.2 * 10
    std = np.sqrt(2) * 0.5 * release.sensitivity * release.noise_multiplier / divisor
    assert stats.kstest(drawn / std, "norm").pvalue > 1e-6


def test_the_sampling_follows_its_stream_and_the_noise_does_not():
    """P10."""
    quiet, loud = learner(), learner("local")
    first, second, other = (moved(quiet, samples(), Mechanism(0.0), s) for s in (0, 0, 1))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    noisy = [moved(loud, samples(), Mechanism(1.0)) for _ in range(2)]
    assert np.mean(np.isclose(*noisy)) < 0.01


def test_clinics_count_alike_whatever_their_size():
    """P8: a weight by cohort size would let one clinic pass the bound and publish its size."""
    recipe, state = learner(), learner().start()
    parts = [recipe.contributor(samples("a" * n)) for n in (1, 9)]
    sent = recipe.query(recipe.rounds[0], state)
    flats = [
        part.contribute(recipe.rounds[0], sent, Mechanism(0.0), rng_of(0))["weights"]
        for part in parts
    ]
    average = recipe.advance(recipe.rounds[0], state, {"weights": sum(flats)}, 2)
    np.testing.assert_allclose(flatten(average), (flats[0] + flats[1]) / 2, atol=1e-6)


def test_flat_weights_come_back_as_they_were():
    arrays = network_arrays(build())
    again = unflatten(flatten(arrays), arrays)
    assert again.keys() == arrays.keys()
    for name, values in arrays.items():
        assert np.array_equal(again[name], values)
        assert again[name].dtype == values.dtype


def test_a_fit_learns_what_is_there_to_learn():
    """Bright against dark images, no privacy: the loop moves the right way."""
    rng = np.random.default_rng(0)
    labels = np.arange(16) % 2
    images = (labels[:, None, None, None] * 180 + rng.integers(0, 60, (16, 8, 8, 3))).astype(
        np.uint8
    )
    items = Samples(images, labels, np.array([f"p{i}" for i in range(16)]))
    settings = NetworkSettings(
        rounds=3, steps_per_round=4, sampling_prob=0.9, expected_patients=16, learning_rate=2.0
    )
    recipe = learner(settings=settings)
    contributor = recipe.contributor(items)

    def exchange(round_, query):
        part = partial(contributor.contribute, round_, query, Mechanism(0.0))
        return Exchanged(part(rng_of(round_.number)), 1)

    fitted = fit(recipe, exchange)
    network = build()
    load_network_arrays(network, fitted.arrays)
    assert (network(input_tensor(images)).argmax(dim=1).numpy() == labels).mean() > 0.9
