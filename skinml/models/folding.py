"""Frozen networks with fewer passes over memory: the same function, not layer by layer.

A convolution and the batch normalisation behind it are one convolution with other weights; padding
goes into the convolution (TensorFlow's once the network stands on its head), and so does an
activation where oneDNN knows it; any other is written over what it is computed from. What is left
is the arithmetic. The rest was moving bytes.
"""

from __future__ import annotations

import copy
import itertools
import operator
from collections.abc import Iterable

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from skinml.models.onednn import REFUSED, WITHIN, OneDnnConv2d, knows

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.SiLU)
_CONVOLUTIONS = (nn.Conv2d, OneDnnConv2d)
_HEIGHT_AND_WIDTH = (2, 3)
_PASSED_ON = (nn.Identity, nn.Dropout)
_CANNOT_FOLLOW = (fx.proxy.TraceError, AttributeError, LookupError, RuntimeError, TypeError)
"""What a network raises that decides by its values, of which a tracer has none."""


def folded(module: nn.Module, image_size: int) -> nn.Module:
    """Fold a frozen network's normalisations and paddings into its convolutions.

    Args:
        module: (N, 3, image_size, image_size) float to (N, d), in eval mode. It stays as it is.
        image_size: Height and width of its images in pixels.

    Returns:
        A network of the same function, channels last; the given one where it cannot be followed
        or the trial shows a difference.

    Guarantees:
        On a trial image no feature differs by more than a thousandth of the largest one. On real
        images the difference is that of rounding, about a millionth.

    Source:
        Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", section 3.2 (folding batch normalisation).
    """
    images = torch.randn((1, 3, image_size, image_size), generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)
    own = copy.deepcopy(module)
    _make_padding_plain(own)
    try:
        network = fx.GraphModule(own, fx.Tracer().trace(own))
    except _CANNOT_FOLLOW:
        return module
    for node in list(network.graph.nodes):
        _pass_on(network, node)
    turns = (True, False) if _pads_more_behind(network) else (False,)
    for turn, fuse in itertools.product(turns, (True, False)):
        found = copy.deepcopy(network)
        if turn:
            _turn(found)
        for node in list(found.graph.nodes):
            _fold_padding(found, node)
            _fold_normalisation(found, node)
        for node in list(found.graph.nodes):
            if not (fuse and (_activate_within(found, node) or _add_within(found, node))):
                _write_over(found, node)
        found.graph.eliminate_dead_code()
        found.recompile()
        found.delete_all_unused_submodules()
        found.requires_grad_(False).to(memory_format=torch.channels_last)
        if agree(module, found, images):
            return found
    return module


def behind(scaling: nn.Module, network: nn.Module) -> nn.Module:
    """Scale pixels before a network sees them.

    Args:
        scaling: (N, 3, H, W) of uint8 to what the network takes, each pixel by itself.
        network: As `folded` gives it. It becomes part of the result.

    Returns:
        A network of pixels. Turning them is left to the first step, where they are small.
    """
    if not isinstance(network, fx.GraphModule):
        return nn.Sequential(scaling, network)
    network.add_submodule("scaling", scaling)
    *_, last = itertools.takewhile(
        lambda node: node.op == "placeholder" or _turns(node), network.graph.nodes
    )
    with network.graph.inserting_after(last):
        scaled = network.graph.call_module("scaling", (last,))
    last.replace_all_uses_with(scaled, lambda user: user is not scaled)
    network.recompile()
    return network


def _make_padding_plain(module: nn.Module) -> None:
    """Take TensorFlow's padding out of the convolutions that carry it, so that it can be seen."""
    for name, part in list(module.named_modules()):
        padding = getattr(part, "static_padding", None)
        if isinstance(part, nn.Conv2d) and isinstance(padding, nn.Module):
            plain = _like(part, part.weight, part.padding)
            before = padding if isinstance(padding, nn.ZeroPad2d) else nn.Identity()
            module.set_submodule(name, nn.Sequential(before, plain).eval())


