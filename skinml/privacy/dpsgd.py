"""End-to-end DP-SGD: Opacus computes per-sample gradients, the unit is the patient.

A patient's images are averaged before the clip, the sample of patients is Poisson, the divisor is
a public number, and the noise comes from `skinml.privacy.noise` instead of torch's generator.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn

from skinml.errors import UnsupportedModelError
from skinml.privacy.noise import NoiseSource

# Per-sample gradients of more images fall out of the processor's cache (2.1 against 1.2 ms an image
# for small_cnn, 280 against 32 images) and take memory in proportion.
_IMAGES_AT_ONCE = 32
_UPDATES_BUFFERS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
)


@dataclass(frozen=True)
class StepPlan:
    """The public schedule of one round of local steps.

    Attributes:
        steps: Noisy steps, empty samples included.
        sampling_prob: Chance of each patient to be in a step's sample.
        divisor: What the clipped sum is divided by: an expected number of patients that is known
            publicly, never a count of the data.
        clip_norm: Greatest L2 norm of one patient's averaged gradient.
        noise_multiplier: Noise standard deviation over clip_norm; 0 adds none.
        learning_rate: Step of plain gradient descent.
        max_images: Images of a patient that are averaged; further ones wait for another step.
    """

    steps: int
    sampling_prob: float
    divisor: float
    clip_norm: float
    noise_multiplier: float
    learning_rate: float
    max_images: int


class _SourcedOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus ships no types
    """Opacus' optimizer with noise from a given source instead of torch's generator."""

    def __init__(self, *args: Any, source: NoiseSource, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._source = source

    def add_noise(self) -> None:
        std = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            noise = self._source.normal(parameter.shape, std)
            summed = parameter.summed_grad
            parameter.grad = summed + torch.from_numpy(noise).to(summed.dtype)


def require_supported(module: nn.Module) -> None:
    """Refuse networks whose forward pass would carry private data around the clip.

    Args:
        module: The network.

    Raises:
        UnsupportedModelError: If a layer normalises over the batch or keeps running statistics,
            frozen or not, or if there is any buffer.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, _UPDATES_BUFFERS):
            raise UnsupportedModelError(
                rule="a network without layers that mix or remember samples",
                got=f"{type(layer).__name__} at {name or 'the top'}",
                do="Use GroupNorm, as models.networks does.",
            )
    # Whatever it is called, a layer can only remember samples in a buffer (pitfall P2).
    for name, _ in module.named_buffers():
        raise UnsupportedModelError(
            rule="a network without buffers, which its forward pass could fill from samples",
            got=f"buffer {name}",
            do="Make it a constant of the class, or a parameter that is not trained.",
        )


def train_steps(
    module: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    patients: NDArray[np.intp],
    plan: StepPlan,
    rng: np.random.Generator,
    source: NoiseSource,
) -> None:
    """Take a round of noisy steps on one clinic's patients, in place.

    Args:
        module: The network; its weights are changed.
        images: (n, channels, height, width) float images.
        labels: (n,) class of each image.
        patients: (n,) each image's patient, numbered from 0 without gaps.
        plan: The public schedule.
        rng: The clinic's secret stream for sampling, fresh for each round.
        source: Noise for this release.

    Raises:
        UnsupportedModelError: If a layer normalises over the batch.

    Guarantees:
        Each step adds at most clip_norm of each sampled patient and then noise of standard
        deviation noise_multiplier * clip_norm; exactly plan.steps steps are taken whatever the
        data; a patient whose gradient is not finite contributes zeros.

    Source:
        Abadi et al. 2016, arXiv:1607.00133, Algorithm 1, with patients as examples.
    """
    require_supported(module)
    per_sample = GradSampleModule(module, loss_reduction="sum")
    optimizer = _SourcedOptimizer(
        torch.optim.SGD(per_sample.parameters(), lr=plan.learning_rate),
        noise_multiplier=plan.noise_multiplier,
        max_grad_norm=plan.clip_norm,
        expected_batch_size=plan.divisor,
        loss_reduction="mean",
        source=source,
    )
    rows = _rows_by_patient(patients)
    try:
        for _ in range(plan.steps):
            chosen = np.flatnonzero(rng.random(len(rows)) < plan.sampling_prob)
            _one_step(per_sample, optimizer, images, labels, [rows[i] for i in chosen], plan, rng)
    finally:
        per_sample.to_standard_module()


