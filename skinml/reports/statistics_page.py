"""Writing statistics over clinics: one HTML page that stands alone, a CSV, and the JSON of both."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skinml.durable import make_folder, write_whole
from skinml.fairness.statistics_tables import StatisticsCell, StatisticsTable
from skinml.records import Estimate, Guarantee, Participation
from skinml.reports import numbers
from skinml.reports.templating import filled_in
from skinml.reports.view import Cell, Row, Table, group_title, settings_table
from skinml.reports.wording import attribute_title, trust_words, unit_noun, unit_words

PAGE, CSV, JSON = "statistics.html", "statistics.csv", "statistics.json"
_CSV_COLUMNS = ("region", "table", "group", "by_group", "patients", "low", "high", "shown")
_WHAT = "statistics"


@dataclass(frozen=True)
class StatisticsRecord:
    """Statistics over clinics, as they may be shown.

    Attributes:
        run: The run's id.
        data: The data's name.
        started: When it began, ISO 8601.
        wall_s: How long it took, seconds.
        tables: The tables, a region after the other.
        regions: Groups of clinics by name; empty where all clinics are one.
        guarantee: What is promised, and what it cost each clinic.
        unit_stands_for: What a patient's id stands for: "patient", "lesion" or "image".
        participation: Every attempt at the sum.
        complete: Whether every clinic is in it.
        std: Standard deviation of the noise in each count, patients.
        half_width: How far the interval of a count reaches to each side, patients.
        least_count: Counts below it are not shown.
        plan: SHA-256 of what was planned before anything was asked.
        config: The settings of data, privacy and statistics.
        versions: What ran.
    """

    run: str
    data: str
    started: str
    wall_s: float
    tables: tuple[StatisticsTable, ...]
    regions: tuple[tuple[str, tuple[str, ...]], ...]
    guarantee: Guarantee
    unit_stands_for: str
    participation: tuple[Participation, ...]
    complete: bool
    std: float
    half_width: float
    least_count: int
    plan: str
    config: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def people(self) -> str:
        """What is counted, in words."""
        return unit_noun(self.unit_stands_for)


def write_statistics(record: StatisticsRecord, values: Mapping[str, Any], folder: Path) -> None:
    """Write statistics.html, statistics.csv and statistics.json.

    Args:
        record: What may be shown.
        values: The same as plain values.
        folder: Where the files go; made where it is missing.

    Raises:
        EnvironmentProblem: If the files cannot be written.

    Guarantees:
        Each file is complete or absent. A count that is not shown is in none of them.
    """
    document = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
    page, table = statistics_html(record), statistics_csv(record)
    make_folder(folder, f"folder of the {_WHAT}")
    write_whole(folder / JSON, f"{document}\n".encode(), _WHAT)
    write_whole(folder / CSV, table.encode(), _WHAT)
    write_whole(folder / PAGE, page.encode(), _WHAT)


def statistics_csv(record: StatisticsRecord) -> str:
    """Make the CSV.

    Args:
        record: What may be shown.

    Returns:
        A line a cell; patients, low and high are empty where the count is not shown.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for table in record.tables:
        for cell in table.cells:
            numbers_ = (
                _whole(each) for each in (cell.count.value, cell.count.low, cell.count.high)
            )
            by_group = cell.groups[1] if len(cell.groups) > 1 else ""
            shown = "no" if cell.suppressed else "yes"
            writer.writerow([table.region, table.name, cell.groups[0], by_group, *numbers_, shown])
    return text.getvalue()


def statistics_html(record: StatisticsRecord) -> str:
    """Make the page.

    Args:
        record: What may be shown.

    Returns:
        HTML that needs no network and no script.
    """
    promise = record.guarantee
    return filled_in(
        "statistics.html.j2",
        {
            "record": record,
            "g": promise,
            "people": record.people,
            "unit": unit_words(promise.unit),
            "trust": trust_words(promise.trust),
            "sections": _sections(record),
            "num_tables": len(record.tables) // max(len(record.regions), 1),
            "clinics": _clinic_table(record),
            "settings": settings_table("Settings", record.config),
            "versions": settings_table("Versions", record.versions),
            "fmt": numbers,
        },
    )


def _sections(record: StatisticsRecord) -> list[tuple[str, str, list[Table]]]:
    """Sort the tables by region: its name, its clinics in words, its tables."""
    members = dict(record.regions)
    names, people = list(members) or [""], record.people
    return [
        (
            name,
            ", ".join(members.get(name, ())),
            [_shown(t, people) for t in record.tables if t.region == name],
        )
        for name in names
    ]


def _shown(table: StatisticsTable, people: str) -> Table:
    titles = [attribute_title(name) for name in table.attributes]
    words = f"{people.capitalize()} by {' and '.join(title.lower() for title in titles)}"
    caption = f"{words}; about {_whole(table.total.value)} in all ({_reach(table.total)})"
    if table.num_suppressed:
        caption += f"; {table.num_suppressed} of {len(table.cells)} counts are not shown"
    if len(titles) == 1:
        rows = tuple(
            Row(_named(cell.groups[0]), (Cell(_count(cell)), Cell(_interval(cell))))
            for cell in table.cells
        )
        return Table(caption, (titles[0], people.capitalize(), "Between"), rows)
    return _crossed(table, caption, titles)


def _crossed(table: StatisticsTable, caption: str, titles: Sequence[str]) -> Table:
    """Lay a crossing out: a line for each group of the first attribute."""
    lines: dict[str, list[StatisticsCell]] = {}
    for cell in table.cells:
        lines.setdefault(cell.groups[0], []).append(cell)
    columns = [_named(cell.groups[1]) for cell in next(iter(lines.values()))]
    rows = tuple(
        Row(_named(name), tuple(Cell(_count(cell), _interval(cell)) for cell in cells))
        for name, cells in lines.items()
    )
    return Table(caption, (" / ".join(titles), *columns), rows)


def _named(group: str) -> str:
    return group_title(group).replace("_", " ")


def _count(cell: StatisticsCell) -> str:
    return "not shown" if cell.suppressed else _whole(cell.count.value)


def _interval(cell: StatisticsCell) -> str:
    return "" if cell.suppressed else _reach(cell.count)


def _reach(estimate: Estimate) -> str:
    return f"{_whole(estimate.low)} to {_whole(estimate.high)}"


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _clinic_table(record: StatisticsRecord) -> Table:
    last = record.participation[-1]
    rows = []
    for name, spend in sorted(record.guarantee.clinics.items()):
        took = "in every count" if name in last.took_part else last.missing.get(name, "missing")
        total = "known to the clinic alone"
        if record.guarantee.simulated:
            total = numbers.epsilon(spend.total_epsilon)
        rows.append(Row(name, (Cell(took), Cell(numbers.epsilon(spend.epsilon)), Cell(total))))
    columns = ("Clinic", "Part", "Epsilon of these counts", "Epsilon of its ledger so far")
    return Table("Who took part, and what it cost", columns, tuple(rows))
