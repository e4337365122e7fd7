"""What a figure is: how it is computed on a cell and how its interval is made.

A measure joins a statistic (the figure for any weights of the items) with a rule for the
interval. Where patients are few, or all right or all wrong, an exact or score interval on
effective patients stands in for the bootstrap, which would be too narrow or of zero width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite

import numpy as np

from skinml.fairness.cells import Cell
from skinml.fairness.discrimination import Statistic, ratio
from skinml.fairness.intervals import (
    Interval,
    clopper_pearson,
    combine_mean,
    expanded_percentiles,
    logit_interval,
)
from skinml.fairness.resampling import effective_patients
from skinml.fairness.settings import FairnessSettings
from skinml.records import BoolArray, Estimate, FloatArray

BOOTSTRAP = "patient bootstrap"
BOOTSTRAP_LOGIT = "patient bootstrap on the log odds"
EXACT = "Clopper-Pearson on patients"
FEW_EVENTS = "few events"

# Value and (b,) replicates -> interval (None where there is none) and the words for its method.
IntervalRule = Callable[[float, FloatArray], tuple[Interval | None, str]]


@dataclass(frozen=True)
class Measure:
    """One figure of one cell, ready to be computed.

    Attributes:
        name: The figure's name.
        statistic: The figure for any weights; None where it is undefined.
        interval: How its interval is made.
        support: Effective patients in the smallest part that the figure rests on.
        reason: Why it is undefined, or what it leaves out; empty otherwise.
        floor: The figure is shown as no less than this.
    """

    name: str
    statistic: Statistic | None
    interval: IntervalRule
    support: float = 0.0
    reason: str = ""
    floor: float = -inf


def undefined(name: str, reason: str) -> Measure:
    """A figure that does not exist for this cell.

    Args:
        name: The figure's name.
        reason: Why, in words for a reader.

    Returns:
        A measure without a statistic.
    """
    return Measure(name, None, lambda value, replicates: (None, ""), reason=reason)


def point_value(measure: Measure, num_items: int) -> float | None:
    """Compute a figure once, every item counting once.

    Args:
        measure: The figure.
        num_items: Items of its cell.

    Returns:
        The value; None where it is undefined.
    """
    if measure.statistic is None:
        return None
    value = float(measure.statistic(np.ones((num_items, 1)))[0])
    return max(value, measure.floor) if isfinite(value) else None


def estimate(
    measure: Measure, num_items: int, replicates: FloatArray, settings: FairnessSettings
) -> Estimate:
    """Turn a figure and its replicates into an estimate.

    Args:
        measure: The figure.
        num_items: Items of its cell.
        replicates: (b,) the figure in each replicate; not used where it is undefined.
        settings: Level and floors.

    Returns:
        The estimate; undefined with its reason where it does not exist.
    """
    value = None if measure.statistic is None else point_value(measure, num_items)
    if value is None:
        reason = measure.reason or "no finite value fits these items"
        return Estimate(value=None, level=settings.level, reason=reason)
    limits, method = measure.interval(value, replicates)
    if measure.support < settings.min_events:
        method = f"{method}, {FEW_EVENTS}" if method else FEW_EVENTS
    if limits is None:
        why = "too few patients, or too many resamples without a value, for an interval"
        reason = "; ".join(part for part in (measure.reason, why) if part)
        return Estimate(value=value, level=settings.level, method=method, reason=reason)
    # Recalibration of the replicates must not leave the estimate outside its own interval.
    low = max(min(limits[0], value), measure.floor)
    high = max(limits[1], value)
    return Estimate(value, low, high, settings.level, method, measure.reason)


def patients_behind(cell: Cell, among: BoolArray) -> float:
    """Count the effective patients of some items.

    Args:
        cell: The items of a group.
        among: (n,) the items that count.

    Returns:
        Kish's effective number of their patients.
    """
    return effective_patients(cell.patients[among])


def share_statistic(among: BoolArray, hits: BoolArray) -> Statistic:
    """Prepare the weighted share of hits among some items.

    Args:
        among: (n,) the items that count.
        hits: (n,) which of them are hits.

    Returns:
        A function of (n, b) weights to (b,) shares; NaN where nothing counts.
    """
    rows = np.stack([among & hits, among]).astype(float)

    def share(weights: FloatArray) -> FloatArray:
        hit, counted = rows @ weights
        return ratio(hit, counted)

    return share


def proportion(
    name: str,
    cell: Cell,
    among: BoolArray,
    hits: BoolArray,
    settings: FairnessSettings,
    what: str,
) -> Measure:
    """A share of items, such as sensitivity.

    Args:
        name: The figure's name.
        cell: The items of a group.
        among: (n,) the items that count.
        hits: (n,) which of them are hits.
        settings: Level and floors.
        what: What the items that count are called, for the reason where there are none.

    Returns:
        The measure. Its interval is Clopper-Pearson on effective patients where hits or misses
        are fewer than `exact_below` of them, and the patient bootstrap otherwise.
    """
    if not among.any():
        return undefined(name, f"no {what}")
    support = patients_behind(cell, among)

    def interval(value: float, replicates: FloatArray) -> tuple[Interval | None, str]:
        fewer = min(value, 1 - value) * support
        limits = expanded_percentiles(replicates, support, settings.level)
        if fewer < settings.exact_below or limits is None:
            return clopper_pearson(value * support, support, settings.level), EXACT
        return limits, BOOTSTRAP

    return Measure(name, share_statistic(among, hits), interval, support)


def mean_over_classes(
    name: str,
    cell: Cell,
    parts: list[Statistic],
    one_by_one: Callable[[list[float]], list[Interval]],
    method: str,
    support: float,
    settings: FairnessSettings,
    reason: str = "",
) -> Measure:
    """A figure that is the mean of one figure a class, such as macro AUROC.

    Args:
        name: The figure's name.
        cell: The items of a group.
        parts: Each class's figure.
        one_by_one: Values of the classes -> the interval of each, for small or perfect classes.
        method: What `one_by_one` does, in words.
        support: Effective patients in the smallest part.
        settings: Level and floors.
        reason: Which classes are left out.

    Returns:
        The measure. Its interval is the patient bootstrap; where a class is small or perfect it
        is the wider of that and the classes' own intervals combined.
    """

    def statistic(weights: FloatArray) -> FloatArray:
        return np.asarray(np.mean([part(weights) for part in parts], axis=0))

    def interval(value: float, replicates: FloatArray) -> tuple[Interval | None, str]:
        ones = np.ones((len(cell.labels), 1))
        values = [float(part(ones)[0]) for part in parts]
        edge = any(single <= 0 or single >= 1 for single in values)
        limits = logit_interval(value, replicates, support, settings.level)
        if support >= settings.exact_below and not edge and limits is not None:
            return limits, BOOTSTRAP_LOGIT
        joined = combine_mean(values, one_by_one(values))
        words = f"{method}, classes combined (Zou and Donner 2008)"
        percentiles = expanded_percentiles(replicates, support, settings.level)
        if percentiles is None:
            return joined, words
        wider = (min(joined[0], percentiles[0]), max(joined[1], percentiles[1]))
        return wider, f"wider of {BOOTSTRAP} and {words}"

    return Measure(name, statistic, interval, support, reason)