def _rows_by_patient(patients: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    order = np.argsort(patients, kind="stable")
    starts = np.flatnonzero(np.diff(patients[order], prepend=-1))
    return np.split(order, starts[1:]) if len(order) else []


def _one_step(
    per_sample: GradSampleModule,
    optimizer: _SourcedOptimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
    rows: Sequence[NDArray[np.intp]],
    plan: StepPlan,
    rng: np.random.Generator,
) -> None:
    kept = [_some(row, plan.max_images, rng) for row in rows]
    if not kept:
        # An empty sample is a noisy step too: one of zeros, for otherwise its number would tell.
        optimizer.zero_grad()
        for parameter in optimizer.params:
            _set_grad_sample(parameter, torch.zeros((0, *parameter.shape), dtype=parameter.dtype))
        optimizer.step()
        return
    chunks = _chunks(kept)
    for number, chunk in enumerate(chunks, start=1):
        # Opacus keeps the clipped sum until the last part, and only then adds noise and steps.
        optimizer.signal_skip_step(do_skip=number < len(chunks))
        optimizer.zero_grad()
        _patient_gradients(per_sample, optimizer.params, images, labels, chunk)
        optimizer.step()


def _chunks(rows: Sequence[NDArray[np.intp]]) -> list[list[NDArray[np.intp]]]:
    """Cut a sample into parts that fit the cache; a patient is never divided."""
    chunks: list[list[NDArray[np.intp]]] = []
    room = 0
    for row in rows:
        if room < len(row):
            chunks.append([])
            room = max(_IMAGES_AT_ONCE, len(row))
        chunks[-1].append(row)
        room -= len(row)
    return chunks


def _patient_gradients(
    per_sample: GradSampleModule,
    parameters: Sequence[nn.Parameter],
    images: torch.Tensor,
    labels: torch.Tensor,
    rows: Sequence[NDArray[np.intp]],
) -> None:
    """Leave each patient's averaged gradient in its parameter's grad_sample."""
    position = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    share = torch.from_numpy(np.concatenate([np.full(len(row), 1 / len(row)) for row in rows]))
    chosen = torch.from_numpy(np.concatenate(rows))
    loss = nn.functional.cross_entropy(per_sample(images[chosen]), labels[chosen], reduction="none")
    _backward((loss * share.to(loss.dtype)).sum())
    _gather_patients(parameters, torch.from_numpy(position), len(rows))


def _backward(loss: torch.Tensor) -> None:
    with warnings.catch_warnings():
        # Images need no gradient of their own, which torch mentions once a hook sees it.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        torch.autograd.backward(loss)


def _set_grad_sample(parameter: nn.Parameter, value: torch.Tensor) -> None:
    setattr(parameter, "grad_sample", value)  # noqa: B010  # Opacus' attribute, unknown to torch


def _some(rows: NDArray[np.intp], at_most: int, rng: np.random.Generator) -> NDArray[np.intp]:
    if len(rows) <= at_most:
        return rows
    return np.sort(rng.choice(rows, size=at_most, replace=False))


def _gather_patients(
    parameters: Sequence[nn.Parameter], position: torch.Tensor, num_patients: int
) -> None:
    """Add the images' gradients up within each patient and blank what is not finite."""
    sums = []
    for parameter in parameters:
        by_image: torch.Tensor = getattr(parameter, "grad_sample")  # noqa: B009  # set by Opacus
        total = torch.zeros((num_patients, *by_image.shape[1:]), dtype=by_image.dtype)
        sums.append(total.index_add_(0, position, by_image))
    norms = [torch.linalg.vector_norm(s.flatten(1), dim=1, dtype=torch.float64) for s in sums]
    finite = torch.stack(norms).isfinite().all(dim=0)
    for parameter, total in zip(parameters, sums, strict=True):
        total[~finite] = 0
        _set_grad_sample(parameter, total)
