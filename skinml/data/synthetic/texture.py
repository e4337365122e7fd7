"""Random fields: mottling, skin lines, pores."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from scipy.ndimage import gaussian_filter

from skinml.records import FloatArray


@cache
def _frequencies(reach: int) -> tuple[FloatArray, FloatArray]:
    """Cycles per image along y and x, up to a reach, for the half spectrum of a real image."""
    upwards = np.arange(reach + 1.0)
    return np.concatenate([upwards, -upwards[:0:-1]])[:, None], upwards[None, :]


def _reach(size: int, cycles: float) -> int:
    """The highest frequency worth drawing: what the field holds and what the pixels can show."""
    return min(math.ceil(cycles), (size - 1) // 2)


def _filtered(rng: np.random.Generator, weight: FloatArray, size: int) -> FloatArray:
    """A field from random amplitudes of the low frequencies, standardised."""
    real, imaginary = rng.standard_normal((2, *weight.shape))
    reach = weight.shape[1] - 1
    amplitudes = weight * (real + 1j * imaginary)
    spectrum = np.zeros((size, reach + 1), dtype=complex)
    spectrum[: reach + 1] = amplitudes[: reach + 1]
    spectrum[size - reach :] = amplitudes[reach + 1 :]
    field = np.fft.irfft2(spectrum, s=(size, size))
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-12))


def smooth_noise(rng: np.random.Generator, size: int, cycles: float) -> FloatArray:
    """Noise that is smooth below a scale.

    Args:
        rng: The source of the field.
        size: Height and width in pixels.
        cycles: About how many blobs fit across the image.

    Returns:
        (size, size) field of mean 0 and standard deviation 1, which repeats at its borders.
    """
    fy, fx = _frequencies(_reach(size, 3.5 * cycles))
    return _filtered(rng, np.exp(-(fy**2 + fx**2) / (2 * cycles**2)), size)


def band_noise(rng: np.random.Generator, size: int, cycles: float, width: float) -> FloatArray:
    """Noise of one scale.

    Args:
        rng: The source of the field.
        size: Height and width in pixels.
        cycles: Waves across the image.
        width: Spread about it, in waves.

    Returns:
        (size, size) field of mean 0 and standard deviation 1.
    """
    fy, fx = _frequencies(_reach(size, cycles + 3 * width))
    radius = np.hypot(fy, fx)
    return _filtered(rng, np.exp(-((radius - cycles) ** 2) / (2 * width**2)), size)


def skin_lines(rng: np.random.Generator, size: int, cycles: float) -> FloatArray:
    """Height of the fine criss-cross relief of skin.

    Two families of furrows cross at an angle; each is noise of one scale and one direction.

    Args:
        rng: The source of the field.
        size: Height and width in pixels.
        cycles: Furrows across the image.

    Returns:
        (size, size) height of mean 0 and standard deviation 1, furrows low.
    """
    fy, fx = _frequencies(_reach(size, 1.75 * cycles))
    first = rng.uniform(0, np.pi)
    height = np.zeros((size, size))
    for angle in (first, first + rng.uniform(0.9, 1.6)):
        along = fx * np.cos(angle) + fy * np.sin(angle)
        across = -fx * np.sin(angle) + fy * np.cos(angle)
        spread = cycles / 4
        weight = np.exp(-((np.abs(along) - cycles) ** 2 + across**2) / (2 * spread**2))
        height -= np.maximum(_filtered(rng, weight, size), 0)
    return np.asarray((height - height.mean()) / max(float(height.std()), 1e-12))


def pores(rng: np.random.Generator, size: int, density: float) -> FloatArray:
    """Small round dots at random places.

    Args:
        rng: The source of the places.
        size: Height and width in pixels.
        density: Dots across the image; their number is its square.

    Returns:
        (size, size) from 0 to about 1 at the middle of a dot.
    """
    dots = np.zeros((size, size))
    count = rng.poisson(density**2)
    dots[rng.integers(0, size, count), rng.integers(0, size, count)] = rng.uniform(0.3, 1, count)
    sigma = 0.55 * size / 128
    return np.asarray(np.clip(gaussian_filter(dots, sigma) * 2 * np.pi * sigma**2, 0, 1))
