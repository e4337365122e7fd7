"""The networks: reproducible, without buffers, made for per-sample gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F  # noqa: N812 -- the name that the field uses

from skinml.errors import ConfigError, DataError
from skinml.models.networks import (
    NETWORKS,
    build_network,
    input_tensor,
    load_network_arrays,
    network_arrays,
)
from skinml.seeding import Seeds


def built(name, seed=0, num_classes=3):
    return build_network(name, num_classes, Seeds(seed).stream("weights"))


def images(count, size=64):
    return np.random.default_rng(5).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_gets_a_finite_gradient(name):
    network = built(name)
    labels = torch.tensor([0, 1, 2, 1])
    F.cross_entropy(network(input_tensor(images(4))), labels).backward()
    for weight in network.parameters():
        assert weight.grad is not None
        assert torch.isfinite(weight.grad).all()
        assert weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_one_images_gradient_does_not_depend_on_the_others(name):
    network = built(name)
    weights = dict(network.named_parameters())
    inputs, labels = input_tensor(images(3, 32)), torch.tensor([0, 1, 2])

    def loss(weights, image, label):
        return F.cross_entropy(functional_call(network, weights, image[None]), label[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0))(weights, inputs, labels)
    F.cross_entropy(network(inputs), labels, reduction="sum").backward()
    for key, weight in weights.items():
        torch.testing.assert_close(each[key].sum(0), weight.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_there_is_no_batch_norm_no_buffer_and_nothing_in_place(name):
    network = built(name)
    assert not list(network.buffers())
    for module in network.modules():
        assert not isinstance(module, nn.modules.batchnorm._BatchNorm)
        assert not getattr(module, "inplace", False)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_stream_gives_the_same_weights_and_another_others(name):
    first, same, other = (network_arrays(built(name, seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(first[key], same[key]) for key in first)
    assert not np.array_equal(first["conv1.weight"], other["conv1.weight"])


def test_building_does_not_touch_the_global_stream():
    before = torch.random.get_rng_state()
    built("small_cnn")
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("name", NETWORKS)
def test_initial_scores_are_of_moderate_size_and_differ_by_image(name):
    scores = built(name)(input_tensor(images(8))).detach()
    assert scores.abs().max() < 5
    assert scores.std(dim=0).min() > 0


def test_resnet18_has_the_published_number_of_weights():
    # torchvision's resnet18 has 11,689,512 with 1,000 classes; GroupNorm has as many as BatchNorm.
    network = built("resnet18_groupnorm", num_classes=1000)
    assert sum(weight.numel() for weight in network.parameters()) == 11_689_512


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_survive_the_way_out_and_in(name):
    network, other = built(name, 1), built(name, 2)
    load_network_arrays(other, network_arrays(network))
    inputs = input_tensor(images(2))
    assert torch.equal(network(inputs), other(inputs))


def test_arrays_taken_out_do_not_follow_the_network():
    network = built("small_cnn")
    taken = network_arrays(network)
    with torch.no_grad():
        network.fc.weight.zero_()
    assert taken["fc.weight"].any()


def test_arrays_of_another_network_are_refused_and_change_nothing():
    network = built("small_cnn", num_classes=3)
    before = network_arrays(network)
    with pytest.raises(DataError, match=r"name=fc\.bias"):
        load_network_arrays(network, network_arrays(built("small_cnn", num_classes=4)))
    assert all(np.array_equal(value, before[key]) for key, value in network_arrays(network).items())


def test_pixels_are_scaled_to_one_around_zero():
    scaled = input_tensor(np.array([[[[0, 255, 51]]]], dtype=np.uint8))
    torch.testing.assert_close(scaled, torch.tensor([-1.0, 1.0, -0.6]).view(1, 3, 1, 1))


@pytest.mark.parametrize("bad", [np.zeros((1, 3, 8, 8), np.uint8), np.zeros((1, 8, 8, 3))])
def test_images_of_another_layout_are_refused(bad):
    with pytest.raises(DataError, match="shape="):
        input_tensor(bad)


@pytest.mark.parametrize(("name", "num_classes"), [("vgg", 3), ("small_cnn", 0)])
def test_an_unknown_network_or_no_class_is_refused(name, num_classes):
    with pytest.raises(ConfigError):
        build_network(name, num_classes, Seeds(0).stream("weights"))
