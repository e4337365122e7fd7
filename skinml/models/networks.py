"""Networks that are trained end to end and that differentially private training accepts.

Normalisation is GroupNorm, which looks at one image at a time; additions and activations are out
of place, as hooks that compute per-sample gradients need; there are no buffers.

Shapes in this file: N images, H height, W width, C = 3 channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- the name that the field uses

from skinml.errors import DataError, require_one_of, require_positive

NETWORKS = ("resnet18_groupnorm", "small_cnn")


def build_network(name: str, num_classes: int, stream: np.random.Generator) -> nn.Module:
    """Build a network with initial weights from a stream.

    Args:
        name: "small_cnn" for images of about 64 px, or "resnet18_groupnorm".
        num_classes: Outputs of the last layer, above zero.
        stream: Where the initial weights come from.

    Returns:
        The network in training mode, float32 on the CPU.

    Raises:
        ConfigError: If the name is unknown or the number of classes is not above zero.

    Guarantees:
        The same stream gives the same weights; torch's global stream is neither read nor moved.
    """
    require_one_of(NETWORKS, name=name)
    require_positive(num_classes=num_classes)
    with torch.device("meta"):  # shapes only, so that no layer draws from the global stream
        shell = _SmallCnn(num_classes) if name == "small_cnn" else _ResNet18(num_classes)
    network = shell.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(int(stream.integers(2**63 - 1)))
    for module in network.modules():
        _initialise(module, generator)
    return network


def input_tensor(images_NHWC: NDArray[np.uint8]) -> Tensor:  # noqa: N803 -- shape legend above
    """Scale images for the networks of this file.

    Args:
        images_NHWC: (n, height, width, 3), 0 to 255.

    Returns:
        (n, 3, height, width) float32, -1 to 1.

    Raises:
        DataError: If the images have another shape or type.
    """
    if images_NHWC.ndim != 4 or images_NHWC.shape[3] != 3 or images_NHWC.dtype != np.uint8:
        raise DataError(
            rule="images of shape (n, height, width, 3) and type uint8",
            got=f"shape={images_NHWC.shape}, type={images_NHWC.dtype}",
            do="Decode and resize the images with `skinml.data.images` first.",
        )
    images_NCHW = np.ascontiguousarray(images_NHWC.transpose(0, 3, 1, 2))  # noqa: N806 -- as above
    return torch.from_numpy(images_NCHW).float().div_(127.5).sub_(1.0)


def network_arrays(network: nn.Module) -> dict[str, NDArray[Any]]:
    """Copy a network's weights out.

    Args:
        network: Any module of this file, or one that wraps it under the same names.

    Returns:
        The weights by name, as copies.
    """
    return {name: value.detach().numpy().copy() for name, value in network.state_dict().items()}


def load_network_arrays(network: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Copy weights into a network.

    Args:
        network: The network to change.
        arrays: The weights by name, exactly the network's names and shapes.

    Raises:
        DataError: If a name is missing, unknown or has another shape; the network is unchanged.
    """
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in arrays.items()}
    if own != given:
        differing = sorted(name for name in own.keys() | given if own.get(name) != given.get(name))
        raise DataError(
            rule="the network's own names and shapes of weights",
            got=f"{len(differing)} that differ, the first name={differing[0]}",
            do="Load weights into the network and the number of classes they were saved from.",
        )
    network.load_state_dict({name: torch.tensor(value) for name, value in arrays.items()})


class _SmallCnn(nn.Module):
    """Three strided convolutions, global average pooling, a linear layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(8, 32)
        self.conv2 = nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(16, 64)
        self.conv3 = nn.Conv2d(64, 128, 3, stride=2, padding=1, bias=False)
        self.norm3 = nn.GroupNorm(32, 128)
        self.fc = nn.Linear(128, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.norm1(self.conv1(images)))
        hidden = F.relu(self.norm2(self.conv2(hidden)))
        hidden = F.relu(self.norm3(self.conv3(hidden)))
        scores: Tensor = self.fc(hidden.mean(dim=(2, 3)))
        return scores


class _Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(32, num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(32, num_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or num_in != num_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(num_in, num_out, 1, stride=stride, bias=False),
                nn.GroupNorm(32, num_out),
            )

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.norm1(self.conv1(images)))
        hidden = self.norm2(self.conv2(hidden))
        return F.relu(hidden + self.shortcut(images))


class _ResNet18(nn.Module):
    """ResNet-18 with GroupNorm of 32 groups in place of BatchNorm.

    Source:
        He et al. 2016, arXiv:1512.03385, table 1; Wu and He 2018, arXiv:1803.08494.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.norm1 = nn.GroupNorm(32, 64)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        widths = ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
        self.stages = nn.Sequential(
            *(
                nn.Sequential(_Residual(num_in, num_out, stride), _Residual(num_out, num_out, 1))
                for num_in, num_out, stride in widths
            )
        )
        self.fc = nn.Linear(512, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.pool(F.relu(self.norm1(self.conv1(images))))
        scores: Tensor = self.fc(self.stages(hidden).mean(dim=(2, 3)))
        return scores


def _initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Fill one layer's weights.

    Source: He et al. 2015, arXiv:1502.01852, equation 10, for the convolutions.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(
            module.weight, mode="fan_out", nonlinearity="relu", generator=generator
        )
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01, generator=generator)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.GroupNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
