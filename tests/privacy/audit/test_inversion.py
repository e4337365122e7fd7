"""Inversion on networks small enough to search in a second, and its measures of likeness."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from skinml.errors import ConfigError, DataError
from skinml.privacy.audit.inversion import (
    Effort,
    Observed,
    places,
    psnr,
    reconstruct,
    recover_features,
    ssim,
)
from skinml.privacy.gradient_modes import trained

SIDE = 6


def network(number: int) -> nn.Module:
    """A layer that sees all pixels, and a smooth one behind it."""
    torch.manual_seed(number)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 16), nn.Tanh(), nn.Linear(16, 2))


def observed(module: nn.Module, picture: np.ndarray, noise: float) -> Observed:
    inputs = torch.tensor(picture, dtype=torch.float32)[None]
    loss = nn.functional.cross_entropy(module(inputs), torch.tensor([1]))
    parts = torch.autograd.grad(loss, list(trained(module).values()))
    flat = np.concatenate([part.numpy().ravel() for part in parts]).astype(np.float64)
    flat /= np.linalg.norm(flat)
    return Observed(module, flat + noise * np.random.default_rng(9).normal(size=flat.shape))


def blob() -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    dark = np.exp(-((rows - 2) ** 2 + (columns - 3) ** 2) / 4)
    return np.stack([0.6 - 1.2 * dark, 0.3 - dark, 0.1 - 0.8 * dark])


@pytest.mark.parametrize(("noise", "recovered"), [(0.0, True), (1.0, False)])
def test_a_raw_gradient_gives_the_picture_and_a_noisy_one_does_not(
    noise: float, recovered: bool
) -> None:
    seen = [observed(network(number), blob(), noise) for number in range(2)]
    start = np.zeros((3, SIDE, SIDE))
    effort = Effort(steps=250, step_size=0.05, smoothness=0.01)
    found = reconstruct(seen, 1, start, effort, np.random.default_rng(0))
    assert np.abs(found).max() <= 1
    alike = float(np.corrcoef(found.ravel(), blob().ravel())[0, 1])
    assert (alike > 0.9) == recovered, alike
    assert (alike < 0.6) == (not recovered), alike


def test_a_gradient_of_another_network_is_refused() -> None:
    wrong = Observed(network(0), np.zeros(7))
    with pytest.raises(DataError, match="got 7"):
        reconstruct([wrong], 0, blob(), Effort(steps=1), np.random.default_rng(0))
    with pytest.raises(ConfigError):
        Effort(steps=0)


def test_features_are_the_only_direction_of_a_heads_gradient() -> None:
    rng = np.random.default_rng(0)
    features, errors = rng.normal(size=40), rng.normal(size=3)
    gradient = np.outer(np.append(features, 0.1), errors)
    true = features / np.linalg.norm(features)
    for scale in (1.0, -3.0, 1e-9):  # the sign of the error does not matter
        assert recover_features(scale * gradient, 0.1) == pytest.approx(true)
    noisy = recover_features(gradient + 300 * rng.normal(size=gradient.shape), 0.1)
    assert abs(float(noisy @ true)) < 0.5
    assert recover_features(np.zeros((5, 2)), 0.1).tolist() == [0.0] * 4


def test_likeness_of_a_picture_to_itself_is_the_greatest() -> None:
    picture = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16))
    assert psnr(picture, picture) == pytest.approx(120)
    assert ssim(picture, picture) == pytest.approx(1)
    other = np.clip(picture + 0.5, -1, 1)
    assert psnr(other, picture) == pytest.approx(10 * np.log10(4 / ((other - picture) ** 2).mean()))
    assert ssim(other, picture) < 0.9


def test_places_are_those_of_the_best_shift() -> None:
    rng = np.random.default_rng(4)
    gallery, side = rng.uniform(-1, 1, (9, 2, 8, 8)), 8
    picture = np.roll(gallery[5], (2, -1), axis=(1, 2)) + 0.3 * rng.normal(size=(2, 8, 8))
    shifts = [s for s in range(-side // 2, side // 2) if abs(s) <= side / 4]
    nearest = [
        min(
            ((np.roll(picture, (-a, -b), axis=(1, 2)) - each) ** 2).sum()
            for a in shifts
            for b in shifts
        )
        for each in gallery
    ]
    order = np.argsort(nearest).tolist()
    for truth in range(9):
        assert places(picture[None], gallery, [truth]) == [1 + order.index(truth)]
    assert order[0] == 5
