"""Gradient inversion: what a clinic's update tells about one patient's picture or features.

The attacker knows the network, the label and everybody else's contribution, which it has taken off:
what is left is one patient's clipped gradient and whatever noise is in it.

Shapes in this file: u updates, C channels, H height, W width, d features, k classes, n pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skinml.errors import DataError, require_positive
from skinml.privacy.gradient_modes import trained
from skinml.records import FloatArray

_TINY = 1e-12


@dataclass(frozen=True)
class InversionFinding:
    """How much of attacked patients an attacker got back from what it saw.

    Attributes:
        what: "picture" of an end-to-end network, "features" of a linear head.
        seen: What the attacker saw, in words.
        under: Under which trust models, and whose eyes, that is what can be seen.
        noise: Standard deviation of the noise in it, in multiples of the greatest norm of one
            patient's gradient.
        num_updates: Updates about the same patient that it used.
        num_attacked: Patients whom it attacked.
        num_candidates: Patients among whom it then looked for the right one.
        place: Mean place of the right one among them, the most alike first: 1 where it is always
            found, half of the candidates where nothing is learnt.
        likeness: Mean figures of likeness by name: "psnr" (dB) and "ssim" of pictures, "cosine"
            of features.
        unrelated: The same figures of a guess that has seen no update.
    """

    what: Literal["picture", "features"]
    seen: str
    under: tuple[str, ...]
    noise: float
    num_updates: int
    num_attacked: int
    num_candidates: int
    place: float
    likeness: dict[str, float] = field(default_factory=dict)
    unrelated: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, repr=False)
class Picture:
    """One picture of the report. Of a patient: shown only where the data may be shown.

    Attributes:
        title: What it shows.
        row: Which attacked patient it belongs to, from 0.
        pixels: (H, W, 3) of uint8.
    """

    title: str
    row: int
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Effort:
    """How hard the attacker tries.

    Attributes:
        steps: Steps of its search.
        step_size: Length of a step, on a scale where a picture goes from -1 to 1.
        smoothness: Weight of total variation, which pictures have little of and noise much.
    """

    steps: int = 800
    step_size: float = 0.02
    smoothness: float = 0.3

    def __post_init__(self) -> None:
        require_positive(steps=self.steps, step_size=self.step_size)


@dataclass(frozen=True, eq=False)
class Observed:
    """One update that the attacker saw.

    Attributes:
        module: The network at the weights that the clinic was sent.
        gradient: (size,) what came back, in the order of `gradient_modes.trained`; any scale.
    """

    module: nn.Module
    gradient: FloatArray


def reconstruct(
    observed: Sequence[Observed],
    label: int,
    start: FloatArray,
    effort: Effort,
    rng: np.random.Generator,
) -> FloatArray:
    """Search for a picture whose gradients point where the observed ones do.

    Each step looks at one update, chosen at random, and compares the directions layer by layer, so
    that no layer drowns the others.

    Args:
        observed: u updates about the same picture, at least one.
        label: The picture's class.
        start: (C, H, W) where the search begins, such as an average of other pictures; -1 to 1.
        effort: How hard it tries.
        rng: A stream.

    Returns:
        (C, H, W), -1 to 1.

    Raises:
        ConfigError: If the effort is none.

    Source:
        Geiping et al. 2020, arXiv:2003.14053, equation 4, here with a cosine a layer.
    """
    truth = torch.tensor([label])
    pairs = [(each.module, _by_layer(each)) for each in observed]
    blur = 0.01 * rng.standard_normal(start.shape)
    picture = torch.tensor(start + blur, dtype=torch.float32)[None].requires_grad_()
    optimizer = torch.optim.Adam([picture], lr=effort.step_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, effort.steps)
    for choice in rng.integers(len(pairs), size=effort.steps):
        module, wanted = pairs[choice]
        loss = _mismatch(module, picture, truth, wanted)
        loss = loss + effort.smoothness * _variation(picture)
        (picture.grad,) = torch.autograd.grad(loss, [picture])
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            picture.clamp_(-1, 1)
    return np.asarray(picture.detach()[0].numpy(), dtype=np.float64)


def _by_layer(observed: Observed) -> list[torch.Tensor]:
    """Cut a flat gradient into the layers' and give each the length 1."""
    parameters = list(trained(observed.module).values())
    size = sum(parameter.numel() for parameter in parameters)
    if size != len(observed.gradient):
        raise DataError(
            rule=f"a gradient of {size} numbers, as the network has",
            got=f"{len(observed.gradient)}",
            do="Give each network with the update that it was sent for.",
        )
    parts, start = [], 0
    for parameter in parameters:
        part = observed.gradient[start : start + parameter.numel()]
        start += parameter.numel()
        tensor = torch.tensor(part.reshape(tuple(parameter.shape)), dtype=torch.float32)
        parts.append(tensor / (tensor.norm() + _TINY))
    return parts


