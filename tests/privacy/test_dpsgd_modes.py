"""Gradient modes: six ways to one sum, the exact one for the integer path, and the choice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from skinml.errors import ConfigError, UnsupportedModelError
from skinml.models.networks import build_network, network_arrays
from skinml.privacy.dpsgd import StepPlan, clipped_sum
from skinml.privacy.dpsgd_sampling import Sampled
from skinml.privacy.gradient_modes import MODES, PatientBatch, clipped_gradients, fastest_mode
from skinml.privacy.losses import LOSSES, cross_entropy
from skinml.privacy.quantise import GRID
from skinml.seeding import Seeds

PLAN = StepPlan(
    steps=1,
    sampling_prob=1.0,
    divisor=10.0,
    clip_norm=0.3,
    noise_multiplier=0.0,
    learning_rate=0.7,
    max_images=4,
)
SIZES = (1, 2, 4, 1, 3, 1, 1, 2)


def network():
    return build_network("small_cnn", 3, Seeds(0).stream("weights"))


def images(count, seed=0, px=12):
    return torch.randn((count, 3, px, px), generator=torch.Generator().manual_seed(seed))


def batch(sizes=SIZES):
    count = sum(sizes)
    return PatientBatch(images(count), torch.arange(count) % 3, torch.tensor(sizes))


def by_hand(module, given, loss, clip):
    """Each patient's gradient of the mean loss by plain autograd, in double precision."""
    doubled = module.double()
    total, norms = 0.0, []
    for number in range(len(given.sizes)):
        rows = given.position == number
        value = loss(doubled(given.inputs[rows].double()), given.targets[rows]).mean()
        names = sorted(name for name, _ in doubled.named_parameters())
        grads = torch.autograd.grad(value, [dict(doubled.named_parameters())[n] for n in names])
        flat = torch.cat([grad.flatten() for grad in grads]).numpy()
        norms.append(np.linalg.norm(flat))
        total = total + flat * min(1.0, clip / norms[-1])
    return total, norms


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("clip", [1e-3, 1.5, 1e3])
def test_every_mode_gives_the_sum_of_plain_double_precision(mode, loss, clip):
    module = network()
    with clipped_gradients(module, mode, LOSSES[loss], clip) as summed:
        found = summed(batch())
        again = summed(batch())
    expected, norms = by_hand(network(), batch(), LOSSES[loss], clip)
    assert np.linalg.norm(found - expected) <= 2e-5 * np.linalg.norm(expected)
    assert np.array_equal(found, again)
    if clip == 1.5:
        assert min(norms) < clip < max(norms)


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_leaves_the_network_as_it_found_it(mode):
    module = network()
    before = {name: set(vars(layer)) for name, layer in module.named_modules()}
    arrays = network_arrays(module)
    with clipped_gradients(module, mode, cross_entropy, 1.0) as summed:
        summed(batch())
    assert {name: set(vars(layer)) for name, layer in module.named_modules()} == before
    assert all(np.array_equal(a, arrays[n]) for n, a in network_arrays(module).items())
    assert all(p.grad is None and not vars(p) for p in module.parameters())


class Twice(nn.Module):
    """One layer used two times."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, inputs):
        return self.layer(torch.relu(self.layer(inputs.flatten(1))))


def test_norms_layer_by_layer_are_refused_where_a_layer_occurs_twice():
    given = PatientBatch(torch.randn(4, 6), torch.arange(4), torch.tensor([1, 1, 2]))
    expected, _ = by_hand(Twice(), given, cross_entropy, 0.5)
    torch.manual_seed(0)
    with (
        pytest.raises(UnsupportedModelError, match="used twice"),
        clipped_gradients(Twice(), "ghost", cross_entropy, 0.5) as summed,
    ):
        summed(given)
    for mode in ("hooks", "functorch", "alone"):
        torch.manual_seed(0)
        module = Twice()
        with clipped_gradients(module, mode, cross_entropy, 0.5) as summed:
            found = summed(given)
        expected, _ = by_hand(module, given, cross_entropy, 0.5)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def sample(sizes=SIZES):
    ends = np.cumsum(sizes)
    return [
        Sampled(np.arange(e - s, e), key)
        for key, (e, s) in enumerate(zip(ends, sizes, strict=True))
    ]


def test_on_the_grid_a_patient_is_exactly_what_the_sum_loses_without_it():
    """Not up to rounding: the others' contributions keep every bit, in whatever company."""
    plan = replace(PLAN, mode="alone", grid=True)
    given = batch()
    everybody = sample()
    whole = clipped_sum(network(), given.inputs, given.targets, everybody, plan)
    assert np.array_equal(whole / GRID, np.round(whole / GRID))
    for number, one in enumerate(everybody):
        others = [other for other in everybody if other is not one]
        less = clipped_sum(network(), given.inputs, given.targets, others, plan)
        alone = clipped_sum(network(), given.inputs, given.targets, [one], plan)
        assert np.array_equal(whole - less, alone), number
        units = (alone / GRID).astype(np.int64)
        assert 0 < sum(int(unit) ** 2 for unit in units) <= int(PLAN.clip_norm / GRID) ** 2
    loose = clipped_sum(network(), given.inputs, given.targets, everybody, PLAN)
    np.testing.assert_allclose(whole, loose, atol=1e-6)


def test_control_hooks_would_leave_traces_of_the_company_in_others_bits():
    """Why the grid takes one patient at a time: a batch of another size rounds otherwise."""
    given = batch(sizes=40 * (1,))
    everybody = sample(sizes=40 * (1,))
    plan = replace(PLAN, mode="hooks", clip_norm=1e3)
    whole = clipped_sum(network(), given.inputs, given.targets, everybody, plan)
    less = clipped_sum(network(), given.inputs, given.targets, everybody[1:], plan)
    alone = clipped_sum(network(), given.inputs, given.targets, everybody[:1], plan)
    assert not np.array_equal(whole - less, alone)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "alone"])
def test_the_grid_refuses_modes_in_which_patients_share_their_rounding(mode):
    with pytest.raises(ConfigError, match="alone"):
        clipped_sum(network(), *_tensors(), sample(), replace(PLAN, mode=mode, grid=True))


def _tensors():
    given = batch()
    return given.inputs, given.targets


@pytest.mark.parametrize(
    "wrong", [{"mode": "fast"}, {"loss": "hinge"}, {"clip_norm": 0.0}, {"augmentations": 2}]
)
def test_a_plan_that_nothing_can_follow_is_refused(wrong):
    with pytest.raises(ConfigError):
        clipped_sum(network(), *_tensors(), sample(), replace(PLAN, **wrong))


class InPlace(nn.Module):
    """The residual addition that per-sample hooks cannot follow."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, inputs):
        hidden = self.first(inputs)
        hidden += self.second(inputs)
        return hidden.mean(dim=(2, 3))


def test_the_choice_is_a_mode_that_supports_the_network_and_changes_nothing():
    module = network()
    arrays, state = network_arrays(module), torch.get_rng_state()
    assert fastest_mode(module, (3, 12, 12), cross_entropy) in MODES
    assert fastest_mode(module, (3, 12, 12), cross_entropy, images=5) in MODES
    assert all(np.array_equal(a, arrays[n]) for n, a in network_arrays(module).items())
    assert torch.equal(torch.get_rng_state(), state)
    chosen = fastest_mode(InPlace(), (3, 12, 12), cross_entropy)
    with clipped_gradients(InPlace(), chosen, cross_entropy, 1.0) as summed:
        assert np.isfinite(summed(batch())).all()
