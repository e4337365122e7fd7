"""Figures and intervals from noised counts of patients, and from nothing else.

An interval holds all values that the counts do not contradict: those at which the difference
between the count and what the value asks for stays within its spread, patients' sampling and noise
together (Fieller's way to an interval of a ratio). No count is divided by before that, so that a
noisy count near or below zero makes an interval wide and never wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy.special import ndtri

from skinml.errors import DataError
from skinml.fairness.cells import OVERALL
from skinml.fairness.count_tables import CountsLayout, NoisyTable, above, group_tables
from skinml.fairness.intervals import Interval, combine_mean
from skinml.fairness.settings import FairnessSettings
from skinml.records import Estimate, FloatArray, GroupResult, Labels

METHOD = "noised counts of patients (Fieller)"
FEW_EVENTS = "few events"
NOT_COUNTED = "not among the released counts"
TOO_NOISY = "too few patients beside the noise"
CONTRADICTION = "the noised counts contradict one another"
ONE_KIND = "the classes are not divided into malignant and other ones"
OFF_EDGE = "the threshold is not on an edge of the released counts"

_SHARES_OF = ("sensitivity", "specificity", "ppv", "npv", "balanced_accuracy")
_NEED_MORE = ("brier", "calibration_intercept", "calibration_slope", "ece")
_AREAS = np.linspace(0.0, 1.0, 2001)
# Beyond a share's range too: a mean is made of two of them before it is cut to its own range.
_SHARES = np.linspace(-1.0, 2.0, 6001)
# Standard deviations of its own noise by which a denominator has to be above 0.
_CLEAR = 2.0
# Observed over expected from a fiftieth to fifty, in steps of half a percent.
_RATIOS = np.exp(np.linspace(-np.log(50.0), np.log(50.0), 1565))


@dataclass(frozen=True)
class Line:
    """How far counts are from what each value of a figure asks for.

    Attributes:
        values: (v,) rising values of the figure.
        off: (v,) the difference.
        variance: (v,) its variance.
        found: The figure at which the difference is 0.
        seen: Whether its denominator is clearly above 0.
        least: The figure's own least value.
        greatest: The figure's own greatest value.
    """

    values: FloatArray
    off: FloatArray
    variance: FloatArray
    found: float
    seen: bool
    least: float = 0.0
    greatest: float = 1.0


def counted_results(
    released: FloatArray,
    layout: CountsLayout,
    *,
    std: float,
    threshold: float | None,
    classes: Labels,
    settings: FairnessSettings,
) -> tuple[GroupResult, tuple[GroupResult, ...]]:
    """Compute all figures that released counts can tell, overall and for each group.

    Args:
        released: (groups, 2, bins) the noised sum over the clinics, in patients.
        layout: Its cells.
        std: Standard deviation of the noise in each count.
        threshold: The malignancy score from which an item counts as alarm; one that is on no edge
            of the bins leaves what depends on it undefined.
        classes: What the model tells apart.
        settings: Level and floors.

    Returns:
        Everybody's figures, and each group's in the order of the layout, those without patients
        too. Numbers of patients are rounded and noisy; one may be below 0.

    Raises:
        DataError: If the counts are not finite or of another shape than the layout.
    """
    if released.shape != layout.shape or not np.isfinite(released).all():
        raise DataError(
            rule=f"finite counts of shape {layout.shape}",
            got=f"shape={released.shape}",
            do="Pass the released counts together with the layout that they were made with.",
        )
    everybody, tables = group_tables(released, layout, std)

    def result(attribute: str, group: str, table: NoisyTable) -> GroupResult:
        negatives, positives = table.counts.sum(axis=1)
        return GroupResult(
            attribute=attribute,
            group=group,
            num_images=None,
            num_patients=round(float(negatives + positives)),
            num_positives=round(float(positives)),
            num_negatives=round(float(negatives)),
            estimates=estimates_of(table, threshold, classes, settings),
            count_std=table.std * sqrt(layout.bins),
        )

    return result(OVERALL, OVERALL, everybody), tuple(
        result(attribute, group, table)
        for (attribute, group), table in zip(layout.groups, tables, strict=True)
        if attribute != OVERALL
    )


def estimates_of(
    table: NoisyTable, threshold: float | None, classes: Labels, settings: FairnessSettings
) -> Mapping[str, Estimate]:
    """Compute the figures of one group.

    Args:
        table: Its noised counts.
        threshold: The malignancy score from which an item counts as alarm.
        classes: What the model tells apart.
        settings: Level and floors.

    Returns:
        The figures by name; those that these counts cannot tell are undefined and say why.
    """
    level, two = settings.level, len(classes.names) == 2
    if len(set(classes.malignant)) < 2:
        names = _figures(two, settings)
        found = {name: Estimate(None, level=level, reason=ONE_KIND) for name in names}
    else:
        found = _defined(table, threshold, settings, two=two)
    lacking = _NEED_MORE if two else ("balanced_accuracy", "auroc", *_NEED_MORE, "malignancy_ece")
    return found | {name: Estimate(None, level=level, reason=NOT_COUNTED) for name in lacking}


def _figures(two: bool, settings: FairnessSettings) -> tuple[str, ...]:
    area = ("auroc", "balanced_accuracy") if two else ("malignancy_auroc",)
    at_risks = tuple(f"net_benefit_at_{risk:g}" for risk in settings.net_benefit_at)
    return (*area, *_SHARES_OF[:4], *at_risks, "observed_to_expected")


def counted_lines(
    table: NoisyTable, threshold: float | None, settings: FairnessSettings, *, two: bool
) -> dict[str, tuple[tuple[Line, ...], float]]:
    """Prepare the figures of one group for intervals at any level.

    Args:
        table: Its noised counts.
        threshold: The malignancy score from which an item counts as alarm.
        settings: Where net benefit is told.
        two: Whether the model tells two classes apart.

    Returns:
        For each figure that the bins can tell, its line, or the two that it is the mean of, and
        the patients in the smallest part that it rests on.
    """
    benign, malignant = table.counts
    least = float(min(benign.sum(), malignant.sum()))
    found: dict[str, tuple[tuple[Line, ...], float]] = {}
    found["auroc" if two else "malignancy_auroc"] = ((_area(table),), least)
    edge = (0.5 if threshold is None else threshold) * len(benign)
    if edge == round(edge):
        alarm = above(benign, round(edge))
        shares = {
            "sensitivity": (malignant[alarm], malignant[~alarm]),
            "specificity": (benign[~alarm], benign[alarm]),
            "ppv": (malignant[alarm], benign[alarm]),
            "npv": (benign[~alarm], malignant[~alarm]),
        }
        for name, (hits, misses) in shares.items():
            behind = float(hits.sum() + misses.sum())
            found[name] = ((_share(hits, misses, table.std),), behind)
        if two:
            pair = (*found["sensitivity"][0], *found["specificity"][0])
            found["balanced_accuracy"] = (pair, least)
    for risk in settings.net_benefit_at:
        if risk * len(benign) == round(risk * len(benign)):
            line = _net_benefit(table, risk)
            found[f"net_benefit_at_{risk:g}"] = ((line,), float(table.counts.sum()))
    found["observed_to_expected"] = ((_observed(table),), least)
    return found


def _defined(
    table: NoisyTable, threshold: float | None, settings: FairnessSettings, *, two: bool
) -> dict[str, Estimate]:
    level, z = settings.level, float(ndtri((1 + settings.level) / 2))
    lines = counted_lines(table, threshold, settings, two=two)
    found = {}
    for name in _figures(two, settings):
        if name not in lines:
            found[name] = Estimate(None, level=level, reason=OFF_EDGE)
            continue
        parts, behind = lines[name]
        few = behind < settings.min_events
        made = _mean(parts, z, level, few) if len(parts) > 1 else _estimate(parts[0], z, level, few)
        found[name] = made
    return found


def _share(hits: FloatArray, misses: FloatArray, std: float) -> Line:
    """A share of hits: hits less share times all, against a binomial's variance and the noise."""
    hit, total = float(hits.sum()), float(hits.sum() + misses.sum())
    p = _SHARES
    noise = std**2 * ((1 - p) ** 2 * len(hits) + p**2 * len(misses))
    variance = np.maximum(p * (1 - p), 0.0) * max(total, 0.0) + noise
    seen = total > _CLEAR * std * sqrt(len(hits) + len(misses)) and total > 0
    return Line(p, hit - p * total, variance, hit / total if total else 0.0, seen)


