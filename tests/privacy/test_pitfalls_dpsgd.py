"""The pitfalls of DP-SGD, by their numbers; each control plants the fault and must see it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import opacus
import pytest
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.nn import functional as F  # noqa: N812 -- the name that the field uses

from skinml.errors import ConfigError, EnvironmentProblem, UnsupportedModelError
from skinml.models.networks import NETWORKS, build_network, network_arrays
from skinml.privacy.accounting import epsilon
from skinml.privacy.dpsgd import StepPlan, clipped_sum, train_steps
from skinml.privacy.dpsgd_sampling import Sampled, draw_sample, rows_by_patient
from skinml.privacy.events import SampledGaussianEvent
from skinml.privacy.gradient_modes import MODES, PatientBatch, clipped_gradients
from skinml.privacy.ledger import Binding, Ledger
from skinml.privacy.losses import LOSSES, cross_entropy, image_losses
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.network_checks import require_isolated, require_opacus, require_supported
from skinml.privacy.noise import fixed_noise, secret_noise
from skinml.privacy.settings import PrivacySettings
from skinml.records import Samples
from skinml.seeding import Seeds
from skinml.training.network import NetworkLearner, flatten
from skinml.training.settings import NetworkSettings

CLIP = 0.3
PLAN = StepPlan(
    steps=1,
    sampling_prob=1.0,
    divisor=10.0,
    clip_norm=CLIP,
    noise_multiplier=0.0,
    learning_rate=0.7,
    max_images=100,
)
ROUNDING = 1 + 1e-4
SECRET = bytes(32)


def tiny():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)
    )


def cohort(sizes=(1, 2, 6, 16), seed=0, scale=1.0):
    """Patients with so many images each."""
    rng = np.random.default_rng(seed)
    count = sum(sizes)
    patients = np.repeat([f"p{i:03}" for i in range(len(sizes))], sizes)
    images = scale * rng.normal(size=(count, 3, 8, 8))
    return images.astype(np.float32), rng.integers(0, 3, count), patients


def take(data, kept):
    return tuple(part[kept] for part in data)


def summed(data, plan=PLAN, *, module=None, augment=None):
    """S(D) of one step by the code that trains."""
    images, labels, patients = data
    sample = draw_sample(
        rows_by_patient(patients),
        secret=SECRET,
        step=0,
        sampling_prob=plan.sampling_prob,
        max_images=plan.max_images,
    )
    network = tiny() if module is None else module
    return clipped_sum(
        network, torch.from_numpy(images), torch.from_numpy(labels), sample, plan, augment
    )


def stepped(data, plan=PLAN, *, module=None, source=None, augment=None, secret=SECRET):
    """How far a round moves the flat weights."""
    images, labels, patients = data
    network = tiny() if module is None else module
    before = flatten(network_arrays(network))
    train_steps(
        network,
        torch.from_numpy(images),
        torch.from_numpy(labels),
        patients,
        plan,
        secret,
        source or secret_noise(),
        augment,
    )
    return flatten(network_arrays(network)) - before


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_p1_every_loss_and_mode_keeps_a_patient_within_the_clip(loss, mode):
    data, plan = cohort(scale=30.0), replace(PLAN, loss=loss, mode=mode)
    whole = summed(data, plan)
    moved = [
        np.linalg.norm(whole - summed(take(data, data[2] != gone), plan))
        for gone in np.unique(data[2])
    ]
    assert max(moved) <= CLIP * ROUNDING
    assert max(moved) > 0.9 * CLIP  # the clip is reached, so that the bound is no accident


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_p1_every_loss_looks_at_one_image_at_a_time(loss):
    logits = torch.randn((9, 4), generator=torch.Generator().manual_seed(0))
    targets = torch.arange(9) % 4
    whole = image_losses(LOSSES[loss], logits, targets)
    alone = [image_losses(LOSSES[loss], logits[[i]], targets[[i]]) for i in range(9)]
    assert torch.equal(whole, torch.cat(alone))


def test_p1_a_reduced_loss_is_refused():
    with pytest.raises(ConfigError, match="one value an image"):
        image_losses(F.cross_entropy, torch.zeros((5, 2)), torch.zeros(5, dtype=torch.int64))


@pytest.mark.parametrize("mode", MODES)
def test_p1_control_a_mean_weighted_by_the_batch_moves_more_than_ten_clips(mode):
    """One image of a rare class rescales 32 others, where they are in one pass with it."""
    weights = torch.tensor([1.0, 50.0])

    def coupled(logits, targets):
        own = weights[targets]
        return own * cross_entropy(logits, targets) * len(targets) / own.sum()

    inputs = torch.rand((33, 20), generator=torch.Generator().manual_seed(0))
    inputs /= inputs.norm(dim=1, keepdim=True)  # each gradient has the clip's norm, bias included
    targets = torch.tensor([1] + 32 * [0])

    def sum_of(rows, loss):
        layer = nn.Linear(20, 2)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        batch = PatientBatch(inputs[rows], targets[rows], torch.ones(len(rows), dtype=torch.int64))
        with clipped_gradients(layer, mode, loss, 1.0) as add_up:
            return add_up(batch)

    everybody, others = torch.arange(33), torch.arange(1, 33)
    distances = [
        np.linalg.norm(sum_of(everybody, loss) - sum_of(others, loss))
        for loss in (coupled, cross_entropy)
    ]
    assert distances[1] <= ROUNDING
    # One patient at a time, there is nobody to be coupled with: the mean is over one image.
    assert (distances[0] > 10) == (mode != "alone")


def frozen(layer):
    return layer.requires_grad_(False).eval()


@pytest.mark.parametrize(
    ("layer", "fix"),
    [
        (nn.BatchNorm2d(12), r"GroupNorm\(12, 12\)"),
        (nn.BatchNorm2d(64, affine=False), r"GroupNorm\(32, 64\)"),
        (nn.BatchNorm2d(7, track_running_stats=False), r"GroupNorm\(7, 7\)"),
        (frozen(nn.BatchNorm2d(3)), "GroupNorm"),
        (nn.SyncBatchNorm(3), "GroupNorm"),
        (nn.InstanceNorm2d(3, track_running_stats=True), "track_running_stats=False"),
        (nn.Dropout2d(0.1), "Remove it"),
    ],
    ids=str,
)
def test_p2_a_layer_is_refused_by_its_place_and_with_its_fix(layer, fix):
    with pytest.raises(UnsupportedModelError, match=rf"{type(layer).__name__}.*at 1\.0.*{fix}"):
        require_supported(nn.Sequential(tiny(), nn.Sequential(layer)))


class Remembering(nn.Module):
    """Keeps a mean of what it saw where no list of buffers shows it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(192, 3)
        self.mean = torch.zeros(192)

    def forward(self, images):
        flat = images.flatten(1)
        if not torch.isnan(flat).any():
            self.mean = 0.9 * self.mean + 0.1 * flat.detach().mean(dim=0)
        return self.layer(flat)


