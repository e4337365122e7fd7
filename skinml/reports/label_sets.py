"""The report's part on label sets: how often they held the truth, group by group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from skinml.fairness.label_sets import EVERYBODY
from skinml.fairness.set_coverage import GroupCoverage, sets_coverage_from
from skinml.records import RunRecord
from skinml.reports.numbers import count, figure
from skinml.reports.view import Cell, Row, Table, group_title
from skinml.reports.wording import attribute_title

_DECIMALS = 2


@dataclass(frozen=True)
class SetsPart:
    """What the page shows of label sets.

    Attributes:
        title: What the groups are of, in small letters; empty where there is one group.
        coverage: What the sets are to hold.
        level: How often each interval holds the coverage on average, in percent.
        left_out: Why nothing was measured; empty where something was.
        elsewhere: Whether other patients than the run's own were asked about.
        beside: Whether one limit for all stands beside.
        table: How often the truth was in the set; None where nothing was measured.
        short: The groups whose interval lies below what the sets are to hold.
    """

    title: str
    coverage: float
    level: float
    left_out: str
    elsewhere: bool
    beside: bool
    table: Table | None
    short: tuple[str, ...]


def sets_part(record: RunRecord, people: str) -> SetsPart | None:
    """Make the part on label sets.

    Args:
        record: What the run may show.
        people: What the data count as patients, such as "patients" or "lesions".

    Returns:
        The part; None where the run has no label sets.
    """
    if record.label_sets is None:
        return None
    found = sets_coverage_from(record.label_sets)
    alone = found.attribute == EVERYBODY
    title = "Group" if alone else attribute_title(found.attribute)
    beside = {each.group: each for each in found.one_limit}
    return SetsPart(
        title="" if alone else title.lower(),
        coverage=found.coverage,
        level=100 * found.level,
        left_out=found.left_out,
        elsewhere="evaluated_on" in record.data,
        beside=bool(beside),
        table=_table(title, people, found.by_group, beside) if found.by_group else None,
        short=tuple(_name(each.group) for each in found.by_group if each.high < found.coverage),
    )


def _table(
    title: str,
    people: str,
    groups: tuple[GroupCoverage, ...],
    beside: Mapping[str, GroupCoverage],
) -> Table:
    columns = [title, f"Validation and test {people}", "Truth in the set"]
    columns += ["Truth in the set, one limit for all"] if beside else []
    rows = []
    for each in sorted(groups, key=lambda one: one.group in ("unknown", EVERYBODY)):
        cells = [Cell(f"{count(each.validation)} and {count(each.test)}"), _cell(each)]
        if beside:
            other = beside.get(each.group)
            cells.append(_cell(other) if other else Cell("not measured"))
        rows.append(Row(_name(each.group), (*cells, Cell(figure(each.whole, _DECIMALS)))))
    columns.append("Sets that hold every label")
    return Table("How often the true label was in the set", tuple(columns), tuple(rows))


def _name(group: str) -> str:
    return "Everybody" if group == EVERYBODY else group_title(group)


def _cell(each: GroupCoverage) -> Cell:
    limits = " to ".join(figure(limit, _DECIMALS) for limit in (each.low, each.high))
    return Cell(figure(each.share, _DECIMALS), limits)
