"""The report's part on gaps between groups: findings in words, and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from skinml.fairness.gaps import Gap, Gaps, Spread
from skinml.fairness.label_error import LabelErrorCurve
from skinml.fairness.null_reference import Null
from skinml.fairness.settings import CROSS
from skinml.fairness.standardised import StandardisedGap
from skinml.fairness.verdicts import CANNOT_TELL, RULED_OUT, SHOWN
from skinml.records import Estimate
from skinml.reports.numbers import figure, interval
from skinml.reports.view import Cell, Row, Table
from skinml.reports.wording import GROUPS, attribute_title, metric_words

NAMED = "named in advance"
"""How the primary comparison was named, unless the page cannot know that."""
_DECIMALS = 2
_MOST_FOUND, _MOST_OPEN = 8, 5
# What figures are called where a reader meets them first.
_PLAIN = {
    "malignancy_auroc": "telling malignant from other images (AUROC)",
    "sensitivity": "finding malignant images (sensitivity)",
    "specificity": "raising no alarm for other images (specificity)",
}


@dataclass(frozen=True)
class Findings:
    """What comparisons of groups say, a sentence each.

    Attributes:
        found: Gaps that are shown or ruled out.
        open: What these data cannot tell.
        more: How many further sentences the section on gaps has.
    """

    found: tuple[str, ...]
    open: tuple[str, ...]
    more: int


def findings(gaps: Gaps, headline: str, *, several: bool = False, named: str = NAMED) -> Findings:
    """Tell what comparisons found, in words for the first page.

    Args:
        gaps: The comparisons.
        headline: The attribute that the first page goes into; of others only shown gaps are told.
        several: Whether the model tells more than two classes apart.
        named: How the primary comparison was named.

    Returns:
        The sentences; the primary comparison first, then all groups together, then pairs.
    """
    # Of two groups the spread is their difference, which has a sentence of its own.
    spreads = [
        each
        for each in sorted(gaps.spreads, key=lambda each: not each.primary)
        if (each.primary or each.verdict == SHOWN) and not _is_one_pair(each, gaps)
    ]
    chosen = [
        each
        for each in sorted(gaps.gaps, key=lambda each: not each.primary)
        if each.primary or each.attribute == headline or each.verdict == SHOWN
    ]
    apart = "the diagnoses apart" if several else "malignant from other images"
    plain = {"auroc": f"telling {apart} (AUROC)", **_PLAIN}
    found = [*_of_spreads(spreads, gaps, plain, named), *_of_gaps(chosen, gaps, plain)]
    told = [words for verdict, words in found if verdict != CANNOT_TELL]
    left = [words for verdict, words in found if verdict == CANNOT_TELL]
    more = max(0, len(told) - _MOST_FOUND) + max(0, len(left) - _MOST_OPEN)
    return Findings(tuple(told[:_MOST_FOUND]), tuple(left[:_MOST_OPEN]), more)


def _is_one_pair(spread: Spread, gaps: Gaps) -> bool:
    own = [g for g in gaps.gaps if (g.attribute, g.metric) == (spread.attribute, spread.metric)]
    return len(own) == 1


def _margin(each: Gap | Spread, gaps: Gaps) -> str:
    """The comparison's margin; an older report has one for all."""
    return f"{gaps.margin if each.margin is None else each.margin:g}"


def _of_spreads(
    spreads: Sequence[Spread], gaps: Gaps, plain: Mapping[str, str], named: str
) -> Iterator[tuple[str, str]]:
    for each in spreads:
        title, by = _title(each.metric, plain), attribute_title(each.attribute).lower()
        if each.value is None:
            yield CANNOT_TELL, f"Whether {title} differs by {by}: {each.reason or 'undefined'}."
            continue
        chance = (
            ""
            if each.null is None
            else f"; by chance alone it would be about {_two(each.null.mean)}, in 95 of 100 cases "
            f"at most {_two(each.null.high)}"
        )
        what = f", the comparison {named}" if each.primary else ""
        size = (
            f"{_capital(title)} by {by}{what}: groups "
            f"{_name(each.best)} and {_name(each.worst)} differ by {_two(each.value)}{chance}."
        )
        for group, why in each.left_out.items():
            size += f" Nothing is said of {_name(group)}: {why}."
        ends = {
            SHOWN: f"{size} A gap is shown.{_clearest(each)}{_mix_of(each, gaps)}",
            RULED_OUT: f"{size} A gap of {_margin(each, gaps)} or more is ruled out.",
        }
        yield each.verdict, ends.get(each.verdict, f"{size} {_why_open(each)}")


def _clearest(each: Spread) -> str:
    if len(each.clearest) < 2 or set(each.clearest) == {each.best, each.worst}:
        return ""
    return f" It is clearest between {_name(each.clearest[0])} and {_name(each.clearest[1])}."


