"""Which networks private training accepts: those whose answer for an image is that image's alone.

Three looks at a network: at its layers by name, at what it does to a few drawn images, and at
what it remembered after a step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from skinml.errors import EnvironmentProblem, UnsupportedModelError

_LEAST_OPACUS = (1, 6)
_MOST_GROUPS = 32
# Single precision sums a batch of three and a batch of one in other orders.
_TOLERANCE = 1e-3


def require_opacus(version: str) -> None:
    """Refuse releases of Opacus that charged adaptive clipping too little (pitfall P11).

    Args:
        version: What opacus.__version__ says.

    Raises:
        EnvironmentProblem: If it is older than 1.6.
    """
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < _LEAST_OPACUS:
        raise EnvironmentProblem(
            rule="Opacus 1.6 or later", got=f"opacus {version}", do="Install opacus>=1.6."
        )


def require_supported(module: nn.Module) -> None:
    """Refuse layers that mix or remember samples, or whose draws nobody can repeat.

    Args:
        module: The network.

    Raises:
        UnsupportedModelError: If a layer normalises over the batch or keeps running statistics,
            trained, frozen or without parameters; if there is any buffer; or if a layer drops at
            random. The message names the layer and what to put in its place.
    """
    for name, layer in module.named_modules():
        where = name or "the top"
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise _refused(f"{type(layer).__name__} at {where}", _group_norm(layer.num_features))
        if isinstance(layer, nn.modules.instancenorm._InstanceNorm) and layer.track_running_stats:
            fix = f"Give it track_running_stats=False, or: {_group_norm(layer.num_features)}"
            raise _refused(f"{type(layer).__name__} with running statistics at {where}", fix)
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            raise UnsupportedModelError(
                rule="a network whose answer to an image is always the same",
                got=f"{type(layer).__name__} at {where}, which draws from torch's global stream",
                do="Remove it: the clip and the noise regularise already.",
            )
    # Whatever it is called, a layer remembers samples in a buffer (pitfall P2), or see below.
    for name, _ in module.named_buffers():
        raise UnsupportedModelError(
            rule="a network without buffers, which its forward pass could fill from samples",
            got=f"buffer {name}",
            do="Make it a constant of the class, or a parameter that is not trained.",
        )


def require_isolated(module: nn.Module, image_shape: Sequence[int]) -> None:
    """Refuse a network in which one image changes what another is given, whatever its layers.

    Tried on drawn images: together and alone, and beside an image that is not a number.

    Args:
        module: The network; not changed.
        image_shape: (channels, height, width).

    Raises:
        UnsupportedModelError: If an image's scores depend on the other images of its batch.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn((3, *image_shape), generator=generator)
    broken = drawn.clone()
    broken[1] = torch.nan
    with torch.no_grad():
        together, beside, alone = module(drawn), module(broken), module(drawn[:1])
    apart = len(together) == 3 and all(
        torch.allclose(scores[0], alone[0], rtol=_TOLERANCE, atol=_TOLERANCE)
        for scores in (together, beside)
    )
    if not apart:
        raise UnsupportedModelError(
            rule="scores of an image that do not change with the other images of its batch",
            got=f"{type(module).__name__}, which mixes them",
            do="Use layers that look at one image at a time, such as GroupNorm.",
        )


def memory_digest(module: nn.Module) -> bytes:
    """Digest all that a network could remember samples in: everything but its trained weights.

    Args:
        module: The network.

    Returns:
        A digest of its buffers, its frozen parameters and the tensors that its layers hold as
        plain attributes.
    """
    state = hashlib.blake2b(digest_size=16)
    for name, value in _memory(module):
        state.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode())
        state.update(value.detach().contiguous().numpy().tobytes())
    return state.digest()


def require_unchanged(module: nn.Module, before: bytes) -> None:
    """Refuse a network that remembered something of a step.

    Args:
        module: The network after the step.
        before: What `memory_digest` gave before it.

    Raises:
        UnsupportedModelError: If anything but the trained weights has changed.
    """
    if memory_digest(module) != before:
        raise UnsupportedModelError(
            rule="a network in which nothing but trained weights changes in a step",
            got=f"{type(module).__name__}, which changed a tensor of its own",
            do="Let its forward pass only read.",
        )


def _memory(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_buffers()
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            yield name, parameter
    for name, layer in module.named_modules():
        for attribute, value in sorted(vars(layer).items()):
            if isinstance(value, torch.Tensor):
                yield f"{name}.{attribute}", value


def _refused(got: str, fix: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        rule="a network without layers that mix or remember samples", got=got, do=fix
    )


def _group_norm(channels: int) -> str:
    groups = next(g for g in range(min(_MOST_GROUPS, channels), 0, -1) if channels % g == 0)
    return f"Put nn.GroupNorm({groups}, {channels}) in its place, as models.networks does."
