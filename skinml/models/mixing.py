"""Frozen networks in two precisions: bfloat16 where its rounding is not carried far.

What a layer rounds is carried, and multiplied, by the layers behind it: a first layer in bfloat16
moves features ten times as far as a late one. So the stream of sums through the network stays in
single precision, and so do the first layers and those that make the stream new; late branches, of
which each is one summand among several, and the last convolution compute in bfloat16, which some
processors multiply many times faster.

Shapes: N images, H height, W width, d features.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import TensorMetadata

from skinml.models.folding import agree, convolves, is_average
from skinml.models.portions import drawn_pixels

_LATE = 8  # times that a late layer's grid is smaller than the image, at least


def multiplies_bfloat16() -> bool:
    """Tell whether this processor multiplies matrices of bfloat16.

    Returns:
        Whether it has AMX; that oneDNN or the system keep it from being used is not seen.
        Instructions for vectors alone (AVX-512 BF16) do not pay: with them a network in two
        precisions took a fifth longer than in single precision.
    """
    ask: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    return bool(ask().get("amx_bf16", False))  # PyTorch 2.4 does not tell


def mixed(module: nn.Module, image_size: int) -> nn.Module:
    """Let a frozen network's late branches and its last convolution compute in bfloat16.

    Args:
        module: (N, 3, image_size, image_size) of uint8 to (N, d), in eval mode, as
            `folding.behind` gives it. It stays as it is.
        image_size: Height and width of its images in pixels.

    Returns:
        The network in two precisions; the given one where nothing was found in it that may round,
        where this machine does not compute in bfloat16, or trial images show a difference.

    Guarantees:
        Sums are single precision. On two images of noise no feature differs by more than a
        twentieth of the largest one; how far real images' features move, and what that does to a
        classifier, is in docs/performance.md for EfficientNet-Lite0.

    Source:
        Micikevicius et al. 2018, "Mixed Precision Training", section 3.3 (large sums in
        single precision); Kalamkar et al. 2019, "A Study of BFLOAT16 for Deep Learning Training".
    """
    if not isinstance(module, fx.GraphModule):
        return module
    network = copy.deepcopy(module)
    found = False
    for node in list(network.graph.nodes):
        layers = _branch(network, node)
        if layers and all(_is_late(each, image_size) for each in layers):
            _add_to_stream(network, node)
        elif _is_last(network, node):
            layers = [node]
        else:
            continue
        _round(network, layers)
        found = True
    network.graph.eliminate_dead_code()
    network.recompile()
    same = found and agree(module, network, drawn_pixels(2, image_size))
    return network if same else module


def _branch(network: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """Find a branch by its last convolution, which adds to what the first one reads.

    Returns:
        Its convolutions, first to last; none where this is no such branch.
    """
    if not convolves(network, node) or len(node.args) < 2:
        return []
    at, stream = node.args
    layers = [node]
    while at is not stream:
        if not isinstance(at, fx.Node) or not convolves(network, at):
            return []
        if len(at.args) > 1 or len(at.users) > 1:
            return []
        layers.append(at)
        (at,) = at.args
    return layers[::-1]


def _is_late(node: fx.Node, image_size: int) -> bool:
    """Tell whether a result's grid is small enough beside the image's."""
    found = node.meta.get("tensor_meta")
    if not isinstance(found, TensorMetadata) or len(found.shape) != 4:
        return False
    return max(found.shape[2:]) <= math.ceil(image_size / _LATE)


def _is_last(network: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether behind a convolution there is only an average, taken in single precision."""
    if not convolves(network, node) or len(node.args) > 1:
        return False
    (user, *others) = node.users
    if others or user.target != "float":
        return False
    (average, *others) = user.users
    return not others and is_average(network, average)


def _add_to_stream(network: fx.GraphModule, node: fx.Node) -> None:
    """Take the sum out of a branch's last convolution: single precision, over the stream."""
    source, stream = node.args
    node.args = (source,)
    with network.graph.inserting_after(node):
        total = network.graph.call_function(operator.iadd, (stream, node))
    node.replace_all_uses_with(total, lambda user: user is not total)


def _round(network: fx.GraphModule, layers: list[fx.Node]) -> None:
    """Let convolutions, each reading the one before, compute in bfloat16."""
    for node in layers:
        layer = copy.deepcopy(network.get_submodule(str(node.target)))
        network.set_submodule(str(node.target), layer.to(torch.bfloat16))
    first = layers[0]
    with network.graph.inserting_before(first):
        rounded = network.graph.call_method("to", (first.args[0], torch.bfloat16))
    first.args = (rounded,)
