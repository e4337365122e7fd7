"""One backward pass: norms and sums of patients' gradients against plain double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from skinml.errors import UnsupportedModelError
from skinml.models.networks import build_network
from skinml.privacy.bookkeeping import Members, recorder
from skinml.privacy.gradient_modes import PatientBatch, clipped_gradients
from skinml.privacy.losses import cross_entropy
from skinml.privacy.remembered_modes import cache_folder, mode_key, remembered_mode
from skinml.seeding import Seeds

SIZES = (1, 3, 1, 2)


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def convolutions():
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, stride=2, padding=3),
        nn.GroupNorm(4, 8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, bias=False),
        nn.Conv2d(8, 12, 3, padding=1, groups=2),
        nn.GroupNorm(3, 12),
        nn.ReLU(),
        nn.Conv2d(12, 96, 3, stride=4, padding=1),  # few places, many numbers: by Gram matrices
        nn.ReLU(),
        nn.Conv2d(96, 64, 1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


def batch(sizes=SIZES, px=12):
    count = sum(sizes)
    drawn = torch.randn((count, 3, px, px), generator=torch.Generator().manual_seed(1))
    return PatientBatch(drawn, torch.arange(count) % 3, torch.tensor(sizes))


def gradients(module, given):
    """Each patient's gradient by plain autograd in double precision, by parameter."""
    doubled = module.double()
    found = []
    for number in range(len(given.sizes)):
        rows = given.position == number
        value = cross_entropy(doubled(given.inputs[rows].double()), given.targets[rows]).mean()
        found.append(torch.autograd.grad(value, list(doubled.parameters())))
    return found


@pytest.mark.parametrize("kept", [0, 3000, 2**26])
@pytest.mark.parametrize("sizes", [SIZES, (1, 1, 1), (2, 2)])
def test_norms_and_sums_are_those_of_plain_double_precision(sizes, kept):
    given, module = batch(sizes), seeded(convolutions)
    exact = gradients(seeded(convolutions), given)
    factors = torch.linspace(1.0, 0.3, len(sizes), dtype=torch.float64)
    with recorder(module, kept) as heard:
        shown = heard.backward(lambda: given.losses(module, cross_entropy), given.members)
        squares, sums = shown.squares(), shown.weighed(factors)
    for number, own in enumerate(exact):
        norm = sum(float(part.square().sum()) for part in own)
        assert squares[number].item() == pytest.approx(norm, rel=1e-5)
    for place, parameter in enumerate(module.parameters()):
        expected = sum(factors[n] * own[place] for n, own in enumerate(exact))
        scale = float(expected.abs().max())
        np.testing.assert_allclose(sums[parameter], expected, atol=1e-5 * scale)


def test_a_frozen_layer_has_no_part_in_norms_or_sums():
    given, module = batch(), seeded(convolutions)
    for parameter in module[0].parameters():
        parameter.requires_grad_(False)
    with recorder(module) as heard:
        shown = heard.backward(lambda: given.losses(module, cross_entropy), given.members)
        squares, sums = shown.squares(), shown.weighed(torch.ones(len(SIZES), dtype=torch.float64))
    assert set(sums) == {p for p in module.parameters() if p.requires_grad}
    exact = gradients(seeded(convolutions), given)
    norm = sum(float(part.square().sum()) for part in exact[1][2:])
    assert squares[1].item() == pytest.approx(norm, rel=1e-5)


def test_a_patient_that_is_not_finite_adds_zeros_and_changes_nobody():
    given, module = batch(), build_network("small_cnn", 3, Seeds(0).stream("weights"))
    rows = given.position == 1
    broken = PatientBatch(given.inputs.clone(), given.targets, given.sizes)
    broken.inputs[rows] = torch.nan
    told = []
    with clipped_gradients(module, "bookkeeping", cross_entropy, 0.5, told=told.append) as summed:
        found = summed(broken)
        others = summed(given.kept(torch.tensor([True, False, True, True])))
        nobody = summed(broken.kept(torch.tensor([False, True, False, False])))
    assert told[0].tolist() == [True, False, True, True]
    assert np.linalg.norm(found - others) <= 1e-6 * np.linalg.norm(others)
    assert not nobody.any()


class Odd(nn.Module):
    """A network that does one thing that is refused."""

    def __init__(self, what):
        super().__init__()
        self.what = what
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        if what == "shared":
            self.second.weight = self.first.weight
        if what == "unknown":
            self.norm = nn.LayerNorm(4)

    def forward(self, inputs):
        if self.what == "dimensions":
            return self.first(inputs[:, None])[:, 0]
        hidden = self.first(inputs)
        if self.what == "in place":
            hidden += 1
        if self.what == "input in place":
            kept = torch.relu(hidden)
            out = self.second(kept)
            kept += 1
            return out
        return self.first(hidden) if self.what == "twice" else self.second(hidden)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("shared", "shares one"),
        ("unknown", "LayerNorm"),
        ("dimensions", "3 dimensions"),
        ("in place", "in place"),
        ("input in place", "in place"),
        ("twice", "used twice"),
    ],
)
def test_what_one_pass_cannot_tell_apart_is_refused(what, words):
    members = Members(torch.ones(5, dtype=torch.int64), torch.arange(5))
    module = seeded(lambda: Odd(what))
    with pytest.raises(UnsupportedModelError, match=words), recorder(module) as heard:
        heard.backward(lambda: module(torch.ones(5, 4)).sum(dim=1), members)


class Counted:
    """Finds a mode and counts how often it was asked."""

    def __init__(self, mode):
        self.mode, self.times = mode, 0

    def __call__(self, module, image_shape, loss, images):
        self.times += 1
        return self.mode


def asked(folder, find, shape=(3, 8, 8), module=None, images=1):
    module = module or nn.Linear(2, 2)
    return remembered_mode(module, shape, "cross_entropy", images, folder=folder, find=find)


def test_a_mode_is_found_once_for_each_network_shape_and_number_of_images(tmp_path):
    find, folder = Counted("ghost"), tmp_path / "cache"
    assert [asked(folder, find) for _ in range(3)] == ["ghost"] * 3
    assert find.times == 1
    others = ({"shape": (3, 9, 8)}, {"module": nn.Linear(2, 3)}, {"images": 2})
    for number, other in enumerate(others, start=2):
        asked(folder, find, **other)
        asked(folder, find, **other)
        assert find.times == number
    assert (
        mode_key(nn.Linear(2, 2), (3, 8, 8), "focal", 1)
        not in (tmp_path / "cache" / "gradient-modes.json").read_text()
    )


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b'{"x": 1}', b"[" * 100_000])
def test_a_damaged_file_is_as_good_as_none(tmp_path, content):
    (tmp_path / "gradient-modes.json").write_bytes(content)
    find = Counted("hooks")
    assert asked(tmp_path, find) == asked(tmp_path, find) == "hooks"
    assert find.times == 1


def test_a_mode_that_there_is_not_is_not_believed(tmp_path):
    asked(tmp_path, Counted("anything"))
    find = Counted("hooks")
    assert asked(tmp_path, find) == "hooks"
    assert find.times == 1


def test_without_a_folder_to_write_to_modes_are_tried_each_time(tmp_path):
    place = tmp_path / "file"
    place.write_text("")
    find = Counted("hooks")
    assert asked(place / "cache", find) == asked(place / "cache", find) == "hooks"
    assert find.times == 2


def test_the_cache_is_the_users_own():
    found = cache_folder()
    assert found is None or (found.is_absolute() and found.name == "skinml")
