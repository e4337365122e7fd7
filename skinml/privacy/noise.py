"""Where privacy noise comes from: a fresh cryptographic stream for each release.

Sums on a grid get discrete noise, see `skinml.privacy.discrete`. The continuous noise of local
training steps is a Gaussian in double precision on a grid of 2**-52 in probability: a known limit
(Mironov 2012 describes what floating point can leak).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray
from scipy.special import ndtri

from skinml.privacy import discrete
from skinml.records import FloatArray

_AT_ONCE = 2**14


@dataclass(frozen=True)
class NoiseSource:
    """Draws the noise of one release.

    Attributes:
        words: Gives so many uniform words of 64 bits.
        guarantee: Whether the words are secret; False for fixed noise in tests.
    """

    words: Callable[[int], NDArray[np.uint64]]
    guarantee: bool

    def normal(self, shape: Sequence[int], std: float) -> FloatArray:
        """Draw noise of a standard deviation.

        Args:
            shape: Shape of the result.
            std: Standard deviation, zero or above; zero draws nothing.

        Returns:
            Float64 noise.
        """
        if std == 0:
            return np.zeros(shape)
        words = self.words(int(np.prod(shape, dtype=np.int64)))
        drawn = np.empty(len(words))
        for start in range(0, len(words), _AT_ONCE):  # what lies between stays in the cache
            part = slice(start, start + _AT_ONCE)
            np.multiply(ndtri(open_uniforms(words[part])), std, out=drawn[part])
        return drawn.reshape(tuple(shape))

    def on_grid(self, shape: Sequence[int], std: float, grid: float) -> FloatArray:
        """Draw discrete noise.

        Args:
            shape: Shape of the result.
            std: Standard deviation, zero or at least 8 units of the grid; zero draws nothing.
            grid: The unit.

        Returns:
            Float64 multiples of the grid, with a discrete Gaussian law.

        Raises:
            ConfigError: If the noise is too fine or too coarse for the grid.
        """
        if std == 0:
            return np.zeros(shape)
        size = int(np.prod(shape, dtype=np.int64))
        return discrete.draw(self.words, size, std / grid).reshape(tuple(shape)) * grid


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

    def words(size: int) -> NDArray[np.uint64]:
        return np.frombuffer(stream.update(bytes(8 * size)), dtype="<u8")

    return NoiseSource(words, guarantee=True)


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
    return NoiseSource(
        lambda size: rng.integers(2**64, size=size, dtype=np.uint64, endpoint=False),
        guarantee=False,
    )