def _mismatch(
    module: nn.Module, picture: torch.Tensor, label: torch.Tensor, wanted: list[torch.Tensor]
) -> torch.Tensor:
    """Mean over the layers of one minus the cosine."""
    loss = nn.functional.cross_entropy(module(picture), label)
    found = torch.autograd.grad(loss, list(trained(module).values()), create_graph=True)
    cosines = [
        (mine * theirs).sum() / (mine.norm() + _TINY)
        for mine, theirs in zip(found, wanted, strict=True)
    ]
    return 1 - torch.stack(cosines).mean()


def _variation(picture: torch.Tensor) -> torch.Tensor:
    """Mean difference between neighbouring pixels, both ways."""
    across = (picture[..., 1:] - picture[..., :-1]).abs().mean()
    return across + (picture[..., 1:, :] - picture[..., :-1, :]).abs().mean()


def recover_features(gradient: FloatArray, bias_input: float) -> FloatArray:
    """Read a patient's features off the gradient of a linear head.

    That gradient is the outer product of the head's input and its error: its only direction is the
    input, whose last number is public.

    Args:
        gradient: (d + 1, k) of one patient; any scale, with or without noise.
        bias_input: The constant behind the features, above zero.

    Returns:
        (d,) of length 1; zeros where the gradient is zero.

    Raises:
        ConfigError: If bias_input is not above zero.

    Source:
        Phong et al. 2018, IEEE TIFS 13:1333, section III, for the input behind a linear layer.

    >>> recover_features(np.outer([3.0, 4.0, 0.5], [-2.0, 2.0]), 0.5).round(3).tolist()
    [0.6, 0.8]
    """
    require_positive(bias_input=bias_input)
    if not gradient.any():
        return np.zeros(len(gradient) - 1)
    left = np.linalg.svd(gradient, full_matrices=False)[0][:, 0]
    direction = left[:-1] * (np.sign(left[-1]) or 1.0)
    length = float(np.linalg.norm(direction))
    return np.asarray(direction / length if length > 0 else direction)


def psnr(picture: FloatArray, truth: FloatArray) -> float:
    """Peak signal-to-noise ratio.

    Args:
        picture: Any shape, -1 to 1.
        truth: The same shape.

    Returns:
        In decibels; at most 120, where nothing differs.

    >>> round(psnr(np.zeros(4), np.full(4, 0.2)), 6)
    20.0
    """
    error = float(((picture - truth) ** 2).mean()) / 4  # the range from -1 to 1 is 2 wide
    return float(-10 * np.log10(max(error, 1e-12)))


def ssim(picture: FloatArray, truth: FloatArray) -> float:
    """Structural similarity, as scikit-image computes it in windows of 7 pixels.

    Args:
        picture: (C, H, W), -1 to 1.
        truth: The same shape.

    Returns:
        At most 1, where nothing differs.

    Source:
        Wang et al. 2004, IEEE TIP 13:600.
    """
    from skimage.metrics import structural_similarity

    return float(structural_similarity(picture, truth, channel_axis=0, data_range=2.0))


def place_of(distances: FloatArray, truth: int) -> int:
    """Tell at which place, sorted by distance, the true candidate stands.

    Args:
        distances: (n,) to each candidate.
        truth: Which of them is the true one.

    Returns:
        From 1, the nearest; ties are resolved in its favour.

    >>> place_of(np.array([3.0, 1.0, 2.0]), 2)
    2
    """
    return 1 + int((distances < distances[truth]).sum())


def places(pictures: FloatArray, gallery: FloatArray, truths: Sequence[int]) -> list[int]:
    """Tell at which place of a gallery, sorted by likeness, the true picture stands.

    A network that averages over the whole picture tells little about where something is, so that
    two pictures are compared at the shift at which they are most alike, of up to a quarter.

    Args:
        pictures: (m, C, H, W) what was got back.
        gallery: (n, C, H, W).
        truths: (m,) which picture of the gallery is the true one.

    Returns:
        (m,) places from 1, the most alike.
    """
    spectrum = np.fft.rfft2(gallery)
    power = (gallery**2).sum(axis=(1, 2, 3))
    height, width = gallery.shape[2:]
    near = [
        (np.abs(np.fft.fftfreq(size, 1 / size)) <= size / 4).nonzero()[0]
        for size in (height, width)
    ]
    found = []
    for picture, truth in zip(pictures, truths, strict=True):
        cross = np.fft.irfft2(
            (spectrum * np.fft.rfft2(picture).conj()).sum(axis=1), s=(height, width)
        )
        best = cross[:, near[0]][:, :, near[1]].max(axis=(1, 2))
        distances = power - 2 * best
        found.append(place_of(distances, truth))
    return found
