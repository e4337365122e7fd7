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

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from opacus import GradSampleModule
from torch import nn

from skinml.errors import UnsupportedModelError
from skinml.privacy.clipping import clip_factors
from skinml.privacy.dpsgd_sampling import Sampled, draw_sample, rows_by_patient
from skinml.privacy.noise import NoiseSource
from skinml.records import FloatArray, StrArray

# Per-sample gradients of more images fall out of the processor's cache (2.1 against 1.2 ms an image
# for small_cnn, 280 against 32 images) and take memory in proportion.
_IMAGES_AT_ONCE = 32
_UPDATES_BUFFERS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
)

Augment = Callable[[torch.Tensor, np.random.Generator], torch.Tensor]


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
    """

    steps: int
    sampling_prob: float
    divisor: float
    clip_norm: float
    noise_multiplier: float
    learning_rate: float
    max_images: int
    augmentations: int = 0


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
    patients: StrArray,
    plan: StepPlan,
    secret: bytes,
    source: NoiseSource,
    augment: Augment | None = None,
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

    Raises:
        UnsupportedModelError: If a layer normalises over the batch.

    Guarantees:
        Each step adds at most clip_norm of each sampled patient and then noise of standard
        deviation noise_multiplier * clip_norm; exactly plan.steps steps are taken whatever the
        data; a patient whose gradient is not finite contributes zeros. The weights change only at
        the end of a step: whatever interrupts one leaves them as they were before it.

    Source:
        Abadi et al. 2016, arXiv:1607.00133, Algorithm 1, with patients as examples.
    """
    require_supported(module)
    rows = rows_by_patient(patients)
    std = plan.noise_multiplier * plan.clip_norm
    for step in range(plan.steps):
        sample = draw_sample(
            rows,
            secret=secret,
            step=step,
            sampling_prob=plan.sampling_prob,
            max_images=plan.max_images,
        )
        # An empty sample is a noisy step too: one of zeros, for otherwise its number would tell.
        total = clipped_sum(module, images, labels, sample, plan, augment)
        total += source.normal(total.shape, std)
        _descend(module, total * (plan.learning_rate / plan.divisor))


def clipped_sum(
    module: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    sample: Sequence[Sampled],
    plan: StepPlan,
    augment: Augment | None = None,
) -> FloatArray:
    """Add up the clipped gradients of a step's patients: S(D) of the accounting, before noise.

    Args:
        module: The network in training mode, as `require_supported` accepts it; not changed.
        images: (n, channels, height, width) float images.
        labels: (n,) class of each image.
        sample: The patients of the step.
        plan: The public schedule; of it only clip_norm and augmentations are read.
        augment: Draws random views, see `train_steps`.

    Returns:
        (size,) float64, the trained parameters behind one another in the order of their names;
        zeros for an empty sample.

    Guarantees:
        Without one patient of the sample the sum differs by at most clip_norm in L2 norm, up to
        the rounding of single precision, however many images and views the patient has. Nothing
        is kept of the call, also where it is interrupted.
    """
    names = trained_names(module)
    by_name = dict(module.named_parameters())
    parameters = [by_name[name] for name in names]
    total = np.zeros(sum(parameter.numel() for parameter in parameters))
    if not sample:
        return total
    per_sample = GradSampleModule(module, loss_reduction="sum")
    try:
        for chunk in _chunks(sample, max(plan.augmentations, 1)):
            position = _patient_gradients(per_sample, images, labels, chunk, plan, augment)
            total += _clipped(parameters, position, len(chunk), plan.clip_norm)
    finally:
        per_sample.to_standard_module()
        module.zero_grad(set_to_none=True)
    return total


def trained_names(module: nn.Module) -> tuple[str, ...]:
    """Name the parameters that are trained, in the order of `clipped_sum`.

    Args:
        module: The network.

    Returns:
        The names, sorted.
    """
    return tuple(sorted(name for name, value in module.named_parameters() if value.requires_grad))


def _descend(module: nn.Module, step: FloatArray) -> None:
    """Subtract a flat step from the trained parameters."""
    by_name = dict(module.named_parameters())
    start = 0
    with torch.no_grad():
        for name in trained_names(module):
            parameter = by_name[name]
            part = step[start : start + parameter.numel()].reshape(tuple(parameter.shape))
            parameter.sub_(torch.from_numpy(part).to(parameter.dtype))
            start += parameter.numel()


def _chunks(sample: Sequence[Sampled], views: int) -> list[list[Sampled]]:
    """Cut a sample into parts that fit the cache; a patient is never divided."""
    chunks: list[list[Sampled]] = []
    room = 0
    for one in sample:
        size = len(one.rows) * views
        if room < size:
            chunks.append([])
            room = max(_IMAGES_AT_ONCE, size)
        chunks[-1].append(one)
        room -= size
    return chunks


def _patient_gradients(
    per_sample: GradSampleModule,
    images: torch.Tensor,
    labels: torch.Tensor,
    chunk: Sequence[Sampled],
    plan: StepPlan,
    augment: Augment | None,
) -> torch.Tensor:
    """Leave each image's share of its patient's gradient in grad_sample; number the patients."""
    views = max(plan.augmentations, 1)
    inputs = torch.cat([_views(images, one, plan.augmentations, augment) for one in chunk])
    rows = torch.from_numpy(np.concatenate([one.rows for one in chunk]))
    sizes = torch.tensor([len(one.rows) * views for one in chunk])
    position = torch.repeat_interleave(torch.arange(len(chunk)), sizes)
    targets = labels[rows].repeat_interleave(views)
    loss = nn.functional.cross_entropy(per_sample(inputs), targets, reduction="none")
    _backward((loss / sizes[position]).sum())
    return position


def _views(
    images: torch.Tensor, one: Sampled, augmentations: int, augment: Augment | None
) -> torch.Tensor:
    own = images[torch.from_numpy(one.rows)]
    if augmentations == 0 or augment is None:
        return own
    return augment(own.repeat_interleave(augmentations, dim=0), one.stream())


def _backward(loss: torch.Tensor) -> None:
    with warnings.catch_warnings():
        # Images need no gradient of their own, which torch mentions once a hook sees it.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        torch.autograd.backward(loss)


def _clipped(
    parameters: Sequence[nn.Parameter],
    position: torch.Tensor,
    num_patients: int,
    clip_norm: float,
) -> FloatArray:
    """Add the images' gradients up within each patient, clip each patient, and sum."""
    sums = []
    for parameter in parameters:
        by_image: torch.Tensor = getattr(parameter, "grad_sample")  # noqa: B009  # set by Opacus
        total = torch.zeros((num_patients, *by_image.shape[1:]), dtype=by_image.dtype)
        sums.append(total.index_add_(0, position, by_image).flatten(1))
        setattr(parameter, "grad_sample", None)  # noqa: B010  # the next part writes its own
    squares = sum(torch.linalg.vector_norm(s, dim=1, dtype=torch.float64) ** 2 for s in sums)
    norms = torch.sqrt(torch.as_tensor(squares))
    factors = torch.from_numpy(clip_factors(norms.numpy(), clip_norm))
    clipped = []
    for rows in sums:
        rows[~norms.isfinite()] = 0
        clipped.append(factors.to(rows.dtype) @ rows)
    return torch.cat(clipped).double().numpy()
