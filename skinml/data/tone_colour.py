"""From an image file to the colour of light: profile, linear light, CIE XYZ and Lab at D65.

Shapes: HW is (height, width), HW3 is (height, width, 3).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from skinml.data.images import decode_colour
from skinml.records import FloatArray

if TYPE_CHECKING:
    from pathlib import Path

    from skinml.data.settings import ImageLimits

LONG_SIDE = 512
"""Images are brought down to this many pixels on their longer side, in linear light."""


def read_light(path: Path, limits: ImageLimits) -> tuple[FloatArray, bool]:
    """Read an image file as light.

    Args:
        path: The file.
        limits: What it may ask of this machine.

    Returns:
        HW3 linear sRGB from 0 to 1, with at most 512 pixels on the longer side, upright, and
        whether the file's colours have a known meaning (see `decode_colour`).

    Raises:
        DataError: If the file cannot be read within the limits. The message does not name it.
    """
    pixels, known = decode_colour(path, limits)
    return to_light(pixels), known


def to_light(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> FloatArray:
    """Bring coded pixels to linear light of a limited size.

    Args:
        pixels: HW3 uint8, sRGB.

    Returns:
        HW3 linear sRGB from 0 to 1; never enlarged.
    """
    height, width = pixels.shape[:2]
    factor = min(1.0, LONG_SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    layers = []
    for band in range(3):  # one at a time: a band of 50 million pixels is 200 MB
        light = Image.fromarray(_linear_codes()[pixels[..., band]])
        if factor < 1:
            light = light.resize(size, Image.Resampling.BOX)
        layers.append(np.asarray(light, dtype=np.float64))
    return np.stack(layers, axis=-1)


def to_lab(light: FloatArray) -> FloatArray:
    """Bring linear sRGB to CIE L*a*b* at D65, 2 degree observer.

    Args:
        light: (..., 3) linear sRGB, not below 0; above 1 is allowed.

    Returns:
        (..., 3) L*, a*, b*.

    Example:
        >>> to_lab(np.ones((1, 3))).round(1).tolist()[0][0]
        100.0
    """
    from skimage.color import xyz2lab

    return np.asarray(xyz2lab(light @ _light_to_xyz()))


def to_linear(lab: FloatArray) -> FloatArray:
    """Bring CIE L*a*b* back to linear sRGB.

    Args:
        lab: (..., 3) L*, a*, b* at D65.

    Returns:
        (..., 3) linear sRGB, taken to 0 where the colour lies outside.
    """
    from skimage.color import lab2xyz

    return np.asarray(np.maximum(lab2xyz(lab) @ np.linalg.inv(_light_to_xyz()), 0))


@cache
def _linear_codes() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """(256,) linear light of each code, read off scikit-image's own greys."""
    from skimage.color import rgb2xyz

    grey = np.repeat(np.arange(256)[:, None], 3, axis=1) / 255
    return np.asarray(rgb2xyz(grey)[:, 1], dtype=np.float32)


@cache
def _light_to_xyz() -> FloatArray:
    """(3, 3) rows are the XYZ of full red, green and blue."""
    from skimage.color import rgb2xyz

    return np.asarray(rgb2xyz(np.eye(3)))
