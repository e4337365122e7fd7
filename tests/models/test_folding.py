"""Folded networks compute what the networks do that they were made from."""

from __future__ import annotations

import copy
import operator

import numpy as np
import pytest
import torch
from torch import fx, nn
from torchvision import models

from skinml.models import folding, onednn
from skinml.models.backbones import load_backbone
from skinml.models.folding import behind, folded
from skinml.models.onednn import OneDnnConv2d
from skinml.models.settings import ModelSettings

SIZE = 64


def with_drawn_statistics(network):
    """Give batch normalisations the statistics and weights of a trained network, drawn."""
    generator = torch.Generator().manual_seed(0)
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, generator=generator)
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(part.bias, 0, 0.5, generator=generator)
            nn.init.normal_(part.running_mean, 0, 0.5, generator=generator)
            nn.init.uniform_(part.running_var, 0.5, 2, generator=generator)
    return network.eval().requires_grad_(False)


def results(network, images):
    with torch.inference_mode():
        return network(images.contiguous(memory_format=torch.channels_last))


def images_of(count, size=SIZE):
    return torch.randn((count, 3, size, size), generator=torch.Generator().manual_seed(1))


def num_layers(network, kind):
    return sum(isinstance(part, kind) for part in network.modules())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_torchvisions_networks_keep_their_function_and_lose_their_normalisations(name):
    network = with_drawn_statistics(models.get_model(name, weights=None))
    before = copy.deepcopy(network.state_dict())
    other = folded(network, SIZE)
    expected, got = results(network, images_of(2)), results(other, images_of(2))
    torch.testing.assert_close(got, expected, rtol=0, atol=float(expected.abs().max()) * 1e-5)
    assert num_layers(network, nn.BatchNorm2d) > num_layers(other, nn.BatchNorm2d) == 0
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


