"""What a figure is: how it is computed on a cell and how its interval is made.

A measure joins a value, a statistic (the figure for any weights of the cell's rows) and a rule
for the interval. Where patients are few, or all right or all wrong, an exact or score interval on
effective patients stands in for the bootstrap, which would be too narrow or of zero width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Literal

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
from skinml.fairness.rows import Weighable
from skinml.fairness.settings import FairnessSettings
from skinml.records import BoolArray, Estimate, FloatArray

BOOTSTRAP = "patient bootstrap"
BOOTSTRAP_LOGIT = "patient bootstrap on the log odds"
EXACT = "Clopper-Pearson on patients"
FEW_EVENTS = "few events"
NO_FIT = "no finite value fits these items"
NO_INTERVAL = "too few patients, or too many resamples without a value, for an interval"

# Value, (b,) replicates and level -> interval (None where there is none), words for its method.
IntervalRule = Callable[[float, FloatArray, float], tuple[Interval | None, str]]


@dataclass(frozen=True)
class Measure:
    """One figure of one cell, ready to be computed.

    Attributes:
        name: The figure's name.
        value: The figure, every item counting as often as its cell says; None: undefined.
        statistic: The figure for any weights of the rows; None where it is undefined.
        rows: What the weights are of; None where the figure is undefined.
        interval: How its interval is made.
        support: Effective patients in the smallest part that the figure rests on.
        reason: Why it is undefined, or what it leaves out; empty otherwise.
        floor: The figure is shown as no less than this.
        kind: What its sampling error follows from: a share's, an area's, or only its replicates.
        sizes: Of a share: items and effective patients. Of an area: effective patients with a
            positive, and with a negative.
    """

    name: str
    value: float | None
    statistic: Statistic | None
    rows: Weighable | None
    interval: IntervalRule
    support: float = 0.0
    reason: str = ""
    floor: float = -inf
    kind: Literal["share", "area", "other"] = "other"
    sizes: tuple[float, float] = (0.0, 0.0)


class _Together:
    """Several measures' rows behind one another."""

    def __init__(self, parts: Sequence[Weighable], num_patients: int) -> None:
        self._parts = parts
        nobody = np.zeros((num_patients, 1))
        self._ends = np.cumsum([len(part.weigh(nobody)) for part in parts])

    def weigh(self, weights: FloatArray) -> FloatArray:
        """(m, b) weights of patients to (r, b) weights of all rows."""
        return np.concatenate([part.weigh(weights) for part in self._parts])

    def divide(self, weights: FloatArray) -> list[FloatArray]:
        """Part weights of all rows into those of each measure."""
        return np.split(weights, self._ends[:-1])


def undefined(name: str, reason: str) -> Measure:
    """A figure that does not exist for this cell.

    Args:
        name: The figure's name.
        reason: Why, in words for a reader.

    Returns:
        A measure without a statistic.
    """
    return Measure(name, None, None, None, lambda *_: (None, ""), reason=reason)


def measure(
    name: str,
    cell: Cell,
    statistic: Statistic,
    rows: Weighable,
    interval: IntervalRule,
    support: float,
    *,
    value: float | None = None,
    reason: str = "",
    floor: float = -inf,
    kind: Literal["share", "area", "other"] = "other",
    sizes: tuple[float, float] = (0.0, 0.0),
) -> Measure:
    """Join the parts of a figure.

    Args:
        name: The figure's name.
        cell: The items of a group.
        statistic: The figure for any weights of the rows.
        rows: What the weights are of.
        interval: How its interval is made.
        support: Effective patients in the smallest part that the figure rests on.
        value: The figure on the items themselves, where joined rows are only near it.
        reason: What it leaves out.
        floor: The figure is shown as no less than this.
        kind: What its sampling error follows from.
        sizes: The sizes that go with the kind.

    Returns:
        The measure; undefined where no finite value fits.
    """
    near = float(statistic(rows.weigh(np.ones((cell.num_patients, 1))))[0])
    found = near if value is None else value
    if not isfinite(found):
        return undefined(name, reason or NO_FIT)
    shift = found - near
    moved: Statistic = statistic if shift == 0 else lambda weights: statistic(weights) + shift
    value = max(found, floor)
    return Measure(name, value, moved, rows, interval, support, reason, floor, kind, sizes)


def estimate(measure: Measure, replicates: FloatArray, settings: FairnessSettings) -> Estimate:
    """Turn a figure and its replicates into an estimate.

    Args:
        measure: The figure.
        replicates: (b,) the figure in each replicate; not used where it is undefined.
        settings: Level and floors.

    Returns:
        The estimate; undefined with its reason where it does not exist.
    """
    level, value = settings.level, measure.value
    if value is None:
        return Estimate(value=None, level=level, reason=measure.reason)
    limits, method = limits_of(measure, replicates, level)
    if measure.support < settings.min_events:
        method = f"{method}, {FEW_EVENTS}" if method else FEW_EVENTS
    if limits is None:
        reason = "; ".join(part for part in (measure.reason, NO_INTERVAL) if part)
        return Estimate(value=value, level=level, method=method, reason=reason)
    return Estimate(value, *limits, level, method, measure.reason)


