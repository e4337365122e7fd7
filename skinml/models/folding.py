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
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata
from torch.nn.utils.fusion import fuse_conv_bn_eval

from skinml.models.onednn import REFUSED, WITHIN, OneDnnConv2d, knows

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.SiLU)
_ADDITIONS = (operator.add, operator.iadd)
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
        Each step taken is exact but for rounding, about a millionth on real images. What a
        library makes of it is tried: on two images of noise no feature differs by more than a
        thousandth of the largest one.

    Source:
        Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", section 3.2 (folding batch normalisation).
    """
    images = torch.randn((2, 3, image_size, image_size), generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)
    own = copy.deepcopy(module)
    _make_padding_plain(own)
    try:
        network = fx.GraphModule(own, fx.Tracer().trace(own))
        with torch.inference_mode():
            ShapeProp(network).propagate(images)
    except _CANNOT_FOLLOW:
        return module
    if any(each.op == "call_module" and each.kwargs for each in network.graph.nodes):
        return module  # layers are looked for by place
    steps = network.graph.nodes
    if _pads_more_behind(network) and all(_knows_no_place(network, each) for each in steps):
        _turn(network)
    for node in list(network.graph.nodes):
        _pass_on(network, node)
    for node in list(network.graph.nodes):
        _fold_padding(network, node)
        _fold_normalisation(network, node)
    for fuse in (True, False):
        found = copy.deepcopy(network)
        for step in (_activate_within, _add_within) if fuse else ():
            for node in list(found.graph.nodes):
                step(found, node)
        for node in list(found.graph.nodes):
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
    names = (f"scaling_{number}" for number in itertools.count())
    name = next(each for each in names if not hasattr(network, each))
    network.add_submodule(name, scaling)
    *_, last = itertools.takewhile(
        lambda node: node.op == "placeholder" or _turns_all(node), network.graph.nodes
    )
    with network.graph.inserting_after(last):
        scaled = network.graph.call_module(name, (last,))
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
    """Make a convolution that differs from another in its weights and padding, which is zeros."""
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


def convolves(network: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether a step is a convolution, PyTorch's or oneDNN's.

    Args:
        network: The network.
        node: The step.

    Returns:
        Whether it is.
    """
    return isinstance(_called(network, node), _CONVOLUTIONS)


def _replace(network: fx.GraphModule, node: fx.Node, module: nn.Module, *sources: object) -> None:
    """Let a node call another layer, of its own, on other values."""
    name = f"folded_{node.name}"
    network.add_submodule(name, module)
    node.op, node.target = "call_module", name
    node.args = sources  # type: ignore[assignment]  # arguments of the graph


def _pass_on(network: fx.GraphModule, node: fx.Node) -> None:
    """Leave out a layer that does nothing when nobody trains."""
    if isinstance(_called(network, node), _PASSED_ON):
        node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]  # a layer's input is a node
        network.graph.erase_node(node)


def _pads_more_behind(network: fx.GraphModule) -> bool:
    """Tell whether there is a padding as TensorFlow's, which no convolution has."""
    paddings = (each.padding for each in network.modules() if isinstance(each, nn.ZeroPad2d))
    return any(left < right or top < bottom for left, right, top, bottom in paddings)


