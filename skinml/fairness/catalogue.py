"""The catalogue: which figures every group gets, and the rule behind each one's interval."""

from __future__ import annotations

import numpy as np

from skinml.fairness.calibration import (
    PATIENTS_PER_BIN,
    calibration_error_statistic,
    calibration_intercept_statistic,
    calibration_slope_statistic,
)
from skinml.fairness.cells import Cell
from skinml.fairness.discrimination import auroc_statistic, ratio
from skinml.fairness.intervals import (
    Interval,
    clopper_pearson,
    expanded_percentiles,
    logit_interval,
    newcombe_auroc,
    robust_interval,
    unseen_around,
)
from skinml.fairness.measures import (
    BOOTSTRAP,
    BOOTSTRAP_LOGIT,
    EXACT,
    IntervalRule,
    Measure,
    mean_over_classes,
    patients_behind,
    point_value,
    proportion,
    share_statistic,
    undefined,
)
from skinml.fairness.settings import FairnessSettings
from skinml.records import BoolArray, FloatArray

BOOTSTRAP_ROBUST = "patient bootstrap, spread of its middle 68%"
SCORE_AUROC = "score interval on patients (Newcombe 2006)"
BOUNDED = "bounded by n"
# With more replicates undefined than this, the rest would tell a conditional story.
_MOST_UNDEFINED = 0.05
# An interval narrower than this has no width but rounding's.
_NO_WIDTH = 1e-9


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
        # One against the other is the same area whichever is called positive.
        present = present[-1:] if len(present) == 2 else []
    if len(present) < 1 or (len(cell.names) > 2 and len(present) < 2):
        return undefined("auroc", f"no items of {', '.join(missing)}: only one class is present")
    truths = [cell.labels == index for index in present]
    parts = [
        auroc_statistic(cell.probabilities[:, index], truth)
        for index, truth in zip(present, truths, strict=True)
    ]
    arms = [(patients_behind(cell, truth), patients_behind(cell, ~truth)) for truth in truths]

    def one_by_one(values: list[float]) -> list[Interval]:
        return [
            newcombe_auroc(value, ups, downs, settings.level)
            for value, (ups, downs) in zip(values, arms, strict=True)
        ]

    support = min(min(pair) for pair in arms)
    reason = f"left out for want of items: {', '.join(missing)}" if missing else ""
    return mean_over_classes(
        "auroc", cell, parts, one_by_one, SCORE_AUROC, support, settings, reason
    )


def _malignancy_auroc(name: str, cell: Cell, settings: FairnessSettings) -> Measure:
    lacking = _lacking_class(cell)
    if lacking:
        return undefined(name, lacking)
    ups, downs = patients_behind(cell, cell.malignant), patients_behind(cell, ~cell.malignant)
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
    sizes = [patients_behind(cell, truth) for truth in truths]

    def one_by_one(values: list[float]) -> list[Interval]:
        return [
            clopper_pearson(value * size, size, settings.level)
            for value, size in zip(values, sizes, strict=True)
        ]

    reason = f"left out for want of items: {', '.join(missing)}" if missing else ""
    name = "balanced_accuracy"
    return mean_over_classes(name, cell, parts, one_by_one, EXACT, min(sizes), settings, reason)


def _brier(cell: Cell, settings: FairnessSettings) -> Measure:
    losses = (cell.scores - cell.malignant) ** 2
    support = patients_behind(cell, np.ones(len(losses), dtype=bool))

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
    support = min(patients_behind(cell, cell.malignant), patients_behind(cell, ~cell.malignant))
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
    support = patients_behind(cell, np.ones(len(scores), dtype=bool))
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