def _mix_of(each: Spread, gaps: Gaps) -> str:
    """Say where nobody looked whether diagnoses make the gap; pairs with a reference tell it."""
    ends = {each.best, each.worst}
    named = (each.attribute, each.metric)
    for one in gaps.standardised:
        if (one.attribute, one.metric) == named and {one.group, one.reference} == ends:
            return ""
    return " How much of it their mix of diagnoses makes was not worked out for these two."


def _of_gaps(
    chosen: Sequence[Gap], gaps: Gaps, plain: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    for each in chosen:
        title = _title(each.metric, plain)
        who = f"{_name(each.group)} and {_name(each.reference)}"
        by = attribute_title(each.attribute).lower()
        value = each.difference.value
        if value is None:
            yield (
                CANNOT_TELL,
                (f"Whether {title} differs between {by} {who}: {each.reason or 'undefined'}."),
            )
        elif each.verdict == SHOWN:
            side = "below" if value < 0 else "above"
            inside = (
                f", though smaller than the margin of {_margin(each, gaps)}" * each.within_margin
            )
            yield (
                SHOWN,
                (
                    f"{_capital(title)}: {by} {_name(each.group)} lies {_two(abs(value))} {side} "
                    f"{_name(each.reference)} (difference {_spread(each.difference)}). A gap is "
                    f"shown{inside}.{_same_mix(each, gaps)}"
                ),
            )
        elif each.verdict == RULED_OUT:
            yield (
                RULED_OUT,
                (
                    f"{_capital(title)}: between {by} {who} a gap of {_margin(each, gaps)} or more "
                    f"is ruled out (difference {_spread(each.difference)})."
                ),
            )
        else:
            yield (
                CANNOT_TELL,
                (
                    f"Whether {title} differs between {by} {who}: the difference is "
                    f"{_spread(each.difference)}.{_alone(each)} {_why_open(each)}"
                ),
            )


def _title(metric: str, plain: Mapping[str, str]) -> str:
    return plain.get(metric, metric_words(metric).title)


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def _same_mix(gap: Gap, gaps: Gaps) -> str:
    """Tell what is left of a gap at the same mix of cases, where that was worked out."""
    for each in gaps.standardised:
        same = (each.attribute, each.metric, each.group, each.reference)
        if same == (gap.attribute, gap.metric, gap.group, gap.reference):
            if each.difference.value is None:
                return ""
            case = attribute_title(each.within).lower()
            return (
                f" If both had the same mix by {case}, it would be {_spread(each.difference)}"
                f"{_covered(each)}."
            )
    return ""


def _covered(each: StandardisedGap) -> str:
    if not each.left_out:
        return ""
    return (
        f", over a share of {_two(each.covered)} of their images (left out for want of patients: "
        f"{', '.join(case.replace('_', ' ') for case in each.left_out)})"
    )


def _alone(gap: Gap) -> str:
    low, high = gap.difference.low, gap.difference.high
    if gap.reason:
        return ""
    if low is not None and high is not None and (low > 0 or high < 0):
        return " Alone this interval would show a gap; among so many comparisons it does not."
    return ""


def _why_open(each: Gap | Spread) -> str:
    if each.reason:
        return f"No answer: {each.reason}."
    if each.detectable is None:
        return "With so few patients no gap would have been shown, however great."
    seen = f"These data could have shown a gap of about {_two(each.detectable)} or more."
    unset = " No margin was set for this figure, so that none is ruled out."
    return seen + unset * (each.margin is None and each.p_value is not None)


def _two(value: float | None) -> str:
    return figure(value, _DECIMALS)


def _spread(estimate: Estimate) -> str:
    return f"{_two(estimate.value)}, interval {interval(estimate, _DECIMALS)}"


def _name(group: str) -> str:
    return CROSS.join(GROUPS.get(part, part) for part in group.split(CROSS))


def margin_words(gaps: Gaps) -> str:
    """Say within which differences groups count as alike, figure by figure.

    Args:
        gaps: The comparisons.

    Returns:
        A line; empty where nothing was compared.
    """
    every: list[Gap | Spread] = [*gaps.gaps, *gaps.spreads]
    told = {each.metric: each.margin for each in every}
    words = [
        f"{metric_words(name).title} {'none' if margin is None else f'{margin:g}'}"
        for name, margin in told.items()
    ]
    return ", ".join(words)


def gap_tables(gaps: Gaps, named: str = NAMED) -> list[Table]:
    """Make the tables of groups held against their reference, an attribute each.

    Args:
        gaps: The comparisons.
        named: How the primary comparison was named.

    Returns:
        A table an attribute, with a line for each figure and group.
    """
    columns = (
        "Figure and group",
        "Answer",
        "Difference",
        "Ratio",
        "Size by chance alone",
        "Could have shown",
        "p, corrected",
    )
    tables = []
    for attribute in dict.fromkeys(each.attribute for each in gaps.gaps):
        rows = tuple(_gap_row(each, named) for each in gaps.gaps if each.attribute == attribute)
        base = gaps.references.get(attribute)
        whom = f" against {base.group}" if base is not None else ""
        tables.append(Table(f"Gaps: {attribute_title(attribute).lower()}{whom}", columns, rows))
    return tables


def _gap_row(each: Gap, named: str) -> Row:
    note = named if each.primary else ""
    return Row(
        f"{metric_words(each.metric).title}: {_name(each.group)}",
        (
            _answer(each.verdict, each.reason, within=each.within_margin),
            _estimate(each.difference),
            _estimate(each.ratio),
            _chance(each.null),
            _seen(each),
            _p(each.p_adjusted),
        ),
        note,
    )


def _seen(each: Gap | Spread) -> Cell:
    value = each.difference.value if isinstance(each, Gap) else each.value
    if value is None:
        return Cell("not told")
    return Cell("none at all" if each.detectable is None else _two(each.detectable))


def spread_table(gaps: Gaps, named: str = NAMED) -> Table:
    """Make the table of the greatest difference between any two groups.

    Args:
        gaps: The comparisons.
        named: How the primary comparison was named.

    Returns:
        A table with a line for each attribute and figure.
    """
    rows = tuple(_spread_row(each, named) for each in gaps.spreads)
    columns = (
        "Figure",
        "Answer",
        "Greatest difference",
        "By chance alone",
        "Best and worst group",
        "Could have shown",
        "p, corrected",
    )
    return Table("The greatest difference between any two groups", columns, rows)


def _spread_row(each: Spread, named: str) -> Row:
    by = attribute_title(each.attribute).lower()
    left = "; ".join(f"without {group}: {why}" for group, why in each.left_out.items())
    worst = "" if each.worst_value is None else f"worst {_two(each.worst_value)}"
    return Row(
        f"{metric_words(each.metric).title} by {by}",
        (
            _answer(each.verdict, each.reason),
            Cell(_two(each.value)),
            _chance(each.null),
            Cell(f"{_name(each.best)}; {_name(each.worst)}" if each.best else "none", worst),
            _seen(each),
            _p(each.p_adjusted),
        ),
        "; ".join(part for part in (named if each.primary else "", left) if part),
    )


def standardised_table(found: Sequence[StandardisedGap]) -> Table:
    """Make the table of gaps at the same mix of cases.

    Args:
        found: The gaps.

    Returns:
        A table with a line for each.
    """
    rows = tuple(
        Row(
            f"{metric_words(each.metric).title}: {_name(each.group)} against "
            f"{_name(each.reference)}",
            (
                Cell(_two(each.crude)),
                _estimate(each.difference),
                Cell(_two(each.covered)),
                Cell(
                    "; ".join(f"{c.replace('_', ' ')}: {w}" for c, w in each.left_out.items())
                    or "none"
                ),
            ),
            f"{attribute_title(each.attribute)}, within {each.within}",
        )
        for each in found
    )
    columns = (
        "Figure and groups",
        "As found",
        "At the same mix",
        "Share covered",
        "Left out",
    )
    return Table("Gaps if both groups had the same mix of cases", columns, rows)


def label_error_table(found: Sequence[LabelErrorCurve]) -> Table:
    """Make the table of how gaps would grow with error of the group labels.

    Args:
        found: The curves.

    Returns:
        A table with a line a gap and a column for each part of the assumed error.
    """
    told = [each for each in found if each.points]
    scales = [point.scale for point in told[0].points] if told else []
    rows = tuple(
        Row(
            f"{metric_words(each.metric).title}: {_name(each.group)} against "
            f"{_name(each.reference)}",
            tuple(
                _estimate(point.difference)
                if point.possible
                else Cell("not possible", "the assumption contradicts the figures")
                for point in each.points
            ),
            attribute_title(each.attribute),
        )
        for each in told
    )
    columns = ("Figure and groups", *(f"{_two(scale)} of it" for scale in scales))
    return Table("Gaps if part of the assumed error of labels is taken off", columns, rows)


def _estimate(estimate: Estimate) -> Cell:
    return Cell(_two(estimate.value), interval(estimate, _DECIMALS))


def _chance(null: Null | None) -> Cell:
    if null is None:
        return Cell("not told")
    return Cell(_two(null.mean), f"up to {_two(null.high)} in 95 of 100")


def _p(value: float | None) -> Cell:
    return Cell("none" if value is None else f"{value:.2g}")


def _answer(verdict: str, reason: str, *, within: bool = False) -> Cell:
    words = f"{verdict}, within the margin" if within and verdict == SHOWN else verdict
    return Cell(words, reason)
