"""One side of a comparison: a group's figure, its interval at any level, its sampling error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import inf, sqrt

import numpy as np
from scipy.special import ndtri

from skinml.fairness.foresight import auroc_standard_error, smallest_seen
from skinml.fairness.groups import Measured
from skinml.fairness.intervals import Interval, mover_difference
from skinml.fairness.measures import NO_INTERVAL, Measure, limits_of
from skinml.fairness.settings import FairnessSettings
from skinml.records import FloatArray, IntArray

LOWER_IS_BETTER = ("brier", "ece", "malignancy_ece")
TARGETS = {"calibration_intercept": 0.0, "calibration_slope": 1.0, "observed_to_expected": 1.0}
"""Figures that are best at a value of their own."""
_NO_RATIO = ("calibration_intercept", "calibration_slope", "ece", "malignancy_ece", "net_benefit")
# How far the bootstrap may move the error of an area from its formula's.
_MOST_INFLATED = 5.0


@dataclass(frozen=True, repr=False)
class Side:
    """A group's figure as a comparison wants it. Per patient: never log.

    Attributes:
        group: The group's name.
        value: The figure; None: undefined.
        reason: Why it is undefined, or what it leaves out.
        support: Effective patients in the smallest part that it rests on.
        limits: From a level to the interval; None where there is none.
        error_at: From a value to the standard error that the figure would have there.
        patients: The numbers of its patients; None where nobody is in two groups.
        replicates: (b,) the figure under weights that all groups share; None without any.
    """

    group: str
    value: float | None
    reason: str
    support: float
    limits: Callable[[float], Interval | None]
    error_at: Callable[[float], float]
    patients: IntArray | None = None
    replicates: FloatArray | None = None


def side_of(measured: Measured, metric: str, settings: FairnessSettings) -> Side:
    """Take one figure of a measured group.

    Args:
        measured: The group's cell with its figures.
        metric: The figure's name.
        settings: Level and floors.

    Returns:
        The side.
    """
    at = [each.name for each in measured.measures].index(metric)
    made, drawn = (
        measured.measures[at],
        np.maximum(measured.replicates[at], measured.measures[at].floor),
    )

    # Every pair of groups asks for the same few levels.
    @cache
    def limits(level: float) -> Interval | None:
        return limits_of(made, drawn, level)[0]

    return Side(
        group=measured.cell.group,
        value=made.value,
        reason=made.reason,
        support=made.support,
        limits=limits,
        error_at=_error_of(made, drawn, settings),
        patients=np.unique(measured.cell.patients),
        replicates=drawn,
    )


def _error_of(
    made: Measure, replicates: FloatArray, settings: FairnessSettings
) -> Callable[[float], float]:
    """The error of sampling at any value, clustering included."""
    if made.value is None:
        return lambda value: inf
    finite = replicates[np.isfinite(replicates)]
    seen = float(finite.std(ddof=1)) if finite.size > 1 else 0.0
    value, (first, second) = made.value, made.sizes
    if made.kind == "share":
        size = second
        if min(value, 1 - value) * second >= settings.exact_below and seen > 0:
            # Between the patients, were all items of one alike, and the items, were none.
            size = float(np.clip(value * (1 - value) / seen**2, second, max(first, second)))
        return lambda other: sqrt(_inside(other, size) * (1 - _inside(other, size)) / size)
    if made.kind == "area":
        return _area_error(value, first, second, seen)
    limits, _ = limits_of(made, replicates, settings.level)
    wide = 2 * float(ndtri((1 + settings.level) / 2))
    spread = inf if limits is None else (limits[1] - limits[0]) / wide
    return lambda other: spread


def _area_error(value: float, ups: float, downs: float, seen: float) -> Callable[[float], float]:
    least = min(ups, downs)

    def formula(area: float) -> float:
        error = auroc_standard_error(_inside(area, least), ups, downs)
        return inf if error is None else error

    usual = formula(value)
    factor = 1.0
    if 0 < value < 1 and seen > 0 and 0 < usual < inf:
        factor = float(np.clip(seen / usual, 1 / _MOST_INFLATED, _MOST_INFLATED))
    return lambda area: factor * formula(area)


def _inside(share: float, size: float) -> float:
    """A share of exactly 0 or 1 is not known to be that."""
    edge = min(0.5, 1 / (2 * max(size, 1.0)))
    return min(max(share, edge), 1 - edge)


def comparable(side: Side, reference: Side) -> str:
    """Say why two sides have no difference; empty where they have one."""
    for each in (side, reference):
        if each.value is None:
            return f"undefined for {each.group}: {each.reason}"
    if side.reason != reference.reason:
        return "the two groups' figures rest on different classes"
    return ""


def correlation(side: Side, reference: Side) -> float:
    """Correlate two groups' figures: 0 where no patient is in both."""
    if side.patients is None or reference.patients is None:
        return 0.0
    if side.replicates is None or reference.replicates is None:
        return 0.0
    if len(np.intersect1d(side.patients, reference.patients, assume_unique=True)) == 0:
        return 0.0
    both = np.isfinite(side.replicates) & np.isfinite(reference.replicates)
    if both.sum() < 2:
        return 0.0
    first, second = side.replicates[both], reference.replicates[both]
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def difference_limits(
    side: Side, reference: Side, shared: float
) -> Callable[[float], Interval | None]:
    """Prepare the interval of a difference at any level.

    Args:
        side: The group; its value is defined.
        reference: What it is held against; its value is defined.
        shared: The correlation of the two.

    Returns:
        From a level to the interval, None where a side has none.
    """

    def limits(level: float) -> Interval | None:
        of_side, of_reference = side.limits(level), reference.limits(level)
        if of_side is None or of_reference is None or None in (side.value, reference.value):
            return None
        first, second = float(side.value or 0.0), float(reference.value or 0.0)
        return mover_difference(first, of_side, second, of_reference, shared)

    return limits


