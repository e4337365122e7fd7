"""The catalogue: which figures every group gets, and the rule behind each one's interval."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cached_property, partial

import numpy as np

from skinml.fairness.calibration import (
    PATIENTS_PER_BIN,
    bin_rows,
    calibration_error,
    calibration_intercept_statistic,
    calibration_slope_statistic,
)
from skinml.fairness.cells import Cell
from skinml.fairness.discrimination import auroc_statistic, ratio
from skinml.fairness.intervals import (
    Interval,
    clopper_pearson,
    expanded_percentiles,
    log_interval,
    logit_interval,
    newcombe_auroc,
    poisson_ratio,
    robust_interval,
    unseen_around,
    weighted_difference,
)
from skinml.fairness.measures import (
    BOOTSTRAP,
    BOOTSTRAP_LOGIT,
    EXACT,
    IntervalRule,
    Measure,
    mean_over_classes,
    measure,
    patients_behind,
    share,
    undefined,
)
from skinml.fairness.rows import LabelRows, ScoreRows, label_rows, score_rows
from skinml.fairness.settings import FairnessSettings
from skinml.records import BoolArray, FloatArray

BOOTSTRAP_LOG = "patient bootstrap on the log scale"
BOOTSTRAP_ROBUST = "patient bootstrap, spread of its middle 68%"
SCORE_AUROC = "score interval on patients (Newcombe 2006)"
EXACT_RATIO = "exact Poisson limits on patients"
EXACT_PAIR = "Clopper-Pearson on patients, combined (Zou and Donner 2008)"
BOUNDED = "bounded by n"
# With more replicates undefined than this, the rest would tell a conditional story.
_MOST_UNDEFINED = 0.05
# An interval narrower than this has no width but rounding's.
_NO_WIDTH = 1e-9


class _Source:
    """A cell's rows, each kind joined once and only if a figure asks for it."""

    def __init__(self, cell: Cell, settings: FairnessSettings) -> None:
        self.cell = cell
        self.settings = settings
        self._classes: dict[int, Measure] = {}

    @cached_property
    def scores(self) -> ScoreRows:
        """Rows by malignancy score."""
        return score_rows(
            self.cell, self.cell.scores, self.cell.malignant, self.settings.net_benefit_at
        )

    @cached_property
    def labels(self) -> LabelRows:
        """Rows by class and decision."""
        return label_rows(self.cell)

    @cached_property
    def behind(self) -> tuple[float, float]:
        """Effective patients with malignant items, and with other ones."""
        cell = self.cell
        return patients_behind(cell, cell.malignant), patients_behind(cell, ~cell.malignant)

    @cached_property
    def present(self) -> tuple[list[int], str]:
        """Indices of the classes with items, and names of those without."""
        counts = np.bincount(self.cell.labels, minlength=len(self.cell.names))
        names = zip(self.cell.names, counts, strict=True)
        missing = ", ".join(name for name, count in names if count == 0)
        return np.flatnonzero(counts).tolist(), missing

    @property
    def lacking(self) -> str:
        """Why nothing that needs both truths is defined; empty where it is."""
        if not self.cell.malignant.any():
            return "no malignant items"
        if self.cell.malignant.all():
            return "no items that are not malignant"
        return ""

    @property
    def several(self) -> bool:
        """Whether there are more than two classes."""
        return len(self.cell.names) > 2

    def one_against_rest(self, index: int) -> Measure:
        """The AUROC of one class's probability."""
        if index not in self._classes:
            cell, name = self.cell, f"auroc_of_{self.cell.names[index]}"
            truth = np.asarray(cell.labels == index)
            self._classes[index] = _area(name, self, cell.probabilities[:, index], truth, None)
        return self._classes[index]


def figure_names(cell: Cell, settings: FairnessSettings) -> tuple[str, ...]:
    """Name all figures of a cell in the order in which they are shown.

    Args:
        cell: The items of a group.
        settings: Thresholds of net benefit and the k of top-k.

    Returns:
        The names.
    """
    return tuple(_catalogue(_Source(cell, settings)))


def measures_of(
    cell: Cell, settings: FairnessSettings, figures: Collection[str] | None = None
) -> tuple[Measure, ...]:
    """All figures of a cell, in the order in which they are shown.

    Args:
        cell: The items of a group.
        settings: Floors, bins, and where net benefit is told.
        figures: Names of the figures wanted; None: all.

    Returns:
        One measure a figure; undefined ones included.
    """
    known = _catalogue(_Source(cell, settings))
    return tuple(make() for name, make in known.items() if figures is None or name in figures)


