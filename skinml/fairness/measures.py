"""The catalogue of figures: how each is computed on a cell and how its interval is made.

A measure joins a statistic (the figure for any weights of the items) with a rule for the
interval. Where patients are few, or all right or all wrong, an exact or score interval on
effective patients stands in for the bootstrap, which would be too narrow or of zero width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite

import numpy as np

from skinml.fairness.calibration import (
    PATIENTS_PER_BIN,
    calibration_error_statistic,
    calibration_intercept_statistic,
    calibration_slope_statistic,
)
from skinml.fairness.cells import Cell
from skinml.fairness.discrimination import Statistic, auroc_statistic, ratio
from skinml.fairness.intervals import (
    Interval,
    clopper_pearson,
    combine_mean,
    expanded_percentiles,
    logit_interval,
    newcombe_auroc,
    robust_interval,
    unseen_around,
)
from skinml.fairness.resampling import effective_patients
from skinml.fairness.settings import FairnessSettings
from skinml.records import BoolArray, Estimate, FloatArray

BOOTSTRAP = "patient bootstrap"
BOOTSTRAP_LOGIT = "patient bootstrap on the log odds"
BOOTSTRAP_ROBUST = "patient bootstrap, spread of its middle 68%"
EXACT = "Clopper-Pearson on patients"
SCORE_AUROC = "score interval on patients (Newcombe 2006)"
BOUNDED = "bounded by n"
FEW_EVENTS = "few events"
# With more replicates undefined than this, the rest would tell a conditional story.
_MOST_UNDEFINED = 0.05
# An interval narrower than this has no width but rounding's.
_NO_WIDTH = 1e-9

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


def measures_of(cell: Cell, settings: FairnessSettings) -> tuple[Measure, ...]:
    """All figures of a cell, in the order in which they are shown.

    Args:
        cell: The items of a group.
        settings: Level, floors and bins.

    Returns:
        One measure a figure; undefined ones included.
    """
    several = len(cell.names) > 2
    measures = [class_auroc(cell, settings)]
    if several:
        measures.append(_malignancy_auroc("malignancy_auroc", cell, settings))
    measures += [
        _balanced_accuracy(cell, settings),
        proportion("sensitivity", cell, cell.malignant, cell.alarms, settings, "malignant items"),
        proportion(
            "specificity",
            cell,
            ~cell.malignant,
            ~cell.alarms,
            settings,
            "items that are not malignant",
        ),
        _brier(cell, settings),
        _recalibration("calibration_intercept", cell, settings),
        _recalibration("calibration_slope", cell, settings),
    ]
    if several:
        top = cell.probabilities[np.arange(len(cell.labels)), cell.decisions]
        right = cell.decisions == cell.labels
        measures.append(_calibration_error("ece", cell, top, right, settings))
    name = "malignancy_ece" if several else "ece"
    measures.append(_calibration_error(name, cell, cell.scores, cell.malignant, settings))
    return tuple(measures)


def class_auroc(cell: Cell, settings: FairnessSettings) -> Measure:
    """AUROC over the classes: of the malignancy score for two, macro one-vs-rest for more.

    Args:
        cell: The items of a group.
        settings: Level and floors.

    Returns:
        The measure; classes without items are left out of the macro mean and named.
    """
    if len(cell.names) == 2 and sum(cell.malignant_classes) == 1:
        return _malignancy_auroc("auroc", cell, settings)
    present, missing = _classes(cell)
    if len(cell.names) == 2:
        present = present[-1:] if len(present) == 2 else []
    if len(present) < 1 or (len(cell.names) > 2 and len(present) < 2):
        return undefined("auroc", f"no items of {', '.join(missing)}: only one class is present")
    truths = [cell.labels == index for index in present]
    parts = [
        auroc_statistic(cell.probabilities[:, index], truth)
        for index, truth in zip(present, truths, strict=True)
    ]
    arms = [(_patients(cell, truth), _patients(cell, ~truth)) for truth in truths]

    def one_by_one(values: list[float]) -> list[Interval]:
        return [
            newcombe_auroc(value, ups, downs, settings.level)
            for value, (ups, downs) in zip(values, arms, strict=True)
        ]

    support = min(min(pair) for pair in arms)
    reason = f"left out for want of items: {', '.join(missing)}" if missing else ""
    return _mean_measure("auroc", cell, parts, one_by_one, SCORE_AUROC, support, reason, settings)


def _malignancy_auroc(name: str, cell: Cell, settings: FairnessSettings) -> Measure:
    lacking = _lacking_class(cell)
    if lacking:
        return undefined(name, lacking)
    ups, downs = _patients(cell, cell.malignant), _patients(cell, ~cell.malignant)
    support = min(ups, downs)

    def interval(value: float, replicates: FloatArray) -> tuple[Interval | None, str]:
        limits = logit_interval(value, replicates, support, settings.level)
        if limits is None or support < settings.exact_below:
            at_edge = value <= 0 or value >= 1
            method = f"{SCORE_AUROC}, {BOUNDED}" if at_edge else SCORE_AUROC
            return newcombe_auroc(value, ups, downs, settings.level), method
        return limits, BOOTSTRAP_LOGIT

    return Measure(name, auroc_statistic(cell.scores, cell.malignant), interval, support)


def _balanced_accuracy(cell: Cell, settings: FairnessSettings) -> Measure:
    present, missing = _classes(cell)
    if len(present) < 2:
        only = ", ".join(missing)
        return undefined("balanced_accuracy", f"no items of {only}: only one class is present")
    right = cell.decisions == cell.labels
    truths = [cell.labels == index for index in present]
    parts = [share_statistic(truth, right) for truth in truths]
    sizes = [_patients(cell, truth) for truth in truths]

    def one_by_one(values: list[float]) -> list[Interval]:
        return [
            clopper_pearson(value * size, size, settings.level)
            for value, size in zip(values, sizes, strict=True)
        ]

    reason = f"left out for want of items: {', '.join(missing)}" if missing else ""
    name = "balanced_accuracy"
    return _mean_measure(name, cell, parts, one_by_one, EXACT, min(sizes), reason, settings)


def _mean_measure(
    name: str,
    cell: Cell,
    parts: list[Statistic],
    one_by_one: Callable[[list[float]], list[Interval]],
    method: str,
    support: float,
    reason: str,
    settings: FairnessSettings,
) -> Measure:
    """A mean over classes; where a class is small or perfect, its own interval is joined in."""

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
    support = _patients(cell, among)

    def interval(value: float, replicates: FloatArray) -> tuple[Interval | None, str]:
        fewer = min(value, 1 - value) * support
        limits = expanded_percentiles(replicates, support, settings.level)
        if fewer < settings.exact_below or limits is None:
            return clopper_pearson(value * support, support, settings.level), EXACT
        return limits, BOOTSTRAP

    return Measure(name, share_statistic(among, hits), interval, support)


def _brier(cell: Cell, settings: FairnessSettings) -> Measure:
    losses = (cell.scores - cell.malignant) ** 2
    support = _patients(cell, np.ones(len(losses), dtype=bool))

    def statistic(weights: FloatArray) -> FloatArray:
        return ratio(losses @ weights, weights.sum(axis=0))

    def interval(value: float, replicates: FloatArray) -> tuple[Interval | None, str]:
        limits = logit_interval(value, replicates, support, settings.level)
        # A bounded loss varies no more than a coin of the same mean, so that the exact interval
        # of a proportion is on the safe side where the bootstrap has nothing to go by.
        if limits is None or support < settings.exact_below:
            return clopper_pearson(value * support, support, settings.level), EXACT
        return limits, BOOTSTRAP_LOGIT

    return Measure("brier", statistic, interval, support)


def _recalibration(name: str, cell: Cell, settings: FairnessSettings) -> Measure:
    lacking = _lacking_class(cell)
    if lacking:
        return undefined(name, lacking)
    slope = name == "calibration_slope"
    if slope and np.ptp(cell.scores) == 0:
        return undefined(name, "all scores are equal")
    prepare = calibration_slope_statistic if slope else calibration_intercept_statistic
    support = min(_patients(cell, cell.malignant), _patients(cell, ~cell.malignant))
    measure = Measure(
        name,
        prepare(cell.scores, cell.malignant),
        _bootstrap_only(support, slope, settings),
        support,
    )
    if point_value(measure, len(cell.labels)) is None:
        return undefined(name, "the scores separate the classes: no finite fit")
    return measure


def _calibration_error(
    name: str, cell: Cell, scores: FloatArray, outcomes: BoolArray, settings: FairnessSettings
) -> Measure:
    support = _patients(cell, np.ones(len(scores), dtype=bool))
    if support < PATIENTS_PER_BIN:
        return undefined(name, f"fewer than {PATIENTS_PER_BIN} patients cannot tell it from chance")
    statistic = calibration_error_statistic(
        scores, outcomes, cell.patients, greatest_bins=settings.calibration_bins
    )

    def interval(value: float, replicates: FloatArray) -> tuple[Interval | None, str]:
        # On the square scale a resample adds the gaps' variance once more: the mean shift of the
        # replicates is that variance, and is taken off before percentiles are read.
        signed = float(statistic(np.ones((len(scores), 1)))[0])
        squares = replicates * np.abs(replicates)
        squares = squares - np.nanmean(squares) + signed * abs(signed)
        limits = expanded_percentiles(squares, support, settings.level)
        if limits is None or support < settings.exact_below:
            return None, ""
        low, high = np.sqrt(np.maximum(limits, 0.0)).tolist()
        if high - low < _NO_WIDTH:
            return unseen_around(value, support, settings.level), EXACT
        return (low, min(high, 1.0)), f"{BOOTSTRAP} of the debiased square"

    return Measure(name, statistic, interval, support, floor=0.0)


def _bootstrap_only(support: float, skewed: bool, settings: FairnessSettings) -> IntervalRule:
    def interval(value: float, replicates: FloatArray) -> tuple[Interval | None, str]:
        lost = 1 - np.isfinite(replicates).mean()
        if lost > _MOST_UNDEFINED:
            return None, ""
        if skewed:
            return robust_interval(value, replicates, support, settings.level), BOOTSTRAP_ROBUST
        return expanded_percentiles(replicates, support, settings.level), BOOTSTRAP

    return interval


def _patients(cell: Cell, among: BoolArray) -> float:
    return effective_patients(cell.patients[among])


def _classes(cell: Cell) -> tuple[list[int], list[str]]:
    """Indices of the classes with items, and names of those without."""
    counts = np.bincount(cell.labels, minlength=len(cell.names))
    missing = [name for name, count in zip(cell.names, counts, strict=True) if count == 0]
    return np.flatnonzero(counts).tolist(), missing


def _lacking_class(cell: Cell) -> str:
    if not cell.malignant.any():
        return "no malignant items"
    if cell.malignant.all():
        return "no items that are not malignant"
    return ""