def _knows_no_place(network: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether a step does the same with turned images, its result turned or an average.

    A convolution does, its kernel turned, if its last stride reads to the very end. Whatever else
    might tell one place from another is no step known here.
    """
    part, source = _called(network, node), _source(node)
    if isinstance(part, nn.Conv2d):
        reads = [rest == 0 for _, rest in _strides(part, source, _padded(part))]
        return knows(part) and len(reads) == 2 and all(reads)
    if isinstance(part, nn.AdaptiveAvgPool2d):
        return part.output_size in (1, (1, 1))
    if node.op == "output":
        return is_average(network, source)
    if node.op == "call_function":
        return node.target in _ADDITIONS
    known = (*_ACTIVATIONS, *_PASSED_ON, nn.BatchNorm2d, nn.ZeroPad2d)
    return (
        node.op == "placeholder"
        or isinstance(part, known)
        or node.target in ("float", "relu")
        or is_average(network, node)
    )


def is_average(network: fx.GraphModule, node: fx.Node | None) -> bool:
    """Tell whether a step averages over all places.

    Args:
        network: The network.
        node: The step.

    Returns:
        Whether it does.
    """
    if isinstance(_called(network, node), nn.AdaptiveAvgPool2d):
        return True
    if node is None or node.target != "mean":
        return False
    dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else ())
    return isinstance(dims, list | tuple) and tuple(dims) == _HEIGHT_AND_WIDTH


def _padded(conv: nn.Conv2d) -> tuple[int, ...]:
    """Tell how much a convolution pads by itself: left, right, top, bottom."""
    if isinstance(conv.padding, str):
        return ()
    height, width = conv.padding
    return (width, width, height, height)


def _strides(
    conv: nn.Conv2d, source: fx.Node | None, padding: tuple[int, ...]
) -> list[tuple[int, int]]:
    """Count a convolution's strides down and across, and the pixels behind that none reads.

    Args:
        conv: The convolution.
        source: What it is called on.
        padding: What is added to that: left, right, top, bottom.

    Returns:
        Both numbers for height and width; none where the size is not known.
    """
    found = source.meta.get("tensor_meta") if source is not None else None
    if not isinstance(found, TensorMetadata) or len(found.shape) != 4 or len(padding) != 4:
        return []
    left, right, top, bottom = padding
    sizes = zip(found.shape[2:], (top + bottom, left + right), strict=True)
    shapes = zip(conv.kernel_size, conv.dilation, conv.stride, strict=True)
    return [
        divmod(size + more - dilation * (kernel - 1) - 1, stride)
        for (size, more), (kernel, dilation, stride) in zip(sizes, shapes, strict=True)
    ]


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
            turned.meta = dict(node.meta)
            node.replace_all_uses_with(turned, lambda user, turned=turned: user is not turned)


def _turns_all(node: fx.Node) -> bool:
    """Tell whether a step turns images by half that nothing else reads."""
    alone = all(len(each.users) == 1 for each in node.all_input_nodes)
    return node.target == "flip" and alone and tuple(node.args[1:]) == (_HEIGHT_AND_WIDTH,)


def _fold_padding(network: fx.GraphModule, node: fx.Node) -> None:
    """Let a convolution pad by itself.

    It pads before and behind alike. What asks for less behind gets the same where no stride
    reaches what is there beyond.
    """
    conv, before = _called(network, node), _source(node)
    padding = _called(network, before)
    if not (isinstance(conv, nn.Conv2d) and isinstance(padding, nn.ZeroPad2d) and before):
        return
    left, right, top, bottom = padding.padding
    source = _source(before)
    asked = _strides(conv, source, (left, right, top, bottom))
    alike = _strides(conv, source, (left, left, top, top))
    same = bool(asked) and [number for number, _ in asked] == [number for number, _ in alike]
    if tuple(conv.padding) == (0, 0) and same and min(left, top) >= 0:
        _replace(network, node, _like(conv, conv.weight, (top, left)), source)


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


def _activate_within(network: fx.GraphModule, node: fx.Node) -> None:
    """Make a convolution and the activation that alone follows it one."""
    activation, before = _called(network, node), _source(node)
    conv = _called(network, before)
    if activation is None or type(activation) not in WITHIN:
        return
    if before is None or not isinstance(conv, nn.Conv2d) or not _is_fresh(network, before):
        return
    if knows(conv):
        _replace(network, node, OneDnnConv2d(conv, type(activation)), before.args[0])


def _add_within(network: fx.GraphModule, node: fx.Node) -> None:
    """Let a convolution add to another's result that nothing reads later.

    It then reads its input where the addition stands, so nothing may have written over that.
    """
    if node.target not in _ADDITIONS:
        return
    for own, other in itertools.permutations(node.all_input_nodes, 2):
        conv, source = _called(network, own), _source(own)
        if not (isinstance(conv, nn.Conv2d) and knows(conv) and _is_fresh(network, own)):
            continue
        if source is None or any(_writes_over(each, source) for each in source.users):
            continue
        if convolves(network, other) and _reads_last(network, node, other):
            _replace(network, node, OneDnnConv2d(conv), source, other)
            return


def _writes_over(node: fx.Node, value: fx.Node) -> bool:
    """Tell whether a step is a convolution that adds to a value."""
    return node.op == "call_module" and value in node.args[1:]


def _reads_last(network: fx.GraphModule, node: fx.Node, value: fx.Node) -> bool:
    """Tell whether all others who read a value are convolutions that have done so before."""
    before = set(itertools.takewhile(lambda each: each is not node, network.graph.nodes))
    others = [each for each in value.users if each is not node]
    return all(each in before and convolves(network, each) for each in others)


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
        Whether no feature differs by more than a thousandth of the largest one, a twentieth where
        one of them computes in bfloat16.
    """
    dtypes = {each.dtype for network in (one, other) for each in network.parameters()}
    share = max((_TOLERANCE[dtype] for dtype in dtypes), default=_TOLERANCE[torch.float32])
    with torch.inference_mode():
        expected = one(images)
        try:
            got = other(images)
        except REFUSED:
            return False
        most = share * expected.abs().max()
        return expected.shape == got.shape and bool((expected - got).abs().max() <= most)
