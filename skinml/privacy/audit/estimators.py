"""From canaries' scores to epsilon: two lower bounds from one run, and the fit of a Gaussian.

Every canary was in training or not by a fair coin of its own; a higher score says that it was in.

Symbols in this file: m canaries, r guesses, v of them right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, inf, isnan, sqrt

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import binom, nct, rankdata

from skinml.errors import ConfigError, require_in_range, require_same_length
from skinml.privacy.closed_form import gaussian_epsilon
from skinml.records import BoolArray, FloatArray

# How many of the canaries are guessed about, those with the clearest scores; the chance of a wrong
# bound is divided among these attempts.
_GUESSED = (1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125)
# Where the searches end: no audit of this kind reaches it.
_GREATEST_EPSILON = 30.0
_GREATEST_MU = 8.0
_HALVINGS = 20
_LEAST_CANARIES = 2


@dataclass(frozen=True)
class GaussianFit:
    """The Gaussian mechanism that fits canaries' scores.

    Attributes:
        mu: Distance of the two means in standard deviations: mu of Gaussian differential privacy.
        lower_mu: Its lower confidence limit, zero or above.
        estimate: Epsilon at mu.
        lower_limit: Epsilon at the lower limit of mu.
    """

    mu: float
    lower_mu: float
    estimate: float
    lower_limit: float


def auc(scores: FloatArray, included: BoolArray) -> float:
    """Compute the chance that a canary that was in scores higher than one that was not.

    Args:
        scores: (m,) finite.
        included: (m,) which canaries were in; some, and not all.

    Returns:
        0 to 1; ties count half.

    Raises:
        ConfigError, DataError: If there are too few canaries of either kind.

    Example:
        >>> auc(np.array([0.0, 1.0, 2.0, 3.0]), np.array([False, True, False, True]))
        0.75
    """
    _require_both(scores, included)
    num_in = int(included.sum())
    ranks = rankdata(scores)[included].sum()
    pairs = num_in * (len(scores) - num_in)
    return float((ranks - num_in * (num_in + 1) / 2) / pairs)


def one_run_bound(
    scores: FloatArray, included: BoolArray, delta: float, confidence: float
) -> float:
    """Bound epsilon from below by how many canaries are guessed rightly in one run.

    Args:
        scores: (m,) finite.
        included: (m,) which canaries were in, by a fair coin each.
        delta: Delta to read epsilon at.
        confidence: How sure the bound is, above 0 and below 1.

    Returns:
        Epsilon, 0 where the guesses show nothing.

    Raises:
        ConfigError, DataError: If there are too few canaries, or an argument is out of range.

    Guarantees:
        A mechanism that keeps (epsilon, delta) gives a greater number than its epsilon with a
        chance of at most 1 - confidence, whatever the scores depend on.

    Source:
        Steinke, Nasr and Jagielski 2023, arXiv:2305.08846, Theorem 5.2 and appendix D.
    """
    require_in_range(0, 1, delta=delta)
    total = len(scores)

    def refuting(guesses: int, right: int, chance: float) -> Callable[[float], bool]:
        return lambda eps: _one_run_p_value(total, guesses, right, eps, delta) < chance

    return _best(scores, included, confidence, refuting, _GREATEST_EPSILON)


def _one_run_p_value(total: int, guesses: int, right: int, eps: float, delta: float) -> float:
    """Bound the chance of so many right guesses under (epsilon, delta)."""
    rate = 1 / (1 + exp(-eps))
    tail = float(binom.sf(right - 1, guesses, rate))
    if right == 0:
        return tail
    # For each i the chance of i right guesses too few at most, divided by i; the worst counts.
    below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, rate))
    worst = float((below / np.arange(1, right + 1)).max())
    return tail + 2 * total * delta * worst


def refined_bound(
    scores: FloatArray, included: BoolArray, delta: float, confidence: float
) -> float:
    """Bound epsilon from below as `one_run_bound`, for a mechanism known to be Gaussian.

    Which trade-off curves are refuted is asked instead of which epsilons; the family of Gaussian
    curves is by far tighter.

    Args:
        scores: (m,) finite.
        included: (m,) which canaries were in, by a fair coin each.
        delta: Delta to read epsilon at, above 0.
        confidence: How sure the bound is, above 0 and below 1.

    Returns:
        Epsilon at delta of the greatest mu that is refuted; 0 where none is.

    Raises:
        ConfigError, DataError: If there are too few canaries, or an argument is out of range.

    Guarantees:
        A mechanism with Gaussian differential privacy mu gives a greater number than the epsilon
        of mu with a chance of at most 1 - confidence.

    Source:
        Mahloujifar, Melis and Chaudhuri 2024, arXiv:2410.22235, Algorithm 3.
    """
    require_in_range(1e-300, 1, delta=delta)
    total = len(scores)

    def refuting(guesses: int, right: int, chance: float) -> Callable[[float], bool]:
        return lambda mu: _refutes_gaussian(total, guesses, right, mu, chance)

    mu = _best(scores, included, confidence, refuting, _GREATEST_MU)
    return gaussian_epsilon(mu, delta) if mu > 0 else 0.0


def _refutes_gaussian(total: int, guesses: int, right: int, mu: float, chance: float) -> bool:
    """Tell whether so many right guesses have less than the chance under mu.

    From the tail back to the beginning: so much of right guesses in the tail asks for at least so
    many wrong ones under mu. If more guesses come out than were made, the chance was less.
    """
    hits = chance * right / total
    misses = chance * (guesses - right) / total
    limit = guesses / total
    for number in range(right - 1, -1, -1):
        reached = max(misses, float(ndtr(ndtri(hits) - mu)))
        hits += number / (guesses - number) * (reached - misses)
        misses = reached
        if hits + misses > limit:
            return True  # both only grow
    return False


def gaussian_fit(
    scores: FloatArray, included: BoolArray, delta: float, confidence: float
) -> GaussianFit:
    """Fit two Gaussians of one variance to the scores, as a Gaussian mechanism makes them.

    Args:
        scores: (m,) finite.
        included: (m,) which canaries were in.
        delta: Delta to read epsilon at, above 0 and below 1.
        confidence: How sure the lower limit is, above 0.5 and below 1.

    Returns:
        The fit.

    Raises:
        ConfigError, DataError: If there are too few canaries, or an argument is out of range.

    Guarantees:
        For independent Gaussian scores of one variance the limit of mu is exact: the two-sample t
        statistic then has a noncentral t distribution. For other scores it is an estimate.

    Source:
        Johnson and Welch 1940, Biometrika 31, for limits by the noncentral t distribution; Dong,
        Roth and Su 2019, arXiv:1905.02383, for mu.
    """
    require_in_range(1e-300, 1 - 1e-12, delta=delta)
    require_in_range(0.5, 1 - 1e-9, confidence=confidence)
    _require_both(scores, included)
    with_, without = scores[included], scores[~included]
    freedom = len(scores) - 2
    pooled = (with_.var() * len(with_) + without.var() * len(without)) / freedom
    difference = float(with_.mean() - without.mean())
    if pooled == 0:
        mu = inf if difference > 0 else 0.0
        return GaussianFit(mu, mu, mu, mu)
    mu = max(0.0, difference / sqrt(pooled))
    scale = sqrt(len(with_) * len(without) / len(scores))
    lower = _least_noncentrality(difference / sqrt(pooled) * scale, freedom, confidence) / scale
    return GaussianFit(mu, lower, _epsilon_of(mu, delta), _epsilon_of(lower, delta))


def _least_noncentrality(statistic: float, freedom: int, confidence: float) -> float:
    """Find the smallest noncentrality that a t statistic does not refute."""

    def refuted(noncentrality: float) -> bool:
        chance = float(nct.sf(statistic, freedom, noncentrality))
        # Far from the statistic SciPy may find no number: refuted if it lies above.
        return noncentrality < statistic if isnan(chance) else chance < 1 - confidence

    return _greatest(refuted, max(statistic, 0.0), 50)


def _epsilon_of(mu: float, delta: float) -> float:
    return gaussian_epsilon(mu, delta) if mu > 0 else 0.0


def _best(
    scores: FloatArray,
    included: BoolArray,
    confidence: float,
    refuting: Callable[[int, int, float], Callable[[float], bool]],
    most: float,
) -> float:
    """Take the best bound over several numbers of guesses, each at its part of the chance."""
    require_in_range(1e-9, 1 - 1e-9, confidence=confidence)
    _require_both(scores, included)
    order = np.argsort(scores, kind="stable")
    chance = (1 - confidence) / len(_GUESSED)
    best = 0.0
    for share in _GUESSED:
        half = max(1, int(share * len(scores) / 2))
        right = int(included[order[-half:]].sum() + (~included[order[:half]]).sum())
        refuted = refuting(2 * half, right, chance)
        if refuted(best):
            best = _greatest(refuted, most, _HALVINGS)
    return best


def _greatest(refuted: Callable[[float], bool], most: float, halvings: int) -> float:
    """Find the greatest number that is refuted, where smaller ones are too; 0 where none is."""
    if not refuted(0.0):
        return 0.0
    low, high = 0.0, most
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def _require_both(scores: FloatArray, included: BoolArray) -> None:
    require_same_length(scores=scores, included=included)
    num_in = int(np.count_nonzero(included))
    if min(num_in, len(scores) - num_in) < _LEAST_CANARIES or not np.isfinite(scores).all():
        raise ConfigError(
            rule=f"at least {_LEAST_CANARIES} canaries in training and as many left out, all "
            "with finite scores",
            got=f"{num_in} in and {len(scores) - num_in} out",
            do="Plant more canaries.",
        )
