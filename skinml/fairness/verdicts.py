"""From an interval to one of three answers, corrected for how many questions were asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import comb, inf, sqrt

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import studentized_range

from skinml.fairness.intervals import Interval

SHOWN = "gap shown"
RULED_OUT = "ruled out within the margin"
CANNOT_TELL = "cannot tell"

_STEPS = 20


def least_alpha(
    limits: Callable[[float], Interval | None],
    clear: Callable[[Interval], bool],
    floor: float = 1e-6,
) -> float | None:
    """Find the p-value that agrees with an interval: the least alpha at which it is clear.

    Args:
        limits: From a level to the interval, None where there is none; the greater the level,
            the wider.
        clear: Whether an interval contradicts the hypothesis.
        floor: The least p-value that can be told.

    Returns:
        The p-value, from floor to 1; None where there is no interval.
    """

    def contradicts(alpha: float) -> bool:
        found = limits(1 - alpha)
        return found is not None and clear(found)

    if limits(0.5) is None:
        return None
    if not contradicts(1 - 1e-9):
        return 1.0
    if contradicts(floor):
        return floor
    low, high = float(np.log(floor)), 0.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if contradicts(float(np.exp(middle))) else (middle, high)
    return float(np.exp(high))


def p_of_difference(
    limits: Callable[[float], Interval | None], floor: float = 1e-6
) -> float | None:
    """The p-value of no difference.

    Args:
        limits: From a level to the interval of the difference.
        floor: The least p-value that can be told.

    Returns:
        The p-value: the interval of level 1 - p just leaves out 0; None without an interval.
    """
    return least_alpha(limits, lambda found: found[0] > 0 or found[1] < 0, floor)


def p_of_margin(
    limits: Callable[[float], Interval | None], margin: float, floor: float = 1e-6
) -> float | None:
    """The p-value of a difference as large as the margin.

    Args:
        limits: From a level to the interval of the difference.
        margin: Greatest difference that counts as none, above 0.
        floor: The least p-value that can be told.

    Returns:
        The p-value: the interval of level 1 - p just lies inside the margin, on both sides; None
        without an interval.
    """
    return least_alpha(limits, lambda found: -margin < found[0] and found[1] < margin, floor)


def z_of_difference(
    difference: float, limits: Callable[[float], Interval | None], floor: float = 1e-6
) -> float | None:
    """Express how far an interval is from holding 0 as a standard normal number.

    Args:
        difference: What the interval is of.
        limits: From a level to the interval.
        floor: The least p-value that the intervals can tell, such as by resampling.

    Returns:
        The number whose two-sided p-value is that of `p_of_difference`; beyond the floor the
        spread that the interval has there goes on as that of a normal law. None without an
        interval.
    """
    p_value = p_of_difference(limits, floor)
    if p_value is None:
        return None
    z = float(-ndtri(p_value / 2))
    found = limits(1 - floor)
    if p_value > floor or found is None:
        return z
    reach = difference - found[0] if difference > 0 else found[1] - difference
    return z * abs(difference) / reach if reach > 0 else z


def p_of_pairs(z: float, num_groups: int, *, independent: bool) -> float:
    """The p-value of no difference between any two of several groups.

    Args:
        z: The greatest of all pairs' standardised differences.
        num_groups: Groups, at least 2.
        independent: Whether no patient is in two of them.

    Returns:
        The p-value, from 0 to 1; at most the number of pairs times that of one pair.

    Source:
        Tukey 1953 and Kramer 1956; Hayter 1984, Annals of Statistics 12:61: not too small where
        groups differ in size. For groups that share patients, Bonferroni.

    >>> round(p_of_pairs(1.96, 2, independent=True), 3)
    0.05
    >>> round(p_of_pairs(2.5, 6, independent=True), 3)
    0.124
    """
    bound = min(1.0, 2 * comb(num_groups, 2) * float(ndtr(-z)))
    if not independent:
        return bound
    return min(bound, float(studentized_range.sf(sqrt(2) * z, num_groups, inf)))


def alpha_of_pair(alpha: float, num_groups: int, *, independent: bool) -> float:
    """The level that one pair has to pass for all pairs together to hold theirs.

    Args:
        alpha: The level of all pairs together, above 0 and below 1.
        num_groups: Groups, at least 2.
        independent: Whether no patient is in two of them.

    Returns:
        The inverse of `p_of_pairs`, as the p-value of one pair.
    """
    bound = alpha / comb(num_groups, 2)
    if not independent:
        return bound
    return max(bound, 2 * float(ndtr(-studentized_range.isf(alpha, num_groups, inf) / sqrt(2))))


def holm(p_values: Sequence[float | None]) -> tuple[float | None, ...]:
    """Correct p-values for their number.

    Args:
        p_values: The p-values of one family; None where a question could not be asked, which
            does not count.

    Returns:
        The corrected ones, in the same order.

    Source:
        Holm 1979, Scandinavian Journal of Statistics 6:65.

    >>> holm([0.01, None, 0.04])
    (0.02, None, 0.04)
    """
    asked = sorted((p, at) for at, p in enumerate(p_values) if p is not None)
    found: list[float | None] = [None] * len(p_values)
    greatest = 0.0
    for rank, (p, at) in enumerate(asked):
        greatest = max(greatest, min(1.0, (len(asked) - rank) * p))
        found[at] = greatest
    return tuple(found)


def verdict(
    p_value: float | None, margin_p: float | None, level: float, *, enough: bool
) -> tuple[str, bool]:
    """Answer one question.

    Args:
        p_value: Of no difference, corrected.
        margin_p: Of a difference as large as the margin, corrected.
        level: One less this is what both are held against.
        enough: Whether there are events enough for an answer at all.

    Returns:
        One of the three answers, and whether a gap that is shown also lies inside the margin.
    """
    alpha = 1 - level
    if not enough or p_value is None:
        return CANNOT_TELL, False
    inside = margin_p is not None and margin_p <= alpha
    if p_value <= alpha:
        return SHOWN, inside
    return (RULED_OUT if inside else CANNOT_TELL), False


def few_words(support: float, least: int) -> str:
    """Say that too few patients stand behind a figure for an answer.

    Args:
        support: Kish's effective number of them: so many with one image each would tell as much.
        least: How many are asked for.

    Returns:
        Words for a reader.

    >>> few_words(20.3, 30)
    'one figure rests on what 20 patients would tell, fewer than 30'
    """
    return f"one figure rests on what {support:.0f} patients would tell, fewer than {least}"