def _net_benefit(table: NoisyTable, risk: float) -> Line:
    """True alarms less false ones at the exchange rate of a risk, over all patients."""
    benign = table.counts[0]
    acted, rate = above(benign, round(risk * len(benign))), risk / (1 - risk)
    total = float(table.counts.sum())
    worth = np.stack([np.where(acted, -rate, 0.0), np.where(acted, 1.0, 0.0)])
    v = np.linspace(-rate, 1.0, 6001)
    each = worth[..., None] - v
    sampling = np.maximum((table.counts[..., None] * each**2).sum(axis=(0, 1)), 0.0)
    noise = table.std**2 * (each**2).sum(axis=(0, 1))
    won = float((worth * table.counts).sum())
    seen = total > _CLEAR * table.std * sqrt(table.counts.size) and total > 0
    found = won / total if total else 0.0
    return Line(v, won - v * total, sampling + noise, found, seen, -rate, 1.0)


def _area(table: NoisyTable) -> Line:
    """The area under the ROC curve by trapezoids: pairs won less area times all pairs.

    The variance of the sampling is Hanley and McNeil's at the area asked about, as in Newcombe's
    interval; that of the noise follows from the two rows being independent. Its terms in the noisy
    counts are too great by their own noise, on average, which is the safe side.
    """
    benign, malignant = table.counts
    bins, p = len(benign), _AREAS
    wins = np.tril(np.ones((bins, bins)), -1) + np.eye(bins) / 2
    ups, downs = float(malignant.sum()), float(benign.sum())
    won, pairs = float(malignant @ wins @ benign), ups * downs
    by_malignant = (wins @ benign)[:, None] - p * downs
    by_benign = (malignant @ wins)[:, None] - p * ups
    noise = table.std**2 * ((by_malignant**2).sum(axis=0) + (by_benign**2).sum(axis=0))
    up, down = max(ups, 0.0), max(downs, 0.0)
    two_ups, two_downs = p / (2 - p) - p**2, 2 * p**2 / (1 + p) - p**2
    spread = p * (1 - p) + max(up - 1, 0) * two_ups + max(down - 1, 0) * two_downs
    seen = min(ups, downs) > max(_CLEAR * table.std * sqrt(bins), 0.0)
    found = won / pairs if pairs else 0.0
    return Line(p, won - p * pairs, up * down * spread + noise, found, seen)