def _like(conv: nn.Conv2d, weight: torch.Tensor, padding: tuple[int, ...] | str) -> nn.Conv2d:
    """Make a convolution that differs from another in its weights and padding only."""
    height, width = weight.shape[2:]
    plain = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        (height, width),
        stride=tuple(conv.stride),  # type: ignore[arg-type]  # two numbers, also where it is a list
        padding=padding,  # type: ignore[arg-type]  # as the other convolution has it
        dilation=conv.dilation,  # type: ignore[arg-type]  # as the other convolution has it
        groups=conv.groups,
        bias=conv.bias is not None,
        device="meta",
    )
    plain.weight = nn.Parameter(weight.detach().clone())
    if conv.bias is not None:
        plain.bias = nn.Parameter(conv.bias.detach().clone())
    return plain.eval()


def _source(node: fx.Node) -> fx.Node | None:
    """Find what a layer is called on."""
    return next(iter(_nodes(node.args[:1])), None)


def _called(network: fx.GraphModule, node: fx.Node | None) -> nn.Module | None:
    """Look up the layer that a node calls; None where it calls something else."""
    if node is not None and node.op == "call_module":
        return network.get_submodule(str(node.target))
    return None


def _replace(network: fx.GraphModule, node: fx.Node, module: nn.Module, source: object) -> None:
    """Let a node call another layer, of its own, on another value."""
    name = f"folded_{node.name}"
    network.add_submodule(name, module)
    node.target = name
    node.args = (source,)  # type: ignore[assignment]  # an argument of the graph


def _pass_on(network: fx.GraphModule, node: fx.Node) -> None:
    """Leave out a layer that does nothing when nobody trains."""
    if isinstance(_called(network, node), _PASSED_ON):
        node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]  # a layer's input is a node
        network.graph.erase_node(node)


def _pads_more_behind(network: fx.GraphModule) -> bool:
    """Tell whether there is TensorFlow's padding of a stride of two, which no convolution has."""
    paddings = (each.padding for each in network.modules() if isinstance(each, nn.ZeroPad2d))
    return any(left < right or top < bottom for left, right, top, bottom in paddings)


def _turn(network: fx.GraphModule) -> None:
    """Turn images and kernels by half, so that what was padded more behind is padded more before.

    A grid of features then lies turned, which a network that averages over it does not notice.
    """
    for node in list(network.graph.nodes):
        part = _called(network, node)
        if isinstance(part, nn.Conv2d):
            weight = part.weight.detach().flip(2, 3)
            _replace(network, node, _like(part, weight, part.padding), node.args[0])
        elif isinstance(part, nn.ZeroPad2d):
            left, right, top, bottom = part.padding
            _replace(network, node, nn.ZeroPad2d((right, left, bottom, top)), node.args[0])
        elif node.op == "placeholder":
            with network.graph.inserting_after(node):
                turned = network.graph.call_method("flip", (node, _HEIGHT_AND_WIDTH))
            node.replace_all_uses_with(turned, lambda user, turned=turned: user is not turned)


def _turns(node: fx.Node) -> bool:
    """Tell whether a step turns images by half and does nothing else."""
    return node.target == "flip" and tuple(node.args[1:]) == (_HEIGHT_AND_WIDTH,)


def _fold_padding(network: fx.GraphModule, node: fx.Node) -> None:
    """Let a convolution pad by itself.

    It pads before and behind alike. What asks for less behind, by less than a stride, gets the
    same: TensorFlow pads just as far as is read, so that no stride reaches what is there beyond.
    """
    conv, before = _called(network, node), _source(node)
    padding = _called(network, before)
    if not (isinstance(conv, nn.Conv2d) and isinstance(padding, nn.ZeroPad2d) and before):
        return
    left, right, top, bottom = padding.padding
    less = zip((top - bottom, left - right), conv.stride, strict=True)
    if tuple(conv.padding) != (0, 0) or not all(0 <= each < stride for each, stride in less):
        return
    _replace(network, node, _like(conv, conv.weight, (top, left)), before.args[0])


