"""Networks whose first layers see few images at once compute what they did before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from skinml.models import portions
from skinml.models.backbones import load_backbone
from skinml.models.folding import behind, folded
from skinml.models.onednn import OneDnnConv2d
from skinml.models.portions import in_portions
from skinml.models.settings import ModelSettings

SIZE = 64


@pytest.fixture
def small_caches(monkeypatch):
    """Bounds at which a picture of 64 pixels is large: two at once in the first layers."""
    monkeypatch.setattr(portions, "_LARGE_BYTES", 2**16)
    monkeypatch.setattr(portions, "_PORTION_BYTES", 2**19)


def drawn(network):
    generator = torch.Generator().manual_seed(0)
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, generator=generator)
    return behind(Halved(), folded(network.eval().requires_grad_(False), SIZE))


class Halved(nn.Module):
    """A scaling of pixels."""

    def forward(self, images):
        return images.float() / 128 - 1


def results(network, images):
    with torch.inference_mode():
        return network(images.contiguous(memory_format=torch.channels_last))


def depthwise():
    """A network whose first results are large, of channels convolved alone."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 1),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),  # 256 KiB
        nn.ReLU6(),
        nn.Conv2d(16, 4, 4, stride=4),  # 4 KiB
        nn.Conv2d(4, 1, 1),  # 1 KiB
        nn.Conv2d(1, 8, 1),  # 8 KiB
        nn.Flatten(),
    )


def images_of(count):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)


def num_layers(network, kind):
    return sum(isinstance(part, kind) for part in network.modules())


def sizes_seen(network, images):
    """Tell how many images each of two parts sees at each call."""
    seen = {"first": [], "rest": []}
    for name, sizes in seen.items():
        network.get_submodule(name).register_forward_hook(
            lambda _, inputs, __, sizes=sizes: sizes.append(len(inputs[0]))
        )
    results(network, images)
    return seen


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.usefixtures("small_caches")
def test_networks_in_portions_keep_their_function(name, count):
    network = drawn(models.get_model(name, weights=None))
    other = in_portions(network, SIZE)
    expected, got = results(network, images_of(count)), results(other, images_of(count))
    torch.testing.assert_close(got, expected, rtol=0, atol=float(expected.abs().max()) * 1e-5)
    assert num_layers(other, nn.Conv2d) == 0
    assert num_layers(network, OneDnnConv2d) < num_layers(other, OneDnnConv2d)


@pytest.mark.usefixtures("small_caches")
def test_first_layers_see_portions_of_one_size_and_the_others_the_whole_batch():
    seen = sizes_seen(in_portions(drawn(depthwise()), SIZE), images_of(5))
    assert seen == {"first": [2, 2, 2], "rest": [5]}


@pytest.mark.usefixtures("small_caches")
def test_where_results_are_small_is_a_bottleneck_behind_the_last_large_one():
    other = in_portions(drawn(depthwise()), SIZE)
    assert [num_layers(part, OneDnnConv2d) for part in (other.first, other.rest)] == [4, 1]


class ReadAtTheEnd(nn.Module):
    """A network that needs its first result until the last: it cannot be cut."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1, groups=16)

    def forward(self, images):
        first = self.first(images)
        second = self.second(first)
        return second.mean((2, 3)) + first.mean((2, 3))


@pytest.mark.usefixtures("small_caches")
@pytest.mark.parametrize(
    ("network", "count"),
    [
        (ReadAtTheEnd(), 2),
        (nn.Sequential(nn.Conv2d(3, 3, 1, groups=3), nn.AvgPool2d(2), nn.Conv2d(3, 2, 1)), 2),
        (nn.Sequential(nn.Conv2d(3, 32, 1), nn.AvgPool2d(32), nn.Conv2d(32, 2, 1)), 2),
    ],
    ids=["cannot be cut", "small results", "channels together"],
)
def test_other_networks_go_whole_their_weights_packed(network, count):
    whole = drawn(network)
    other = in_portions(whole, SIZE)
    assert not hasattr(other, "rest")
    assert num_layers(other, OneDnnConv2d) == count
    torch.testing.assert_close(results(other, images_of(3)), results(whole, images_of(3)))


def refuses(layer, shape):
    raise RuntimeError("unsupported")


def is_missing(layer, shape):
    return torch.ops.mkldnn.no_such_operator


def does_something_else(layer, shape):
    return nn.Conv2d(layer.weight.shape[1], layer.weight.shape[0], 1)


@pytest.mark.parametrize("instead", [refuses, is_missing, does_something_else])
@pytest.mark.usefixtures("small_caches")
def test_where_weights_cannot_be_packed_layers_stay_plain_and_portions_small(monkeypatch, instead):
    network = drawn(depthwise())
    monkeypatch.setattr(portions, "packed", instead)
    other = in_portions(network, SIZE)
    assert num_layers(other, nn.Conv2d) == num_layers(network, nn.Conv2d) == 4
    assert sizes_seen(other, images_of(4)) == {"first": [2, 2], "rest": [4]}
    torch.testing.assert_close(results(other, images_of(3)), results(network, images_of(3)))


class ReadsTheFirst(nn.Module):
    """A layer that looks at the first picture, too: no portion can do that."""

    def forward(self, grids):
        return grids + grids[:1]


@pytest.mark.usefixtures("small_caches")
def test_a_network_that_mixes_its_images_stays_as_it_is():
    whole = drawn(nn.Sequential(ReadsTheFirst(), depthwise()))
    assert in_portions(whole, SIZE) is whole


def test_a_network_that_was_not_folded_stays_as_it_is():
    network = nn.Sequential(nn.Conv2d(3, 1, 1))
    assert in_portions(network, SIZE) is network


@pytest.fixture(scope="module", params=["float32", "auto"])
def lite(request):
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra pretrained is missing")
    return load_backbone(ModelSettings(precision=request.param))


@pytest.mark.parametrize("count", [5, 16])
def test_an_images_features_depend_on_its_place_and_neighbours_in_no_bit(lite, count):
    generator = torch.Generator().manual_seed(count)
    size = lite.image_size
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    features = lite.extract(images)
    order = torch.randperm(count, generator=generator)
    assert np.array_equal(lite.extract(images[order]), features[order.numpy()])
    other = images.clone()
    other[1:] = 255 - other[1:]
    assert np.array_equal(lite.extract(other)[0], features[0])


def test_lite0_is_cut_where_its_results_are_small(lite):
    assert lite.module.num_images == 2
    assert num_layers(lite.module.first, OneDnnConv2d) == 12
    assert num_layers(lite.module.rest, OneDnnConv2d) == 37
