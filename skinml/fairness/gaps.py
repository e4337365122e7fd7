"""Gaps between groups as a run keeps them: each beside chance, and with an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from skinml.fairness.label_error import LabelErrorCurve
from skinml.fairness.null_reference import Null
from skinml.fairness.standardised import StandardisedGap
from skinml.fairness.unknown import UnknownShare
from skinml.fairness.verdicts import CANNOT_TELL
from skinml.records import Estimate


@dataclass(frozen=True)
class Gap:
    """A group held against its reference in one figure.

    Attributes:
        attribute: What the groups are of.
        metric: The figure.
        group: The group.
        reference: What it is held against.
        difference: The group's figure less the reference's.
        ratio: The group's figure over the reference's.
        null: The size of the difference beside what it is by chance.
        detectable: The smallest true gap that would have been shown four times in five, at the
            level that the answer needs (`Gaps.alone_alpha`, `Gaps.family_alpha`); None: not even
            the greatest one, be it because too few patients are behind a figure.
        p_value: Of no difference; agrees with the interval.
        p_adjusted: The same, corrected over the family; of the primary comparison the same.
        margin_p: Of a difference as large as the margin.
        margin_p_adjusted: The same, corrected over the family.
        verdict: One of the three answers.
        within_margin: Whether a gap that is shown also lies inside the margin.
        primary: Whether it was named in advance.
        reason: Why the answer is "cannot tell" for another cause than the interval.
        margin: Greatest difference in this figure that counts as none; None: nobody set one, so
            that nothing is ruled out.
    """

    attribute: str
    metric: str
    group: str
    reference: str
    difference: Estimate
    ratio: Estimate
    null: Null | None = None
    detectable: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    margin_p: float | None = None
    margin_p_adjusted: float | None = None
    verdict: str = CANNOT_TELL
    within_margin: bool = False
    primary: bool = False
    reason: str = ""
    margin: float | None = None


@dataclass(frozen=True)
class Spread:
    """All groups of an attribute together in one figure.

    Attributes:
        attribute: What the groups are of.
        metric: The figure.
        value: The greatest figure less the least; None where fewer than two groups have one. It
            has no interval: it is positive even where nothing differs.
        null: The spread beside what it is by chance.
        best: The group with the best figure; where a figure is best at a value of its own, such as
            a calibration slope, the group with the greatest.
        worst: The group with the worst figure, or with the least.
        worst_value: That figure.
        worst_by_chance: The mean of the worst group's figure by chance.
        worst_by_chance_low: The value that the worst group's figure is worse than in one chance
            draw of twenty.
        detectable: The smallest true gap between the best and the worst group that would have
            been shown four times in five, at the level that the answer needs, all pairs counted.
        p_value: Of no gap between any two groups, each pair's difference over its own error.
        clearest: The two groups whose difference is the greatest beside its error, the better one
            first; empty where there is none. They need not be those that lie farthest apart.
        p_adjusted: The same, corrected over the family.
        margin_p: Of two groups somewhere that differ by the margin.
        margin_p_adjusted: The same, corrected over the family.
        verdict: One of the three answers.
        primary: Whether it was named in advance.
        left_out: Groups that are not part of it, each with the reason.
        reason: Why the answer is "cannot tell" for another cause than the interval.
        margin: As for `Gap`.
    """

    attribute: str
    metric: str
    value: float | None
    null: Null | None = None
    best: str = ""
    worst: str = ""
    worst_value: float | None = None
    worst_by_chance: float | None = None
    worst_by_chance_low: float | None = None
    detectable: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    margin_p: float | None = None
    margin_p_adjusted: float | None = None
    verdict: str = CANNOT_TELL
    primary: bool = False
    left_out: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    margin: float | None = None
    clearest: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reference:
    """The group that others of its attribute are held against.

    Attributes:
        group: Its name.
        chosen: How it was chosen.
    """

    group: str
    chosen: str


@dataclass(frozen=True)
class Gaps:
    """All comparisons of a run.

    Attributes:
        level: One less this is what corrected p-values are held against.
        margin: Greatest difference that counts as none in figures of ranking and finding, fixed
            in the config; each comparison has its own.
        min_events: Effective patients below which there is no answer.
        family: Comparisons that were corrected together.
        references: For each attribute, its reference group.
        gaps: Each group against its reference.
        spreads: All groups of an attribute together.
        standardised: Gaps at the same mix of cases.
        label_error: How gaps would grow with error of the labels. Correction by assumption.
        not_compared: What the config asks for and the data do not allow, each with the reason.
        alone_alpha: The p-value that the comparison named in advance has to reach to be shown.
        family_alpha: The p-value that any other one is sure to be shown with, whatever the rest
            of the family says: the first step of the correction. None without a family.
        unknown: How often a compared attribute is unknown, by clinic and by the other groups.
    """

    level: float
    margin: float
    min_events: int
    family: int
    references: Mapping[str, Reference]
    gaps: tuple[Gap, ...]
    spreads: tuple[Spread, ...]
    standardised: tuple[StandardisedGap, ...] = ()
    label_error: tuple[LabelErrorCurve, ...] = ()
    not_compared: Mapping[str, str] = field(default_factory=dict)
    alone_alpha: float | None = None
    family_alpha: float | None = None
    unknown: tuple[UnknownShare, ...] = ()

    def values(self) -> dict[str, Any]:
        """Give plain values for JSON; an undefined number is None, never 0."""
        found: dict[str, Any] = _GAPS.dump_python(self, mode="json")
        return found


_GAPS = TypeAdapter(Gaps)


def gaps_from(values: Mapping[str, Any]) -> Gaps:
    """Read what `Gaps.values` wrote.

    Args:
        values: The plain values.

    Returns:
        The comparisons.
    """
    return _GAPS.validate_python(values)