def _fold_normalisation(network: fx.GraphModule, node: fx.Node) -> None:
    """Make a convolution and the normalisation that alone follows it one convolution."""
    norm, before = _called(network, node), _source(node)
    conv = _called(network, before)
    if not (isinstance(norm, nn.BatchNorm2d) and isinstance(conv, nn.Conv2d) and before):
        return
    if len(before.users) > 1 or norm.running_var is None:
        return
    exact = fuse_conv_bn_eval(copy.deepcopy(conv).double(), copy.deepcopy(norm).double())
    _replace(network, node, exact.float(), before.args[0])


def _activate_within(network: fx.GraphModule, node: fx.Node) -> bool:
    """Make a convolution and the activation that alone follows it one; tells whether it did."""
    activation, before = _called(network, node), _source(node)
    conv = _called(network, before)
    if activation is None or type(activation) not in WITHIN:
        return False
    if before is None or not isinstance(conv, nn.Conv2d) or not _is_fresh(network, before):
        return False
    if not knows(conv):
        return False
    _replace(network, node, OneDnnConv2d(conv, type(activation)), before.args[0])
    return True


def _add_within(network: fx.GraphModule, node: fx.Node) -> bool:
    """Let a convolution add to another's result that nothing reads later; tells whether it did."""
    if node.target not in (operator.add, operator.iadd):
        return False
    for own, other in itertools.permutations(node.all_input_nodes, 2):
        conv = _called(network, own)
        if not (isinstance(conv, nn.Conv2d) and knows(conv) and _is_fresh(network, own)):
            continue
        if isinstance(_called(network, other), _CONVOLUTIONS) and _reads_last(network, node, other):
            node.op = "call_module"
            _replace(network, node, OneDnnConv2d(conv), own.args[0])
            node.args = (own.args[0], other)
            return True
    return False


def _reads_last(network: fx.GraphModule, node: fx.Node, value: fx.Node) -> bool:
    """Tell whether all others who read a value are convolutions that have done so before."""
    before = set(itertools.takewhile(lambda each: each is not node, network.graph.nodes))
    others = [each for each in value.users if each is not node]
    return all(
        each in before and isinstance(_called(network, each), _CONVOLUTIONS) for each in others
    )


def _write_over(network: fx.GraphModule, node: fx.Node) -> None:
    """Let an activation or an addition write over what a convolution made for it alone."""
    own = next((each for each in _nodes(node.args) if _is_fresh(network, each)), None)
    if own is None:
        return
    activation = _called(network, node)
    if isinstance(activation, _ACTIVATIONS):
        in_place = copy.copy(activation)
        in_place.inplace = True
        _replace(network, node, in_place, node.args[0])
    elif node.op == "call_function" and node.target is operator.add and len(node.args) == 2:
        other = next((each for each in node.args if each is not own), None)
        if isinstance(other, fx.Node):
            node.target = operator.iadd
            node.args = (own, other)


def _nodes(values: Iterable[object]) -> list[fx.Node]:
    return [each for each in values if isinstance(each, fx.Node)]


def _is_fresh(network: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether a value was just made by a convolution for one reader."""
    return isinstance(_called(network, node), nn.Conv2d) and len(node.users) == 1


def agree(one: nn.Module, other: nn.Module, images: torch.Tensor) -> bool:
    """Compare two networks on images.

    Args:
        one: A network that works.
        other: One that may fail.
        images: (N, 3, H, W), as both take them.

    Returns:
        Whether no feature differs by more than a thousandth of the largest one, a twentieth in
        half precision.
    """
    dtype = next((each.dtype for each in one.parameters()), torch.float32)
    with torch.inference_mode():
        expected = one(images)
        try:
            got = other(images)
        except REFUSED:
            return False
        most = _TOLERANCE[dtype] * expected.abs().max()
        return expected.shape == got.shape and bool((expected - got).abs().max() <= most)