class UnevenlyPadded(nn.Module):
    """TensorFlow's padding of a stride of two, as Lite0 has it."""

    def __init__(self, kernel, groups, end):
        super().__init__()
        self.padding = nn.ZeroPad2d((kernel // 2 - 1, kernel // 2, kernel // 2 - 1, kernel // 2))
        self.conv = nn.Conv2d(6, 6, kernel, stride=2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.first = nn.Conv2d(3, 6, (1, 3), padding=(0, 1))
        self.end = end

    def forward(self, images):
        return self.end(self.norm(self.conv(self.padding(self.first(images)))).relu())


@pytest.mark.parametrize(("kernel", "groups"), [(3, 6), (5, 6), (3, 1), (5, 2)])
@pytest.mark.parametrize(
    ("end", "num_paddings"), [(nn.AdaptiveAvgPool2d(1), 0), (nn.Flatten(), 1)], ids=["mean", "grid"]
)
def test_uneven_padding_goes_into_convolutions_where_no_place_is_told(
    kernel, groups, end, num_paddings
):
    network = with_drawn_statistics(UnevenlyPadded(kernel, groups, end))
    other = folded(network, SIZE)
    torch.testing.assert_close(
        results(other, images_of(2)), results(network, images_of(2)), rtol=1e-5, atol=1e-5
    )
    assert num_layers(other, nn.ZeroPad2d) == num_paddings
    assert num_layers(other, nn.BatchNorm2d) == 0


@pytest.mark.parametrize("padding", [(0, 2, 0, 2), (2, 0, 2, 0), (0, 1, 1, 0)])
def test_a_padding_that_no_convolution_has_stays(padding):
    network = nn.Sequential(
        nn.ZeroPad2d(padding), nn.Conv2d(3, 4, 3, stride=2), nn.AdaptiveAvgPool2d(1)
    )
    other = folded(network.eval(), SIZE)
    torch.testing.assert_close(results(other, images_of(2)), results(network, images_of(2)))
    assert num_layers(other, nn.ZeroPad2d) == 1


LARGEST = nn.AdaptiveMaxPool2d(1)


@pytest.mark.parametrize("size", [SIZE, SIZE + 1])
@pytest.mark.parametrize("padding", [(0, 1, 0, 1), (1, 0, 1, 0), (1, 1, 1, 1), (2, 1, 1, 0)])
@pytest.mark.parametrize("end", [nn.AdaptiveAvgPool2d(1), LARGEST], ids=["mean", "largest"])
def test_no_padding_makes_a_grid_larger(size, padding, end):
    # A trial on noise would not see a row more under a maximum; a ramp shows it.
    network = nn.Sequential(nn.ZeroPad2d(padding), nn.Conv2d(3, 8, 3, stride=2), end)
    network = with_drawn_statistics(network)
    ramp = torch.linspace(-3, 3, size).expand(1, 3, size, size)
    other = folded(network, size)
    for images in (ramp, -ramp, ramp.mT, -ramp.mT):
        torch.testing.assert_close(results(other, images), results(network, images))


class TellsPlaces(nn.Module):
    """Strong features of no place beside weak ones of a place, which a trial hardly sees."""

    def __init__(self):
        super().__init__()
        self.padding, self.conv = nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, stride=2)

    def forward(self, images):
        grid = self.conv(self.padding(images)).relu()
        weights = torch.linspace(-1, 1, SIZE // 2).view(1, 1, -1, 1) / 1e4
        return torch.cat([grid.mean((2, 3)), (grid * weights).mean((2, 3))], 1)


@pytest.mark.parametrize(
    "make",
    [
        TellsPlaces,
        lambda: nn.Sequential(
            nn.ZeroPad2d((0, 1, 0, 1)),
            nn.Conv2d(3, 8, 3, stride=2),
            nn.Conv2d(8, 8, 4, padding="same"),
            nn.AdaptiveAvgPool2d(1),
        ),
        lambda: nn.Sequential(
            nn.ZeroPad2d((0, 1, 0, 1)),
            nn.Conv2d(3, 8, 3, stride=2),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.AdaptiveAvgPool2d(1),
        ),
        lambda: nn.Sequential(
            nn.ZeroPad2d((0, 1, 0, 1)),
            nn.Conv2d(3, 8, 3, stride=2),
            nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
            nn.AdaptiveAvgPool2d(1),
        ),
    ],
    ids=["weights of places", "even kernel", "stride short of the end", "reflected"],
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_a_network_that_tells_places_is_not_turned(make):
    network = with_drawn_statistics(make())
    other = folded(network, SIZE)
    assert not any(each.target == "flip" for each in other.graph.nodes)
    ramp = torch.linspace(-3, 3, SIZE).expand(1, 3, SIZE, SIZE)
    for images in (ramp, ramp.mT):
        torch.testing.assert_close(results(other, images), results(network, images))


class ReadsEarly(nn.Module):
    """Convolutions of one value, of which one is added to it and the other is used later."""

    def __init__(self, last):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.blur = nn.Conv2d(3, 8, 15, padding=7)
        self.act, self.last = nn.ReLU(), last

    def forward(self, images):
        onto = self.one(images)
        early = self.two(onto)
        summed = onto + self.blur(images)
        return self.last(self, early, images).mean((2, 3)) + summed.mean((2, 3))


@pytest.mark.parametrize(
    "last",
    [lambda own, early, _: own.act(early), lambda own, early, images: early + own.one(images)],
    ids=["activation", "sum"],
)
def test_a_convolution_reads_its_input_before_anything_is_added_to_that(last):
    network = with_drawn_statistics(ReadsEarly(last))
    images = torch.full((2, 3, SIZE, SIZE), 2.0)
    torch.testing.assert_close(results(folded(network, SIZE), images), results(network, images))


class ByName(nn.Module):
    """Layers that are called by their argument's name."""

    def __init__(self):
        super().__init__()
        self.padding, self.norm = nn.ZeroPad2d((0, 1, 0, 1)), nn.BatchNorm2d(3)
        self.one, self.two = nn.Conv2d(3, 3, 3, stride=2), nn.Conv2d(3, 3, 1)
        self.act = nn.ReLU6()

    def forward(self, images):
        grid = self.one(input=self.padding(input=images))
        return (self.act(input=self.norm(input=self.two(input=grid))) + grid).mean((2, 3))


class AddsOneImages(nn.Module):
    """A sum with something that is the same for all images."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.same = nn.Parameter(torch.ones(1, 3, SIZE, SIZE))

    def forward(self, images):
        return self.one(images) + self.two(self.same)


@pytest.mark.parametrize("make", [ByName, AddsOneImages])
def test_unusual_calls_keep_their_results(make):
    network = with_drawn_statistics(make())
    for count in (1, 2, 3):
        got = results(folded(network, SIZE), images_of(count))
        torch.testing.assert_close(got, results(network, images_of(count)))


class Scaled(nn.Module):
    """Each colour by its own divisor."""

    def forward(self, images):
        return images.float() / torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1)


class Turned(nn.Module):
    """A network that turns something by itself first."""

    def __init__(self, dims):
        super().__init__()
        self.dims = dims
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images):
        return self.conv(images.flip(self.dims))


class TurnedToo(nn.Module):
    """A network that sees its images both ways."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images):
        turned = images.flip((2, 3))
        return self.conv(turned) + self.conv(images)


class NamedAlike(nn.Module):
    """A network with a layer whose name was to be another's."""

    def __init__(self):
        super().__init__()
        self.scaling_0 = nn.AvgPool2d(2)

    def forward(self, images):
        return self.scaling_0(images)


@pytest.mark.parametrize(
    "make",
    [
        lambda: UnevenlyPadded(3, 6, nn.AdaptiveAvgPool2d(1)),
        lambda: Turned((2, 3)),
        lambda: Turned((1, 2)),
        lambda: TurnedToo(),
        lambda: NamedAlike(),
        lambda: nn.Conv2d(3, 4, 1),
        lambda: Choosy(),
    ],
    ids=["turned", "turns", "turns colours", "both ways", "a name", "not turned", "not folded"],
)
def test_pixels_are_scaled_before_anything_that_tells_their_colours_apart(make):
    network = with_drawn_statistics(make())
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    expected = results(network, Scaled()(pixels))
    got = results(behind(Scaled(), folded(network, SIZE)), pixels)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)


class TwoReaders(nn.Module):
    """A convolution's result that is read behind its normalisation and activation, too."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.relu = nn.ReLU()

    def forward(self, images):
        raw = self.conv(images)
        return self.relu(raw) + self.norm(raw) + raw + images


def test_what_is_read_twice_is_neither_folded_nor_written_over():
    network = with_drawn_statistics(TwoReaders())
    images = images_of(2)
    kept = images.clone()
    other = folded(network, SIZE)
    torch.testing.assert_close(results(other, images), results(network, images))
    assert torch.equal(images, kept)
    assert num_layers(other, nn.BatchNorm2d) == 1


class Choosy(nn.Module):
    """A network whose way depends on its values: it cannot be followed ahead."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, images):
        values = self.conv(images)
        return values if values.sum() > 0 else -values


class Random(nn.Module):
    """A network that never answers the same: no trial can show that folding kept its function."""

    def forward(self, images):
        return images * torch.rand(())


@pytest.mark.parametrize("make", [Choosy, Random])
def test_a_network_that_cannot_be_followed_or_tried_stays_as_it_is(make):
    network = make().eval()
    with torch.random.fork_rng():
        assert folded(network, SIZE) is network


@pytest.fixture(scope="module")
def lite():
    """EfficientNet-Lite0 by precision, at a small size."""
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra pretrained is missing")
    return {
        precision: load_backbone(ModelSettings(image_size=SIZE, precision=precision))
        for precision in ("reference", "float32", "bfloat16")
    }


def test_lite0_is_folded_whole(lite):
    module = lite["float32"].module
    assert num_layers(lite["reference"].module, nn.BatchNorm2d) == 49
    assert num_layers(module, nn.BatchNorm2d) == 0
    assert num_layers(module, nn.ZeroPad2d) == 0


def test_lite0s_activations_are_within_its_convolutions(lite):
    module = lite["float32"].module
    assert num_layers(module, nn.ReLU6) == 0
    assert num_layers(module, OneDnnConv2d) == 49  # 16 of which project, with none behind them
    assert num_layers(module, nn.Conv2d) == 0
    graph = module.graph if isinstance(module, fx.GraphModule) else module.rest.graph
    assert not any(each.op == "call_function" and "add" in str(each.target) for each in graph.nodes)


@pytest.mark.parametrize("activation", onednn.WITHIN)
def test_an_activation_within_a_convolution_is_the_one_behind_it(activation):
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), activation(), nn.Flatten())
    other = folded(network, SIZE)
    assert num_layers(other, OneDnnConv2d) == 1
    images = 3 * images_of(2)
    torch.testing.assert_close(results(other, images), results(network, images))


class Adding(nn.Module):
    """Two convolutions whose results are added, and whatever reads the first one's as well."""

    def __init__(self, read):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.read = read

    def forward(self, images):
        onto = self.one(images)
        return self.read(self.two(onto), onto)


READINGS = {
    "neither": (lambda result, onto: onto + result, 1),
    "other order": (lambda result, onto: result + onto, 1),
    "in place": (operator.iadd, 1),
    "one later": (lambda result, onto: (onto + result) * onto, 0),
    "a view": (lambda result, onto: onto.flatten(2)[:, :2, :4] + (onto + result).sum(), 0),
    "twice": (lambda result, onto: onto + result + onto, 0),
    "a number": (lambda result, onto: result + 1, 0),
    "itself": (lambda result, onto: result + result, 0),
}


@pytest.mark.parametrize("reading", READINGS)
def test_a_convolution_adds_to_what_nobody_reads_later(reading):
    read, num_added = READINGS[reading]
    network = Adding(read).eval().requires_grad_(False)
    other = folded(network, SIZE)
    nodes = [each for each in other.graph.nodes if each.op == "call_module" and len(each.args) > 1]
    assert len(nodes) == num_added
    images = images_of(2)
    kept = images.clone()
    torch.testing.assert_close(results(other, images), results(network, images))
    torch.testing.assert_close(results(other, images), results(network, images))
    assert torch.equal(images, kept)


@pytest.mark.parametrize("name", ["no such activation", "tanh"])
def test_where_there_is_no_such_operator_or_it_does_something_else_layers_stay_apart(
    monkeypatch, name
):
    for module in (folding, onednn):
        monkeypatch.setattr(module, "WITHIN", {nn.ReLU6: (name, [])})
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(), nn.Flatten()
    )
    other = folded(with_drawn_statistics(network), SIZE)
    assert num_layers(other, OneDnnConv2d) == 0
    assert num_layers(other, nn.BatchNorm2d) == 0
    images = images_of(2)
    torch.testing.assert_close(results(other, images), results(network, images))


@pytest.mark.parametrize(("precision", "most"), [("float32", 1e-5), ("bfloat16", 0.1)])
def test_lite0s_features_move_by_rounding_only(lite, precision, most):
    pixels = torch.randint(
        0, 256, (4, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    expected, got = (lite[name].extract(pixels) for name in ("reference", precision))
    difference = np.linalg.norm(got - expected) / np.linalg.norm(expected)
    assert 0 < difference < most
    assert got.dtype == np.float32
    assert lite[precision].version == lite["reference"].version
