"""The discrete Gaussian: drawing it, and how far it is from the Gaussian that is accounted.

Noise on a grid has no low bits that could tell the exact sum (Mironov 2012), and integers are what
secure aggregation adds up. The noise of several parties is a sum of discrete Gaussians, which is
not quite one itself. Both differences are bounded here, so that the accountant may treat a
release as the Gaussian mechanism with a little less noise, a *named upper bound*:

1. A sum of n shares is within `sum_divergence` of one discrete Gaussian of n times the variance
   (max-divergence, each way, a coordinate).
2. A discrete Gaussian of variance v about an integer is within `rounding_divergence` of this: add
   a continuous Gaussian of variance v - 4, then round at random to a neighbouring integer by a
   discrete Gaussian of variance 4. The second step is post-processing.
3. The sampler below is within `SAMPLER_DIVERGENCE` of its own law.

Symbols: all standard deviations are in units of the grid.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, exp, floor, pi

import numpy as np
from numpy.typing import NDArray

from skinml.errors import require_in_range
from skinml.privacy.events import LEAST_GRID_STD
from skinml.records import FloatArray

Words = Callable[[int], NDArray[np.uint64]]

ROUNDING_VARIANCE = 4.0
"""Variance that the accountant gives away to explain a discrete Gaussian by a continuous one."""

SAMPLER_DIVERGENCE = 2.0**-42
"""Bound on the max-divergence of one drawn number from the discrete Gaussian, within its tail.

Each number is decided by at most some hundred coins, each of a chance of at least 1/e that double
precision gives to 2**-51, and by one exponent below 103 that it gives to 5e-14.
"""

TAIL_CHANCE = 1e-40
"""Bound on the chance of what the sampler never draws, of one number."""

GREATEST_STD = 2.0**45
_TAIL = 13.5  # standard deviations, beyond which nothing is drawn
_ONE_IN_E = np.uint64(ceil(exp(-1.0) * 2**53) << 11)  # as many words in 2**64 are below it


def sum_divergence(std: float, shares: int) -> float:
    """Bound how far a sum of discrete Gaussians is from the one with the sum's variance.

    Args:
        std: Standard deviation of each share, from 8.
        shares: How many independent shares, from 1.

    Returns:
        The max-divergence of one coordinate, either way.

    Source:
        Kairouz, Liu and Steinke 2021, arXiv:2102.06387, Corollary 12.

    Example:
        >>> sum_divergence(8.0, 1), sum_divergence(8.0, 100) < 1e-270
        (0.0, True)
    """
    return 10.0 * sum(exp(-2 * pi**2 * std**2 * k / (k + 1)) for k in range(1, shares))


def rounding_divergence(std: float) -> float:
    """Bound how far a discrete Gaussian is from a continuous one that was rounded at random.

    By Poisson's summation formula the normaliser of a discrete Gaussian of variance s**2 about
    any centre is its continuous one times 1 + e, where |e| is at most
    2 sum_j exp(-2 pi**2 s**2 j**2). Here that holds for s**2 = 4 and for s = std.

    Args:
        std: Standard deviation of the discrete Gaussian, from 8.

    Returns:
        The max-divergence of one coordinate, either way.

    Source:
        Peikert 2010, "An efficient and parallel Gaussian sampler for lattices", Theorem 3.1.

    Example:
        >>> rounding_divergence(8.0) < 1e-33
        True
    """
    variances = (ROUNDING_VARIANCE, std**2)
    # Twice the first term bounds the whole geometric sum and the logarithm's curve.
    return 2 * sum(4 * exp(-2 * pi**2 * variance) for variance in variances)


def draw(words: Words, size: int, std: float) -> NDArray[np.int64]:
    """Draw discrete Gaussian numbers.

    Discrete Laplace numbers are drawn first and kept with the chance that turns their law into
    the discrete Gaussian's. All chances are products of coins of at least 1/e, so that rounding
    changes each by a factor and never hides a tail.

    Args:
        words: Gives so many random words of 64 bits.
        size: How many numbers.
        std: Standard deviation in units of the grid, from 8 to 2**45.

    Returns:
        (size,) integers of mean 0.

    Raises:
        ConfigError: If std is outside its range.

    Guarantees:
        Each number is within `SAMPLER_DIVERGENCE` of the discrete Gaussian, and independent of
        the others as far as the words are.

    Source:
        Canonne, Kamath and Steinke 2020, arXiv:2004.00010, Algorithms 1 to 3.
    """
    require_in_range(LEAST_GRID_STD, GREATEST_STD, noise_std_in_grid_units=std)
    scale = floor(std) + 1
    kept: list[NDArray[np.int64]] = []
    missing = size
    while missing > 0:
        # 63 of 100 become Laplace numbers, and about 3 of 4 of those are kept.
        tried = _laplace(words, missing * 9 // 4 + 32, scale)
        excess = (np.abs(tried) - std**2 / scale) / std
        accepted = tried[_coins(words, excess**2 / 2)]
        kept.append(accepted[:missing])
        missing -= len(kept[-1])
    return np.concatenate(kept) if kept else np.zeros(0, np.int64)


def _laplace(words: Words, size: int, scale: int) -> NDArray[np.int64]:
    """Draw about `size` discrete Laplace numbers; those that come to nothing are left out."""
    below = _below(words, size, scale)
    below = below[_coins(words, below / scale)]
    sizes = below + scale * _run_of_coins(words, len(below))
    negative = (words(len(sizes)) >> np.uint64(63)).astype(bool)
    # Zero would come twice, once with each sign; what is far out would lose its exactness.
    proper = ~(negative & (sizes == 0)) & (sizes <= _TAIL * scale)
    return np.asarray(np.where(negative, -sizes, sizes)[proper])


def _below(words: Words, size: int, bound: int) -> NDArray[np.int64]:
    """Draw numbers from 0 to bound - 1, each exactly as likely as the others."""
    drawn = words(size)
    limit = np.uint64((1 << 64) - (1 << 64) % bound - 1)
    return (drawn[drawn <= limit] % np.uint64(bound)).astype(np.int64)


def _run_of_coins(words: Words, size: int) -> NDArray[np.int64]:
    """Count for each how often a coin of chance 1/e falls on its face before it does not."""
    lengths = np.zeros(size, np.int64)
    running = np.arange(size)
    while len(running):
        running = running[words(len(running)) < _ONE_IN_E]
        lengths[running] += 1
    return lengths


def _coins(words: Words, exponents: FloatArray) -> NDArray[np.bool_]:
    """Toss a coin of chance exp(-exponent) for each exponent, zero or above."""
    whole = np.floor(exponents)
    fair = _tossed(words, np.exp(whole - exponents))
    left = np.flatnonzero(fair & (whole > 0))
    fair[left] = _run_of_coins(words, len(left)) >= whole[left]
    return fair


def _tossed(words: Words, chances: FloatArray) -> NDArray[np.bool_]:
    """Toss coins of the given chances, each to 2**-53."""
    uniform = (words(len(chances)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.asarray(uniform < chances)
