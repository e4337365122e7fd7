"""Convolutions by oneDNN's own operator, which PyTorch's compiler calls; it has no public name.

Whoever uses them compares with plain layers on a trial image, and keeps those where the operator is
missing or answers otherwise.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

# By the names that oneDNN's post-operations have in PyTorch.
WITHIN: Mapping[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.Hardswish: ("hardswish", []),
    nn.SiLU: ("swish", []),
}
"""Activations that a convolution can apply to its results before they reach memory."""
REFUSED = (AttributeError, RuntimeError, TypeError)
"""What an operator raises that is missing here, or that does not take what it is given."""


def knows(conv: nn.Conv2d) -> bool:
    """Tell whether the operator pads as a convolution does.

    Args:
        conv: The convolution.

    Returns:
        Whether it pads with zeros, by a number of pixels.
    """
    return not isinstance(conv.padding, str) and conv.padding_mode == "zeros"


class OneDnnConv2d(nn.Module):
    """A frozen convolution, its activation within.

    Args:
        conv: The convolution, one that `knows` knows. Its weights are shared, not copied.
        activation: One of `WITHIN`; None for no activation.

    Attributes:
        shape: Padding, stride, dilation and groups, as the operator takes them.
    """

    def __init__(self, conv: nn.Conv2d, activation: type[nn.Module] | None = None) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.shape = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self._name, self._scalars = WITHIN[activation] if activation else ("none", [])

    def forward(self, images_NCHW: Tensor, onto: Tensor | None = None) -> Tensor:  # noqa: N803 -- legend above
        """Convolve and activate; or convolve, and add to what lies in `onto`, which is returned."""
        layer = (self.weight, self.bias, *self.shape)
        operators = torch.ops.mkldnn
        if onto is None:
            convolve = operators._convolution_pointwise.default
            out: Tensor = convolve(images_NCHW, *layer, self._name, self._scalars, "")
        else:
            add = operators._convolution_pointwise_.binary
            out = add(onto, images_NCHW, *layer, "add", 1.0, None, [], "")
        return out


def packed(layer: nn.Conv2d | OneDnnConv2d, images_shape: Sequence[int]) -> OneDnnConv2d:
    """Lay a convolution's weights as oneDNN reads them, which it otherwise does at every call.

    Args:
        layer: The convolution, one that `knows` knows. It stays as it is.
        images_shape: (N, C, H, W) of what it will be called on. Any N is right, this one fastest.

    Returns:
        The same function. Its weights can neither be read nor copied any more.

    Raises:
        AttributeError: If this PyTorch has no such operator.
        RuntimeError: If the operator refuses.
    """
    other = copy.deepcopy(layer if isinstance(layer, OneDnnConv2d) else OneDnnConv2d(layer))
    reorder = torch.ops.mkldnn._reorder_convolution_weight
    with torch.no_grad():  # an inference tensor of this layout is refused
        weight = reorder(other.weight, *other.shape, list(images_shape))
    del other.weight
    other.weight = weight
    return other
