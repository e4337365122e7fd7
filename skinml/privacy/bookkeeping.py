"""Clipped sums from one backward pass, for networks of convolutions, linear layers and GroupNorm.

The pass gives the gradient at each layer's output, and no weight's. From it and the layer's input
follow first the norms, layer by layer, and then each weight's sum of clipped gradients, at the
price of the weight gradient that a step without privacy computes. A convolution's norms come from
the Gram matrices of inputs and output gradients where its image is small, and from the images'
gradients of this one layer where it is large; whichever takes fewer products. Gradients of a layer
that were made for its norms, and take little memory, are weighed and added up as they are.

Symbols in this file: n images, p patients, c channels, t places of an output's image, d inputs of
one output number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- the name that the field uses
from torch.nn.grad import conv2d_weight

from skinml.errors import UnsupportedModelError

# A product for a Gram matrix, in double precision and behind a copy of the inputs, costs as much as
# four of a convolution's own (measured on ResNet-18 at 64 and 128 px).
_GRAM_COST = 4.0
# Numbers of all layers' gradients that are kept for the sums: a quarter of a gigabyte.
_KEPT = 2**26
_AT_ONCE = 2**16

Norms = tuple[Tensor, dict[str, Tensor]]
"""(p,) squared norms of a layer, and by name of a parameter the (p, size) gradients behind them."""


@dataclass(frozen=True, repr=False)
class Members:
    """Whose images are in a batch. Per patient: never log.

    Attributes:
        sizes: (p,) images of each patient, which stand behind one another.
        position: (n,) each image's patient.
    """

    sizes: Tensor
    position: Tensor

    def gathered(self, by_image: Tensor) -> Tensor:
        """Add the images' gradients up within each patient.

        Args:
            by_image: (n, ...) gradients.

        Returns:
            (p, size) flat gradients.
        """
        flat = by_image.flatten(1)
        if len(flat) == len(self.sizes):
            return flat
        shape = (len(self.sizes), flat.shape[1])
        return torch.zeros(shape, dtype=flat.dtype).index_add_(0, self.position, flat)


@dataclass(repr=False)
class _Seen:
    """What one layer was given and gave in one pass."""

    inputs: Tensor
    outputs: Tensor
    versions: tuple[int, int]


class Recorder:
    """Hears what the layers of a network take and give.

    Args:
        module: The network.
        kept: Numbers of gradients that may be kept for the sums.

    Raises:
        UnsupportedModelError: If a trained parameter is not one of a convolution, a linear layer or
            a GroupNorm, or is in two of them.
    """

    def __init__(self, module: nn.Module, kept: int = _KEPT) -> None:
        self._layers, self._kept = _trained_layers(module), kept
        self._seen: dict[nn.Module, _Seen] = {}
        self._handles = [layer.register_forward_hook(self._hear) for layer in self._layers]

    def close(self) -> None:
        """Stop listening; the network is as it was."""
        for handle in self._handles:
            handle.remove()
        self._seen.clear()

    def backward(self, losses: Callable[[], Tensor], members: Members) -> Pass:
        """Pass forwards and backwards once.

        Args:
            losses: Computes (n,) losses with the network.
            members: Whose images they are.

        Returns:
            What the pass showed.

        Raises:
            UnsupportedModelError: If a layer is used twice, or its input or output is changed in
                place.
        """
        self._seen.clear()
        total = losses().sum()
        seen = list(self._seen.items())
        for layer, each in seen:
            if (each.inputs._version, each.outputs._version) != each.versions:
                raise _refused(
                    "tensors that nothing changes in place",
                    f"one at {type(layer).__name__}",
                    "Choose gradient_mode=hooks, or take inplace=True out.",
                )
        found = torch.autograd.grad(total, [each.outputs for _, each in seen], allow_unused=True)
        parts = {
            layer: (each.inputs.detach(), gradient)
            for (layer, each), gradient in zip(seen, found, strict=True)
            if gradient is not None
        }
        self._seen.clear()
        return Pass(parts, members, self._kept)

    def _hear(self, layer: nn.Module, given: tuple[Any, ...], outputs: Any) -> None:
        (inputs,) = given
        if layer in self._seen:
            raise _refused(
                "layers that occur once in a network",
                f"{type(layer).__name__} used twice",
                "Choose gradient_mode=hooks, which adds the parts up before the norm.",
            )
        if isinstance(layer, nn.Linear) and inputs.dim() != 2:
            raise _refused(
                "linear layers of one vector an image",
                f"inputs of {inputs.dim()} dimensions",
                "Choose gradient_mode=hooks.",
            )
        self._seen[layer] = _Seen(inputs, outputs, (inputs._version, outputs._version))


@contextmanager
def recorder(module: nn.Module, kept: int = _KEPT) -> Iterator[Recorder]:
    """Listen to a network until the block ends.

    Args:
        module: The network.
        kept: Numbers of gradients that may be kept for the sums; they change no sum.

    Yields:
        What listens.

    Raises:
        UnsupportedModelError: See `Recorder`.
    """
    made = Recorder(module, kept)
    try:
        yield made
    finally:
        made.close()


class Pass:
    """One backward pass: inputs and output gradients of each layer that had any.

    Args:
        parts: By layer its input (n, ...) and the gradient at its output (n, ...).
        members: Whose images they are.
        kept: Numbers of gradients that may be kept for the sums.

    Source:
        Goodfellow 2015, arXiv:1510.01799, for norms of linear layers; Bu, Mao and Xu 2022,
        arXiv:2205.10683, for convolutions; Bu et al. 2023, arXiv:2210.00038, for one pass.
    """

    def __init__(
        self, parts: Mapping[nn.Module, tuple[Tensor, Tensor]], members: Members, kept: int
    ) -> None:
        self._parts, self._members, self._kept = dict(parts), members, kept
        self._rows: dict[nn.Module, dict[str, Tensor]] = {}

    def squares(self) -> Tensor:
        """Compute the squared norms of the patients' whole gradients.

        Returns:
            (p,) in double precision; NaN or infinite where a gradient is.
        """
        total = torch.zeros(len(self._members.sizes), dtype=torch.float64)
        room = self._kept
        for layer, (inputs, gradients) in self._parts.items():
            squares, rows = _SQUARES[type(layer)](layer, inputs, gradients, self._members)
            total += squares
            size = sum(each.numel() for each in rows.values())
            if rows and size <= room:
                self._rows[layer], room = rows, room - size
        return total

    def weighed(self, factors: Tensor) -> dict[nn.Parameter, Tensor]:
        """Add up the patients' gradients, each times its factor.

        Args:
            factors: (p,); where one is 0 the patient's numbers are not looked at.

        Returns:
            By parameter the sum; parameters that had no part in the losses are not there.
        """
        whose = factors != 0
        images = whose[self._members.position]
        everybody = bool(whose.all())
        of_patient = factors[whose]
        of_image = factors[self._members.position][images]
        sums: dict[nn.Parameter, Tensor] = {}
        for layer, (inputs, gradients) in self._parts.items():
            if layer in self._rows:
                for name, rows in self._rows[layer].items():
                    kept = rows if everybody else rows[whose]  # zero times NaN is NaN
                    own = getattr(layer, name)
                    sums[own] = (of_patient.to(kept.dtype) @ kept).reshape(own.shape)
                continue
            if not everybody:
                inputs, gradients = inputs[images], gradients[images]
            shape = (-1, *[1] * (gradients.dim() - 1))
            scaled = gradients * of_image.to(gradients.dtype).reshape(shape)
            sums |= _SUMS[type(layer)](layer, inputs, scaled)
        return sums


def squares_of(rows: Tensor) -> Tensor:
    """Compute squared norms in double precision: squares of single precision overflow from 2e19 on.

    Args:
        rows: (p, size).

    Returns:
        (p,).
    """
    squares = torch.empty(len(rows), dtype=torch.float64)
    flat = rows.flatten(1)
    step = max(1, _AT_ONCE // max(1, flat.shape[1]))  # so many stay in the cache as they are turned
    for start in range(0, len(rows), step):
        part = flat[start : start + step].double()
        squares[start : start + step] = torch.linalg.vector_norm(part, dim=1).square()
    return squares


def linear_squares(layer: nn.Linear, inputs: Tensor, gradients: Tensor, members: Members) -> Tensor:
    """Compute norms without gradients: a linear layer's is an outer product for each image.

    Args:
        layer: The layer.
        inputs: (n, d).
        gradients: (n, c) at its output.
        members: Whose images they are.

    Returns:
        (p,) squared norms.
    """
    if len(members.position) == len(members.sizes):
        ones = layer.bias is not None and layer.bias.requires_grad
        kinds = torch.full((len(inputs),), float(ones), dtype=torch.float64)
        if layer.weight.requires_grad:
            kinds += squares_of(inputs)
        return squares_of(gradients) * kinds
    grams = gradients.double() @ gradients.double().T
    kinds = torch.zeros_like(grams)
    if layer.weight.requires_grad:
        kinds = kinds + inputs.double() @ inputs.double().T
    if layer.bias is not None and layer.bias.requires_grad:
        kinds = kinds + 1
    same = members.position[:, None] == members.position[None, :]
    by_image = torch.where(same, grams * kinds, 0.0).sum(dim=1)
    own = torch.zeros(len(members.sizes), dtype=torch.float64)
    floored: Tensor = own.index_add_(0, members.position, by_image).clamp(min=0)  # a NaN stays one
    return floored


def _linear_norms(layer: nn.Linear, inputs: Tensor, gradients: Tensor, members: Members) -> Norms:
    return linear_squares(layer, inputs, gradients, members), {}


def _conv_norms(layer: nn.Conv2d, inputs: Tensor, gradients: Tensor, members: Members) -> Norms:
    own = gradients.flatten(2)  # (n, c, t)
    depth, outputs, places = layer.weight[0].numel(), own.shape[1], own.shape[2]
    most = int(members.sizes.max())
    by_gram = _GRAM_COST * most * places * (depth + outputs)
    rows: dict[str, Tensor] = {}
    if layer.bias is not None and layer.bias.requires_grad:
        rows["bias"] = members.gathered(own.sum(dim=2))
    if layer.weight.requires_grad and layer.groups == 1 and by_gram < depth * outputs:
        columns = F.unfold(
            inputs,
            layer.kernel_size,
            layer.dilation,
            layer.padding,  # type: ignore[arg-type]  # words for it were refused
            layer.stride,
        )
        return _total(rows) + _gram_squares(columns, own, members), {}
    if layer.weight.requires_grad:
        rows["weight"] = members.gathered(_conv_gradients(layer, inputs, gradients))
    return _total(rows), rows


def _total(rows: Mapping[str, Tensor]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for each in rows.values():
        total = total + squares_of(each)
    return total


def _conv_gradients(layer: nn.Conv2d, inputs: Tensor, gradients: Tensor) -> Tensor:
    """Compute each image's gradient of a convolution's weight, (n, size of the weight).

    A batch of images is one image of n times the channels, convolved in n times the groups.
    """
    count = len(inputs)
    weight: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]  # torch has none here
        inputs.reshape(1, -1, *inputs.shape[2:]),
        (count * layer.out_channels, *layer.weight.shape[1:]),
        gradients.reshape(1, -1, *gradients.shape[2:]),
        layer.stride,
        layer.padding,
        layer.dilation,
        count * layer.groups,
    )
    return weight.reshape(count, -1)


def _gram_squares(columns: Tensor, gradients: Tensor, members: Members) -> Tensor:
    """Squared norms of the patients' sums of (c, t) (t, d) products, from two matrices (t, t)."""
    total = torch.zeros(len(members.sizes), dtype=torch.float64)
    sizes = sorted(set(members.sizes.tolist()))
    for size in sizes:
        patients = members.sizes == size
        rows = patients[members.position]
        grams = []
        for part in (columns, gradients):
            own = (part if len(sizes) == 1 else part[rows]).double()
            if size > 1:
                own = own.reshape(-1, size, *own.shape[1:]).transpose(1, 2).flatten(2)
            grams.append(own.transpose(1, 2) @ own)
        total[patients] = (grams[0] * grams[1]).sum(dim=(1, 2)).clamp(min=0)  # a NaN stays one
    return total


