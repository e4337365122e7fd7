"""The clipped sum of some patients' gradients, in one of six ways that give the same numbers.

    hooks      Opacus: per-image gradients from hooks on each layer
    functorch  Opacus: per-image gradients by vectorised functions; for depthwise convolutions
    ew         Opacus: torch's expanded weights
    ghost      Opacus' fast gradient clipping, for patients: first the norms, layer by layer, then
               one backward pass of the reweighted loss; never all per-image gradients at once
    bookkeeping  the same from a single backward pass, see `skinml.privacy.bookkeeping`
    alone      one patient at a time by plain backward passes: a patient's gradient then depends on
               nobody else even in its last bit, which the integer path needs

Which one is fastest depends on the network and the machine: `fastest_mode` tries them.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import opacus
import torch
from opacus import GradSampleModule
from opacus.grad_sample import (
    AbstractGradSampleModule,
    GradSampleModuleExpandedWeights,
    GradSampleModuleFastGradientClipping,
)
from opacus.grad_sample.functorch import ft_compute_per_sample_gradient
from torch import nn

from skinml.errors import UnsupportedModelError, require_one_of
from skinml.privacy.bookkeeping import Members, Recorder, linear_squares, recorder, squares_of
from skinml.privacy.clipping import clip_factors
from skinml.privacy.losses import Loss, image_losses
from skinml.privacy.network_checks import require_opacus
from skinml.privacy.quantise import on_grid
from skinml.records import BoolArray, FloatArray

MODES = ("bookkeeping", "hooks", "functorch", "ew", "ghost", "alone")
# Modes agree on a network that they support to the rounding of single precision.
_AGREEMENT = 1e-3
_TRIALS = 3
_TRIED = 16  # images in a pass: with few, what a pass costs by itself would decide
# A pass that takes so many times as long as the best mode is not tried again.
_HOPELESS = 2.0

require_opacus(opacus.__version__)


@dataclass(frozen=True, repr=False)
class PatientBatch:
    """Some patients' images behind one another. Per patient: never log.

    Attributes:
        inputs: (n, channels, height, width) images.
        targets: (n,) class of each image.
        sizes: (patients,) how many images each patient has, all above zero.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    sizes: torch.Tensor

    @property
    def position(self) -> torch.Tensor:
        """(n,) each image's patient, numbered from 0."""
        return torch.repeat_interleave(torch.arange(len(self.sizes)), self.sizes)

    @property
    def members(self) -> Members:
        """Whose images they are."""
        return Members(self.sizes, self.position)

    def losses(self, module: nn.Module, loss: Loss) -> torch.Tensor:
        """Compute each image's part of its patient's mean loss.

        Args:
            module: The network.
            loss: The loss, one value an image.

        Returns:
            (n,) losses over the number of images of the patient.
        """
        values = image_losses(loss, module(self.inputs), self.targets)
        return values / self.sizes[self.position]

    def kept(self, patients: torch.Tensor) -> PatientBatch:
        """Keep some of the patients.

        Args:
            patients: (patients,) mask.

        Returns:
            Their part of the batch.
        """
        rows = patients[self.position]
        return PatientBatch(self.inputs[rows], self.targets[rows], self.sizes[patients])


Summed = Callable[[PatientBatch], FloatArray]
# Hears of each batch which of its patients' gradients were finite.
Told = Callable[[BoolArray], None]


def _untold(finite: BoolArray) -> None:
    """Hear nothing."""


# Per-image gradients of more images fall out of the processor's cache (2.1 against 1.2 ms an image
# for small_cnn, 280 against 32 images) and take memory in proportion.
_IMAGES_AT_ONCE = 32
# Of large networks fewer images: 2**27 single-precision numbers are half a gigabyte.
_NUMBERS_AT_ONCE = 2**27
# Those never hold all images' gradients at once.
_BY_LAYER = ("bookkeeping", "ghost")