def _catalogue(of: _Source) -> Mapping[str, Callable[[], Measure]]:
    cell, settings = of.cell, of.settings
    found: dict[str, Callable[[], Measure]] = {"auroc": partial(_class_auroc, of)}
    if of.several:
        found["malignancy_auroc"] = partial(_malignancy_auroc, "malignancy_auroc", of)
    found["balanced_accuracy"] = partial(_balanced_accuracy, of)
    for name in ("sensitivity", "specificity", "ppv", "npv"):
        found[name] = partial(_share, name, of)
    for risk in settings.net_benefit_at:
        found[f"net_benefit_at_{risk:g}"] = partial(_net_benefit, of, risk)
    found |= {
        "brier": partial(_brier, of),
        "observed_to_expected": partial(_observed_to_expected, of),
        "calibration_intercept": partial(_recalibration, "calibration_intercept", of),
        "calibration_slope": partial(_recalibration, "calibration_slope", of),
    }
    if of.several:
        top = partial(_decided, of)
        found["ece"] = lambda: _calibration_error("ece", of, *top())
        found["malignancy_ece"] = lambda: _malignancy_error("malignancy_ece", of)
        for k in settings.top:
            found[f"top_{k}_accuracy"] = partial(_top, of, k)
        for index, name in enumerate(cell.names):
            found[f"auroc_of_{name}"] = partial(of.one_against_rest, index)
            found[f"sensitivity_of_{name}"] = partial(_recall, of, index)
    else:
        found["ece"] = lambda: _malignancy_error("ece", of)
    return found


def _class_auroc(of: _Source) -> Measure:
    """AUROC over the classes: of the malignancy score for two, macro one-vs-rest for more."""
    cell = of.cell
    if len(cell.names) == 2 and sum(cell.malignant_classes) == 1:
        return _malignancy_auroc("auroc", of)
    present, missing = of.present
    if len(present) < 2:
        return undefined("auroc", f"no items of {missing}: only one class is present")
    if len(cell.names) == 2:
        # One against the other is the same area whichever is called positive.
        present = present[-1:]
    parts = [of.one_against_rest(index) for index in present]
    truths = [cell.labels == index for index in present]
    arms = [(patients_behind(cell, truth), patients_behind(cell, ~truth)) for truth in truths]

    def one_by_one(values: list[float], level: float) -> list[Interval]:
        return [
            newcombe_auroc(value, ups, downs, level)
            for value, (ups, downs) in zip(values, arms, strict=True)
        ]

    reason = f"left out for want of items: {missing}" if missing else ""
    return mean_over_classes("auroc", cell, parts, one_by_one, SCORE_AUROC, of.settings, reason)


def _malignancy_auroc(name: str, of: _Source) -> Measure:
    if of.lacking:
        return undefined(name, of.lacking)
    return _area(name, of, of.cell.scores, of.cell.malignant, of.scores)


def _area(
    name: str, of: _Source, scores: FloatArray, truth: BoolArray, rows: ScoreRows | None
) -> Measure:
    if truth.all() or not truth.any():
        return undefined(name, "no items of the class" if not truth.any() else "no other items")
    cell, settings = of.cell, of.settings
    ups, downs = patients_behind(cell, truth), patients_behind(cell, ~truth)
    support = min(ups, downs)
    joined = score_rows(cell, scores, truth) if rows is None else rows
    value = None
    if not joined.exact:
        value = float(auroc_statistic(scores, truth)(cell.weights[:, None])[0])

    def interval(value: float, replicates: FloatArray, level: float) -> tuple[Interval | None, str]:
        limits = logit_interval(value, replicates, support, level)
        if limits is None or support < settings.exact_below:
            at_edge = value <= 0 or value >= 1
            method = f"{SCORE_AUROC}, {BOUNDED}" if at_edge else SCORE_AUROC
            return newcombe_auroc(value, ups, downs, level), method
        return limits, BOOTSTRAP_LOGIT

    area = auroc_statistic(joined.levels.astype(float), joined.truth)
    return measure(
        name,
        cell,
        area,
        joined,
        interval,
        support,
        value=value,
        kind="area",
        sizes=(ups, downs),
    )


