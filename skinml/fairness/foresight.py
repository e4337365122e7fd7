"""What a group's numbers can tell, before anything is trained: counts to interval widths."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isfinite, sqrt

from scipy.special import ndtri

from skinml.errors import require_in_range, require_positive

# One patient more or less changes a variance by more than its formula claims below this.
_LEAST = 1
# No gap of a figure without bounds is looked for beyond this.
_FARTHEST = 1e6


def auroc_standard_error(area: float, positives: float, negatives: float) -> float | None:
    """Foresee the standard error of an area under the ROC curve.

    Args:
        area: The area that is expected, from 0 to 1.
        positives: Patients with the disease, one item each; 0 or more, need not be whole.
        negatives: Patients without it.

    Returns:
        The standard error; None below one patient of either kind.

    Raises:
        ConfigError: If the area or a count is out of its range.

    Source:
        Hanley and McNeil 1982, Radiology 143:29, with exponential scores in both classes.

    >>> round(auroc_standard_error(0.85, 30, 120), 3)
    0.046
    """
    require_in_range(0, 1, area=area)
    require_in_range(0, float("inf"), positives=positives, negatives=negatives)
    if min(positives, negatives) < _LEAST:
        return None
    two_positives, two_negatives = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (
        area * (1 - area)
        + (positives - 1) * (two_positives - area**2)
        + (negatives - 1) * (two_negatives - area**2)
    ) / (positives * negatives)
    return sqrt(max(variance, 0.0))


def smallest_difference(
    first_error: float, second_error: float, *, level: float = 0.95, power: float = 0.8
) -> float:
    """Find the smallest true difference between two groups that a comparison would usually show.

    The groups have no patient in common, and both estimates are near normal.

    Args:
        first_error: Standard error in one group.
        second_error: Standard error in the other.
        level: Coverage of the interval of the difference.
        power: How often that interval has to leave out 0.

    Returns:
        The difference, in the measure's units.

    Raises:
        ConfigError: If an error is below zero, or level or power out of its range.

    Source:
        The usual sample-size formula of two independent estimates, solved for the difference.

    >>> round(smallest_difference(0.03, 0.04), 3)
    0.14
    """
    require_in_range(0, float("inf"), first_error=first_error, second_error=second_error)
    require_in_range(0.5, 0.999999, level=level, power=power)
    quantiles = float(ndtri((1 + level) / 2) + ndtri(power))
    return quantiles * sqrt(first_error**2 + second_error**2)


def smallest_seen(
    value: float,
    reference_error: Callable[[float], float],
    group_error: Callable[[float], float],
    *,
    sign: float = -1.0,
    room: float = inf,
    level: float = 0.95,
    power: float = 0.8,
) -> float | None:
    """Find the smallest true gap that a comparison would usually show, its error moving with it.

    Args:
        value: The figure in the reference group.
        reference_error: From a figure to the standard error in the reference group.
        group_error: The same in the other group.
        sign: Whether the other group's figure is lower (-1) or higher (1).
        room: How far the figure can go in that direction.
        level: Coverage of the interval of the difference.
        power: How often that interval has to leave out 0.

    Returns:
        The gap; None where even the greatest one would not be seen that often.

    Raises:
        ConfigError: If level or power is out of its range.

    Source:
        The usual sample-size formula of two independent estimates, solved for the difference.
    """
    require_in_range(0.5, 0.999999, level=level, power=power)
    needed = float(ndtri((1 + level) / 2) + ndtri(power))
    own = reference_error(value)

    def seen(gap: float) -> bool:
        return gap >= needed * sqrt(own**2 + group_error(value + sign * gap) ** 2)

    if not isfinite(own) or not isfinite(group_error(value)):
        return None
    high = room if isfinite(room) else 1.0
    while not isfinite(room) and not seen(high) and high < _FARTHEST:
        high *= 2
    if not seen(high):
        return None
    low = 0.0
    # The share of what is seen rises with the gap wherever the error's own change is smaller.
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if seen(middle) else (middle, high)
    return high


def smallest_share_difference(
    share: float, first: float, second: float, *, level: float = 0.95, power: float = 0.8
) -> float | None:
    """Find the smallest drop of a share that two groups would usually show.

    Args:
        share: The share in the first group, from 0 to 1.
        first: Effective patients in the first group, above 0.
        second: Effective patients in the second group, above 0.
        level: Coverage of the interval of the difference.
        power: How often that interval has to leave out 0.

    Returns:
        The drop; None where even a drop to 0 would not be seen that often.

    Raises:
        ConfigError: If a number is out of its range.

    >>> round(smallest_share_difference(0.85, 49, 48), 3)
    0.244
    """
    require_in_range(0, 1, share=share)
    require_positive(first=first, second=second)

    def error(size: float) -> Callable[[float], float]:
        return lambda value: sqrt(max(value * (1 - value), 0.0) / size)

    return smallest_seen(share, error(first), error(second), room=share, level=level, power=power)
