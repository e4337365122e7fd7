"""End-to-end DP-SGD: Opacus computes per-sample gradients, the unit is the patient.

A patient's images are averaged before the clip, the sample of patients is Poisson, the divisor is
a public number, and the noise comes from `skinml.privacy.noise` instead of torch's generator.

    sample = draw_sample(...)                    who is in the step: `dpsgd_sampling`
    total = clipped_sum(module, ..., sample)     the only thing of the step that reads patients
    weights -= learning_rate * (total + noise) / divisor

A step is a function of these three: no sum, gradient or skipped batch is kept between two steps
that an interruption could count twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from skinml.errors import ConfigError, require_one_of, require_positive
from skinml.privacy.dpsgd_sampling import Sampled, draw_sample, rows_by_patient
from skinml.privacy.gradient_modes import (
    PatientBatch,
    clipped_gradients,
    images_at_once,
    trained,
)
from skinml.privacy.losses import LOSSES
from skinml.privacy.network_checks import (
    memory_digest,
    require_isolated,
    require_supported,
    require_unchanged,
)
from skinml.privacy.noise import NoiseSource
from skinml.records import BoolArray, FloatArray, StrArray

Augment = Callable[[torch.Tensor, np.random.Generator], torch.Tensor]
LeftOut = Callable[[Sampled], None]


@dataclass(frozen=True)
class StepPlan:
    """The public schedule of one round of steps.

    Attributes:
        steps: Noisy steps, empty samples included.
        sampling_prob: Chance of each patient to be in a step's sample.
        divisor: What the clipped sum is divided by: an expected number of patients that is known
            publicly, never a count of the data.
        clip_norm: Greatest L2 norm of one patient's averaged gradient.
        noise_multiplier: Noise standard deviation over clip_norm; 0 adds none.
        learning_rate: Step of plain gradient descent.
        max_images: Images of a patient that are averaged; further ones wait for another step.
        augmentations: Random views of each image that are averaged too; 0 takes it as it is.
        loss: Name of the loss in `LOSSES`.
        mode: Which of `gradient_modes.MODES` computes the sums; they give the same.
        grid: Whether each patient's gradient is cut down to the grid of the integer path.
        proximal_mu: Pull of every step back to the weights that the round began with; reads no
            patient and costs nothing.
    """

    steps: int
    sampling_prob: float
    divisor: float
    clip_norm: float
    noise_multiplier: float
    learning_rate: float
    max_images: int
    augmentations: int = 0
    loss: str = "cross_entropy"
    mode: str = "hooks"
    grid: bool = False
    proximal_mu: float = 0.0


def train_steps(
    module: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    patients: StrArray,
    plan: StepPlan,
    secret: bytes,
    source: NoiseSource,
    augment: Augment | None = None,
    left_out: LeftOut | None = None,
    shares: Mapping[str, float] | None = None,
) -> None:
    """Take a round of noisy steps on one clinic's patients, in place.

    Args:
        module: The network; its weights are changed.
        images: (n, channels, height, width) float images.
        labels: (n,) class of each image.
        patients: (n,) the id of each image's patient.
        plan: The public schedule.
        secret: The clinic's secret for sampling, fresh for each release.
        source: Noise for this release.
        augment: Draws a random view of each image that it is given, from the stream it is given;
            needed where the plan asks for views.
        left_out: Hears of each patient of a step whose gradient was not finite, before that
            step's noise. For the clinic's own log: what it hears must not leave.
        shares: Each patient's part of the sampling probability, see `draw_sample`.

    Raises:
        ConfigError: If the plan names a loss or a mode that there is not, a share is none, or a
            loader is given.
        UnsupportedModelError: If a layer mixes or remembers samples.

    Guarantees:
        Each step adds at most clip_norm of each sampled patient and then noise of standard
        deviation noise_multiplier * clip_norm; exactly plan.steps steps are taken whatever the
        data; a patient whose gradient is not finite contributes zeros. The weights change only at
        the end of a step: whatever interrupts one leaves them as they were before it.

    Source:
        Abadi et al. 2016, arXiv:1607.00133, Algorithm 1, with patients as examples.
    """
    require_supported(module)
    require_tensors(images, labels)
    require_isolated(module, images.shape[1:])
    rows = rows_by_patient(patients)
    std = plan.noise_multiplier * plan.clip_norm
    began = _flat(module)
    for step in range(plan.steps):
        sample = draw_sample(
            rows,
            secret=secret,
            step=step,
            sampling_prob=plan.sampling_prob,
            max_images=plan.max_images,
            shares=shares,
        )
        # An empty sample is a noisy step too: one of zeros, for otherwise its number would tell.
        total = clipped_sum(module, images, labels, sample, plan, augment, left_out)
        total += source.normal(total.shape, std)
        total *= plan.learning_rate / plan.divisor
        if plan.proximal_mu:
            # The gradient of mu / 2 times the squared distance, outside of clip and noise: both
            # ends of it are public or noised (Li et al. 2020, arXiv:1812.06127, equation 2).
            total += plan.learning_rate * plan.proximal_mu * (_flat(module) - began)
        descend(module, total)


def clipped_sum(
    module: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    sample: Sequence[Sampled],
    plan: StepPlan,
    augment: Augment | None = None,
    left_out: LeftOut | None = None,
) -> FloatArray:
    """Add up the clipped gradients of a step's patients: S(D) of the accounting, before noise.

    Args:
        module: A network that `require_supported` accepts; put into training mode, and else not
            changed.
        images: (n, channels, height, width) float images.
        labels: (n,) class of each image.
        sample: The patients of the step.
        plan: The public schedule; of it clip_norm, augmentations, loss, mode and grid are read.
        augment: Draws random views, see `train_steps`.
        left_out: Hears of each patient whose gradient was not finite, see `train_steps`.

    Returns:
        (size,) float64, the trained parameters behind one another in the order of their names;
        zeros for an empty sample.

    Raises:
        ConfigError: If the plan's clip, loss or mode is none, or it asks for views and there is
            nothing that draws them.
        UnsupportedModelError: If the network remembered something of the pass.

    Guarantees:
        Without one patient of the sample the sum differs by at most clip_norm in L2 norm, up to
        the rounding of single precision, and with a grid exactly, however many images and views
        the patient has. Nothing is kept of the call, also where it is interrupted.
    """
    require_positive(clip_norm=plan.clip_norm)
    require_one_of(LOSSES, loss=plan.loss)
    if plan.augmentations > 0 and augment is None:
        raise ConfigError(
            rule="something that draws views where augmentations are planned",
            got=f"augmentations={plan.augmentations} and nothing that draws them",
            do="Give augment, such as training.augment.random_views.",
        )
    size = sum(parameter.numel() for parameter in trained(module).values())
    total = np.zeros(size)
    if not sample:
        return total
    before = memory_digest(module)
    module.train()
    views = max(plan.augmentations, 1)
    room = images_at_once(plan.mode, size)
    finite: list[BoolArray] = []
    with clipped_gradients(
        module, plan.mode, LOSSES[plan.loss], plan.clip_norm, grid=plan.grid, told=finite.append
    ) as summed:
        for chunk in _chunks(sample, views, room):
            total += summed(_batch(images, labels, chunk, plan.augmentations, augment))
    require_unchanged(module, before)
    if left_out is not None:
        for number in np.flatnonzero(~np.concatenate(finite)).tolist():
            left_out(sample[number])
    return total


def require_tensors(images: object, labels: object) -> None:
    """Refuse loaders: one that shuffles or weighs is not the sampler of the accounting (P6).

    Args:
        images: What was given as images.
        labels: What was given as labels.

    Raises:
        ConfigError: If one of them is not a tensor.
    """
    for given in (images, labels):
        if not isinstance(given, torch.Tensor):
            raise ConfigError(
                rule="all of a clinic's images and labels as tensors",
                got=type(given).__name__,
                do="Give the tensors: each step draws its own Poisson sample of patients, and a "
                "loader that shuffles or weighs would not be what the accountant is told.",
            )


def descend(module: nn.Module, step: FloatArray) -> None:
    """Subtract a flat step from the trained parameters, in place.

    Args:
        module: The network.
        step: (size,) in the order of `clipped_sum`.
    """
    start = 0
    with torch.no_grad():
        for parameter in trained(module).values():
            part = step[start : start + parameter.numel()].reshape(tuple(parameter.shape))
            parameter.sub_(torch.from_numpy(part).to(parameter.dtype))
            start += parameter.numel()


def _flat(module: nn.Module) -> FloatArray:
    """Read the trained parameters in the order of `descend`."""
    arrays = [p.detach().numpy().ravel() for p in trained(module).values()]
    return np.concatenate(arrays).astype(np.float64)


def _chunks(sample: Sequence[Sampled], views: int, at_once: int) -> list[list[Sampled]]:
    """Cut a sample into parts that fit the cache; a patient is never divided."""
    chunks: list[list[Sampled]] = []
    room = 0
    for one in sample:
        size = len(one.rows) * views
        if room < size:
            chunks.append([])
            room = max(at_once, size)
        chunks[-1].append(one)
        room -= size
    return chunks


def _batch(
    images: torch.Tensor,
    labels: torch.Tensor,
    chunk: Sequence[Sampled],
    augmentations: int,
    augment: Augment | None,
) -> PatientBatch:
    """Put the patients' images, or views of them, behind one another."""
    views = max(augmentations, 1)
    inputs = []
    for one in chunk:
        own = images[torch.from_numpy(one.rows)]
        if augment is not None and augmentations > 0:
            own = augment(own.repeat_interleave(views, dim=0), one.stream())
        inputs.append(own)
    rows = torch.from_numpy(np.concatenate([one.rows for one in chunk]))
    sizes = torch.tensor([len(one.rows) * views for one in chunk])
    return PatientBatch(torch.cat(inputs), labels[rows].repeat_interleave(views), sizes)