def _balanced_accuracy(of: _Source) -> Measure:
    present, missing = of.present
    name = "balanced_accuracy"
    if len(present) < 2:
        return undefined(name, f"no items of {missing}: only one class is present")
    parts = [_recall(of, index) for index in present]

    def one_by_one(values: list[float], level: float) -> list[Interval]:
        return [
            clopper_pearson(value * part.support, part.support, level)
            for value, part in zip(values, parts, strict=True)
        ]

    reason = f"left out for want of items: {missing}" if missing else ""
    return mean_over_classes(name, of.cell, parts, one_by_one, EXACT, of.settings, reason)


def _recall(of: _Source, index: int) -> Measure:
    """The share of one class's items that are decided for it."""
    cell, name = of.cell, f"sensitivity_of_{of.cell.names[index]}"
    among = np.asarray(cell.labels == index)
    if not among.any():
        return undefined(name, "no items of the class")
    parts = np.asarray(of.labels.labels == index), of.labels.right
    return share(name, cell, among, of.labels, parts, of.settings)


def _top(of: _Source, k: int) -> Measure:
    """How often the true class is among the k likeliest."""
    cell, rows = of.cell, of.labels
    among = np.ones(len(cell.labels), dtype=bool)
    parts = np.ones(len(rows.labels), dtype=bool), np.asarray(rows.ranks < k)
    return share(f"top_{k}_accuracy", cell, among, rows, parts, of.settings)


def _share(name: str, of: _Source) -> Measure:
    """A share of the items of one truth, or of one decision."""
    cell = of.cell

    def parts(truth: BoolArray, alarms: BoolArray) -> tuple[BoolArray, BoolArray]:
        return {
            "sensitivity": (truth, alarms),
            "specificity": (~truth, ~alarms),
            "ppv": (alarms, truth),
            "npv": (~alarms, ~truth),
        }[name]

    among, _ = parts(cell.malignant, cell.alarms)
    if not among.any():
        nobody = {
            "sensitivity": "no malignant items",
            "specificity": "no items that are not malignant",
            "ppv": "no alarms",
            "npv": "no items without alarm",
        }
        return undefined(name, nobody[name])
    rows = of.scores
    return share(name, cell, among, rows, parts(rows.truth, rows.alarms), of.settings)


def _net_benefit(of: _Source, risk: float) -> Measure:
    """True alarms less false ones at the exchange rate that acting from this risk implies.

    Source: Vickers and Elkin 2006, Medical Decision Making 26:565.
    """
    cell, rows, name = of.cell, of.scores, f"net_benefit_at_{risk:g}"
    support = patients_behind(cell, np.ones(len(cell.labels), dtype=bool))
    rate = risk / (1 - risk)

    def shares(scores: FloatArray, truth: BoolArray) -> FloatArray:
        acted = scores >= risk
        return np.stack([acted & truth, acted & ~truth, np.ones(len(scores))]).astype(float)

    parts = shares(rows.scores, rows.truth)
    hits, false_alarms, whole = shares(cell.scores, cell.malignant) @ cell.weights
    pair = (float(hits / whole), float(false_alarms / whole))

    def statistic(weights: FloatArray) -> FloatArray:
        true, false, all_items = parts @ weights
        return ratio(true - rate * false, all_items)

    def interval(value: float, replicates: FloatArray, level: float) -> tuple[Interval | None, str]:
        limits = expanded_percentiles(replicates, support, level)
        if limits is None or min(pair) * support < of.settings.exact_below:
            return weighted_difference(*pair, rate, support, level), EXACT_PAIR
        return limits, BOOTSTRAP

    return measure(name, cell, statistic, rows, interval, support)


def _brier(of: _Source) -> Measure:
    cell, rows = of.cell, of.scores
    support = patients_behind(cell, np.ones(len(cell.labels), dtype=bool))

    def statistic(weights: FloatArray) -> FloatArray:
        return ratio(rows.losses @ weights, weights.sum(axis=0))

    def interval(value: float, replicates: FloatArray, level: float) -> tuple[Interval | None, str]:
        limits = logit_interval(value, replicates, support, level)
        # A bounded loss varies no more than a coin of the same mean, so that the exact interval
        # of a proportion is on the safe side where the bootstrap has nothing to go by.
        if limits is None or support < of.settings.exact_below:
            return clopper_pearson(value * support, support, level), EXACT
        return limits, BOOTSTRAP_LOGIT

    return measure("brier", cell, statistic, rows, interval, support)


