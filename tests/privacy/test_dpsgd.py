"""DP-SGD by replay: with and without a patient, the same coins, noise off (tier T0)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from skinml.errors import UnsupportedModelError
from skinml.models.networks import network_arrays
from skinml.privacy.dpsgd import StepPlan, train_steps
from skinml.privacy.network_checks import require_supported
from skinml.privacy.noise import fixed_noise, secret_noise

PLAN = StepPlan(
    steps=1,
    sampling_prob=1.0,
    divisor=10.0,
    clip_norm=0.3,
    noise_multiplier=0.0,
    learning_rate=0.7,
    max_images=4,
)
BOUND = PLAN.learning_rate * PLAN.clip_norm / PLAN.divisor
ROUNDING = 1 + 1e-4


def tiny():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)
    )


def flat(module):
    return np.concatenate([a.ravel() for a in network_arrays(module).values()]).astype(np.float64)


def stepped(images, labels, patients, plan=PLAN, *, source=None, seed=0, module=None):
    """The movement of the weights in one round."""
    module = tiny() if module is None else module
    before = flat(module)
    noise = source or secret_noise()
    with np.errstate(all="ignore"):
        train_steps(
            module,
            torch.as_tensor(images, dtype=torch.float32),
            torch.as_tensor(labels, dtype=torch.int64),
            np.asarray(patients).astype(str),
            plan,
            np.random.default_rng(seed).bytes(32),
            noise,
        )
    return flat(module) - before


def cohort(seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    patients = np.repeat(["a", "b", "c", "d", "e"], [1, 2, 1, 4, 3])
    images = scale * rng.normal(size=(11, 3, 8, 8))
    return images, rng.integers(0, 3, 11), patients


def without(cohort_, name):
    images, labels, patients = cohort_
    kept = patients != name
    return images[kept], labels[kept], patients[kept]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("name", list("abde"))
def test_one_patient_moves_a_step_by_at_most_the_clip(name, scale):
    """P1 and P9: however many images the patient has, and whatever the others hold."""
    data = cohort(scale=scale)
    distance = np.linalg.norm(stepped(*data) - stepped(*without(data, name)))
    assert distance <= BOUND * ROUNDING


def test_the_clip_is_reached_so_that_the_bound_is_no_accident():
    data = cohort(scale=1e3)
    distance = np.linalg.norm(stepped(*data) - stepped(*without(data, "d")))
    assert distance == pytest.approx(BOUND, rel=1e-3)


@pytest.mark.parametrize("copies", [2, 16])
def test_copies_of_a_patients_image_change_nothing(copies):
    """P9."""
    images, labels, patients = cohort()
    again = [np.concatenate([x] + [x[:1]] * (copies - 1)) for x in (images, labels, patients)]
    plan = replace(PLAN, max_images=100)
    np.testing.assert_allclose(
        stepped(*again, plan), stepped(images, labels, patients, plan), atol=1e-8
    )


def test_no_more_images_of_a_patient_are_used_than_planned():
    images, labels, patients = cohort()
    one = replace(PLAN, max_images=1)
    moved = stepped(images, labels, patients, one)
    kept = [0, 1, 3, 4, 8]  # one image of each patient
    assert not np.allclose(moved, stepped(images, labels, patients))
    sizes = [np.linalg.norm(moved), np.linalg.norm(stepped(images[kept], labels[kept], range(5)))]
    assert max(sizes) <= 5 * BOUND * ROUNDING


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 3e38])
def test_a_broken_image_contributes_at_most_the_clip_and_breaks_nobody_else(value):
    """P5."""
    data = cohort()
    images = data[0].copy()
    images[0, 0, 0, 0] = value  # of patient a, who has this one image
    moved = stepped(images, *data[1:])
    others = stepped(*without(data, "a"))
    assert np.isfinite(moved).all()
    assert np.linalg.norm(moved - others) <= BOUND * ROUNDING
    if not np.isfinite(value):
        # A batch of another shape may round to another multiple of the grid.
        np.testing.assert_allclose(moved, others, atol=2.0**-25)


def test_empty_samples_are_noisy_steps_too():
    """P6: the number of noisy steps never depends on whom the sample hit."""
    data = cohort()
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 40))
    plan = replace(PLAN, steps=9, sampling_prob=1e-12, noise_multiplier=2.0)
    source = fixed_noise(np.random.default_rng(1))
    moved = stepped(*data, plan, source=source, module=module)
    std = 3 * plan.learning_rate * plan.noise_multiplier * plan.clip_norm / plan.divisor
    assert stats.kstest(moved / std, "norm").pvalue > 1e-6  # 9 steps: three times one step's
    assert abs(moved.var() / std**2 - 1) < 5 * np.sqrt(2 / moved.size)


@pytest.mark.parametrize("present", [True, False])
@pytest.mark.parametrize("prob", [1e-12, 0.3, 1.0])
def test_the_number_of_draws_of_noise_is_the_plans(prob, present):
    """P3, P4, P13: the cohort's size decides nothing, an empty cohort's least of all."""
    data = cohort() if present else tuple(x[:0] for x in cohort())
    used, expected = (fixed_noise(np.random.default_rng(5)) for _ in range(2))
    stepped(*data, replace(PLAN, steps=7, sampling_prob=prob, noise_multiplier=1.0), source=used)
    for _ in range(7):
        expected.normal((flat(tiny()).size,), 1.0)
    assert np.array_equal(used.normal((9,), 1.0), expected.normal((9,), 1.0))


@pytest.mark.parametrize("size", [93, 99, 105])
def test_neighbouring_cohorts_are_divided_by_one_number(size):
    """P3 and P13: one patient more leaves the others' contribution to the last bit's rounding."""
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(size + 1, 3, 8, 8)), rng.integers(0, 3, size + 1)
    whole = stepped(images, labels, np.arange(size + 1))
    less = stepped(images[:-1], labels[:-1], np.arange(size))
    alone = stepped(images[-1:], labels[-1:], np.arange(1))
    np.testing.assert_allclose(whole, less + alone, atol=1e-6)


def test_the_sampling_repeats_and_the_noise_does_not():
    """P10."""
    quiet = replace(PLAN, steps=4, sampling_prob=0.5)
    loud = replace(quiet, noise_multiplier=1.0)
    assert np.array_equal(stepped(*cohort(), quiet), stepped(*cohort(), quiet))
    assert not np.array_equal(stepped(*cohort(), quiet), stepped(*cohort(), quiet, seed=1))
    assert not np.isclose(stepped(*cohort(), loud), stepped(*cohort(), loud)).any()


def test_each_patient_is_sampled_with_the_planned_chance():
    """P6: with the noise off, a patient's step happens or not; level 1e-6."""
    images, labels, _ = cohort()
    hits = [
        bool(stepped(images[:1], labels[:1], [0], replace(PLAN, sampling_prob=0.2), seed=s).any())
        for s in range(150)
    ]
    assert stats.binomtest(sum(hits), 150, 0.2).pvalue > 1e-6


