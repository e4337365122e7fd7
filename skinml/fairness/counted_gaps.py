"""Comparisons of groups from noised counts of patients, and from nothing else.

The groups of one attribute are held against one another by their own counts, which have noise of
their own each. By chance is what counts of these sizes would show, noise included, had all groups
one true figure.
Shapes: g groups, k bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

import numpy as np
from scipy.special import ndtri

from skinml.fairness.answers import Asked, answered
from skinml.fairness.count_tables import CountsLayout, NoisyTable
from skinml.fairness.differences import choose_reference, compare_all, compare_pair
from skinml.fairness.gaps import Gap, Gaps, Reference, Spread
from skinml.fairness.intervals import Interval
from skinml.fairness.label_error import LabelErrorCurve, label_error_curve
from skinml.fairness.null_reference import chance_figures
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
    gaps: list[Asked[Gap]] = []
    spreads: list[Asked[Spread]] = []
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
        for metric in settings.metrics:
            if any(metric not in each for each in lines.values()):
                not_compared[metric] = NOT_TOLD
                continue
            own = {name: each[metric] for name, each in lines.items()}
            sides = [_side(name, *each, settings) for name, each in own.items()]
            drawn = chance_figures(metric, sides, settings.null_draws, rng)
            spreads.append(compare_all(attribute, metric, sides, drawn, settings, _FLOOR))
            if base is not None:
                gaps += _against(attribute, metric, sides, base.group, drawn, settings)
                curves += _curves(attribute, metric, sides, base.group, settings)
    told = answered(gaps, spreads, settings)
    return replace(
        empty,
        family=told.family,
        references=references,
        gaps=told.gaps,
        spreads=told.spreads,
        label_error=tuple(curves),
        alone_alpha=told.alone_alpha,
        family_alpha=told.family_alpha,
    )


def _against(
    attribute: str,
    metric: str,
    sides: Sequence[Side],
    base: str,
    drawn: FloatArray,
    settings: FairnessSettings,
) -> list[Asked[Gap]]:
    at = [side.group for side in sides].index(base)
    return [
        compare_pair(
            attribute,
            metric,
            side,
            sides[at],
            (drawn[place], drawn[at]),
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
