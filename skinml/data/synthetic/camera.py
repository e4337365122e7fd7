"""A clinic's camera: light, lens, white balance, noise, JPEG."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from skinml.records import FloatArray


@dataclass(frozen=True)
class Camera:
    """One clinic's way of taking photographs.

    Attributes:
        gains: Factors on red, green and blue: its white balance.
        stops: Its exposure; each stop doubles the light.
        vignette: Light lost in the corners, 0 to 1.
        blur: Standard deviation of its blur, in pixels of a 128 pixel image.
        noise: Standard deviation of its noise at mid grey.
        quality: Quality of its JPEG files, 1 to 95.
    """

    gains: tuple[float, float, float]
    stops: float
    vignette: float
    blur: float
    noise: float
    quality: int


def _encode_srgb(linear: FloatArray) -> FloatArray:
    """The sRGB transfer curve (IEC 61966-2-1)."""
    safe = np.clip(linear, 0, 1)
    return np.where(safe <= 0.0031308, 12.92 * safe, 1.055 * safe ** (1 / 2.4) - 0.055)


def photograph(scene: FloatArray, camera: Camera, rng: np.random.Generator) -> bytes:
    """Take a photograph of a scene.

    Args:
        scene: (size, size, 3) linear sRGB.
        camera: The clinic's camera.
        rng: The source of what differs between two photographs.

    Returns:
        The bytes of a JPEG file without metadata.
    """
    size = len(scene)
    axis = np.linspace(-1, 1, size)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    slant = rng.normal(0, 0.10, 2)
    falloff = camera.vignette * rng.uniform(0.6, 1.3)
    corner = np.clip(np.hypot(x, y) / np.sqrt(2), 0, 1)
    light = (1 + slant[0] * y + slant[1] * x) * (1 - falloff * corner**3)
    # An automatic exposure brightens a dark scene, but never all the way.
    exposure = (0.33 / max(float(scene.mean()), 0.02)) ** 0.3
    exposure *= 2 ** (camera.stops + rng.normal(0, 0.12))
    gains = np.asarray(camera.gains) * np.exp(rng.normal(0, 0.015, 3))
    image = scene * light[..., None] * exposure * gains
    sigma = camera.blur * size / 128
    image = gaussian_filter(image, (sigma, sigma, 0))
    coded = _encode_srgb(image) + camera.noise * rng.standard_normal(image.shape)
    pixels = np.round(np.clip(coded, 0, 1) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=camera.quality, subsampling=0)
    return buffer.getvalue()
