"""The whole of an evaluation by group: figures with intervals, and the comparisons of groups."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from skinml.fairness.answers import Answered, Asked, answered
from skinml.fairness.cells import Cell
from skinml.fairness.differences import choose_reference, compare_all, compare_pair
from skinml.fairness.gaps import Gap, Gaps, Reference, Spread
from skinml.fairness.groups import Measured, measured_groups
from skinml.fairness.label_error import LabelErrorCurve, label_error_curve
from skinml.fairness.null_reference import chance_figures
from skinml.fairness.settings import CROSS, FairnessSettings
from skinml.fairness.sides import Side, side_of
from skinml.fairness.standardised import StandardisedGap, cases_of, standardised_gaps
from skinml.fairness.unknown import unknown_shares
from skinml.records import UNKNOWN_GROUP, FloatArray, GroupResult, Predictions

UNKNOWN = "nobody knows which group these patients are of"


@dataclass(frozen=True)
class Evaluation:
    """What predictions say about everybody, about each group, and about groups beside each other.

    Attributes:
        overall: Everybody's figures.
        groups: Each group's, attributes behind one another, then crossings.
        gaps: The comparisons that the config asks for.
    """

    overall: GroupResult
    groups: tuple[GroupResult, ...]
    gaps: Gaps


def evaluate_fairness(
    predictions: Predictions,
    *,
    threshold: float | None,
    settings: FairnessSettings,
    rng: np.random.Generator,
    figures: Collection[str] | None = None,
) -> Evaluation:
    """Compute all figures by group and compare the groups.

    Args:
        predictions: What a model said; per patient, and stays where it is.
        threshold: As for `evaluate_groups`.
        settings: What is compared, in which figures, and the margin.
        rng: The stream that patients are resampled from.
        figures: Names of the figures wanted beside those that are compared; None: all.

    Returns:
        The evaluation; the figures are those of `evaluate_groups` with the same stream.

    Raises:
        ConfigError: If a crossing names an attribute that the predictions do not carry.
        DataError: If the predictions are empty, not finite, not probabilities or inconsistent.

    Guarantees:
        The same predictions, settings and stream give the same evaluation.
    """
    wanted = None if figures is None else {*figures, *settings.metrics}
    overall, groups, kept = measured_groups(
        predictions, threshold=threshold, settings=settings, rng=rng, figures=wanted
    )
    return Evaluation(overall, groups, find_gaps(predictions, kept, settings, rng))


def find_gaps(
    predictions: Predictions,
    measured: Sequence[Measured],
    settings: FairnessSettings,
    rng: np.random.Generator,
) -> Gaps:
    """Compare the groups as the config asks.

    Args:
        predictions: What a model said.
        measured: Everybody's cell first, then each group's, as `measured_groups` returns them.
        settings: What is compared.
        rng: The stream that chance draws and resamples come from.

    Returns:
        The comparisons.
    """
    everybody = measured[0].cell
    known = {each.name for each in measured[0].measures}
    metrics = [name for name in settings.metrics if name in known]
    not_compared = {name: "no such figure" for name in settings.metrics if name not in known}
    columns, references = _columns(measured[1:], settings, not_compared)
    floor = 2 / (settings.replicates + 1)
    gaps: list[Asked[Gap]] = []
    spreads: list[Asked[Spread]] = []
    curves: list[LabelErrorCurve] = []
    pairs: list[tuple[Measured, Measured]] = []
    for attribute, groups in columns.items():
        base = references.get(attribute)
        names = [each.cell.group for each in groups]
        for metric in metrics:
            sides = [side_of(each, metric, settings) for each in groups]
            by_chance = chance_figures(metric, sides, settings.null_draws, rng)
            spreads.append(compare_all(attribute, metric, sides, by_chance, settings, floor))
            if base is not None:
                at = names.index(base.group)
                compare = partial(_against, attribute, metric, sides, at)
                gaps += compare(by_chance, settings, floor)
                counts = [_resting_on(each.cell, metric) for each in groups]
                curves += _curves(attribute, metric, sides, counts, at, settings)
        if base is not None and CROSS not in attribute:
            at = names.index(base.group)
            pairs += [(each, groups[at]) for each in groups if each is not groups[at]]
    cases = cases_of(predictions, settings)
    if cases is None:
        not_compared["at the same mix of cases"] = f"the predictions carry no {settings.case_mix}"
        standardised: tuple[StandardisedGap, ...] = ()
    else:
        standardised = standardised_gaps(everybody, pairs, cases, settings, rng)
    told = answered(gaps, spreads, settings)
    _say_if_no_primary(told, settings, not_compared)
    _say_if_too_coarse(told.family, settings, not_compared)
    return Gaps(
        settings.level,
        settings.margin,
        settings.min_events,
        told.family,
        references,
        told.gaps,
        told.spreads,
        standardised,
        tuple(curves),
        not_compared,
        told.alone_alpha,
        told.family_alpha,
        unknown_shares(predictions, everybody, settings),
    )


def _columns(
    measured: Sequence[Measured], settings: FairnessSettings, not_compared: dict[str, str]
) -> tuple[dict[str, list[Measured]], dict[str, Reference]]:
    """The groups that are compared, by attribute, and each attribute's reference."""
    columns: dict[str, list[Measured]] = {}
    references: dict[str, Reference] = {}
    crossings = [CROSS.join(crossing) for crossing in settings.crossings]
    for attribute in dict.fromkeys((*settings.groups, *crossings)):
        own = [each for each in measured if each.cell.attribute == attribute]
        known = [each for each in own if UNKNOWN_GROUP not in each.cell.group.split(CROSS)]
        if len(known) < 2:
            why = "fewer than two groups are known" if own else "the predictions do not carry it"
            not_compared[attribute] = why
            continue
        if len(known) < len(own):
            not_compared[f"{attribute}: {UNKNOWN_GROUP}"] = UNKNOWN
        columns[attribute] = known
        # Of a crossing no group is a reference by size: which one it should be is a choice.
        if CROSS in attribute and attribute not in settings.reference:
            continue
        sizes = {each.cell.group: len(np.unique(each.cell.patients)) for each in known}
        base = choose_reference(attribute, sizes, settings)
        if base is None:
            named = settings.reference.get(attribute)
            not_compared[f"{attribute} against {named}"] = "no patient is in that group"
        else:
            references[attribute] = base
    return columns, references