def _group_norms(layer: nn.GroupNorm, inputs: Tensor, gradients: Tensor, members: Members) -> Norms:
    rows = {}
    if layer.weight.requires_grad:
        normal = F.group_norm(inputs, layer.num_groups, eps=layer.eps)
        rows["weight"] = members.gathered((normal * gradients).flatten(2).sum(dim=2))
    if layer.bias.requires_grad:
        rows["bias"] = members.gathered(gradients.flatten(2).sum(dim=2))
    return _total(rows), rows


def _group_sums(layer: nn.GroupNorm, inputs: Tensor, scaled: Tensor) -> dict[nn.Parameter, Tensor]:
    normal = F.group_norm(inputs, layer.num_groups, eps=layer.eps)
    weight = (normal * scaled).flatten(2).sum(dim=(0, 2))
    return _trained(layer, weight, scaled.flatten(2).sum(dim=(0, 2)))


def _linear_sums(layer: nn.Linear, inputs: Tensor, scaled: Tensor) -> dict[nn.Parameter, Tensor]:
    return _trained(layer, scaled.T @ inputs, scaled.sum(dim=0))


def _conv_sums(layer: nn.Conv2d, inputs: Tensor, scaled: Tensor) -> dict[nn.Parameter, Tensor]:
    weight = conv2d_weight(  # type: ignore[no-untyped-call]  # torch has none here
        inputs,
        layer.weight.shape,
        scaled,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
    )
    return _trained(layer, weight, scaled.sum(dim=(0, 2, 3)))


