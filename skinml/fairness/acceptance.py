"""Whether a model has shown what it was asked to show before anybody looked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from skinml.fairness.criteria import EVERY, LOWER, OVERALL, UPPER, VALUE, Criterion
from skinml.fairness.gaps import Gap, Gaps, Spread
from skinml.fairness.measures import FEW_EVENTS
from skinml.fairness.verdicts import CANNOT_TELL, RULED_OUT, SHOWN
from skinml.records import UNKNOWN_GROUP, Estimate, GroupResult

MET, NOT_MET = "met", "not met"
PRESENT_ONLY = "of the groups that these data have; which there should be, nobody named"
_NOBODY: Mapping[str, Sequence[str]] = {}


@dataclass(frozen=True)
class Judged:
    """What became of one criterion.

    Attributes:
        criterion: The criterion in words.
        answer: "met", "not met" or "cannot tell".
        accepted: Whether that is enough.
        reason: What was found, one line.
    """

    criterion: str
    answer: str
    accepted: bool
    reason: str


def judge(
    criteria: Sequence[Criterion],
    overall: GroupResult,
    groups: Sequence[GroupResult],
    gaps: Gaps | None,
    expected: Mapping[str, Sequence[str]] = _NOBODY,
) -> tuple[Judged, ...]:
    """Hold figures and gaps against criteria.

    Args:
        criteria: What was asked for.
        overall: Everybody's figures.
        groups: Each group's.
        gaps: The comparisons of groups; None: none were made.
        expected: For an attribute, the groups that there have to be, as far as they were named: a
            criterion of every group is not met where one of them has no patient.

    Returns:
        A judgement a criterion; what is undefined or was not compared is "cannot tell".
    """
    return tuple(_judge(each, overall, groups, gaps, expected) for each in criteria)


def _judge(
    criterion: Criterion,
    overall: GroupResult,
    groups: Sequence[GroupResult],
    gaps: Gaps | None,
    expected: Mapping[str, Sequence[str]],
) -> Judged:
    if criterion.gap is not None:
        found = _of_gap(criterion, gaps)
    else:
        found = _of_figure(criterion, overall, groups)
    column = criterion.column
    if column is None or not criterion.is_of_all:
        return found
    named = expected.get(column, ())
    if not named:
        return replace(found, reason=f"{found.reason} ({PRESENT_ONLY})")
    present = {each.group for each in groups if each.attribute == column}
    absent = [name for name in named if name not in present]
    if not absent:
        return found
    missing = (CANNOT_TELL, f"no patient of {column} {', '.join(absent)} is in these data")
    own = [(found.answer, found.reason)] if found.answer == NOT_MET else []
    return _judged(criterion, [*own, missing], measured=False)


def _judged(
    criterion: Criterion, answers: Sequence[tuple[str, str]], *, measured: bool = True
) -> Judged:
    """Take the worst of several answers, with the reasons of all that are as bad.

    What was never measured is not what a criterion may leave open: a name may be misspelt.
    """
    answer = next(
        (bad for bad in (NOT_MET, CANNOT_TELL) if any(one == bad for one, _ in answers)), MET
    )
    left_open = answer == CANNOT_TELL and criterion.allow_cannot_tell and measured
    accepted = answer == MET or left_open
    reasons = [reason for one, reason in answers if one == answer]
    return Judged(criterion.words, answer, accepted, "; ".join(reasons))


def _of_figure(criterion: Criterion, overall: GroupResult, groups: Sequence[GroupResult]) -> Judged:
    chosen = list(_chosen(criterion, overall, groups))
    if not chosen:
        where = f"{criterion.column} {criterion.group}"
        reason = f"there is no group {where} in these data"
        return _judged(criterion, [(CANNOT_TELL, reason)], measured=False)
    answers, figure = [], criterion.figure or ""
    for group in chosen:
        name = "everybody" if group.attribute == OVERALL else group.group
        answer, reason = _held(criterion, group.estimates.get(figure))
        answers.append((answer, f"{name}: {reason}"))
    measured = all(figure in group.estimates for group in chosen)
    return _judged(criterion, answers, measured=measured)


def _chosen(
    criterion: Criterion, overall: GroupResult, groups: Sequence[GroupResult]
) -> Iterator[GroupResult]:
    if criterion.column is None:
        yield overall
        return
    for each in groups:
        if each.attribute != criterion.column:
            continue
        every = criterion.group == EVERY and each.group != UNKNOWN_GROUP
        if every or each.group == criterion.group:
            yield each


def _held(criterion: Criterion, estimate: Estimate | None) -> tuple[str, str]:
    if estimate is None:
        return CANNOT_TELL, f"{criterion.figure} was not measured"
    if estimate.value is None:
        return CANNOT_TELL, f"{criterion.figure} is undefined: {estimate.reason}"
    read = {LOWER: estimate.low, UPPER: estimate.high}.get(criterion.read_at, estimate.value)
    spread = _spread(estimate)
    if criterion.read_at == VALUE and FEW_EVENTS in estimate.method:
        # The limits carry what is not known; a bare value of few patients carries nothing.
        return CANNOT_TELL, f"{spread}, too few patients for its value alone"
    if read is None:
        return CANNOT_TELL, f"{estimate.value:.3f} has no {criterion.read_at}"
    if _meets(criterion, read):
        return MET, spread
    # The other end may still be on the good side: then the data leave it open.
    ends = [end for end in (estimate.low, estimate.high) if end is not None]
    limit = criterion.read_at in (LOWER, UPPER)
    if limit and any(_meets(criterion, end) for end in ends):
        return CANNOT_TELL, spread
    return NOT_MET, spread


def _meets(criterion: Criterion, value: float) -> bool:
    if criterion.at_least is not None:
        return value >= criterion.at_least
    return criterion.at_most is not None and value <= criterion.at_most


def _spread(estimate: Estimate) -> str:
    low = "no limit" if estimate.low is None else f"{estimate.low:.3f}"
    high = "no limit" if estimate.high is None else f"{estimate.high:.3f}"
    return f"{estimate.value:.3f} ({low} to {high})"


def _of_gap(criterion: Criterion, gaps: Gaps | None) -> Judged:
    if gaps is None:
        reason = "groups were not compared"
        return _judged(criterion, [(CANNOT_TELL, reason)], measured=False)
    found = [
        gap
        for gap in gaps.gaps
        if gap.attribute == criterion.column
        and gap.metric == criterion.gap
        and criterion.group in (OVERALL, EVERY, gap.group)
    ]
    if not found:
        reason = gaps.not_compared.get(criterion.column or "", "not among the comparisons made")
        return _judged(criterion, [(CANNOT_TELL, f"{criterion.column}: {reason}")], measured=False)
    answers = [_answer(gap) for gap in found]
    if criterion.group in (OVERALL, EVERY):
        # No two groups may differ, not only each from the reference.
        same = [
            s for s in gaps.spreads if (s.attribute, s.metric) == (criterion.column, criterion.gap)
        ]
        answers += [_answer_of_all(each, gaps.level) for each in same]
    return _judged(criterion, answers)


def _answer(gap: Gap) -> tuple[str, str]:
    size = "undefined" if gap.difference.value is None else f"{_spread(gap.difference)}"
    reason = f"{gap.group} against {gap.reference}: {size}, {gap.verdict}"
    answer = _of_verdict(gap.verdict, gap.within_margin)
    if answer == CANNOT_TELL and gap.detectable is not None:
        reason += f" (could have shown {gap.detectable:.2f})"
    return answer, reason


def _answer_of_all(spread: Spread, level: float) -> tuple[str, str]:
    size = "undefined" if spread.value is None else f"{spread.value:.3f}"
    reason = f"{spread.best} against {spread.worst}, the farthest apart: {size}, {spread.verdict}"
    inside = spread.margin_p_adjusted is not None and spread.margin_p_adjusted <= 1 - level
    return _of_verdict(spread.verdict, inside), reason


def _of_verdict(verdict: str, inside: bool) -> str:
    """Tell what a comparison's answer is worth where no gap beyond the margin is allowed."""
    if verdict == RULED_OUT or (verdict == SHOWN and inside):
        return MET
    return NOT_MET if verdict == SHOWN else CANNOT_TELL
