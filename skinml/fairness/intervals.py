"""Intervals in closed form and from replicates; none of them has zero width by accident."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, inf, sqrt

import numpy as np
from scipy.special import betaincinv, expit, gammaincinv, logit, ndtr, ndtri, stdtrit

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
        level: Nominal coverage, above 0 and below 1.

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
        level: Nominal coverage, above 0 and below 1.

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


def _check_level(level: float) -> None:
    # Low levels are asked for where a p-value is found as the level at which 0 is just left out.
    require_in_range(0, 1, level=level)


def _check_proportion(successes: float, trials: float, level: float) -> None:
    require_positive(trials=trials)
    require_in_range(0, trials, successes=successes)
    _check_level(level)


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
        level: Nominal coverage, above 0 and below 1.

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
    _check_level(level)
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
        level: Nominal coverage, above 0 and below 1.

    Returns:
        Lower and upper limit; None with fewer than two patients or no defined replicate.

    Source:
        Hesterberg 2015, The American Statistician 69:371, section 5.
    """
    defined = replicates[np.isfinite(replicates)]
    if patients < 2 or defined.size == 0:
        return None
    quantile = float(stdtrit(patients - 1, (1 - level) / 2)) * sqrt(patients / (patients - 1))
    return _both_tails(np.sort(defined), float(ndtr(quantile)))


def _both_tails(ordered: FloatArray, tail: float) -> Interval:
    """The quantiles at a tail and at one less the tail, in a straight line between neighbours."""
    last = len(ordered) - 1

    def at(place: float) -> float:
        below = min(int(place), last)
        part = place - below
        return float(ordered[below] * (1 - part) + ordered[min(below + 1, last)] * part)

    return at(tail * last), at((1 - tail) * last)


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
        level: Nominal coverage, above 0 and below 1.

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


def log_interval(
    value: float, replicates: FloatArray, patients: float, level: float = 0.95
) -> Interval | None:
    """Interval from the replicates' spread, made on the logarithm of a ratio.

    Args:
        value: The ratio, 0 or more.
        replicates: (b,) the ratio in each replicate; NaN where it is undefined.
        patients: Effective patients behind it; Student's t has one less.
        level: Nominal coverage, above 0 and below 1.

    Returns:
        Lower and upper limit; None at 0, where a replicate is 0 or none differs, or without
        patients.
    """
    defined = replicates[np.isfinite(replicates)]
    if patients < 2 or defined.size < 2 or value <= 0 or defined.min() <= 0:
        return None
    error = float(np.log(defined).std(ddof=1)) * sqrt(patients / (patients - 1))
    if error <= _ROUNDING:
        return None
    factor = exp(float(stdtrit(patients - 1, (1 + level) / 2)) * error)
    return value / factor, value * factor


def poisson_ratio(events: float, expected: float, level: float = 0.95) -> Interval:
    """Exact interval of observed over expected events, the expected number taken as known.

    Args:
        events: Effective patients with an event, 0 or more; need not be whole.
        expected: Events expected on the same scale, above 0.
        level: Nominal coverage, above 0 and below 1.

    Returns:
        Lower and upper limit.

    Raises:
        ConfigError: If a number is out of its range.

    Source:
        Garwood 1936, Biometrika 28:437.

    >>> [round(limit, 2) for limit in poisson_ratio(10, 10)]
    [0.48, 1.84]
    """
    require_positive(expected=expected)
    require_in_range(0, inf, events=events)
    _check_level(level)
    tail = (1 - level) / 2
    low = 0.0 if events <= 0 else float(gammaincinv(events, tail))
    return low / expected, float(gammaincinv(events + 1, 1 - tail)) / expected