def _observed(table: NoisyTable) -> Line:
    """Malignant patients over the sum of scores, each score at its bin's middle."""
    benign, malignant = table.counts
    bins = len(benign)
    middles = (np.arange(bins) + 0.5) / bins
    observed, expected = float(malignant.sum()), float(middles @ (benign + malignant))
    r = _RATIOS
    of_malignant, of_benign = (1 - np.outer(r, middles)) ** 2, np.outer(r, middles) ** 2
    sampling = np.maximum(of_malignant @ malignant + of_benign @ benign, 0.0)
    noise = table.std**2 * (of_malignant + of_benign).sum(axis=1)
    seen = expected > _CLEAR * table.std * sqrt(2 * float(middles @ middles)) and expected > 0
    found = observed / expected if expected else 0.0
    off = observed - r * expected
    return Line(r, off, sampling + noise, found, seen, float(r[0]), float(r[-1]))


def _estimate(line: Line, z: float, level: float, few: bool) -> Estimate:
    limits = _limits(line, z)
    if limits is None or (limits[0] <= line.least and limits[1] >= line.greatest):
        return Estimate(None, level=level, reason=TOO_NOISY)
    return _shown(line.found, limits, (line.least, line.greatest), level, few)


def _mean(pair: tuple[Line, ...], z: float, level: float, few: bool) -> Estimate:
    """The mean of two shares of different patients."""
    limits = [found for line in pair if (found := _limits(line, z)) is not None]
    if len(limits) < 2:
        return Estimate(None, level=level, reason=TOO_NOISY)
    values = [line.found for line in pair]
    joined = combine_mean(values, limits)
    return _shown(sum(values) / 2, joined, (0.0, 1.0), level, few)


def _shown(value: float, limits: Interval, span: Interval, level: float, few: bool) -> Estimate:
    """Cut an estimate to the figure's range: counts below 0 may have put it outside."""
    low, high = max(limits[0], span[0]), min(limits[1], span[1])
    if low > high:
        return Estimate(None, level=level, reason=CONTRADICTION)
    method = f"{METHOD}, {FEW_EVENTS}" if few else METHOD
    inside = min(max(value, low), high)
    return Estimate(inside, low, high, level, method)


def counted_limits(parts: tuple[Line, ...], level: float) -> Interval | None:
    """Make a figure's interval at any level.

    Args:
        parts: The figure's line, or the two that it is the mean of.
        level: Nominal coverage, above 0 and below 1.

    Returns:
        Lower and upper limit within the figure's range; None where the counts tell nothing.
    """
    z = float(ndtri((1 + level) / 2))
    each = [limits for line in parts if (limits := _limits(line, z)) is not None]
    if len(each) < len(parts):
        return None
    found = each[0] if len(parts) == 1 else combine_mean([line.found for line in parts], each)
    low, high = max(found[0], parts[0].least), min(found[1], parts[0].greatest)
    return None if low > high else (low, high)


def counted_value(parts: tuple[Line, ...]) -> float:
    """The figure of a line, or the mean of two, cut to its range."""
    value = sum(line.found for line in parts) / len(parts)
    return min(max(value, parts[0].least), parts[0].greatest)


def _limits(line: Line, z: float) -> Interval | None:
    """Least and greatest value that the counts do not contradict; None where nothing is told."""
    gap = line.off**2 - z**2 * line.variance
    places = np.flatnonzero(gap <= 0)
    if not line.seen:
        return None
    if not places.size:
        # At a low level the interval may lie between two neighbouring values.
        inside = line.values[0] <= line.found <= line.values[-1]
        return (line.found, line.found) if inside else None
    first, last = int(places[0]), int(places[-1])
    return _crossing(line, gap, first, -1), _crossing(line, gap, last, 1)


def _crossing(line: Line, gap: FloatArray, place: int, step: int) -> float:
    """Where between two neighbouring values the counts begin to contradict."""
    beyond = place + step
    if not 0 <= beyond < len(line.values):
        return float(line.values[place])
    part = gap[place] / (gap[place] - gap[beyond])
    return float(line.values[place] + part * (line.values[beyond] - line.values[place]))