def limits_of(
    measure: Measure, replicates: FloatArray, level: float
) -> tuple[Interval | None, str]:
    """Make a figure's interval at any level.

    Args:
        measure: The figure, which is defined.
        replicates: (b,) the figure in each replicate.
        level: Nominal coverage.

    Returns:
        Lower and upper limit, None where there are none, and the words for the method.
    """
    value = measure.value
    if value is None:
        return None, ""
    limits, method = measure.interval(value, replicates, level)
    if limits is None:
        return None, method
    # Recalibration of the replicates must not leave the estimate outside its own interval.
    return (max(min(limits[0], value), measure.floor), max(limits[1], value)), method


def patients_behind(cell: Cell, among: BoolArray) -> float:
    """Count the effective patients of some items.

    Args:
        cell: The items of a group.
        among: (n,) the items that count.

    Returns:
        Kish's effective number of their patients.
    """
    return effective_patients(cell.patients[among], cell.weights[among])


def share_statistic(among: BoolArray, hits: BoolArray) -> Statistic:
    """Prepare the weighted share of hits among some rows.

    Args:
        among: (r,) the rows that count.
        hits: (r,) which of them are hits.

    Returns:
        A function of (r, b) weights to (b,) shares; NaN where nothing counts.
    """
    parts = np.stack([among & hits, among]).astype(float)

    def share(weights: FloatArray) -> FloatArray:
        hit, counted = parts @ weights
        return ratio(hit, counted)

    return share


def share(
    name: str,
    cell: Cell,
    among: BoolArray,
    rows: Weighable,
    parts: tuple[BoolArray, BoolArray],
    settings: FairnessSettings,
) -> Measure:
    """A share of items, such as sensitivity.

    Args:
        name: The figure's name.
        cell: The items of a group.
        among: (n,) the items that count, at least one.
        rows: The cell's rows.
        parts: (r,) the rows that count, and (r,) which rows are hits.
        settings: Floors.

    Returns:
        The measure. Its interval is Clopper-Pearson on effective patients where hits or misses
        are fewer than `exact_below` of them, and the patient bootstrap otherwise.
    """
    support = patients_behind(cell, among)

    def interval(value: float, replicates: FloatArray, level: float) -> tuple[Interval | None, str]:
        fewer = min(value, 1 - value) * support
        limits = expanded_percentiles(replicates, support, level)
        if fewer < settings.exact_below or limits is None:
            return clopper_pearson(value * support, support, level), EXACT
        return limits, BOOTSTRAP

    return measure(
        name,
        cell,
        share_statistic(*parts),
        rows,
        interval,
        support,
        kind="share",
        sizes=(effective_patients(np.arange(int(among.sum())), cell.weights[among]), support),
    )


def mean_over_classes(
    name: str,
    cell: Cell,
    parts: Sequence[Measure],
    one_by_one: Callable[[list[float], float], list[Interval]],
    method: str,
    settings: FairnessSettings,
    reason: str = "",
) -> Measure:
    """A figure that is the mean of one figure a class, such as macro AUROC.

    Args:
        name: The figure's name.
        cell: The items of a group.
        parts: Each class's figure, all defined.
        one_by_one: Values of the classes and a level -> the interval of each, for small or
            perfect classes.
        method: What `one_by_one` does, in words.
        settings: Floors.
        reason: Which classes are left out.

    Returns:
        The measure. Its interval is the patient bootstrap; where a class is small or perfect it
        is the wider of that and the classes' own intervals combined.
    """
    values = [part.value for part in parts if part.value is not None]
    support = min(part.support for part in parts)
    edge = any(single <= 0 or single >= 1 for single in values)
    rows = _Together(tuple(part.rows for part in parts if part.rows is not None), cell.num_patients)

    statistics = [part.statistic for part in parts if part.statistic is not None]

    def statistic(weights: FloatArray) -> FloatArray:
        pieces = zip(statistics, rows.divide(weights), strict=True)
        return np.asarray(np.mean([part(own) for part, own in pieces], axis=0))

    def interval(value: float, replicates: FloatArray, level: float) -> tuple[Interval | None, str]:
        limits = logit_interval(value, replicates, support, level)
        if support >= settings.exact_below and not edge and limits is not None:
            return limits, BOOTSTRAP_LOGIT
        joined = combine_mean(values, one_by_one(values, level))
        words = f"{method}, classes combined (Zou and Donner 2008)"
        percentiles = expanded_percentiles(replicates, support, level)
        if percentiles is None:
            return joined, words
        wider = (min(joined[0], percentiles[0]), max(joined[1], percentiles[1]))
        return wider, f"wider of {BOOTSTRAP} and {words}"

    return measure(name, cell, statistic, rows, interval, support, reason=reason)
