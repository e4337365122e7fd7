"""Holding groups against one another: differences and spreads, not yet answered.

What is compared is fixed in the config; `fairness/answers.py` corrects for how much is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from skinml.fairness.answers import Asked, nothing
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
from skinml.fairness.verdicts import (
    alpha_of_pair,
    few_words,
    p_of_difference,
    p_of_margin,
    p_of_pairs,
    z_of_difference,
)
from skinml.records import UNKNOWN_GROUP, Estimate, FloatArray

METHOD = "the two groups' intervals joined (Zou and Donner 2008)"
RATIO_METHOD = "the two groups' intervals joined (Donner and Zou 2012)"
NAMED = "named in the config"
LARGEST = "the group with most patients"
NO_RATIO = "a ratio of this figure means nothing"


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
    by_chance: tuple[FloatArray, FloatArray],
    settings: FairnessSettings,
    floor: float,
) -> Asked[Gap]:
    """Hold a group against its reference; correction and answer come when the family is known.

    Args:
        attribute: What the groups are of.
        metric: The figure.
        side: The group.
        reference: What it is held against.
        by_chance: (d,) the group's and (d,) the reference's figure in chance draws.
        settings: Level and margins.
        floor: The least p-value that can be told.

    Returns:
        The gap, to be answered.
    """
    names = (attribute, metric, side.group, reference.group)
    reason = comparable(side, reference)
    if reason or side.value is None or reference.value is None:
        missing = Estimate(None, level=settings.level, reason=reason)
        return Asked(Gap(*names, missing, missing, reason=reason), nothing)
    shared = correlation(side, reference)
    limits = difference_limits(side, reference, shared)
    value, at_level = side.value - reference.value, limits(settings.level)
    if at_level is None:
        reason = "too few patients for an interval"
        difference = Estimate(value, level=settings.level, reason=reason)
    else:
        difference = Estimate(value, *at_level, settings.level, METHOD)
    reason, margin = reason or _too_few((side, reference), settings), settings.margin_of(metric)
    found = Gap(
        *names,
        difference,
        _ratio(metric, side, reference, shared, settings.level),
        null_of(abs(value), np.abs(by_chance[0] - by_chance[1])),
        p_value=p_of_difference(limits, floor),
        margin_p=None if margin is None else p_of_margin(limits, margin, floor),
        reason=reason,
        margin=margin,
    )
    if reason:
        return Asked(found, nothing)
    return Asked(found, lambda alpha: detectable(side, reference, metric, 1 - alpha))


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
    by_chance: FloatArray,
    settings: FairnessSettings,
    floor: float,
) -> Asked[Spread]:
    """Look at all groups of an attribute together; correction and answer come later.

    Whether any two groups differ is asked of each pair's own interval, and corrected for the
    number of pairs: a group counts by its own error, and only the figures are held equal.

    Args:
        attribute: What the groups are of.
        metric: The figure.
        sides: The groups, "unknown" left out.
        by_chance: (g, d) their figures in chance draws.
        settings: Level and margins.
        floor: The least p-value that can be told.

    Returns:
        The spread, to be answered.
    """
    left_out = groups_without_figure(sides)
    at = [place for place, side in enumerate(sides) if side.value is not None]
    used = [sides[place] for place in at]
    if len(used) < 2:
        reason = "fewer than two groups have this figure"
        return Asked(Spread(attribute, metric, None, left_out=left_out, reason=reason), nothing)
    values = np.array([side.value for side in used], dtype=float)
    # The two that lie farthest apart: of a figure that is best in between, its two ends.
    ill = badness(metric, values) if goodness(metric) else -values
    best, worst = used[int(np.argmin(ill))], used[int(np.argmax(ill))]
    spread, margin = float(values.max() - values.min()), settings.margin_of(metric)
    reason = next((why for a, b in combinations(used, 2) if (why := comparable(a, b))), "")
    reason = reason or _too_few(used, settings)
    p_value, clearest = _any_difference(metric, used, floor)
    independent = _independent(used)
    found = _beside_chance(
        Spread(
            attribute,
            metric,
            spread,
            best=best.group,
            worst=worst.group,
            worst_value=worst.value,
            p_value=p_value,
            # Of a group without a figure nothing is ruled out.
            margin_p=None if left_out or margin is None else _margin_of_all(used, margin, floor),
            left_out=left_out,
            reason=reason,
            margin=margin,
            clearest=clearest,
        ),
        by_chance[at],
    )

    def seen_at(alpha: float) -> float | None:
        own = alpha_of_pair(alpha, len(used), independent=independent)
        return detectable(worst, best, metric, 1 - own)

    return Asked(found, nothing if reason else seen_at)


def _beside_chance(found: Spread, drawn: FloatArray) -> Spread:
    metric = found.metric
    if not goodness(metric):
        return replace(found, null=null_of(found.value or 0.0, np.ptp(drawn, axis=0)))
    null = None if found.value is None else null_of(found.value, np.ptp(drawn, axis=0))
    worst = np.take_along_axis(drawn, np.argmax(badness(metric, drawn), axis=0)[None], axis=0)
    finite = worst[np.isfinite(worst)]
    tail = 0.95 if goodness(metric) < 0 else 0.05
    return replace(
        found,
        null=null,
        worst_by_chance=float(finite.mean()) if finite.size else None,
        worst_by_chance_low=float(np.quantile(finite, tail)) if finite.size else None,
    )


def _any_difference(
    metric: str, sides: Sequence[Side], floor: float
) -> tuple[float | None, tuple[str, ...]]:
    """The p-value of no difference between any two groups, and the two that differ most clearly."""
    greatest: float | None = None
    clearest: tuple[str, ...] = ()
    for one, other in combinations(sides, 2):
        if one.value is None or other.value is None or comparable(one, other):
            continue
        limits = difference_limits(one, other, correlation(one, other))
        z = z_of_difference(one.value - other.value, limits, floor)
        if z is not None and (greatest is None or z > greatest):
            ill = badness(metric, np.array([one.value, other.value]))
            pair = (one, other) if ill[0] <= ill[1] else (other, one)
            greatest, clearest = z, (pair[0].group, pair[1].group)
    if greatest is None:
        return None, ()
    return p_of_pairs(greatest, len(sides), independent=_independent(sides)), clearest


def _independent(sides: Sequence[Side]) -> bool:
    return not any(correlation(one, other) for one, other in combinations(sides, 2))


def _too_few(sides: Sequence[Side], settings: FairnessSettings) -> str:
    """Say that too few patients stand behind one of the figures; empty where enough do."""
    short = min(side.support for side in sides)
    if short >= settings.min_events:
        return ""
    return few_words(short, settings.min_events)


def _margin_of_all(sides: Sequence[Side], margin: float, floor: float) -> float | None:
    """Two groups somewhere differ by the margin: ruled out only if every pair rules it out."""
    greatest = 0.0
    for side, reference in combinations(sides, 2):
        limits = difference_limits(side, reference, correlation(side, reference))
        found = p_of_margin(limits, margin, floor)
        if found is None or comparable(side, reference):
            return None
        greatest = max(greatest, found)
        if greatest >= 1:
            break
    return greatest