def detectable(side: Side, reference: Side, metric: str, level: float) -> float | None:
    """Find the smallest true gap that this comparison would have shown four times in five.

    Args:
        side: The group.
        reference: What it is held against; its value is taken as true.
        metric: The figure, which says what worse means.
        level: Coverage of the interval that would have to leave out 0.

    Returns:
        The gap; None where even the greatest one would not have been seen.
    """
    if reference.value is None:
        return None
    sign = 1.0 if goodness(metric) < 0 or metric in TARGETS else -1.0
    room = (reference.value if sign < 0 else 1 - reference.value) if is_bounded(metric) else inf
    return smallest_seen(
        reference.value,
        reference.error_at,
        side.error_at,
        sign=sign,
        room=room,
        level=level,
    )


def is_bounded(metric: str) -> bool:
    """Whether a figure lies between 0 and 1."""
    return metric not in TARGETS and not metric.startswith("net_benefit")


def goodness(metric: str) -> int:
    """Tell whether more of a figure is better (1) or worse (-1); 0: best at a value of its own."""
    if metric in TARGETS:
        return 0
    return -1 if metric in LOWER_IS_BETTER else 1


def badness(metric: str, values: FloatArray) -> FloatArray:
    """Turn figures to numbers of which the greatest is the worst; NaN stays NaN."""
    if metric == "observed_to_expected":
        return np.asarray(np.abs(np.log(np.maximum(values, 1e-9))))
    if metric in TARGETS:
        return np.asarray(np.abs(values - TARGETS[metric]))
    return np.asarray(-goodness(metric) * values)


def has_ratio(metric: str) -> bool:
    """Whether a ratio of this figure means anything."""
    return not metric.startswith(_NO_RATIO)


def groups_without_figure(sides: Sequence[Side]) -> dict[str, str]:
    """Name the groups whose figure is undefined, each with the reason."""
    return {each.group: each.reason or NO_INTERVAL for each in sides if each.value is None}
