"""Comparisons of groups from noised counts of patients, and from nothing else.

The groups of one attribute are held against one another by their own counts, which have noise of
their own each. By chance is what the same counts would show, noise included, had all groups the
scores of everybody compared.
Shapes: g groups, k bins, d draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf

import numpy as np
from scipy.special import ndtri

from skinml.fairness.count_tables import CountsLayout, NoisyTable, above
from skinml.fairness.differences import answered, choose_reference, compare_all, compare_pair
from skinml.fairness.gaps import Gap, Gaps, Reference, Spread
from skinml.fairness.intervals import Interval
from skinml.fairness.label_error import LabelErrorCurve, label_error_curve
from skinml.fairness.released_counts import (
    ONE_KIND,
    TOO_NOISY,
    Line,
    counted_limits,
    counted_lines,
    counted_value,
)
from skinml.fairness.settings import FairnessSettings
from skinml.fairness.sides import Side
from skinml.records import UNKNOWN_GROUP, FloatArray, Labels

NOT_TOLD = "the released counts do not tell it"
# What chance is drawn for; other figures stand without it.
_DRAWN = ("auroc", "malignancy_auroc", "sensitivity", "specificity", "ppv", "npv")


def counted_gaps(
    released: FloatArray,
    layout: CountsLayout,
    *,
    std: float,
    threshold: float | None,
    classes: Labels,
    settings: FairnessSettings,
    rng: np.random.Generator,
) -> Gaps:
    """Compare groups as the config asks, as far as released counts can tell.

    Args:
        released: (groups, 2, k) the noised sum over the clinics, in patients.
        layout: Its cells.
        std: Standard deviation of the noise in each count.
        threshold: The malignancy score from which an item counts as alarm.
        classes: What the model tells apart.
        settings: What is compared.
        rng: The stream of the chance draws. It makes no privacy noise.

    Returns:
        The comparisons; nothing is standardised, for counts hold no cases.
    """
    not_compared = {"at the same mix of cases": NOT_TOLD}
    empty = Gaps(
        level=settings.level,
        margin=settings.margin,
        min_events=settings.min_events,
        family=0,
        references={},
        gaps=(),
        spreads=(),
        not_compared=not_compared,
    )
    if len(set(classes.malignant)) < 2:
        not_compared["all figures"] = ONE_KIND
        return empty
    gaps: list[Gap] = []
    spreads: list[Spread] = []
    curves: list[LabelErrorCurve] = []
    references: dict[str, Reference] = {}
    two = len(classes.names) == 2
    for attribute in settings.groups:
        tables = _tables(released, layout, attribute, std)
        if len(tables) < 2:
            not_compared[attribute] = NOT_TOLD
            continue
        sizes = {name: round(float(table.counts.sum())) for name, table in tables.items()}
        base = choose_reference(attribute, sizes, settings)
        if base is None:
            not_compared[f"{attribute} against {settings.reference[attribute]}"] = NOT_TOLD
        else:
            references[attribute] = base
        lines = {
            name: counted_lines(table, threshold, settings, two=two)
            for name, table in tables.items()
        }
        by_chance = _by_chance(list(tables.values()), threshold, settings, two, rng)
        for metric in settings.metrics:
            if any(metric not in each for each in lines.values()):
                not_compared[metric] = NOT_TOLD
                continue
            own = {name: each[metric] for name, each in lines.items()}
            drawn = by_chance.get(metric)
            sides = [_side(name, *each, settings) for name, each in own.items()]
            spreads.append(compare_all(attribute, metric, sides, drawn, settings, _FLOOR))
            if base is not None:
                gaps += _against(attribute, metric, sides, base.group, drawn, settings)
                curves += _curves(attribute, metric, sides, base.group, settings)
    done, together, family = answered(gaps, spreads, settings)
    return replace(
        empty,
        family=family,
        references=references,
        gaps=done,
        spreads=together,
        label_error=tuple(curves),
    )


def _against(
    attribute: str,
    metric: str,
    sides: Sequence[Side],
    base: str,
    drawn: FloatArray | None,
    settings: FairnessSettings,
) -> list[Gap]:
    at = [side.group for side in sides].index(base)
    return [
        compare_pair(
            attribute,
            metric,
            side,
            sides[at],
            None if drawn is None else (drawn[place], drawn[at]),
            settings,
            _FLOOR,
        )
        for place, side in enumerate(sides)
        if place != at
    ]


def _curves(
    attribute: str, metric: str, sides: Sequence[Side], base: str, settings: FairnessSettings
) -> list[LabelErrorCurve]:
    counts = [max(side.support, 0.0) for side in sides]
    found = [
        label_error_curve(attribute, metric, sides, counts, (side.group, base), settings)
        for side in sides
        if side.group != base
    ]
    return [each for each in found if each is not None]


# Intervals from counts are in closed form and tell p-values of any size.
_FLOOR = 1e-6


def _tables(
    released: FloatArray, layout: CountsLayout, attribute: str, std: float
) -> dict[str, NoisyTable]:
    """Each known group's own counts; joining them with other attributes' would tie their noise."""
    return {
        name: NoisyTable(counts, std)
        for (of, name), counts in zip(layout.groups, released, strict=True)
        if of == attribute and name != UNKNOWN_GROUP
    }


def _side(group: str, parts: tuple[Line, ...], behind: float, settings: FairnessSettings) -> Side:
    def limits(level: float) -> Interval | None:
        return counted_limits(parts, level)

    found = limits(settings.level)
    told = found is not None and not (found[0] <= parts[0].least and found[1] >= parts[0].greatest)
    wide = 2 * float(ndtri((1 + settings.level) / 2))
    error = inf if found is None else (found[1] - found[0]) / wide
    return Side(
        group=group,
        value=counted_value(parts) if told else None,
        reason="" if told else TOO_NOISY,
        support=behind,
        limits=limits,
        error_at=lambda value: error,
    )


def _by_chance(
    tables: Sequence[NoisyTable],
    threshold: float | None,
    settings: FairnessSettings,
    two: bool,
    rng: np.random.Generator,
) -> Mapping[str, FloatArray]:
    """(g, d) figures of groups that all draw from the scores of everybody, with noise."""
    pooled = np.maximum(np.sum([table.counts for table in tables], axis=0), 0.0)
    if (pooled.sum(axis=1) <= 0).any():
        return {}
    law = pooled / pooled.sum(axis=1, keepdims=True)
    found: dict[str, list[FloatArray]] = {}
    for table in tables:
        drawn = np.empty((settings.null_draws, *table.counts.shape))
        for truth in (0, 1):
            patients = max(round(float(table.counts[truth].sum())), 0)
            drawn[:, truth] = rng.multinomial(patients, law[truth], size=settings.null_draws)
        drawn += table.std * rng.normal(size=drawn.shape)
        for name, values in _drawn_figures(drawn, threshold, two).items():
            found.setdefault(name, []).append(values)
    return {name: np.stack(values) for name, values in found.items()}


def _drawn_figures(drawn: FloatArray, threshold: float | None, two: bool) -> dict[str, FloatArray]:
    """(d,) each figure of (d, 2, k) counts; NaN where a whole is not above 0."""
    bins = drawn.shape[2]
    benign, malignant = drawn[:, 0], drawn[:, 1]
    below = np.cumsum(benign, axis=1) - benign / 2
    pairs = benign.sum(axis=1) * malignant.sum(axis=1)
    area = "auroc" if two else "malignancy_auroc"
    found = {area: _part((malignant * below).sum(axis=1), pairs)}
    edge = (0.5 if threshold is None else threshold) * bins
    if edge == round(edge):
        alarm = above(benign, round(edge))
        hit, missed = malignant[:, alarm].sum(axis=1), malignant[:, ~alarm].sum(axis=1)
        false, spared = benign[:, alarm].sum(axis=1), benign[:, ~alarm].sum(axis=1)
        found |= {
            "sensitivity": _part(hit, hit + missed),
            "specificity": _part(spared, spared + false),
            "ppv": _part(hit, hit + false),
            "npv": _part(spared, spared + missed),
        }
    return {name: found[name] for name in _DRAWN if name in found}


def _part(part: FloatArray, whole: FloatArray) -> FloatArray:
    shares = np.full(len(whole), np.nan)
    np.divide(part, whole, out=shares, where=whole > 0)
    return np.asarray(np.clip(shares, 0.0, 1.0))
