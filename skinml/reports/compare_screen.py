"""A comparison in tables that fit a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from skinml.fairness.arm_means import SeedMean
from skinml.reports.compare_record import ComparisonRecord
from skinml.reports.compare_sides import side_tables, worse_table
from skinml.reports.compare_tables import OVERALL, answer_words, signed
from skinml.reports.numbers import figure
from skinml.reports.view import Cell, group_title
from skinml.reports.wording import attribute_title, metric_words


@dataclass(frozen=True)
class ScreenTable:
    """A table of ready-made words.

    Attributes:
        caption: What it shows.
        columns: The headings.
        rows: The lines.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def screen_tables(record: ComparisonRecord) -> tuple[ScreenTable, ...]:
    """Make the tables of a comparison: figures, gaps, and what changed.

    Args:
        record: What the comparison may show.

    Returns:
        The tables in their order.
    """
    return tuple(each for each in _tables(record) if each.rows)


def _sides(record: ComparisonRecord) -> Iterator[ScreenTable]:
    """Two versions: what is different, then the primary figure; the page has the others."""
    different = tuple(
        (each.what, each.before, each.after) for each in record.changed if each.before != each.after
    )
    yield ScreenTable("What is different:", ("what", "before", "after"), different)
    for table in side_tables(record)[:1]:
        rows = tuple((row.head, *(_both(cell) for cell in row.cells[:3])) for row in table.rows)
        yield ScreenTable(f"{table.caption}:", ("group", "before", "after", "difference"), rows)
    worse = worse_table(record)
    rows = tuple((row.head, *(cell.text for cell in row.cells)) for row in worse.rows)
    columns = ("figure", "group", "before", "after", "difference")
    yield ScreenTable(f"{worse.caption}:", columns, rows)


def _both(cell: Cell) -> str:
    return f"{cell.text} ({cell.detail.partition(';')[0]})" if cell.detail else cell.text


def _tables(record: ComparisonRecord) -> Iterator[ScreenTable]:
    if record.changed:
        yield from _sides(record)
        return
    found, title = record.found, metric_words(record.found.metric).title
    level = f"{found.level * 100:.0f}% interval"
    yield _everybody(record, level)
    for attribute, reference in found.references.items():
        word, base = attribute_title(attribute).lower(), group_title(reference.group)
        worst = {each.arm: each for each in found.worst if each.attribute == attribute}
        rows = tuple(
            (arm, f"{group_title(each.group)}: {_value(each.mean)}") for arm, each in worst.items()
        )
        columns = ("arm", f"{title} of the group that came out worst")
        yield ScreenTable(f"By {word}:", columns, rows)
        gaps = [each for each in found.gaps if each.attribute == attribute]
        rows = tuple((e.arm, f"{group_title(e.group)}: {signed(e.mean)}") for e in gaps)
        columns = ("arm", f"gap in {title}: group less {base}")
        yield ScreenTable("", columns, rows)
    first = found.arms[0]
    for question, caption in (
        ("overall", f"Change against {first}:"),
        ("gap", f"On whom does it fall harder? Change of the gap against {first}:"),
    ):
        asked = tuple(
            (
                each.arm,
                f"{_asked(each.group, each.metric, question)}: {signed(each.mean)}",
                answer_words(each),
            )
            for each in found.changes
            if each.question == question
        )
        yield _answered(caption, asked)


def _answered(caption: str, rows: tuple[tuple[str, str, str], ...]) -> ScreenTable:
    """Say an answer that stands in every line once, above them."""
    answers = {answer for _, _, answer in rows}
    if len(rows) > 1 and len(answers) == 1:
        shared = f"{caption}\nin every line: {answers.pop()}"
        return ScreenTable(shared, ("arm", "change"), tuple(row[:2] for row in rows))
    return ScreenTable(caption, ("arm", "change", "answer"), rows)


def _everybody(record: ComparisonRecord, level: str) -> ScreenTable:
    found = record.found
    means = {(e.arm, e.metric): e.mean for e in found.figures if e.attribute == OVERALL}
    rows = tuple(
        (arm, *(_value(means[arm, metric]) for metric in found.metrics)) for arm in found.arms
    )
    titles = tuple(metric_words(metric).title for metric in found.metrics)
    return ScreenTable(f"Everybody: mean over seeds, {level}, SD of seeds:", ("arm", *titles), rows)


def _asked(group: str, metric: str, question: str) -> str:
    return metric_words(metric).title if question == "overall" else group_title(group)


def _value(mean: SeedMean) -> str:
    estimate = mean.estimate
    if estimate.value is None:
        return figure(None, 3)
    limits = ""
    if estimate.low is not None and estimate.high is not None:
        limits = f" ({figure(estimate.low, 3)} to {figure(estimate.high, 3)})"
    spread = "" if mean.seed_sd is None else f" SD {figure(mean.seed_sd, 3)}"
    return f"{figure(estimate.value, 3)}{limits}{spread}"