def _trained(layer: Any, weight: Tensor, bias: Tensor) -> dict[nn.Parameter, Tensor]:
    pairs = ((layer.weight, weight), (layer.bias, bias))
    return {own: part for own, part in pairs if own is not None and own.requires_grad}


_SQUARES: Mapping[type[nn.Module], Callable[..., Norms]] = {
    nn.Conv2d: _conv_norms,
    nn.Linear: _linear_norms,
    nn.GroupNorm: _group_norms,
}
_SUMS: Mapping[type[nn.Module], Callable[..., dict[nn.Parameter, Tensor]]] = {
    nn.Conv2d: _conv_sums,
    nn.Linear: _linear_sums,
    nn.GroupNorm: _group_sums,
}


def _trained_layers(module: nn.Module) -> list[nn.Module]:
    """Find the layers that hold trained parameters, all of kinds that are known here."""
    layers, held = [], set()
    for layer in module.modules():
        own = [p for p in layer.parameters(recurse=False) if p.requires_grad]
        if not own:
            continue
        plain = type(layer) in _SUMS
        if isinstance(layer, nn.Conv2d):
            plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        if not plain or any(id(parameter) in held for parameter in own):
            raise _refused(
                "trained parameters in one Conv2d, Linear or GroupNorm each",
                type(layer).__name__ + ("" if not plain else ", which shares one"),
                "Choose gradient_mode=hooks or functorch.",
            )
        held |= {id(parameter) for parameter in own}
        layers.append(layer)
    return layers


def _refused(rule: str, got: str, do: str) -> UnsupportedModelError:
    return UnsupportedModelError(rule=f"{rule}, for gradient_mode=bookkeeping", got=got, do=do)
