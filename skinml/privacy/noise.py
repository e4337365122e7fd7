"""Where privacy noise comes from: a fresh cryptographic stream for each release.

Known limit: the noise is a Gaussian in double precision on a grid of 2**-52 in probability, not a
discrete distribution on the release's own grid (Mironov 2012 describes what floating point can
leak). The integer path of secure aggregation replaces it where exactness is promised.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray
from scipy.special import ndtri

from skinml.records import FloatArray


@dataclass(frozen=True)
class NoiseSource:
    """Draws standard normal numbers for one release.

    Attributes:
        draw: Given a shape, returns float64 normals of mean 0 and standard deviation 1.
        guarantee: Whether the numbers are secret; False for fixed noise in tests.
    """

    draw: Callable[[Sequence[int]], FloatArray]
    guarantee: bool

    def normal(self, shape: Sequence[int], std: float) -> FloatArray:
        """Draw noise of a standard deviation.

        Args:
            shape: Shape of the result.
            std: Standard deviation, zero or above; zero draws nothing.

        Returns:
            Float64 noise.
        """
        return std * self.draw(shape) if std > 0 else np.zeros(shape)


def secret_noise() -> NoiseSource:
    """Open a fresh noise source keyed by the operating system's entropy.

    Returns:
        A source for one release.

    Guarantees:
        The 256-bit key is drawn anew at each call, is never stored and depends on no seed, so
        that two releases, clinics or runs never share noise.
    """
    key = os.urandom(32)
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()

    def draw(shape: Sequence[int]) -> FloatArray:
        count = int(np.prod(shape, dtype=np.int64))
        words = np.frombuffer(stream.update(bytes(8 * count)), dtype="<u8")
        return np.asarray(ndtri(open_uniforms(words))).reshape(tuple(shape))

    return NoiseSource(draw, guarantee=True)


def open_uniforms(words: NDArray[np.uint64]) -> FloatArray:
    """Turn random words into numbers that look uniform and are neither 0 nor 1.

    With one bit more, the half would be lost to rounding in the upper half of the range, and the
    greatest word would become 1, whose normal is infinite.

    Args:
        words: (n,) random words of 64 bits.

    Returns:
        (n,) values above 0 and below 1, symmetric about 1/2 without rounding.

    Example:
        >>> open_uniforms(np.array([0, 2**64 - 1], dtype=np.uint64)) * 2.0**53
        array([1.00000000e+00, 9.00719925e+15])
    """
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def fixed_noise(rng: np.random.Generator) -> NoiseSource:
    """Draw noise from a seeded stream, for tests only.

    Args:
        rng: A seeded stream.

    Returns:
        A source whose releases carry no guarantee: the ledger marks them so.
    """
    return NoiseSource(lambda shape: rng.standard_normal(tuple(shape)), guarantee=False)