def _against(
    attribute: str,
    metric: str,
    sides: Sequence[Side],
    at: int,
    by_chance: FloatArray,
    settings: FairnessSettings,
    floor: float,
) -> list[Asked[Gap]]:
    return [
        compare_pair(
            attribute,
            metric,
            side,
            sides[at],
            (by_chance[place], by_chance[at]),
            settings,
            floor,
        )
        for place, side in enumerate(sides)
        if place != at
    ]


def _curves(
    attribute: str,
    metric: str,
    sides: Sequence[Side],
    counts: Sequence[float],
    at: int,
    settings: FairnessSettings,
) -> list[LabelErrorCurve]:
    found = [
        label_error_curve(attribute, metric, sides, counts, (side.group, sides[at].group), settings)
        for place, side in enumerate(sides)
        if place != at
    ]
    return [each for each in found if each is not None]


def _resting_on(cell: Cell, metric: str) -> float:
    """How many items a figure is a mean over."""
    among: Mapping[str, int] = {
        "sensitivity": int(cell.malignant.sum()),
        "specificity": int((~cell.malignant).sum()),
        "ppv": int(cell.alarms.sum()),
        "npv": int((~cell.alarms).sum()),
    }
    return float(among.get(metric, len(cell.labels)))


def _say_if_no_primary(
    told: Answered, settings: FairnessSettings, not_compared: dict[str, str]
) -> None:
    named = settings.primary
    every: list[Gap | Spread] = [*told.gaps, *told.spreads]
    if named is not None and not any(each.primary for each in every):
        against = f" of {named.group}" if named.group else ""
        what = f"primary comparison: {named.metric}{against} by {named.attribute}"
        not_compared[what] = "not among what could be compared"


def _say_if_too_coarse(
    family: int, settings: FairnessSettings, not_compared: dict[str, str]
) -> None:
    """Resamples tell no p-value below their number's inverse: a great family then shows nothing."""
    if family * 2 / (settings.replicates + 1) > 1 - settings.level:
        not_compared["findings in so great a family"] = (
            f"{family} comparisons need more than {settings.replicates} fairness.replicates, or "
            "fewer fairness.groups and metrics"
        )