def weighted_difference(
    first: float, second: float, rate: float, trials: float, level: float = 0.95
) -> Interval:
    """Interval of one share less a multiple of another share of the same trials.

    Args:
        first: The one share, from 0 to 1.
        second: The other, of which no trial is part that is part of the first.
        rate: What the second is multiplied by, above 0.
        trials: Effective patients.
        level: Nominal coverage, above 0 and below 1.

    Returns:
        Lower and upper limit, from exact ones of both shares.

    Raises:
        ConfigError: If a number is out of its range.

    Source:
        Zou and Donner 2008, Statistics in Medicine 27:1693, with the correlation of two cells of
        a multinomial.
    """
    sides = [clopper_pearson(share * trials, trials, level) for share in (first, second)]
    inner = (1 - first) * (1 - second)
    correlation = -sqrt(first * second / inner) if inner > 0 else -1.0
    low, high = (rate * limit for limit in sides[1])
    return mover_difference(first, sides[0], rate * second, (low, high), max(correlation, -1.0))


def mover_difference(
    first: float, of_first: Interval, second: float, of_second: Interval, correlation: float = 0.0
) -> Interval:
    """Interval of a difference from the interval of each side.

    Each limit takes the variance that the sides' own limits imply on that side, so that limits
    that are exact or not symmetrical stay so.

    Args:
        first: The value that is taken from.
        of_first: Its interval.
        second: The value that is taken away.
        of_second: Its interval.
        correlation: Of the two estimates, from -1 to 1; 0 where no patient is behind both.

    Returns:
        Lower and upper limit.

    Source:
        Zou and Donner 2008, Statistics in Medicine 27:1693; Newcombe 1998, ibid. 17:873, method
        10, for two shares with Wilson's limits.

    >>> [round(limit, 3) for limit in mover_difference(0.0, (-3, 3), 0.0, (-4, 4))]
    [-5.0, 5.0]
    """
    down, up = first - of_first[0], of_first[1] - first
    other_down, other_up = second - of_second[0], of_second[1] - second
    below = down**2 + other_up**2 - 2 * correlation * down * other_up
    above = up**2 + other_down**2 - 2 * correlation * up * other_down
    return first - second - sqrt(max(below, 0.0)), first - second + sqrt(max(above, 0.0))


def mover_sum(factors: FloatArray, values: FloatArray, limits: FloatArray) -> Interval:
    """Interval of a weighted sum of independent estimates from the interval of each.

    Args:
        factors: (k,) what each estimate is multiplied by.
        values: (k,) the estimates.
        limits: (k, 2) lower and upper limit of each.

    Returns:
        Lower and upper limit of the sum.

    Source:
        Zou and Donner 2008, Statistics in Medicine 27:1693, section 2.
    """
    ends = factors[:, None] * limits
    parts, total = factors * values, float(factors @ values)
    down, up = parts - ends.min(axis=1), ends.max(axis=1) - parts
    return total - float(np.sqrt((down**2).sum())), total + float(np.sqrt((up**2).sum()))


def mover_ratio(
    first: float, of_first: Interval, second: float, of_second: Interval, correlation: float = 0.0
) -> tuple[float, float | None]:
    """Interval of a ratio of two values that are not below 0 from the interval of each.

    Args:
        first: The value above the line.
        of_first: Its interval, from 0 on.
        second: The value below the line, above 0.
        of_second: Its interval.
        correlation: Of the two estimates, from -1 to 1.

    Returns:
        Lower and upper limit, the upper one None where the interval of the value below the line
        reaches 0 and nothing bounds the ratio.

    Source:
        Donner and Zou 2012, Statistical Methods in Medical Research 21:347, section 2.2.
    """
    (low, high), (other_low, other_high) = of_first, of_second

    def limit(of_top: float, of_bottom: float, sign: int) -> float | None:
        span = of_bottom * (2 * second - of_bottom)
        if span <= 0:
            return None
        centre = first * second - correlation * (first - of_top) * (of_bottom - second)
        root = centre**2 - of_top * (2 * first - of_top) * span
        return (centre + sign * sqrt(max(root, 0.0))) / span

    lower = limit(low, other_high, -1)
    if lower is None or other_low <= 0:
        # Beyond twice the value the formula ends: what is left is a side that is not told.
        return (0.0 if lower is None else max(lower, 0.0)), None
    upper = limit(high, other_low, 1)
    return max(lower, 0.0), upper


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
        level: Nominal coverage, above 0 and below 1.

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
        level: Nominal coverage, above 0 and below 1.

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
