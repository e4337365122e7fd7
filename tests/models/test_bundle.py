"""Saved models: they come back as they were, or not at all."""

from __future__ import annotations

import hashlib
import json
import pickle

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from skinml.errors import DataError, EnvironmentProblem, IntegrityError
from skinml.models.bundle import (
    Bundle,
    BundleSpec,
    head_arrays,
    head_of,
    load_bundle,
    save_bundle,
    score,
)
from skinml.models.linear_head import LinearHead
from skinml.models.networks import build_network, input_tensor, network_arrays
from skinml.seeding import Seeds


def head_bundle(**changes):
    rng = np.random.default_rng(0)
    head = LinearHead(rng.normal(size=4), rng.normal(size=(5, 2)), rng.normal(size=2), 0.25)
    spec = {
        "kind": "linear_head",
        "labels": ("benign", "malignant"),
        "malignant": (False, True),
        "backbone": "efficientnet_lite0",
        "backbone_version": "efficientnet_lite0/abc",
        "image_size": 224,
        "views": ("dermoscopic",),
        "preprocessing": "centre-square",
        "taxonomy_version": "1",
        "bias_input": 0.25,
        "threshold": 0.125,
        "guarantee": {"epsilon": 3.0, "clinics": {"a": {"epsilon": None}}},
        "config": {"seed": 1, "nested": {"values": [1, 2.5, "drei"]}},
        "provenance": {"run": "r1"},
    }
    return Bundle(BundleSpec.model_validate(spec | changes), head_arrays(head))


def network_bundle():
    network = build_network("small_cnn", 3, Seeds(0).stream("weights"))
    spec = BundleSpec(
        kind="network",
        labels=("a", "b", "c"),
        malignant=(False, False, True),
        network="small_cnn",
        image_size=32,
        views=("close-up",),
        preprocessing="centre-square",
        taxonomy_version="1",
    )
    return network, Bundle(spec, network_arrays(network))


@pytest.mark.parametrize("make", [head_bundle, lambda: network_bundle()[1]], ids=["head", "net"])
def test_a_bundle_comes_back_as_it_was(tmp_path, make):
    bundle = make()
    save_bundle(tmp_path / "new" / "model", bundle)
    loaded = load_bundle(tmp_path / "new" / "model")
    assert loaded.spec == bundle.spec
    assert loaded.arrays.keys() == bundle.arrays.keys()
    for name, value in bundle.arrays.items():
        assert np.array_equal(loaded.arrays[name], value)
        assert loaded.arrays[name].dtype == value.dtype
    names = {path.name for path in (tmp_path / "new" / "model").iterdir()}
    assert names == {"model.safetensors", "bundle.json"}


def test_a_bundle_that_is_there_is_replaced(tmp_path):
    save_bundle(tmp_path, head_bundle())
    save_bundle(tmp_path, head_bundle(threshold=0.5))
    assert load_bundle(tmp_path).spec.threshold == 0.5


def test_a_head_scores_as_before(tmp_path):
    save_bundle(tmp_path, head_bundle())
    loaded = load_bundle(tmp_path)
    features = np.random.default_rng(1).normal(size=(7, 4)).astype(np.float32)
    probabilities, decisions = score(loaded, features)
    head = head_of(head_bundle())
    assert head.bias_input == 0.25
    assert np.array_equal(probabilities, head.probabilities(features))
    assert np.array_equal(decisions, head.decisions(features))


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_network_scores_as_the_network_itself(batch_size):
    network, bundle = network_bundle()
    images = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    probabilities, decisions = score(bundle, images, batch_size=batch_size)
    expected = network(input_tensor(images)).softmax(dim=1).detach().numpy()
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert np.array_equal(decisions, expected.argmax(axis=1))


def test_inputs_that_do_not_fit_are_refused():
    _, bundle = network_bundle()
    with pytest.raises(DataError, match="shape="):
        score(bundle, np.zeros((1, 64, 64, 3), np.uint8))
    with pytest.raises(DataError, match="shape="):
        score(head_bundle(), np.zeros((1, 5), np.float32))


@pytest.mark.parametrize("name", ["model.safetensors", "bundle.json"])
def test_a_changed_byte_is_noticed(tmp_path, name):
    save_bundle(tmp_path, head_bundle())
    path = tmp_path / name
    content = path.read_bytes()
    changed = content.replace(b"0.125", b"0.625") if name == "bundle.json" else None
    path.write_bytes(changed or content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="another digest"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("missing", ["model.safetensors", "bundle.json", None])
def test_a_folder_without_a_bundle_is_refused(tmp_path, missing):
    if missing:
        save_bundle(tmp_path, head_bundle())
        (tmp_path / missing).unlink()
    with pytest.raises(DataError, match="saved model"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": 1, "spec": {}}', "\xff"])
def test_json_of_something_else_is_refused(tmp_path, text):
    save_bundle(tmp_path, head_bundle())
    (tmp_path / "bundle.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match="saved model"):
        load_bundle(tmp_path)


def resign(folder, weights=None, **changes):
    """Change a bundle as somebody who also mends the digests."""
    content = json.loads((folder / "bundle.json").read_text())
    content["spec"] |= changes
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
        content["sha256"]["weights"] = hashlib.sha256(weights).hexdigest()
    text = json.dumps(content["spec"], sort_keys=True)
    content["sha256"]["spec"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "bundle.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "changes",
    [{"format_version": 2}, {"surprise": 1}, {"labels": ["one"]}, {"network": "vgg"}],
    ids=str,
)
def test_a_spec_of_another_format_is_refused(tmp_path, changes):
    save_bundle(tmp_path, head_bundle())
    resign(tmp_path, **changes)
    with pytest.raises(DataError, match="saved model"):
        load_bundle(tmp_path)


def test_a_pickle_in_place_of_the_weights_is_refused_and_not_run(tmp_path):
    mark = tmp_path / "mark"

    class Touch:
        def __reduce__(self):
            return (open, (str(mark), "w"))

    folder = tmp_path / "model"
    save_bundle(folder, head_bundle())
    torch.save({"weight": torch.zeros(1)}, tmp_path / "weights.pth")
    for weights in (pickle.dumps(Touch()), (tmp_path / "weights.pth").read_bytes()):
        resign(folder, weights)
        with pytest.raises(DataError, match="not safetensors"):
            load_bundle(folder)
    assert not mark.exists()


def test_a_head_that_does_not_fit_its_labels_is_refused():
    with pytest.raises(DataError, match="2 outputs and 3 labels"):
        score(head_bundle(labels=("a", "b", "c"), malignant=(True,) * 3), np.zeros((1, 4)))


def test_as_many_malignancy_flags_as_labels():
    with pytest.raises(ValidationError):
        head_bundle(malignant=(True,))


def test_a_folder_that_is_a_file_is_the_environments_fault(tmp_path):
    (tmp_path / "model").write_text("in the way")
    with pytest.raises(EnvironmentProblem):
        save_bundle(tmp_path / "model", head_bundle())


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_an_undefined_number_comes_back_as_none(tmp_path, number):
    save_bundle(tmp_path, head_bundle(guarantee={"epsilon": number}))
    assert load_bundle(tmp_path).spec.guarantee == {"epsilon": None}
