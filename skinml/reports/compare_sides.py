"""Two versions of a model side by side: each figure before, after, and how much it changed."""

from __future__ import annotations

from skinml.fairness.arm_values import Change
from skinml.reports.compare_record import ComparisonRecord
from skinml.reports.compare_tables import EVERYBODY, OVERALL, answer_words, mean_cell, shown_worse
from skinml.reports.view import Cell, Row, Table, group_title
from skinml.reports.wording import attribute_title, metric_words


def changed_table(record: ComparisonRecord) -> Table:
    """Make the table of what is different about the two versions.

    Args:
        record: The comparison.

    Returns:
        A line for each; no line where arms were compared.
    """
    rows = tuple(
        Row(
            each.what,
            (
                Cell(each.before),
                Cell("the same" if each.after == each.before else each.after),
            ),
        )
        for each in record.changed
    )
    return Table("What is different about them", ("What", "Before", "After"), rows)


def side_tables(record: ComparisonRecord) -> list[Table]:
    """Make the tables of figures, one for each figure: everybody, then each group.

    Args:
        record: The comparison of two versions.

    Returns:
        The tables; none where arms were compared.
    """
    return [_side_table(record, metric) for metric in record.found.metrics if record.changed]


def worse_table(record: ComparisonRecord) -> Table:
    """Make the table of what the second version was shown to do worse, whichever figure it is.

    A version whose AUROC stays may find far fewer malignant images, for its threshold moved.

    Args:
        record: The comparison of two versions.

    Returns:
        A line for each figure and group; none where nothing was shown, or arms were compared.
    """
    rows = tuple(
        Row(metric_words(metric).title, (Cell(row.head), *row.cells[:3]))
        for metric in record.found.metrics
        if record.changed
        for row, change in _sides(record, metric)
        if change is not None and shown_worse(change)
    )
    columns = ("Figure", "Group", "Before", "After", "Difference")
    return Table("Shown to be worse after than before", columns, rows)


def _side_table(record: ComparisonRecord, metric: str) -> Table:
    title = metric_words(metric).title
    level = f"{record.found.level * 100:.0f}% intervals"
    columns = ("Group", "Before", "After", "Difference", "Answer")
    return Table(f"{title}, {level}", columns, tuple(row for row, _ in _sides(record, metric)))


def _sides(record: ComparisonRecord, metric: str) -> list[tuple[Row, Change | None]]:
    """Put both versions' figures of each group side by side, with what changed."""
    found = record.found
    first, second = found.arms
    means = {
        (each.arm, each.attribute, each.group): each.mean
        for each in found.figures
        if each.metric == metric
    }
    changes = {
        (each.attribute, each.group): each
        for each in found.changes
        if each.metric == metric and each.question != "gap"
    }
    rows = []
    for each in found.counts:
        key = (each.attribute, each.group)
        if (first, *key) not in means or (second, *key) not in means:
            continue
        change = changes.get(key)
        told = (
            (Cell("not tested"), Cell((found.unpaired and "not paired") or "not compared"))
            if change is None
            else (mean_cell(change.mean, sign=True), Cell(answer_words(change)))
        )
        sides = (mean_cell(means[first, *key]), mean_cell(means[second, *key]))
        rows.append((Row(_name(*key), (*sides, *told)), change))
    return rows


def _name(attribute: str, group: str) -> str:
    if attribute == OVERALL:
        return EVERYBODY
    return f"{attribute_title(attribute)} {group_title(group)}"
