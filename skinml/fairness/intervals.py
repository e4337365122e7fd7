"""Intervals in closed form and from replicates; none of them has zero width by accident."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt

import numpy as np
from scipy.special import betaincinv, expit, logit, ndtr, ndtri, stdtrit

from skinml.errors import require_in_range, require_positive
from skinml.records import FloatArray

Interval = tuple[float, float]

# A spread of replicates below this is rounding.
_ROUNDING = 1e-10


def clopper_pearson(successes: float, trials: float, level: float = 0.95) -> Interval:
    """Exact interval of a proportion.

    Args:
        successes: From 0 to trials; need not be whole, as effective patients are not.
        trials: Above 0.
        level: Nominal coverage, from 0.5 to 1.

    Returns:
        Lower and upper limit.

    Raises:
        ConfigError: If a number is out of its range.

    Source:
        Clopper and Pearson 1934, Biometrika 26.

    >>> [round(limit, 3) for limit in clopper_pearson(6, 6)]
    [0.541, 1.0]
    """
    _check_proportion(successes, trials, level)
    tail, failures = (1 - level) / 2, trials - successes
    low = 0.0 if successes <= 0 else float(betaincinv(successes, failures + 1, tail))
    high = 1.0 if failures <= 0 else float(betaincinv(successes + 1, failures, 1 - tail))
    return low, high


def wilson(successes: float, trials: float, level: float = 0.95) -> Interval:
    """Score interval of a proportion.

    Args:
        successes: From 0 to trials.
        trials: Above 0.
        level: Nominal coverage, from 0.5 to 1.

    Returns:
        Lower and upper limit.

    Raises:
        ConfigError: If a number is out of its range.

    Source:
        Wilson 1927, JASA 22.

    >>> [round(limit, 3) for limit in wilson(6, 6)]
    [0.61, 1.0]
    """
    _check_proportion(successes, trials, level)
    z = float(ndtri((1 + level) / 2))
    share = successes / trials
    centre = share + z**2 / (2 * trials)
    half = z * sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    # Rounding must not push a limit past a share of exactly 0 or 1.
    low = 0.0 if successes <= 0 else (centre - half) / scale
    high = 1.0 if successes >= trials else (centre + half) / scale
    return low, high


def _check_proportion(successes: float, trials: float, level: float) -> None:
    require_positive(trials=trials)
    require_in_range(0, trials, successes=successes)
    require_in_range(0.5, 1, level=level)


def newcombe_auroc(
    area: float, positives: float, negatives: float, level: float = 0.95
) -> Interval:
    """Score interval of an area under the ROC curve from the area and the counts alone.

    The limits are the areas whose variance, under the model of Hanley and McNeil with both
    counts at their mean, puts the found area just at the edge. At an area of 1 the lower limit
    stays below 1: it is bounded by the counts.

    Args:
        area: The area found, from 0 to 1.
        positives: Positives, or effective patients with one; above 0.
        negatives: Negatives, or effective patients with one; above 0.
        level: Nominal coverage, from 0.5 to 1.

    Returns:
        Lower and upper limit.

    Raises:
        ConfigError: If a number is out of its range.

    Source:
        Newcombe 2006, Statistics in Medicine 25:559, method 5.

    >>> [round(limit, 2) for limit in newcombe_auroc(1.0, 6, 6)]
    [0.69, 1.0]
    """
    require_in_range(0, 1, area=area)
    require_positive(positives=positives, negatives=negatives)
    require_in_range(0.5, 1, level=level)
    z = float(ndtri((1 + level) / 2))
    mean = (positives + negatives) / 2

    def beyond(truth: float) -> bool:
        inner = (1 - truth) / (2 - truth) + truth / (1 + truth)
        spread = truth * (1 - truth) * (1 + (mean - 1) * inner)
        return (area - truth) ** 2 > z**2 * spread / (positives * negatives)

    return _edge(0.0, area, beyond), _edge(1.0, area, beyond)


def _edge(outside: float, inside: float, beyond: Callable[[float], bool]) -> float:
    """Bisect between a limit of the range and the estimate for where `beyond` turns false."""
    if outside == inside or not beyond(outside):
        return outside
    for _ in range(60):
        middle = (outside + inside) / 2
        if beyond(middle):
            outside = middle
        else:
            inside = middle
    return inside


def expanded_percentiles(
    replicates: FloatArray, patients: float, level: float = 0.95
) -> Interval | None:
    """Percentile interval of bootstrap replicates, widened for few patients.

    A plain percentile interval is too narrow by the factor sqrt((m - 1) / m) and for want of
    Student's t; both are mended by reading percentiles farther out.

    Args:
        replicates: (b,) the figure in each replicate; NaN where it is undefined.
        patients: Effective patients m behind the figure.
        level: Nominal coverage, from 0.5 to 1.

    Returns:
        Lower and upper limit; None with fewer than two patients or no defined replicate.

    Source:
        Hesterberg 2015, The American Statistician 69:371, section 5.
    """
    defined = replicates[np.isfinite(replicates)]
    if patients < 2 or defined.size == 0:
        return None
    quantile = float(stdtrit(patients - 1, (1 - level) / 2)) * sqrt(patients / (patients - 1))
    tail = float(ndtr(quantile))
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def logit_interval(
    value: float, replicates: FloatArray, patients: float, level: float = 0.95
) -> Interval | None:
    """Interval from the replicates' spread, made on the log odds of the figure.

    Percentiles lag behind where a share is near 0 or 1: on the way to an AUROC of 0.99 their
    lower limit is too high. On the log odds the limits reach toward 0.5 instead.

    Args:
        value: The figure, between 0 and 1.
        replicates: (b,) the figure in each replicate; NaN where it is undefined.
        patients: Effective patients behind the figure; Student's t has one less.
        level: Nominal coverage, from 0.5 to 1.

    Returns:
        Lower and upper limit; None at 0 or 1, where no replicate differs, or without patients.

    Source:
        Pepe 2003, The Statistical Evaluation of Medical Tests, section 5.2.
    """
    defined = replicates[np.isfinite(replicates)]
    if patients < 2 or defined.size < 2 or not 0 < value < 1:
        return None
    error = float(defined.std(ddof=1)) * sqrt(patients / (patients - 1))
    if error <= _ROUNDING:
        return None
    half = float(stdtrit(patients - 1, (1 + level) / 2)) * error / (value * (1 - value))
    centre = float(logit(value))
    return float(expit(centre - half)), float(expit(centre + half))


def robust_interval(
    value: float, replicates: FloatArray, patients: float, level: float = 0.95
) -> Interval | None:
    """Symmetrical interval from the middle 68% of the replicates.

    For figures whose resamples stray far to one side, such as a calibration slope: their
    percentiles would carry the stray side's bias twice.

    Args:
        value: The figure.
        replicates: (b,) the figure in each replicate; NaN where it is undefined.
        patients: Effective patients behind the figure; Student's t has one less.
        level: Nominal coverage, from 0.5 to 1.

    Returns:
        Lower and upper limit; None without patients or replicates.
    """
    defined = replicates[np.isfinite(replicates)]
    if patients < 2 or defined.size == 0:
        return None
    below, above = np.quantile(defined, [float(ndtr(-1.0)), float(ndtr(1.0))])
    error = float(above - below) / 2 * sqrt(patients / (patients - 1))
    half = float(stdtrit(patients - 1, (1 + level) / 2)) * error
    return value - half, value + half


def unseen_around(value: float, patients: float, level: float = 0.95) -> Interval:
    """Interval of a figure that every patient seen agrees on.

    So many patients may all agree and still leave out a share of others; the figure, which moves
    by at most that share, may be off by as much.

    Args:
        value: The figure, on a scale where one patient's share is at most 1.
        patients: Effective patients seen, above 0.
        level: Nominal coverage, from 0.5 to 1.

    Returns:
        The value less and plus the upper exact limit of a share of which none was seen.

    Raises:
        ConfigError: If a number is out of its range.
    """
    hidden = clopper_pearson(0, patients, level)[1]
    return value - hidden, value + hidden


def combine_mean(values: Sequence[float], limits: Sequence[Interval]) -> Interval:
    """Interval of the mean of independent estimates from the interval of each.

    Args:
        values: The estimates, at least one.
        limits: The interval of each.

    Returns:
        Lower and upper limit of the mean.

    Source:
        Zou and Donner 2008, Statistics in Medicine 27:1693 (recovered variances).

    >>> [round(limit, 3) for limit in combine_mean([1.0, 1.0], [(0.54, 1.0), (0.54, 1.0)])]
    [0.675, 1.0]
    """
    count = len(values)
    centre = sum(values) / count
    pairs = list(zip(values, limits, strict=True))
    down = sqrt(sum((value - low) ** 2 for value, (low, _) in pairs)) / count
    up = sqrt(sum((high - value) ** 2 for value, (_, high) in pairs)) / count
    return centre - down, centre + up
