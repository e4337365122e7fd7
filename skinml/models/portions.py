"""Frozen networks laid out for a processor's caches: the same function, few images at a time.

The first layers' results are megabytes an image, and a batch of them fits no cache. Where channels
are convolved alone, a layer waits for them rather than for arithmetic. So the first layers compute
few images at once, up to where the results are small; the layers behind them take the whole batch,
over which they spread the reading of their weights.

Shapes: N images, C channels, H height, W width, d features.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata

from skinml.models.folding import agree
from skinml.models.onednn import REFUSED, OneDnnConv2d, knows, packed

_LARGE_BYTES = 2**20  # of a layer's result for one image
_PORTION_BYTES = 10 * 2**20  # of a layer's result for the images that are under way at once
_BATCH = 16
_Packing = Callable[[fx.GraphModule, int], fx.GraphModule]


def in_portions(module: nn.Module, image_size: int) -> nn.Module:
    """Lay out a frozen network for speed.

    Args:
        module: (N, 3, image_size, image_size) of uint8 to (N, d), in eval mode, as
            `folding.behind` gives it. It stays as it is.
        image_size: Height and width of its images in pixels.

    Returns:
        A network of the same function; the given one where it was not folded, or trial images
        show a difference.

    Guarantees:
        An image's features depend on how many images are given with it by rounding alone.
    """
    if not isinstance(module, fx.GraphModule):
        return module
    with torch.inference_mode():
        ShapeProp(module).propagate(drawn_pixels(1, image_size))
    most = max(_num_bytes(node) for node in module.graph.nodes)
    num_images = max(1, _PORTION_BYTES // max(1, most))
    cut = _where_results_are_small(module)
    for pack in (_packed, _plain):
        try:
            found = _laid_out(module, cut, num_images, pack)
        except REFUSED:
            continue
        if agree(module, found, drawn_pixels(num_images + 1, image_size)):
            return found
    return module


def drawn_pixels(num_images: int, image_size: int) -> Tensor:
    """Draw pixels on which two networks are compared, the same each time.

    Args:
        num_images: N.
        image_size: H and W.

    Returns:
        (N, 3, H, W) of uint8, channels last.
    """
    shape = (num_images, 3, image_size, image_size)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return images.contiguous(memory_format=torch.channels_last)


def _laid_out(
    network: fx.GraphModule, cut: fx.Node | None, num_images: int, pack: _Packing
) -> nn.Module:
    """Cut a network, and lay the weights of its parts for as many images as they will see."""
    if cut is None:
        return pack(network, _BATCH)
    first, rest = _parts(network, cut)
    return _Portions(pack(first, num_images), pack(rest, _BATCH), num_images)


class _Portions(nn.Module):
    """A network whose first layers see few images at once."""

    def __init__(self, first: nn.Module, rest: nn.Module, num_images: int) -> None:
        super().__init__()
        self.first, self.rest, self.num_images = first, rest, num_images

    def forward(self, images_NCHW: Tensor) -> Tensor:  # noqa: N803 -- legend above
        """Compute features; every portion has the same size, so that no image's place tells."""
        missing = -len(images_NCHW) % self.num_images
        more = images_NCHW[:1].expand(missing, -1, -1, -1)
        full = torch.cat([images_NCHW, more]) if missing else images_NCHW
        grids = [self.first(portion) for portion in torch.split(full, self.num_images)]
        features: Tensor = self.rest(torch.cat(grids)[: len(images_NCHW)])
        return features


def _num_bytes(node: fx.Node) -> int:
    """Tell how large a result is for one image; zero where it is no single tensor."""
    found = node.meta.get("tensor_meta")
    if not isinstance(found, TensorMetadata):
        return 0
    return math.prod(found.shape) * found.dtype.itemsize


def _where_results_are_small(network: fx.GraphModule) -> fx.Node | None:
    """Find where to go over to whole batches: small results from there on, the first a small one.

    Returns:
        None where all results are small, or arithmetic takes longer than they do, or there is no
        such place.
    """
    nodes = list(network.graph.nodes)
    large = [at for at, node in enumerate(nodes) if _num_bytes(node) > _LARGE_BYTES]
    if not any(_convolves_channels_alone(network, nodes[at]) for at in large):
        return None
    behind = [node for at, node in _alone(nodes) if at > large[-1]]
    for node, following in itertools.pairwise(behind):
        if _num_bytes(node) <= _num_bytes(following):
            return node
    return behind[-1] if behind else None


def _convolves_channels_alone(network: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether a layer is a depthwise convolution: little arithmetic for what it reads."""
    layer = network.get_submodule(str(node.target)) if node.op == "call_module" else None
    if isinstance(layer, OneDnnConv2d):
        *_, groups = layer.shape
    elif isinstance(layer, nn.Conv2d):
        groups = layer.groups
    else:
        return False
    return groups > 1 and layer.weight.shape[1] == 1


def _alone(nodes: Sequence[fx.Node]) -> Iterator[tuple[int, fx.Node]]:
    """Go through results that are, once they are there, all that the layers behind them read."""
    place = {node: at for at, node in enumerate(nodes)}
    last_read = -1  # of the results before each
    for at, node in enumerate(nodes):
        read = any(user.op != "output" for user in node.users)
        if last_read <= at and read and _num_bytes(node):
            yield at, node
        last_read = max([last_read, *(place[user] for user in node.users)])


def _parts(network: fx.GraphModule, cut: fx.Node) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Cut a network in two behind a result."""
    first, rest = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph = first
    for node in network.graph.nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if node is cut:
            first.output(copies[node])
            graph = rest
            copies[node] = rest.placeholder("grids")
            copies[node].meta = dict(node.meta)
    return fx.GraphModule(network, first), fx.GraphModule(network, rest)


def _packed(network: fx.GraphModule, num_images: int) -> fx.GraphModule:
    """Lay the weights of a network's convolutions for so many images."""
    other = fx.GraphModule(network, network.graph)
    called = {str(node.target): node for node in other.graph.nodes if node.op == "call_module"}
    for name, node in called.items():
        layer = other.get_submodule(name)
        if isinstance(layer, OneDnnConv2d) or (isinstance(layer, nn.Conv2d) and knows(layer)):
            source = node.all_input_nodes[0]
            _, *shape = source.meta["tensor_meta"].shape
            other.set_submodule(name, packed(layer, (num_images, *shape)))
    return other


def _plain(network: fx.GraphModule, num_images: int) -> fx.GraphModule:
    """Leave a network's weights as they lie."""
    del num_images
    return network
