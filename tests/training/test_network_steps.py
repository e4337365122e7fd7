"""One global step a round: noise that clinics share, or that the coordinator adds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skinml.errors import ConfigError
from skinml.models.networks import build_network
from skinml.privacy.accounting import epsilon
from skinml.privacy.events import DiscreteGaussianEvent, SampledGaussianEvent
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.noise import fixed_noise
from skinml.privacy.quantise import GRID
from skinml.privacy.settings import PrivacySettings
from skinml.records import Samples, join_samples
from skinml.seeding import Seeds
from skinml.training.network import NetworkContributor, NetworkLearner, flatten
from skinml.training.settings import NetworkSettings

SHARED = ("central", "distributed")


def build():
    return build_network("small_cnn", 2, Seeds(0).stream("weights"))


def learner(trust, *, privacy=None, **changes):
    settings = {"rounds": 3, "steps_per_round": 1, "expected_patients": 10, "sampling_prob": 1.0}
    promise = PrivacySettings(trust=trust, clip_norm=0.3, **(privacy or {}))
    return NetworkLearner(NetworkSettings(**settings | changes), promise, build)


def samples(seed, patients="abbcdddd"):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (len(patients), 8, 8, 3), dtype=np.uint8)
    names = np.array([f"{seed}{name}" for name in patients])
    return Samples(images, rng.integers(0, 2, len(patients)), names)


@pytest.fixture(scope="module")
def shared():
    return {trust: learner(trust) for trust in SHARED}


@pytest.mark.parametrize("trust", SHARED)
def test_several_local_steps_cannot_share_their_noise(trust):
    with pytest.raises(ConfigError, match="steps_per_round=1"):
        learner(trust, steps_per_round=2)


@pytest.mark.parametrize("trust", SHARED)
def test_modes_in_which_patients_share_their_rounding_are_refused(trust):
    with pytest.raises(ConfigError, match="gradient_mode"):
        learner(trust, gradient_mode="hooks")


@pytest.mark.parametrize("trust", ["distributed", pytest.param("central", marks=pytest.mark.slow)])
def test_the_schedule_is_one_sampled_step_a_round_within_the_budget(trust):
    recipe = learner(trust, sampling_prob=0.2, rounds=20)
    events = [release.event for round_ in recipe.rounds for release in round_.releases]
    assert len(events) == 20
    assert {event.sampling_prob for event in events} == {0.2}
    assert all(isinstance(event, DiscreteGaussianEvent) for event in events)
    assert 2.97 < epsilon(events, 1e-5) <= 3.0
    # An independent composition of the same schedule, as if the noise were continuous.
    continuous = SampledGaussianEvent(events[0].noise_multiplier, 0.2, 20)
    assert epsilon([continuous], 1e-5) == pytest.approx(epsilon(events, 1e-5), abs=1e-3)


@pytest.mark.parametrize("trust", SHARED)
def test_the_sum_over_clinics_is_the_sum_over_all_patients_to_the_last_bit(trust, shared):
    recipe = shared[trust]
    parts = [samples(seed) for seed in range(3)]
    sums = [recipe.contributor(part).exact(recipe.start(), b"k") for part in parts]
    pooled = recipe.contributor(join_samples(parts)).exact(recipe.start(), b"k")
    assert np.array_equal(np.sum(sums, axis=0), pooled)
    assert pooled.any()


@pytest.mark.parametrize("clinics", [1, 2])
def test_one_patient_moves_the_sum_by_at_most_its_share_of_the_clip(clinics):
    """P9, compared in whole units of the grid."""
    unit = "patient" if clinics > 1 else "patient_within_clinic"
    recipe = learner("central", privacy={"unit": unit, "max_clinics_per_patient": clinics})
    whole = recipe.contributor(samples(0)).exact(recipe.start(), b"k")
    kept = samples(0).take(samples(0).patients != "0d")
    less = recipe.contributor(kept).exact(recipe.start(), b"k")
    units = ((whole - less) / GRID).astype(np.int64)
    square = sum(int(unit) ** 2 for unit in units)
    assert 0 < square <= int(0.3 / clinics / GRID) ** 2


@pytest.mark.parametrize("trust", SHARED)
def test_what_leaves_a_clinic_is_its_sum_and_its_share_of_the_noise(trust, shared):
    recipe = shared[trust]
    round_ = recipe.rounds[0]
    clinic = recipe.contributor(samples(0))
    secret = np.random.default_rng(3).bytes(32)
    share = 0.5 if trust == "distributed" else 0.0
    mechanism = Mechanism(share, lambda: fixed_noise(np.random.default_rng(4)))
    sent = clinic.contribute(round_, recipe.start(), mechanism, np.random.default_rng(3))
    noise = sent["gradient"] - clinic.exact(recipe.start(), secret)
    std = share * 0.3 * round_.releases[0].noise_multiplier
    assert set(sent) == {"gradient"}
    assert sent["gradient"].shape == round_.releases[0].shape
    assert np.array_equal(noise / GRID, np.round(noise / GRID))
    assert noise.std() == pytest.approx(std, rel=0.02, abs=0)


def test_a_global_step_goes_against_the_mean_gradient_of_a_public_number(shared):
    recipe, state = shared["central"], shared["central"].start()
    gradient = np.random.default_rng(0).normal(size=flatten(state).size)
    after = recipe.advance(recipe.rounds[0], state, {"gradient": gradient}, 4)
    expected = flatten(state) - 0.5 * gradient / (1.0 * 10 * 4)
    np.testing.assert_allclose(flatten(after), expected, atol=1e-6)
    assert {name: a.dtype for name, a in after.items()} == {n: a.dtype for n, a in state.items()}


def test_views_are_averaged_before_the_clip_and_cost_nothing():
    with_views, without = (learner("central", augmentations=views) for views in (5, 0))
    assert [r.releases[0].event for r in with_views.rounds] == [
        r.releases[0].event for r in without.rounds
    ]
    sums = [r.contributor(samples(0)).exact(r.start(), b"k") for r in (with_views, without)]
    assert not np.array_equal(*sums)
    kept = samples(0).take(samples(0).patients != "0d")
    less = with_views.contributor(kept).exact(with_views.start(), b"k")
    assert 0 < np.linalg.norm(sums[0] - less) <= 0.3


def test_without_a_promise_the_mode_does_not_hang_on_a_stopwatch():
    """Seeds repeat only where the choice does: runs without noise compare to the last digit."""
    recipe = learner("none", sampling_prob=0.5, steps_per_round=2)
    moved = [
        recipe.contributor(samples(0)).contribute(
            recipe.rounds[0], recipe.start(), Mechanism(0.0), np.random.default_rng(0)
        )["weights"]
        for _ in range(2)
    ]
    assert np.array_equal(*moved)


@pytest.mark.parametrize("trust", ["local", "central"])
def test_a_contribution_counts_each_patient_without_finite_gradients_once(trust):
    """Whatever made the network overflow on its images; the count starts anew each time."""
    steps = 2 if trust == "local" else 1
    recipe = learner(trust, steps_per_round=steps)
    items = samples(0)
    pixels = torch.from_numpy(np.moveaxis(items.inputs, 3, 1).astype(np.float32))
    pixels[1] = np.nan  # of 0b, who has two images
    plan = recipe.contributor(items)._plan
    clinic = NetworkContributor(build(), pixels, items, plan)
    assert clinic.not_finite == 0

    def contributed():
        return clinic.contribute(
            recipe.rounds[0], recipe.start(), Mechanism(0.0), np.random.default_rng(3)
        )

    ours = contributed()
    assert clinic.not_finite == 1
    contributed()
    assert clinic.not_finite == 1
    kept = items.patients != "0b"
    alone = NetworkContributor(build(), pixels[torch.from_numpy(kept)], items.take(kept), plan)
    theirs = alone.contribute(
        recipe.rounds[0], recipe.start(), Mechanism(0.0), np.random.default_rng(3)
    )
    assert alone.not_finite == 0
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6)
    pixels[1] = 0.0
    contributed()
    assert clinic.not_finite == 0