def _observed_to_expected(of: _Source) -> Measure:
    """Malignant items over the sum of their risks."""
    cell, rows, name = of.cell, of.scores, "observed_to_expected"
    if not (cell.weights @ cell.scores) > 0:
        return undefined(name, "all risks are 0")
    support = patients_behind(cell, np.ones(len(cell.labels), dtype=bool))
    expected = float(cell.weights @ cell.scores / cell.weights.sum()) * support
    behind = of.behind[0]

    def statistic(weights: FloatArray) -> FloatArray:
        return ratio(rows.truth.astype(float) @ weights, rows.scores @ weights)

    def interval(value: float, replicates: FloatArray, level: float) -> tuple[Interval | None, str]:
        # Events may come from fewer patients than the items as a whole.
        events = min(behind, value * expected)
        limits = log_interval(value, replicates, support, level)
        if limits is None or events < of.settings.exact_below:
            among = events / value if value > 0 else expected
            return poisson_ratio(events, among, level), EXACT_RATIO
        return limits, BOOTSTRAP_LOG

    return measure(name, cell, statistic, rows, interval, min(behind, support), floor=0.0)


def _recalibration(name: str, of: _Source) -> Measure:
    cell, rows = of.cell, of.scores
    if of.lacking:
        return undefined(name, of.lacking)
    slope = name == "calibration_slope"
    if slope and np.ptp(cell.scores) == 0:
        return undefined(name, "all scores are equal")
    support = min(of.behind)
    prepare = calibration_slope_statistic if slope else calibration_intercept_statistic

    value = None
    if not rows.exact:
        whole = prepare(cell.scores, cell.malignant, cell.weights)
        value = float(whole(cell.weights[:, None])[0])
    usual = rows.weigh(np.ones((cell.num_patients, 1)))[:, 0]
    statistic = prepare(rows.scores, rows.truth, usual)
    rule = _bootstrap_only(support, slope)
    made = measure(name, cell, statistic, rows, rule, support, value=value)
    if made.value is None:
        return undefined(name, "the scores separate the classes: no finite fit")
    return made


def _decided(of: _Source) -> tuple[FloatArray, BoolArray]:
    """The decided class's probability, and whether it is the true one."""
    cell = of.cell
    decided = cell.probabilities[np.arange(len(cell.labels)), cell.decisions]
    return np.asarray(decided), np.asarray(cell.decisions == cell.labels)


def _malignancy_error(name: str, of: _Source) -> Measure:
    return _calibration_error(name, of, of.cell.scores, of.cell.malignant)


def _calibration_error(name: str, of: _Source, scores: FloatArray, outcomes: BoolArray) -> Measure:
    cell, settings = of.cell, of.settings
    support = patients_behind(cell, np.ones(len(scores), dtype=bool))
    if support < PATIENTS_PER_BIN:
        return undefined(name, f"fewer than {PATIENTS_PER_BIN} patients cannot tell it from chance")
    rows = bin_rows(
        scores,
        outcomes,
        cell.patients,
        num_patients=cell.num_patients,
        weights=cell.weights,
        greatest_bins=settings.calibration_bins,
    )
    signed = float(calibration_error(rows.weigh(np.ones((cell.num_patients, 1))))[0])

    def interval(value: float, replicates: FloatArray, level: float) -> tuple[Interval | None, str]:
        # On the square scale a resample adds the gaps' variance once more: the mean shift of the
        # replicates is that variance, and is taken off before percentiles are read.
        squares = replicates * np.abs(replicates)
        squares = squares - np.nanmean(squares) + signed * abs(signed)
        limits = expanded_percentiles(squares, support, level)
        if limits is None or support < settings.exact_below:
            return None, ""
        low, high = np.sqrt(np.maximum(limits, 0.0)).tolist()
        if high - low < _NO_WIDTH:
            return unseen_around(value, support, level), EXACT
        return (low, min(high, 1.0)), f"{BOOTSTRAP} of the debiased square"

    return measure(name, cell, calibration_error, rows, interval, support, floor=0.0)


def _bootstrap_only(support: float, skewed: bool) -> IntervalRule:
    def interval(value: float, replicates: FloatArray, level: float) -> tuple[Interval | None, str]:
        lost = 1 - np.isfinite(replicates).mean()
        if lost > _MOST_UNDEFINED:
            return None, ""
        if skewed:
            return robust_interval(value, replicates, support, level), BOOTSTRAP_ROBUST
        return expanded_percentiles(replicates, support, level), BOOTSTRAP

    return interval