class Mixing(nn.Module):
    """Subtracts the mean of the batch, without a buffer or a name that tells."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(192, 3)

    def forward(self, images):
        flat = images.flatten(1)
        return self.layer(flat - flat.mean(dim=0))


@pytest.mark.parametrize("mode", MODES)
def test_p2_a_hidden_memory_is_found_after_the_pass(mode):
    with pytest.raises(UnsupportedModelError, match="changed a tensor"):
        summed(cohort(), replace(PLAN, mode=mode), module=Remembering())


def test_p2_a_network_that_mixes_by_itself_is_found_on_drawn_images():
    with pytest.raises(UnsupportedModelError, match="mixes"):
        require_isolated(Mixing(), (3, 8, 8))
    with pytest.raises(UnsupportedModelError, match="mixes"):
        stepped(cohort(), module=Mixing())
    require_isolated(tiny(), (3, 8, 8))


@pytest.mark.parametrize("mode", MODES)
def test_p2_frozen_weights_are_bit_identical_after_a_step(mode):
    network = tiny()
    network[0].requires_grad_(False)
    before = network[0].weight.clone()
    moved = stepped(cohort(), replace(PLAN, mode=mode), module=network)
    assert torch.equal(network[0].weight, before)
    assert moved.any()


def contributor(patients):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)[: len(patients)]
    labels = rng.integers(0, 2, 64)[: len(patients)]
    recipe = NetworkLearner(
        NetworkSettings(rounds=2, steps_per_round=3, expected_patients=10, sampling_prob=0.4),
        PrivacySettings(trust="none"),
        lambda: build_network("small_cnn", 2, Seeds(0).stream("weights")),
    )
    return recipe, recipe.contributor(Samples(images, labels, np.array(patients)))


def test_p3_a_patient_who_is_not_drawn_changes_not_one_bit():
    """Steps, sampling rate and divisor of N and of N + 1 patients are the same numbers."""
    names = [f"p{i}" for i in range(20)]
    secret = np.random.default_rng(7).bytes(32)

    def drawn(name):
        return any(
            draw_sample(
                {name: np.arange(1)}, secret=secret, step=step, sampling_prob=0.4, max_images=4
            )
            for step in range(3)
        )

    absent = next(name for name in (f"q{i}" for i in range(99)) if not drawn(name))
    present = next(name for name in (f"q{i}" for i in range(99)) if drawn(name))
    moved = []
    for more in ([], [absent], [present]):
        recipe, clinic = contributor(names + more)
        (release,) = recipe.rounds[0].releases
        moved.append(
            clinic.contribute(
                recipe.rounds[0], recipe.start(), Mechanism(0.0), np.random.default_rng(7)
            )["weights"]
        )
        assert (release.steps, release.sampling_prob) == (3, 0.4)
    assert np.array_equal(moved[0], moved[1])
    assert not np.array_equal(moved[0], moved[2])


class Stopped(Exception):
    """Somebody pulled the plug."""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("at", [0, 31, 33, 69])
def test_p4_a_step_that_was_broken_off_leaves_nothing_behind(mode, at):
    """Broken at each of three parts of a step, before, between and after their passes."""
    data = cohort(sizes=70 * (1,), scale=30.0)
    plan, network = replace(PLAN, mode=mode, augmentations=1), tiny()
    expected = stepped(data, plan, augment=lambda images, _: images)
    seen = []

    def break_off(images, _):
        seen.append(len(images))
        if len(seen) == at + 1:
            raise Stopped
        return images

    before = flatten(network_arrays(network))
    with pytest.raises(Stopped):
        stepped(data, plan, module=network, augment=break_off)
    assert np.array_equal(flatten(network_arrays(network)), before)
    assert not any(
        {"grad_sample", "_forward_counter"} & vars(p).keys() for p in network.parameters()
    )
    assert not any(p.grad is not None for p in network.parameters())
    again = stepped(data, plan, module=network, augment=lambda images, _: images)
    assert np.array_equal(again, expected)  # every patient once


def test_p4_noise_that_fails_leaves_the_weights_of_the_last_step():
    broken = replace(secret_noise(), words=lambda size: 1 / 0)
    network = tiny()
    before = flatten(network_arrays(network))
    with pytest.raises(ZeroDivisionError):
        stepped(cohort(), replace(PLAN, noise_multiplier=1.0), module=network, source=broken)
    assert np.array_equal(flatten(network_arrays(network)), before)


def test_p4_control_opacus_counts_an_abandoned_part_twice():
    """18 of 25 records, left in mid-batch, come in again: 1.72 times the sum."""
    inputs, targets = torch.rand((25, 4)), torch.zeros(25, dtype=torch.int64)

    def moved(break_first):
        layer = nn.Linear(4, 2, bias=False)
        nn.init.zeros_(layer.weight)
        network = GradSampleModule(layer, loss_reduction="sum")
        optimizer = DPOptimizer(
            torch.optim.SGD(network.parameters(), lr=1.0),
            noise_multiplier=0.0,
            max_grad_norm=1e-3,  # all records have the clip's norm and nearly one direction
            expected_batch_size=1,
            loss_reduction="sum",
        )

        def part(rows, *, last):
            optimizer.signal_skip_step(do_skip=not last)
            optimizer.zero_grad()
            scores = network(inputs[rows].requires_grad_())
            F.cross_entropy(scores, targets[rows], reduction="sum").backward()
            optimizer.step()

        if break_first:
            part(slice(0, 18), last=False)
        part(slice(0, 18), last=False)
        part(slice(18, 25), last=True)
        return layer.weight.detach().norm().item()

    assert moved(True) / moved(False) == pytest.approx(1.72, abs=0.05)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 0.0])
def test_p5_a_broken_image_stays_within_the_clip_and_breaks_nobody(mode, value):
    data, plan = cohort(), replace(PLAN, mode=mode)
    images = data[0].copy()
    images[3:9] = value  # of the third patient, whole images
    whole = summed((images, *data[1:]), plan)
    others = summed(take(data, data[2] != "p002"), plan)
    assert np.isfinite(whole).all()
    assert np.linalg.norm(whole - others) <= CLIP * ROUNDING
    if not np.isfinite(value):
        np.testing.assert_allclose(whole, others, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_p5_who_was_left_out_is_heard_once_a_step_and_nobody_else(mode):
    images, labels, patients = cohort(sizes=(1, 2, 6, 40, 3))  # more images than one batch
    images[[0, 4, 5, -1]] = np.nan  # one of p000, two of p002, one of p004
    steps, heard = 3, []
    train_steps(
        tiny(),
        torch.from_numpy(images),
        torch.from_numpy(labels),
        patients,
        replace(PLAN, mode=mode, steps=steps),
        SECRET,
        secret_noise(),
        left_out=lambda one: heard.append(patients[one.rows[0]]),
    )
    assert heard == ["p000", "p002", "p004"] * steps


@pytest.mark.parametrize("mode", MODES)
def test_p5_a_cohort_of_nothing_but_broken_images_adds_zeros(mode):
    data = cohort(sizes=(1, 3))
    plan = replace(PLAN, mode=mode)
    assert not summed((np.full_like(data[0], np.nan), *data[1:]), plan).any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("prob", [1e-12, 0.1, 1.0])
def test_p6_there_are_exactly_as_many_noisy_steps_as_planned(mode, prob):
    """Empty samples too: the stream of noise has moved by T draws, whoever was drawn."""
    used, expected = (fixed_noise(np.random.default_rng(5)) for _ in range(2))
    plan = replace(PLAN, steps=6, sampling_prob=prob, noise_multiplier=0.5, mode=mode)
    stepped(cohort(sizes=(1, 2, 1)), plan, source=used)
    for _ in range(6):
        expected.normal((flatten(network_arrays(tiny())).size,), 1.0)
    assert np.array_equal(used.normal((9,), 1.0), expected.normal((9,), 1.0))


@pytest.mark.parametrize(
    "loader",
    [
        {"shuffle": True},
        {"sampler": torch.utils.data.WeightedRandomSampler(torch.ones(9), 9)},
    ],
    ids=["shuffled", "weighted"],
)
def test_p6_a_loader_cannot_stand_in_for_the_sampler(loader):
    """In this design a step draws its own sample: there is nothing to hand a loader to."""
    images, labels, patients = cohort(sizes=(3, 6))
    loaded = torch.utils.data.DataLoader(torch.from_numpy(images), batch_size=3, **loader)
    with pytest.raises(ConfigError, match="Poisson sample of patients"):
        train_steps(
            tiny(), loaded, torch.from_numpy(labels), patients, PLAN, SECRET, secret_noise()
        )
    with pytest.raises(ConfigError, match="Poisson sample of patients"):
        train_steps(
            tiny(), torch.from_numpy(images), loaded, patients, PLAN, SECRET, secret_noise()
        )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("views", [0, 3])
def test_p9_any_number_of_images_and_views_moves_the_sum_by_at_most_the_clip(mode, views):
    """1, 2, 6 and 16 images."""
    data, plan = cohort(scale=30.0), replace(PLAN, mode=mode, augmentations=views)

    def flip(images, rng):
        return images.flip(3) if rng.random() < 0.5 else images

    whole = summed(data, plan, augment=flip)
    for gone in np.unique(data[2]):
        distance = np.linalg.norm(whole - summed(take(data, data[2] != gone), plan, augment=flip))
        assert 0 < distance <= CLIP * ROUNDING


@pytest.mark.parametrize("mode", MODES)
def test_p9_sixteen_copies_of_a_patients_images_change_nothing(mode):
    data = cohort(sizes=(1, 2, 3))
    copied = np.concatenate([np.arange(3), np.tile([3, 4, 5], 16)])
    plan = replace(PLAN, mode=mode)
    np.testing.assert_allclose(summed(take(data, copied), plan), summed(data, plan), atol=1e-6)


def test_p9_patients_sampled_and_clipped_once_cost_this_much():
    """Golden, whatever the number of images: q .02, T 1000, s 2, delta 1e-5."""
    assert epsilon([SampledGaussianEvent(2.0, 0.02, 1000)], 1e-5) == pytest.approx(1.33, abs=0.005)


@pytest.mark.parametrize("version", ["1.5.4", "0.15.0", "1.0"])
def test_p11_releases_that_undercharged_adaptive_clipping_are_refused(version):
    with pytest.raises(EnvironmentProblem, match=r"1\.6"):
        require_opacus(version)


@pytest.mark.parametrize("version", ["1.6.0", "1.10.1", "2.0.0a1", opacus.__version__])
def test_p11_later_releases_are_accepted(version):
    require_opacus(version)


@pytest.mark.parametrize("way", ["adaptive", "automatic", "per_layer"])
def test_p11_adaptive_clipping_is_refused_for_nobody_charges_it(way):
    with pytest.raises(ConfigError, match="no event of the ledger"):
        NetworkSettings(clipping=way)


@pytest.mark.parametrize("name", NETWORKS)
def test_p12_each_network_takes_the_same_bounded_step_in_each_mode(name):
    network = build_network(name, 3, Seeds(0).stream("weights"))
    images = torch.randn((2, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    sample = [Sampled(np.arange(2), 0)]
    plain = None
    for mode in reversed(MODES):
        plan = replace(PLAN, mode=mode)
        found = clipped_sum(network, images, torch.tensor([0, 1]), sample, plan)
        plain = found if plain is None else plain
        assert np.linalg.norm(plain) == pytest.approx(CLIP, rel=1e-4)
        assert np.linalg.norm(found - plain) <= 1e-5 * CLIP


@pytest.mark.parametrize(
    "size", [93, *(pytest.param(size, marks=pytest.mark.slow) for size in (99, 105))]
)
def test_p13_calibrated_executed_and_recorded_steps_agree(size, tmp_path):
    """int(1 / (1 / n)) is not n for these: an epoch at rate 1 / n would be a step short."""
    assert int(1 / (1 / size)) == size - 1
    settings = NetworkSettings(
        rounds=2, steps_per_round=size, sampling_prob=1 / size, expected_patients=10
    )

    def build():
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 2))

    recipe = NetworkLearner(settings, PrivacySettings(trust="local", epsilon=3.0), build)
    (release,) = recipe.rounds[0].releases
    calibrated = SampledGaussianEvent(release.noise_multiplier, 1 / size, 2 * size)
    assert 2.97 < epsilon([calibrated], 1e-5) <= 3.0

    images = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    clinic = recipe.contributor(Samples(images, np.zeros(3, int), np.array(["a", "b", "c"])))
    used, expected = (fixed_noise(np.random.default_rng(5)) for _ in range(2))
    clinic.contribute(
        recipe.rounds[0], recipe.start(), Mechanism(1.0, lambda: used), np.random.default_rng(0)
    )
    for _ in range(size):
        expected.normal(release.shape, 1.0)
    assert np.array_equal(used.normal((9,), 1.0), expected.normal((9,), 1.0))

    ledger = Ledger(tmp_path / "ledger.jsonl", "north", SECRET)
    binding = Binding("run", 1, 1, ("north",), "local", "patient_within_clinic", "k", True)
    for round_ in recipe.rounds:
        releases = [(r.name, r.purpose, r.split, r.event) for r in round_.releases]
        ledger.reserve(binding, releases, guarantee=True)
    assert sum(entry.event.count for entry in ledger.entries()) == 2 * size
