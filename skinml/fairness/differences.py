"""Holding groups against one another: differences, spreads, and the answers to them all.

What is compared is fixed in the config before the data are seen. One comparison is named in
advance and stands alone; all others are one family, whose p-values are corrected together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from skinml.fairness.gaps import Gap, Reference, Spread
from skinml.fairness.intervals import mover_ratio
from skinml.fairness.null_reference import null_of
from skinml.fairness.settings import FairnessSettings
from skinml.fairness.sides import (
    Side,
    badness,
    comparable,
    correlation,
    detectable,
    difference_limits,
    goodness,
    groups_without_figure,
    has_ratio,
)
from skinml.fairness.verdicts import holm, p_of_difference, p_of_margin, verdict
from skinml.records import UNKNOWN_GROUP, Estimate, FloatArray

METHOD = "the two groups' intervals joined (Zou and Donner 2008)"
RATIO_METHOD = "the two groups' intervals joined (Donner and Zou 2012)"
NAMED = "named in the config"
LARGEST = "the group with most patients"
NO_RATIO = "a ratio of this figure means nothing"
TWO_GROUPS = "two groups only: the same question as their difference"


def choose_reference(
    attribute: str, sizes: Mapping[str, int], settings: FairnessSettings
) -> Reference | None:
    """Choose the group that the others are held against, from no outcome.

    Args:
        attribute: What the groups are of.
        sizes: Patients of each group.
        settings: The reference groups that the config names.

    Returns:
        The config's, or the group with most known patients; None where the config's is not there.
    """
    known = {name: size for name, size in sizes.items() if UNKNOWN_GROUP not in name}
    if attribute in settings.reference:
        name = settings.reference[attribute]
        return Reference(name, NAMED) if name in known else None
    if not known:
        return None
    return Reference(max(sorted(known), key=known.__getitem__), LARGEST)


def compare_pair(
    attribute: str,
    metric: str,
    side: Side,
    reference: Side,
    by_chance: tuple[FloatArray, FloatArray] | None,
    settings: FairnessSettings,
    floor: float,
) -> Gap:
    """Hold a group against its reference; correction and answer come when the family is known.

    Args:
        attribute: What the groups are of.
        metric: The figure.
        side: The group.
        reference: What it is held against.
        by_chance: (d,) the group's and (d,) the reference's figure in chance draws; None: none.
        settings: Level and margin.
        floor: The least p-value that can be told.

    Returns:
        The gap without corrected p-values and answer.
    """
    names = (attribute, metric, side.group, reference.group)
    reason = comparable(side, reference)
    if reason or side.value is None or reference.value is None:
        missing = Estimate(None, level=settings.level, reason=reason)
        return Gap(*names, missing, missing, reason=reason)
    shared = correlation(side, reference)
    limits = difference_limits(side, reference, shared)
    value, at_level = side.value - reference.value, limits(settings.level)
    if at_level is None:
        reason = "too few patients for an interval"
        difference = Estimate(value, level=settings.level, reason=reason)
    else:
        difference = Estimate(value, *at_level, settings.level, METHOD)
    null = None if by_chance is None else null_of(abs(value), np.abs(by_chance[0] - by_chance[1]))
    return Gap(
        *names,
        difference,
        _ratio(metric, side, reference, shared, settings.level),
        null,
        detectable(side, reference, metric, settings.level),
        p_value=p_of_difference(limits, floor),
        margin_p=p_of_margin(limits, settings.margin, floor),
        reason=reason or _too_few((side, reference), settings),
    )


def _ratio(metric: str, side: Side, reference: Side, shared: float, level: float) -> Estimate:
    if not has_ratio(metric):
        return Estimate(None, level=level, reason=NO_RATIO)
    if side.value is None or not reference.value:
        return Estimate(None, level=level, reason=f"{reference.group} has 0")
    value = side.value / reference.value
    of_side, of_reference = side.limits(level), reference.limits(level)
    if of_side is None or of_reference is None or min(of_side[0], of_reference[0]) < 0:
        return Estimate(value, level=level, reason="too few patients for an interval")
    found = mover_ratio(side.value, of_side, reference.value, of_reference, shared)
    reason = "" if found[1] is not None else "nothing bounds the ratio from above"
    return Estimate(value, found[0], found[1], level, RATIO_METHOD, reason)


def compare_all(
    attribute: str,
    metric: str,
    sides: Sequence[Side],
    by_chance: FloatArray | None,
    settings: FairnessSettings,
    floor: float,
) -> Spread:
    """Look at all groups of an attribute together; correction and answer come later.

    Args:
        attribute: What the groups are of.
        metric: The figure.
        sides: The groups, "unknown" left out.
        by_chance: (g, d) their figures in chance draws; None: none.
        settings: Level and margin.
        floor: The least p-value that can be told.

    Returns:
        The spread without corrected p-values and answer.
    """
    left_out = groups_without_figure(sides)
    at = [place for place, side in enumerate(sides) if side.value is not None]
    used = [sides[place] for place in at]
    if len(used) < 2:
        reason = "fewer than two groups have this figure"
        return Spread(attribute, metric, None, left_out=left_out, reason=reason)
    values = np.array([side.value for side in used], dtype=float)
    ill = badness(metric, values)
    best, worst = used[int(np.argmin(ill))], used[int(np.argmax(ill))]
    spread = float(values.max() - values.min())
    reason = next((why for a, b in combinations(used, 2) if (why := comparable(a, b))), "")
    found = Spread(
        attribute,
        metric,
        spread,
        best=best.group,
        worst=worst.group,
        worst_value=worst.value,
        detectable=detectable(worst, best, metric, settings.level),
        # Of a group without a figure nothing is ruled out.
        margin_p=None if left_out else _margin_of_all(used, settings, floor),
        left_out=left_out,
        reason=reason or _too_few(used, settings),
    )
    if by_chance is None:
        return found
    drawn = by_chance[at]
    null = null_of(spread, np.ptp(drawn, axis=0))
    worst_drawn = np.take_along_axis(drawn, np.argmax(badness(metric, drawn), axis=0)[None], axis=0)
    finite = worst_drawn[np.isfinite(worst_drawn)]
    tail = 0.95 if goodness(metric) <= 0 else 0.05
    return replace(
        found,
        null=null,
        p_value=None if null is None else null.p_value,
        worst_by_chance=float(finite.mean()) if finite.size else None,
        worst_by_chance_low=float(np.quantile(finite, tail)) if finite.size else None,
    )


def _too_few(sides: Sequence[Side], settings: FairnessSettings) -> str:
    """Say that too few patients stand behind one of the figures; empty where enough do."""
    short = min(side.support for side in sides)
    if short >= settings.min_events:
        return ""
    return f"{short:.0f} effective patients behind one figure, fewer than {settings.min_events}"


def _margin_of_all(sides: Sequence[Side], settings: FairnessSettings, floor: float) -> float | None:
    """Two groups somewhere differ by the margin: ruled out only if every pair rules it out."""
    greatest = 0.0
    for side, reference in combinations(sides, 2):
        limits = difference_limits(side, reference, correlation(side, reference))
        found = p_of_margin(limits, settings.margin, floor)
        if found is None or comparable(side, reference):
            return None
        greatest = max(greatest, found)
        if greatest >= 1:
            break
    return greatest


def answered(
    gaps: Sequence[Gap], spreads: Sequence[Spread], settings: FairnessSettings
) -> tuple[tuple[Gap, ...], tuple[Spread, ...], int]:
    """Correct the family's p-values and give every comparison its answer.

    Args:
        gaps: Each group against its reference.
        spreads: All groups of an attribute together.
        settings: The primary comparison, level and floors.

    Returns:
        Both with their answers, and the size of the family. Of two groups alone the spread asks
        what their difference asks: it takes that answer and is not in the family.
    """
    pairs = {(gap.attribute, gap.metric): gap for gap in gaps}
    twins = [_only_pair(each, gaps) for each in spreads]
    gaps = [replace(gap, primary=_is_primary_gap(gap, gaps, settings)) for gap in gaps]
    spreads = [
        replace(each, primary=twin is None and _is_primary_spread(each, settings))
        for each, twin in zip(spreads, twins, strict=True)
    ]
    asked: list[Gap | Spread] = [gap for gap in gaps if not gap.primary]
    asked += [s for s, t in zip(spreads, twins, strict=True) if t is None and not s.primary]
    shown = dict(zip(map(id, asked), holm([each.p_value for each in asked]), strict=True))
    inside = dict(zip(map(id, asked), holm([each.margin_p for each in asked]), strict=True))
    done = [_answer(gap, shown, inside, settings) for gap in gaps]
    by_name = {(gap.attribute, gap.metric): gap for gap in done if isinstance(gap, Gap)}
    together = [
        _like(each, by_name[each.attribute, each.metric])
        if twin is not None and (each.attribute, each.metric) in pairs
        else _answer(each, shown, inside, settings)
        for each, twin in zip(spreads, twins, strict=True)
    ]
    family = sum(each.p_value is not None for each in asked)
    return (
        tuple(gap for gap in done if isinstance(gap, Gap)),
        tuple(each for each in together if isinstance(each, Spread)),
        family,
    )


def _only_pair(spread: Spread, gaps: Sequence[Gap]) -> Gap | None:
    own = [g for g in gaps if (g.attribute, g.metric) == (spread.attribute, spread.metric)]
    return own[0] if len(own) == 1 else None


def _is_primary_gap(gap: Gap, gaps: Sequence[Gap], settings: FairnessSettings) -> bool:
    named = settings.primary
    if named is None or (named.attribute, named.metric) != (gap.attribute, gap.metric):
        return False
    if named.group is not None:
        return named.group == gap.group
    return sum((g.attribute, g.metric) == (gap.attribute, gap.metric) for g in gaps) == 1


def _is_primary_spread(spread: Spread, settings: FairnessSettings) -> bool:
    named = settings.primary
    return (
        named is not None
        and named.group is None
        and (named.attribute, named.metric) == (spread.attribute, spread.metric)
    )


def _answer(
    each: Gap | Spread,
    shown: Mapping[int, float | None],
    inside: Mapping[int, float | None],
    settings: FairnessSettings,
) -> Gap | Spread:
    p_adjusted = each.p_value if each.primary else shown[id(each)]
    margin_p = each.margin_p if each.primary else inside[id(each)]
    words, within = verdict(p_adjusted, margin_p, settings.level, enough=not each.reason)
    changes: dict[str, Any] = {
        "p_adjusted": p_adjusted,
        "margin_p_adjusted": margin_p,
        "verdict": words,
    }
    if isinstance(each, Gap):
        changes["within_margin"] = within
    return replace(each, **changes)


def _like(spread: Spread, gap: Gap) -> Spread:
    return replace(
        spread,
        p_value=gap.p_value,
        p_adjusted=gap.p_adjusted,
        margin_p=gap.margin_p,
        margin_p_adjusted=gap.margin_p_adjusted,
        verdict=gap.verdict,
        primary=gap.primary,
        reason=gap.reason or TWO_GROUPS,
    )
