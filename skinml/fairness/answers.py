"""The answers to all comparisons of groups, corrected for how many questions were asked.

One comparison is named in advance and stands alone; all others are one family, whose p-values are
corrected together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from skinml.fairness.gaps import Gap, Spread
from skinml.fairness.settings import FairnessSettings
from skinml.fairness.verdicts import holm, verdict

TWO_GROUPS = "two groups only: the same question as their difference"

Comparison = TypeVar("Comparison", Gap, Spread)


@dataclass(frozen=True)
class Asked(Generic[Comparison]):
    """A comparison before the family is known.

    Attributes:
        found: The comparison without corrected p-values and answer.
        seen_at: From the p-value that it has to reach to the smallest true gap that would usually
            reach it; None where none would.
    """

    found: Comparison
    seen_at: Callable[[float], float | None]


@dataclass(frozen=True)
class Answered:
    """All comparisons with their answers.

    Attributes:
        gaps: Each group against its reference.
        spreads: All groups of an attribute together.
        family: Comparisons that were corrected together.
        alone_alpha: The p-value that the comparison named in advance has to reach.
        family_alpha: The p-value with which any other is sure to be shown; None without any.
    """

    gaps: tuple[Gap, ...]
    spreads: tuple[Spread, ...]
    family: int
    alone_alpha: float
    family_alpha: float | None


def nothing(_: float) -> None:
    """No gap of any size would be shown."""


def answered(
    gaps: Sequence[Asked[Gap]], spreads: Sequence[Asked[Spread]], settings: FairnessSettings
) -> Answered:
    """Correct the family's p-values and give every comparison its answer.

    Args:
        gaps: Each group against its reference.
        spreads: All groups of an attribute together.
        settings: The primary comparison, level and floors.

    Returns:
        All with their answers. Of two groups alone the spread asks what their difference asks: it
        takes that answer and is not in the family.
    """
    pairs = [each.found for each in gaps]
    own = [each for each in spreads if _only_pair(each.found, pairs) is None]
    marked = [replace(gap, primary=_is_primary_gap(gap, pairs, settings)) for gap in pairs]
    alike = [replace(s.found, primary=_is_primary_spread(s.found, settings)) for s in own]
    every: list[Gap | Spread] = [*marked, *alike]
    rest = [each for each in every if not each.primary]
    family = sum(each.p_value is not None for each in rest)
    alone = 1 - settings.level
    shared = alone / family if family else None
    shown = iter(holm([each.p_value for each in rest]))
    inside = iter(holm([each.margin_p for each in rest]))

    def finish(each: Comparison, seen_at: Callable[[float], float | None]) -> Comparison:
        p_value, margin_p, alpha = each.p_value, each.margin_p, shared
        if each.primary:
            alpha = alone
        else:
            p_value, margin_p = next(shown), next(inside)
        seen = None if alpha is None else seen_at(alpha)
        return _answer(each, p_value, margin_p, seen, settings)

    done = [finish(gap, each.seen_at) for gap, each in zip(marked, gaps, strict=True)]
    together = iter([finish(one, each.seen_at) for one, each in zip(alike, own, strict=True)])
    return Answered(tuple(done), tuple(_in_order(spreads, done, together)), family, alone, shared)


def _in_order(
    spreads: Sequence[Asked[Spread]], done: Sequence[Gap], own: Iterator[Spread]
) -> Iterator[Spread]:
    for each in spreads:
        twin = _only_pair(each.found, done)
        yield next(own) if twin is None else _like(each.found, twin)


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
    each: Comparison,
    p_adjusted: float | None,
    margin_p: float | None,
    seen: float | None,
    settings: FairnessSettings,
) -> Comparison:
    words, within = verdict(p_adjusted, margin_p, settings.level, enough=not each.reason)
    changes: dict[str, Any] = {
        "p_adjusted": p_adjusted,
        "margin_p_adjusted": margin_p,
        "verdict": words,
        "detectable": seen,
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
        detectable=gap.detectable,
        verdict=gap.verdict,
        primary=gap.primary,
        reason=gap.reason or TWO_GROUPS,
    )