def images_at_once(mode: str, size: int, most: int = _IMAGES_AT_ONCE) -> int:
    """Size a pass to the memory that its gradients take.

    Args:
        mode: One of `MODES`.
        size: Trained numbers of the network.
        most: So many at most.

    Returns:
        How many images pass at once, from 1.
    """
    if mode in _BY_LAYER:
        return most
    return max(1, min(most, _NUMBERS_AT_ONCE // size))


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """Find what is trained.

    Args:
        module: The network.

    Returns:
        The trained parameters in the order of their names, which is that of every flat gradient.
    """
    return {name: p for name, p in sorted(module.named_parameters()) if p.requires_grad}


@contextmanager
def clipped_gradients(
    module: nn.Module,
    mode: str,
    loss: Loss,
    clip_norm: float,
    *,
    grid: bool = False,
    told: Told = _untold,
) -> Iterator[Summed]:
    """Prepare a network for clipped sums.

    Args:
        module: The network in training mode; on leaving it is as it was.
        mode: One of `MODES`.
        loss: The loss, one value an image.
        clip_norm: Greatest L2 norm of one patient's gradient, the mean over its images.
        grid: Whether each patient's gradient is cut down to the grid of the integer path.
        told: Hears of each batch the (patients,) mask of those whose gradient was finite. Per
            patient: never log.

    Yields:
        The function from a batch to the sum of its patients' clipped gradients, (size,) float64.

    Raises:
        ConfigError: If the mode is unknown, or not "alone" where the grid is asked for.

    Guarantees:
        Each patient adds at most clip_norm in L2 norm, up to rounding of single precision; with a
        grid exactly, and the same numbers whoever else is in the sum. A patient whose gradient is
        not finite adds zeros.

    Source:
        Abadi et al. 2016, arXiv:1607.00133, for the clip; Li et al. 2021, arXiv:2110.05679, for
        ghost clipping.
    """
    require_one_of(("alone",) if grid else MODES, gradient_mode=mode)
    parameters = list(trained(module).values())
    if mode == "alone":
        yield lambda batch: _alone(module, parameters, batch, loss, clip_norm, told, grid=grid)
        return
    if mode == "bookkeeping":
        with recorder(module) as heard:
            yield lambda batch: _in_one_pass(
                heard, module, parameters, batch, loss, clip_norm, told
            )
        return
    wrapped = _wrapped(module, mode)
    try:
        if isinstance(wrapped, _PatientNorms):
            yield lambda batch: _by_norms(wrapped, parameters, batch, loss, clip_norm, told)
        else:
            yield lambda batch: _by_image(wrapped, parameters, batch, loss, clip_norm, told)
    finally:
        _unwrap(wrapped, module)


def _wrapped(module: nn.Module, mode: str) -> AbstractGradSampleModule:
    if mode == "ew":
        return GradSampleModuleExpandedWeights(module, loss_reduction="sum")
    if mode == "ghost":
        # Opacus' own ghost norms are of images, and refuse repeated layers in words for developers.
        return _PatientNorms(module, loss_reduction="sum", use_ghost_clipping=False)
    return GradSampleModule(module, loss_reduction="sum", force_functorch=mode == "functorch")


def _unwrap(wrapped: AbstractGradSampleModule, module: nn.Module) -> None:
    """Take off all that Opacus put on, also what an interrupted pass left behind."""
    wrapped.cleanup()
    for layer in module.modules():
        for left in ("activations", "max_batch_len"):
            vars(layer).pop(left, None)
    module.zero_grad(set_to_none=True)


def _backward(losses: torch.Tensor, *, retain_graph: bool = False) -> None:
    with warnings.catch_warnings():
        # Images need no gradient of their own, which torch mentions once a hook sees it.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        torch.autograd.backward(losses.sum(), retain_graph=retain_graph)


def _factors(squares: torch.Tensor, clip_norm: float) -> torch.Tensor:
    return torch.from_numpy(clip_factors(torch.sqrt(squares).numpy(), clip_norm))


def _by_image(
    wrapped: AbstractGradSampleModule,
    parameters: Sequence[nn.Parameter],
    batch: PatientBatch,
    loss: Loss,
    clip_norm: float,
    told: Told,
) -> FloatArray:
    """Hooks, functorch, ew: all images' gradients at once."""
    _backward(batch.losses(wrapped, loss))
    rows = []
    for parameter in parameters:
        by_image: torch.Tensor = getattr(parameter, "grad_sample")  # noqa: B009  # set by Opacus
        rows.append(batch.members.gathered(by_image))
        setattr(parameter, "grad_sample", None)  # noqa: B010  # the next batch writes its own
        parameter.grad = None
    squares = torch.stack([squares_of(part) for part in rows]).sum(dim=0)
    factors = _factors(squares, clip_norm)
    finite = squares.isfinite()
    told(finite.numpy())
    clipped = []
    for part in rows:
        part[~finite] = 0
        clipped.append(factors.to(part.dtype) @ part)
    return np.asarray(torch.cat(clipped).double().numpy())


class _PatientNorms(GradSampleModuleFastGradientClipping):  # type: ignore[misc]  # no types
    """Opacus' fast gradient clipping with norms of patients instead of images.

    Attributes:
        members: Whose images are in the batch, set before each pass.
        squares: (patients,) squared norms, added up layer by layer in the backward pass.
    """

    members: Members
    squares: torch.Tensor

    def capture_activations_hook(self, module: nn.Module, *args: Any) -> None:
        super().capture_activations_hook(module, *args)
        if any(getattr(p, "_forward_counter", 0) > 1 for p in module.parameters()):
            raise UnsupportedModelError(
                rule="parameters that occur once in a network, for gradient_mode=ghost",
                got=f"{type(module).__name__} used twice",
                do="Choose gradient_mode=hooks, which adds the parts up before the norm.",
            )

    def capture_backprops_hook(
        self,
        module: nn.Module,
        _forward_input: Any,
        forward_output: Any,
        loss_reduction: str,
        batch_first: bool,
    ) -> None:
        if not self.hooks_enabled:
            return
        activations, backprops = self.rearrange_grad_samples(
            module=module,
            backprops=forward_output[0].detach(),
            loss_reduction=loss_reduction,
            batch_first=batch_first,
        )
        if type(module) is nn.Linear and backprops.dim() == 2:
            self.squares += linear_squares(module, activations[0], backprops, self.members)
        else:
            sampler = self.GRAD_SAMPLERS.get(type(module), ft_compute_per_sample_gradient)
            for parameter, by_image in sampler(module, activations, backprops).items():
                if parameter.requires_grad:
                    self.squares += squares_of(self.members.gathered(by_image))
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter._forward_counter -= 1  # type: ignore[attr-defined]  # Opacus' own
        del module.max_batch_len


def _by_norms(
    wrapped: _PatientNorms,
    parameters: Sequence[nn.Parameter],
    batch: PatientBatch,
    loss: Loss,
    clip_norm: float,
    told: Told,
) -> FloatArray:
    """Ghost: the norms first, then the gradient of the losses, each with its patient's factor."""
    wrapped.members = batch.members
    wrapped.squares = torch.zeros(len(batch.sizes), dtype=torch.float64)
    wrapped.enable_hooks()
    losses = batch.losses(wrapped, loss)
    _backward(losses, retain_graph=True)
    wrapped.disable_hooks()
    factors = _factors(wrapped.squares, clip_norm).to(losses.dtype)
    finite = wrapped.squares.isfinite()
    told(finite.numpy())
    if not finite.all():  # zero times NaN is NaN: who is not finite leaves the second pass
        batch, factors = batch.kept(finite), factors[finite]
        if len(batch.sizes) == 0:
            return np.zeros(sum(parameter.numel() for parameter in parameters))
        losses = batch.losses(wrapped, loss)
    for parameter in parameters:
        parameter.grad = None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        grads = torch.autograd.grad((losses * factors[batch.position]).sum(), parameters)
    return np.asarray(torch.cat([grad.flatten() for grad in grads]).double().numpy())


def _in_one_pass(
    heard: Recorder,
    module: nn.Module,
    parameters: Sequence[nn.Parameter],
    batch: PatientBatch,
    loss: Loss,
    clip_norm: float,
    told: Told,
) -> FloatArray:
    """Bookkeeping: norms and sums from what one pass showed of each layer."""
    shown = heard.backward(lambda: batch.losses(module, loss), batch.members)
    squares = shown.squares()
    told(squares.isfinite().numpy())
    sums = shown.weighed(_factors(squares, clip_norm))
    flat = [sums[p].flatten() if p in sums else torch.zeros(p.numel()) for p in parameters]
    return np.asarray(torch.cat(flat).double().numpy())


def _alone(
    module: nn.Module,
    parameters: Sequence[nn.Parameter],
    batch: PatientBatch,
    loss: Loss,
    clip_norm: float,
    told: Told,
    *,
    grid: bool,
) -> FloatArray:
    """One patient after the other: no per-image gradients, and nobody in anybody's rounding."""
    total = np.zeros(sum(parameter.numel() for parameter in parameters))
    finite = np.ones(len(batch.sizes), dtype=bool)
    for number in range(len(batch.sizes)):
        own = batch.kept(torch.arange(len(batch.sizes)) == number)
        grads = torch.autograd.grad(own.losses(module, loss).sum(), list(parameters))
        flat = torch.cat([grad.flatten() for grad in grads]).double().numpy()
        finite[number] = np.isfinite(flat).all()
        if grid:
            total += on_grid(flat[None], clip_norm)[0]
        elif finite[number]:
            total += flat * clip_factors(np.array([np.linalg.norm(flat)]), clip_norm)[0]
    told(finite)
    return total


def fastest_mode(module: nn.Module, image_shape: Sequence[int], loss: Loss, images: int = 1) -> str:
    """Find the mode that is fastest for a network on this machine, on drawn images.

    No patient's image is timed: the choice tells nothing, and all modes give the same sums.

    Args:
        module: The network; not changed.
        image_shape: (channels, height, width).
        loss: The loss, one value an image.
        images: Images of a patient in a step, views included.

    Returns:
        One of `MODES`; a mode that does not support the network, or gives another sum than plain
        backward passes do, is left out.
    """
    copied = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(0)
    size = sum(parameter.numel() for parameter in trained(module).values())
    patients = max(2, images_at_once("hooks", size, _TRIED) // images)
    batch = PatientBatch(
        torch.randn((patients * images, *image_shape), generator=generator),
        torch.zeros(patients * images, dtype=torch.int64),
        torch.full((patients,), images),
    )
    expected, seconds = _timed(copied, "alone", loss, batch, inf)
    fastest = "alone"
    for mode in MODES:
        try:
            found, needed = _timed(copied, mode, loss, batch, seconds)
        except (RuntimeError, UnsupportedModelError):  # the network has what the mode cannot do
            continue
        agrees = np.linalg.norm(found - expected) <= _AGREEMENT * np.linalg.norm(expected)
        if agrees and needed < seconds:
            fastest, seconds = mode, needed
    return fastest


def _timed(
    module: nn.Module, mode: str, loss: Loss, batch: PatientBatch, to_beat: float
) -> tuple[FloatArray, float]:
    """Time a mode: the best of a few passes, or the first one where that is hopeless already.

    What is compared is processor time, for what else the machine does must not choose the mode; and
    the pass in which the libraries prepare themselves does not count.
    """
    with clipped_gradients(module, mode, loss, 1.0) as summed:
        total = summed(batch)
        best = inf
        for _ in range(_TRIALS):
            start = time.process_time()
            summed(batch)
            best = min(best, time.process_time() - start)
            if best > _HOPELESS * to_beat:
                break
    return total, best