class Remembering(nn.Module):
    """A home-made layer that carries a running mean, and no BatchNorm by name."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, 1, 1))

    def forward(self, images):
        self.mean = 0.9 * self.mean + 0.1 * images.detach().mean(dim=(0, 2, 3)).view(3, 1, 1)
        return images - self.mean


def frozen(layer):
    return layer.requires_grad_(False).eval()


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(3),
        nn.BatchNorm2d(3, affine=False),
        nn.BatchNorm2d(3, track_running_stats=False),
        frozen(nn.BatchNorm2d(3)),
        nn.SyncBatchNorm(3),
        nn.InstanceNorm2d(3, track_running_stats=True),
        Remembering(),
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 3, 1)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_that_mix_or_remember_samples_are_refused(layer):
    """P2, trainable or not, whatever the layer is called."""
    module = nn.Sequential(nn.Sequential(layer), tiny())
    with pytest.raises(UnsupportedModelError):
        require_supported(module)
    with pytest.raises(UnsupportedModelError):
        stepped(*cohort(), module=module)


def test_group_norm_is_accepted():
    require_supported(tiny())


def test_nothing_of_opacus_stays_on_the_network():
    module = tiny()
    stepped(*cohort(), module=module)
    assert type(module) is nn.Sequential
    assert not any(hasattr(p, "grad_sample") for p in module.parameters())
    assert module(torch.zeros(2, 3, 8, 8)).shape == (2, 3)
