"""Networks in two precisions: which layers round, how far features move, where that is shipped."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from skinml.errors import EnvironmentProblem
from skinml.models import backbones, mixing
from skinml.models.backbones import load_backbone
from skinml.models.folding import folded
from skinml.models.mixing import mixed
from skinml.models.onednn import OneDnnConv2d
from skinml.models.settings import ModelSettings

SIZE = 64
# Residual branches of EfficientNet-Lite0 on grids of an eighth of the image and less.
LATE_BRANCHES = (4, 6, 7, 9, 10, 12, 13, 14)


def pixels_of(count, size=SIZE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def computes_bfloat16():
    images = torch.ones((1, 1, 3, 3), dtype=torch.bfloat16)
    layer = OneDnnConv2d(nn.Conv2d(1, 1, 3)).to(torch.bfloat16).requires_grad_(False)
    try:
        return layer(images).shape == (1, 1, 1, 1)
    except (AttributeError, RuntimeError):
        return False


needs_bfloat16 = pytest.mark.skipif(
    not computes_bfloat16(), reason="this processor does not convolve in bfloat16"
)


@pytest.fixture(scope="module")
def lite():
    """EfficientNet-Lite0 by precision, at a small size."""
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra pretrained is missing")
    return {
        precision: load_backbone(ModelSettings(image_size=SIZE, precision=precision))
        for precision in ("float32", "mixed", "bfloat16")
    }


def rounded(network):
    """Name the layers that compute in bfloat16."""
    return [
        name
        for name, part in network.named_modules()
        if isinstance(part, nn.Conv2d | OneDnnConv2d) and part.weight.dtype == torch.bfloat16
    ]


@needs_bfloat16
@pytest.mark.parametrize("image_size", [SIZE, 100, 224, 320])
def test_of_lite0_late_branches_and_the_last_convolution_round_at_any_size(image_size):
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra pretrained is missing")
    backbone = load_backbone(ModelSettings(image_size=image_size, precision="mixed"))
    names = rounded(backbone.module)
    blocks = {int(name.split("blocks_")[1].split("__")[0]) for name in names if "blocks_" in name}
    assert blocks == set(LATE_BRANCHES)
    assert len(names) == 3 * len(LATE_BRANCHES) + 1


@needs_bfloat16
def test_lite0s_features_move_less_than_half_as_far_as_in_bfloat16_whole(lite):
    images = pixels_of(8)
    exact, both, half = (lite[name].extract(images) for name in ("float32", "mixed", "bfloat16"))
    moved, moved_half = (np.linalg.norm(each - exact) for each in (both, half))
    assert 0 < moved < 0.03 * np.linalg.norm(exact)
    assert moved < 0.5 * moved_half
    assert both.dtype == np.float32
    assert lite["mixed"].version == lite["float32"].version


@needs_bfloat16
@pytest.mark.parametrize("count", [1, 2, 3, 7, 16])
def test_an_images_features_are_the_same_to_the_bit_beside_any_others(lite, count):
    images = pixels_of(16)
    expected = lite["mixed"].extract(images)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(count))[:count]
    assert np.array_equal(lite["mixed"].extract(images[order]), expected[order.numpy()])


@needs_bfloat16
def test_pictures_stay_as_they_are(lite):
    images = pixels_of(3)
    kept = images.clone()
    lite["mixed"].extract(images)
    assert torch.equal(images, kept)


class Branched(nn.Module):
    """A stream on a small grid, and what is added to it."""

    def __init__(self, add):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 8, stride=8)
        self.one, self.two = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 3, padding=1)
        self.early = nn.Conv2d(8, 8, 1)
        self.add = add

    def forward(self, images):
        return self.add(self, self.stem(images.float())).relu().mean(dim=(2, 3))


def plain(network, stream):
    return stream + network.two(network.one(stream))


def read_twice(network, stream):
    inner = network.one(stream)
    return stream + network.two(inner) + inner[:, :8]


def made_new(network, stream):
    return network.early(stream) + network.two(network.one(stream))


def around(network, stream):
    return stream + network.two(network.one(stream).tanh())


SUMS = {"plain": (plain, 2), "twice": (read_twice, 0), "new": (made_new, 0), "tanh": (around, 0)}


@needs_bfloat16
@pytest.mark.parametrize("what", SUMS)
def test_only_a_branch_of_convolutions_that_nobody_else_reads_rounds(what):
    add, count = SUMS[what]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = folded(Branched(add).eval(), SIZE)
    found = mixed(network, SIZE)
    assert len(rounded(found)) == count
    assert (found is network) == (count == 0)
    with torch.inference_mode():
        expected, got = network(pixels_of(2)), found(pixels_of(2))
    assert got.dtype == torch.float32
    assert (got - expected).abs().max() <= 0.05 * expected.abs().max()


@needs_bfloat16
def test_a_branch_on_a_larger_grid_stays_in_single_precision():
    network = folded(Branched(plain).eval(), SIZE)
    assert mixed(network, SIZE) is not network  # its grids are an eighth of that
    assert mixed(network, SIZE // 2) is network


@needs_bfloat16
def test_the_given_network_stays_as_it_is():
    network = folded(Branched(plain).eval(), SIZE)
    expected = network(pixels_of(2))
    assert mixed(network, SIZE) is not network
    assert rounded(network) == []
    assert torch.equal(network(pixels_of(2)), expected)


@pytest.mark.parametrize(("has_matrices", "precision"), [(True, "mixed"), (False, "float32")])
def test_auto_is_mixed_where_processors_multiply_bfloat16(monkeypatch, has_matrices, precision):
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra pretrained is missing")
    if has_matrices and not computes_bfloat16():
        pytest.skip("this processor does not convolve in bfloat16")
    monkeypatch.setattr(backbones, "multiplies_bfloat16", lambda: has_matrices)
    found = load_backbone(ModelSettings())
    asked = load_backbone(ModelSettings(precision=precision))
    assert found.precision == asked.precision == precision
    images = pixels_of(2, 224)
    assert np.array_equal(found.extract(images), asked.extract(images))
    assert load_backbone(ModelSettings(image_size=SIZE)).precision == "float32"  # not measured


def test_auto_is_single_precision_where_trial_images_differ(monkeypatch):
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra pretrained is missing")
    monkeypatch.setattr(backbones, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(mixing, "agree", lambda *_: False)
    assert load_backbone(ModelSettings()).precision == "float32"
    with pytest.raises(EnvironmentProblem, match="precision=mixed"):
        load_backbone(ModelSettings(image_size=SIZE, precision="mixed"))


def test_other_backbones_are_never_mixed_unasked_nor_asked(tmp_path, monkeypatch):
    from torchvision import models

    monkeypatch.setattr(backbones, "multiplies_bfloat16", lambda: True)
    with torch.random.fork_rng():
        network = models.get_model("shufflenet_v2_x0_5", weights=None)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    words = {
        "backbone": "torchvision/shufflenet_v2_x0_5",
        "weights": str(tmp_path / "weights.pth"),
        "image_size": SIZE,
    }
    assert load_backbone(ModelSettings(**words)).precision == "float32"
    with pytest.raises(ValidationError, match="measured for efficientnet_lite0 only"):
        ModelSettings(**words, precision="mixed")


TRIED = """
from skinml.errors import EnvironmentProblem
from skinml.models.backbones import load_backbone
from skinml.models.settings import ModelSettings
for precision in ("mixed", "bfloat16"):
    try:
        load_backbone(ModelSettings(image_size=64, precision=precision))
    except EnvironmentProblem as error:
        print(error)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="oneDNN's limit is about x86")
def test_a_processor_that_cannot_says_so_in_one_line():
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra pretrained is missing")
    done = subprocess.run(
        [sys.executable, "-c", TRIED],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert ["precision=mixed" in lines[0], "precision=bfloat16" in lines[1]] == [True, True]
    assert all("Set model.precision to auto." in line for line in lines)
    assert len(lines) == 2
    assert done.stderr == ""
