"""The head's clipped sum, which needs no gradients, against Opacus' per-sample gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from opacus import GradSampleModule

from skinml.models.linear_head import head_inputs
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.settings import PrivacySettings
from skinml.records import Labels, Samples
from skinml.training.head import HeadLearner
from skinml.training.settings import HeadSettings

CLASSES = Labels(("naevus", "melanoma", "keratosis"), (False, True, False))


def opacus_sum(inputs, labels, weight, offset, clip):
    layer = torch.nn.Linear(inputs.shape[1], weight.shape[1], bias=False)
    layer.weight.data = torch.from_numpy(weight.T.copy())
    module = GradSampleModule(layer, loss_reduction="sum")
    # Torch remarks on hooks where no input wants a gradient.
    logits = module(torch.from_numpy(inputs).requires_grad_()) + torch.from_numpy(offset).float()
    torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction="sum").backward()
    grads = layer.weight.grad_sample
    norms = grads.flatten(1).norm(dim=1)
    assert (norms > clip).any()
    assert (norms < clip).any()
    return torch.einsum("i,iab->ba", (clip / norms).clamp(max=1.0), grads).numpy()


@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0])
def test_the_heads_clipped_sum_is_opacus_clipped_sum(scale):
    """The same loss on the same inputs, a patient an item, to single precision."""
    rng = np.random.default_rng(0)
    patients = np.repeat([f"p{i:02}" for i in range(60)], 3)
    features = np.abs(rng.normal(size=(180, 6)))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    labels = np.repeat(rng.integers(0, 3, 60), 3)
    weight = (scale * rng.normal(size=(7, 3))).astype(np.float32)
    query = {
        "weight": weight,
        "centre": (0.3 * rng.normal(size=6)).astype(np.float32),
        "offset": rng.normal(size=3),
    }
    privacy = PrivacySettings(clip_norm=0.8)
    recipe = HeadLearner(HeadSettings(rounds=2), privacy, CLASSES, 6, 3)
    samples = Samples(features.astype(np.float32), labels, patients)
    ours = recipe.contributor(samples).contribute(recipe.rounds[1], query, Mechanism(0.0), rng)
    inputs = head_inputs(features.reshape(60, 3, 6).mean(axis=1), query["centre"])
    theirs = opacus_sum(inputs, labels[::3], weight, query["offset"], 0.8)
    # Ours are cut down to the grid: each patient's factors by up to 2**-14.
    np.testing.assert_allclose(ours["gradient"], theirs, rtol=1e-4, atol=1e-3)
