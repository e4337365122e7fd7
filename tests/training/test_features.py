"""Features from files: each image once, resumable, independent of its neighbours."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from skinml.data.feature_store import FeatureStore
from skinml.data.images import decode_image, resize_square
from skinml.data.settings import ImageLimits
from skinml.errors import ConfigError, DataError
from skinml.models.backbones import Backbone, load_backbone
from skinml.models.settings import ModelSettings
from skinml.stewardship.anchors import Anchors
from skinml.stewardship.patient_keys import PatientKeys
from skinml.training.features import (
    compute_features,
    extract_features,
    features_version,
    images_version,
    prepare_images,
    store_version,
)

KEY = bytes(range(32))
LIMITS = ImageLimits()
SIZE = 32


class Counting(nn.Module):
    """A small convolution with global pooling that remembers the sizes of its batches."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        nn.init.normal_(self.conv.weight, generator=torch.Generator().manual_seed(0))
        nn.init.zeros_(self.conv.bias)
        self.batches = []

    def forward(self, images):
        self.batches.append(len(images))
        return self.conv(images / 128 - 1).relu().mean(dim=(2, 3))


@pytest.fixture
def backbone():
    return Backbone("small", "small/1", SIZE, 8, Counting().eval().requires_grad_(False))


@pytest.fixture
def files(tmp_path):
    """Ten images of five patients, the last a copy of the first, with digests and patients."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(10)]
    for path in paths[:9]:
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    paths[9].write_bytes(paths[0].read_bytes())
    patients = [f"p{number % 5}" for number in range(9)] + ["p0"]
    return paths, [hashlib.sha256(path.read_bytes()).digest() for path in paths], patients


@pytest.fixture
def keys(tmp_path):
    anchors = Anchors(tmp_path / "anchors", "clinic", KEY)
    anchors.create()
    keys = PatientKeys(tmp_path / "vault" / "keys.sealed", KEY, anchors)
    keys.issue([*(f"p{number}" for number in range(10)), "a", "b"])
    return keys


@pytest.fixture
def open_store(tmp_path, keys):
    def open_one(version, name="features"):
        version = version if isinstance(version, str) else store_version(version)
        return FeatureStore(tmp_path / name, KEY, keys, version)

    return open_one


def expected(paths, backbone):
    images = [resize_square(decode_image(path, LIMITS), SIZE) for path in paths]
    return np.concatenate([backbone.extract(image[None]) for image in images])


def test_features_are_the_backbones_in_the_order_of_the_files(backbone, files, open_store):
    features = extract_features(*files, backbone, open_store(backbone), LIMITS, batch_size=4)
    np.testing.assert_allclose(features, expected(files[0], backbone), atol=1e-5)
    assert features.dtype == np.float32


def test_an_image_that_comes_twice_is_computed_once(backbone, files, open_store):
    store = open_store(backbone)
    features = extract_features(*files, backbone, store, LIMITS, batch_size=4)
    assert len(store) == 9
    assert backbone.module.batches == [4, 4, 4]
    assert np.array_equal(features[0], features[9])


def test_what_is_in_the_store_is_not_computed_again_nor_read_again(backbone, files, open_store):
    paths, digests, patients = files
    first = extract_features(
        paths, digests, patients, backbone, open_store(backbone), LIMITS, batch_size=4
    )
    backbone.module.batches.clear()
    for path in paths:
        path.unlink()
    again = extract_features(
        paths, digests, patients, backbone, open_store(backbone), LIMITS, batch_size=4
    )
    assert np.array_equal(first, again)
    assert backbone.module.batches == []


@pytest.mark.parametrize("order", [slice(None, None, -1), slice(3, 8), slice(0, 1)], ids=str)
def test_features_do_not_depend_on_order_neighbours_or_the_cache(
    backbone, files, order, open_store
):
    paths, digests, patients = files
    whole = extract_features(
        paths, digests, patients, backbone, open_store(backbone, "a"), LIMITS, batch_size=4
    )
    store = open_store(backbone, "b")
    some = extract_features(
        paths[order], digests[order], patients[order], backbone, store, LIMITS, batch_size=4
    )
    assert np.array_equal(some, whole[order])
    rest = extract_features(paths, digests, patients, backbone, store, LIMITS, batch_size=4)
    assert np.array_equal(rest, whole)


def test_an_interrupted_extraction_goes_on_where_it_was(backbone, files, open_store):
    paths, digests, patients = files
    sound = paths[6].read_bytes()
    paths[6].write_bytes(sound[:100])
    with pytest.raises(DataError):
        extract_features(
            paths, digests, patients, backbone, open_store(backbone), LIMITS, batch_size=2
        )
    paths[6].write_bytes(sound)
    store = open_store(backbone)
    num_kept = len(store)
    assert 2 <= num_kept <= 6
    calls = []
    extract_features(
        paths,
        digests,
        patients,
        backbone,
        store,
        LIMITS,
        batch_size=2,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls[0] == (num_kept, 9)
    assert calls[-1] == (9, 9)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


def test_no_thread_is_left_behind(backbone, files, open_store):
    extract_features(*files, backbone, open_store(backbone), LIMITS)
    files[0][3].write_bytes(b"no image")
    with pytest.raises(DataError):
        extract_features(*files, backbone, open_store(backbone, "other"), LIMITS)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("features")]


def test_a_store_of_another_version_is_refused(backbone, files, open_store):
    store = open_store("another")
    with pytest.raises(DataError, match="version=another"):
        extract_features(*files, backbone, store, LIMITS)
    with pytest.raises(DataError, match="version=another"):
        prepare_images(*files, SIZE, store, LIMITS)


def test_a_batch_of_nothing_is_refused(backbone, files, open_store):
    with pytest.raises(ConfigError, match="batch_size"):
        extract_features(*files, backbone, open_store(backbone), LIMITS, batch_size=0)


def test_no_files_give_no_rows(backbone, open_store):
    store = open_store(backbone)
    assert extract_features([], [], [], backbone, store, LIMITS).shape == (0, 8)
    store = open_store(images_version(SIZE))
    assert prepare_images([], [], [], SIZE, store, LIMITS).shape == (0, SIZE, SIZE, 3)


def test_as_many_digests_as_files(backbone, files, open_store):
    paths, digests, patients = files
    with pytest.raises(DataError, match="one length"):
        extract_features(paths, digests[1:], patients, backbone, open_store(backbone), LIMITS)


def test_features_that_are_not_kept_are_the_same(backbone, files):
    features = compute_features(files[0], backbone, LIMITS, batch_size=4)
    np.testing.assert_allclose(features, expected(files[0], backbone), atol=1e-5)
    with pytest.raises(ConfigError, match="num_images"):
        compute_features([], backbone, LIMITS)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_features_and_settings_do_not_depend_on_the_number_of_threads(
    backbone, files, open_store, num_threads
):
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        store = open_store(backbone, f"{num_threads}")
        got = extract_features(*files, backbone, store, LIMITS, batch_size=2)
        assert torch.get_num_threads() == num_threads
        torch.set_num_threads(1)
        again = extract_features(*files, backbone, open_store(backbone), LIMITS, batch_size=2)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(got, again)


def test_features_computed_in_two_ways_never_share_a_store(backbone, files, open_store):
    other = replace(backbone, precision="bfloat16")
    assert features_version(other) == features_version(backbone)
    assert store_version(other) != store_version(backbone)
    with pytest.raises(DataError, match="version="):
        extract_features(*files, other, open_store(backbone), LIMITS)


def test_prepared_images_are_the_resized_pixels(files, open_store):
    store = open_store(images_version(SIZE))
    images = prepare_images(*files, SIZE, store, LIMITS)
    assert images.shape == (10, SIZE, SIZE, 3)
    assert images.dtype == np.uint8
    for path, image in zip(files[0], images, strict=True):
        pixels = resize_square(decode_image(path, LIMITS), SIZE)
        assert np.array_equal(image, pixels.permute(1, 2, 0).numpy())
    reopened = open_store(images_version(SIZE))
    assert np.array_equal(prepare_images(*files, SIZE, reopened, LIMITS), images)


def test_an_image_that_two_patients_share_is_computed_once_and_kept_for_each(
    backbone, files, keys, open_store
):
    paths, digests, _ = files
    two = [paths[0], paths[9], paths[1]], [digests[0], digests[9], digests[1]], ["a", "b", "b"]
    store = open_store(backbone)
    first = extract_features(*two, backbone, store, LIMITS, batch_size=2)
    assert len(store) == 3
    assert backbone.module.batches == [2]
    assert np.array_equal(first[0], first[1])
    keys.erase(["a"])
    again = open_store(backbone)
    assert again.find_missing(*two[1:]) == [0]
    assert np.array_equal(again.take(two[1][1:], two[2][1:]), first[1:])


def test_only_an_erased_patients_images_are_computed_again(backbone, files, keys, open_store):
    first = extract_features(*files, backbone, open_store(backbone), LIMITS, batch_size=4)
    keys.erase(["p1"])  # two of the nine images
    keys.issue(["p1"])  # who comes back
    backbone.module.batches.clear()
    calls = []
    store = open_store(backbone)
    again = extract_features(
        *files,
        backbone,
        store,
        LIMITS,
        batch_size=4,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert np.array_equal(first, again)
    assert backbone.module.batches == [4]
    assert calls == [(7, 9), (9, 9)]


def test_who_is_erased_while_features_are_computed_leaves_no_row(backbone, files, keys, open_store):
    store = open_store(backbone)
    erased = []

    def erase_once(done, total):
        if done and not erased:
            erased.append(keys.erase(["p4", "p0"]))

    with pytest.raises(DataError, match="num_missing=4 of 10"):
        extract_features(*files, backbone, store, LIMITS, batch_size=4, progress=erase_once)
    assert erased == [2]
    assert open_store(backbone).find_missing(*files[1:]) == [0, 4, 5, 9]


@pytest.mark.derm
def test_real_images_give_the_same_features_in_any_company(derm_root, open_store):
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra pretrained is missing")
    paths = sorted(derm_root.rglob("*.jpg"))[:6]
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in paths]
    backbone = load_backbone(ModelSettings())
    first = open_store(backbone, "first")
    people = [f"p{number}" for number in range(6)]
    features = extract_features(paths, digests, people, backbone, first, LIMITS, batch_size=4)
    assert features.shape == (6, 1280)
    assert features.min() >= 0
    second = open_store(backbone, "second")
    alone = extract_features(
        paths[5:], digests[5:], people[5:], backbone, second, LIMITS, batch_size=4
    )
    assert np.array_equal(alone, features[5:])
