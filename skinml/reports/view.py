"""What the template shows: tables of ready-made words, in the order of the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from skinml.records import SPLITS, UNKNOWN_GROUP, Estimate, GroupResult, RunRecord
from skinml.reports.derived import FEW_EVENTS, Alarms, Derived, is_few
from skinml.reports.numbers import about, at_most, count, epsilon, figure, interval
from skinml.reports.wording import (
    CALIBRATION,
    DISCRIMINATION,
    GROUPS,
    attribute_title,
    course_title,
    metric_words,
)


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: What it says.
        detail: A second, smaller line; empty for none.
    """

    text: str
    detail: str = ""


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        head: What the line is about.
        cells: The other columns.
        note: A second, smaller line under the head; empty for none.
    """

    head: str
    cells: tuple[Cell, ...]
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        caption: What the table shows.
        columns: The titles, that of the first column included.
        rows: The lines.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def group_results(record: RunRecord) -> tuple[tuple[str, tuple[GroupResult, ...]], ...]:
    """Put the groups of each attribute together, the attributes in the record's order.

    The group that nobody knows comes last.

    Args:
        record: What the run may show.

    Returns:
        Pairs of an attribute and its groups.
    """
    order = {name: place for place, name in enumerate(g.attribute for g in record.groups[::-1])}
    ranked = sorted(
        record.groups, key=lambda each: (-order[each.attribute], each.group == UNKNOWN_GROUP)
    )
    return tuple(
        (name, tuple(groups)) for name, groups in groupby(ranked, key=lambda group: group.attribute)
    )


def alarm_table(derived: Derived, people: str) -> Table:
    """Make the first page's table: alarms in 100 images.

    Args:
        derived: The derived figures.
        people: What the data count as patients, such as "patients" or "lesions".

    Returns:
        A table with a line for everybody and one for each group of the headline attribute.
    """
    title = attribute_title(derived.headline) if derived.headline else "Group"
    what = people if any(alarms.count_std for alarms in derived.alarms) else "images"
    return Table(
        caption=f"Alarms in 100 {what}, with the {derived.level_percent:.0f}% interval",
        columns=(title, f"Of 100 malignant {what}, found", f"Of 100 other {what}, false alarms"),
        rows=tuple(_alarm_row(alarms, people) for alarms in derived.alarms),
    )


def auroc_table(record: RunRecord, derived: Derived, people: str) -> Table:
    """Make the first page's table where nothing decides on alarms: how well scores rank images.

    Args:
        record: What the run may show.
        derived: The derived figures.
        people: What the data count as patients, such as "patients" or "lesions".

    Returns:
        A table with a line for everybody and one for each group of the headline attribute.
    """
    several = "malignancy_auroc" in record.overall.estimates
    name = "malignancy_auroc" if several else "auroc"
    chosen = [each for each in record.groups if each.attribute == derived.headline]
    rows = tuple(
        replace(
            _group_row(each, [name], derived.min_events, people),
            head="Everybody" if each is record.overall else group_title(each.group),
        )
        for each in (record.overall, *chosen)
    )
    title = attribute_title(derived.headline) if derived.headline else "Group"
    caption = f"Telling malignant from other images, with the {derived.level_percent:.0f}% interval"
    return Table(caption, (title, "AUROC: 1 is always right, 0.5 is a coin"), rows)


def figure_tables(
    attribute: str, groups: Sequence[GroupResult], derived: Derived, people: str
) -> list[Table]:
    """Make an attribute's tables of figures: performance, calibration, and whatever else there is.

    Args:
        attribute: The attribute's name; "overall" for everybody.
        groups: Its groups.
        derived: The derived figures, for the number of events that a finding needs.
        people: What the data count as patients, such as "patients" or "lesions".

    Returns:
        The tables that have at least one figure.
    """
    title = attribute_title(attribute)
    present = _names(group.estimates for group in groups)
    rest = [name for name in present if name not in (*DISCRIMINATION, *CALIBRATION)]
    parts = (("Performance", DISCRIMINATION), ("Calibration", CALIBRATION), ("Other figures", rest))
    found = []
    for words, wanted in parts:
        names = [name for name in wanted if name in present]
        if names:
            rows = tuple(_group_row(group, names, derived.min_events, people) for group in groups)
            columns = (title, *(metric_words(name).title for name in names))
            found.append(Table(f"{words}: {title.lower()}", columns, rows))
    return found


def yardstick_table(record: RunRecord) -> Table:
    """Make the table that holds the model against other ways to a model.

    Args:
        record: What the run may show.

    Returns:
        A table whose first line is the run's own model.
    """
    present = _names(each.estimates for each in record.yardsticks)
    names = [name for name in (*DISCRIMINATION, "brier") if name in present]
    kind = {True: "with a privacy guarantee", False: "without privacy"}
    own = Row(
        "This run's model", _cells(record.overall.estimates, names), kind[record.guarantee.private]
    )
    others = (
        Row(each.name, _cells(each.estimates, names), kind[each.private])
        for each in record.yardsticks
    )
    columns = ("Model", *(metric_words(name).title for name in names))
    return Table("The model beside other models, on the same test images", columns, (own, *others))


def flow_table(record: RunRecord, people: str) -> Table:
    """Make the table of the cohort's flow.

    Args:
        record: What the run may show.
        people: What the data count as patients, such as "patients" or "lesions".

    Returns:
        A table with a line for each stage.
    """
    rows = tuple(
        Row(
            stage.name, (Cell(count(stage.num_images)), Cell(count(stage.num_patients))), stage.note
        )
        for stage in record.cohort_flow
    )
    return Table("From files to test images", ("Stage", "Images", people.capitalize()), rows)


def cohort_tables(record: RunRecord, people: str) -> list[Table]:
    """Make Table 1, a table for each attribute.

    Args:
        record: What the run may show.
        people: What the data count as patients, such as "patients" or "lesions".

    Returns:
        Tables of patients by split, with the malignant images as the second line.
    """
    tables = []
    for attribute, cells in groupby(record.cohort_table, key=lambda cell: cell.attribute):
        lines = tuple(cells)
        present = {name for cell in lines for name in cell.num_patients}
        splits = [name for name in SPLITS if name in present]
        splits += sorted(present.difference(SPLITS))
        rows = tuple(
            Row(
                group_title(cell.group),
                tuple(
                    Cell(
                        count(cell.num_patients.get(split, 0)),
                        f"{count(cell.num_positives.get(split, 0))} malignant",
                    )
                    for split in splits
                ),
            )
            for cell in lines
        )
        title = attribute_title(attribute)
        columns = (title, *(split.capitalize() for split in splits))
        caption = f"{people.capitalize()} by {title.lower()} and split, and their malignant images"
        tables.append(Table(caption, columns, rows))
    return tables


def readings_table(record: RunRecord, derived: Derived) -> Table:
    """Make the table of what epsilon is in each reading of the promise.

    Args:
        record: What the run may show.
        derived: The derived figures.

    Returns:
        A table with a line for each reading.
    """
    promise = record.guarantee
    one = (
        "One patient, at all clinics" if promise.unit == "patient" else "One patient at one clinic"
    )
    lines = [
        (f"{one}: this run", "", promise.epsilon, derived.guess_limit_percent),
        (
            f"{one}: all runs in the ledgers",
            "",
            promise.total_epsilon,
            derived.total_guess_limit_percent,
        ),
    ]
    if promise.unit != "patient" and promise.max_clinics > 1:
        lines.append(
            (
                f"One patient at all {promise.max_clinics} clinics: this run",
                "",
                promise.epsilon_across_clinics,
                derived.across_guess_limit_percent,
            )
        )
    if promise.replace_one_epsilon is not None:
        lines.append(
            (
                f"{one}, replaced by another: this run",
                "the guess is which of the two took part",
                promise.replace_one_epsilon,
                derived.replace_one_guess_limit_percent,
            )
        )
    rows = tuple(
        Row(
            head,
            (Cell(epsilon(value)), Cell("no limit" if limit is None else at_most(limit, 1))),
            note,
        )
        for head, note, value, limit in lines
    )
    columns = ("Reading", "Epsilon", "Best guess right at most, of 100")
    return Table("The promise in its readings", columns, rows)


def clinic_table(record: RunRecord, derived: Derived) -> Table:
    """Make the table of what each clinic spent and in how many rounds it took part.

    Args:
        record: What the run may show.
        derived: The derived figures.

    Returns:
        A table with a line for each clinic.
    """
    spends = record.guarantee.clinics
    rows = []
    for name in sorted({*spends, *derived.rounds_taken_part}):
        spend = spends.get(name)
        rows.append(
            Row(
                name,
                (
                    Cell(epsilon(spend.epsilon) if spend else "not recorded"),
                    Cell(epsilon(spend.total_epsilon) if spend else "not recorded"),
                    Cell(count(spend.num_events) if spend else "not recorded"),
                    Cell(count(derived.rounds_taken_part.get(name, 0))),
                    Cell(count(derived.rounds_missed.get(name, 0))),
                ),
            )
        )
    columns = (
        "Clinic",
        "Epsilon of this run",
        "Epsilon in total",
        "Releases of this run",
        "Rounds taken part",
        "Rounds missed",
    )
    return Table("Each clinic's ledger and participation", columns, tuple(rows))


def history_table(record: RunRecord) -> Table:
    """Make the table of the training's course.

    Args:
        record: What the run may show.

    Returns:
        A table with a line for each round and a column for each figure of the optimiser.
    """
    names = [name for name in _names(record.history) if name != "round"]
    rows = tuple(
        Row(
            f"Round {line.get('round', place):.0f}",
            tuple(Cell(_significant(line.get(name))) for name in names),
        )
        for place, line in enumerate(record.history, start=1)
    )
    titles = map(course_title, names)
    return Table("Figures of the optimiser by round", ("Round", *titles), rows)


def settings_table(caption: str, values: Mapping[str, Any]) -> Table:
    """Make a table of names and values, nested mappings flattened.

    Args:
        caption: What the table shows.
        values: Plain values by name.

    Returns:
        A table with a line for each value.
    """
    rows = tuple(Row(name, (Cell(text),)) for name, text in _flatten(values))
    return Table(caption, ("Name", "Value"), rows)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{name}", ", ".join(str(entry) for entry in value) or "none"
        else:
            yield f"{prefix}{name}", "none" if value is None else str(value)


def _names(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def group_title(group: str) -> str:
    """Name a group for a reader.

    Args:
        group: The group's name in the record.

    Returns:
        The name in words; "not known" for the group that nobody knows.
    """
    return GROUPS.get(group, group)


def _cells(estimates: Mapping[str, Estimate], names: Sequence[str]) -> tuple[Cell, ...]:
    return tuple(
        _cell(estimates[name], metric_words(name).decimals)
        if name in estimates
        else Cell("not measured")
        for name in names
    )


def _cell(estimate: Estimate, decimals: int) -> Cell:
    notes = [interval(estimate, decimals)]
    if estimate.low is not None and estimate.reason:
        notes.append(estimate.reason)
    if estimate.value is not None and FEW_EVENTS in estimate.method:
        notes.append(FEW_EVENTS)
    return Cell(figure(estimate.value, decimals), "; ".join(note for note in notes if note))


def _group_row(group: GroupResult, names: Sequence[str], floor: int, people: str) -> Row:
    std = group.count_std
    images = "" if group.num_images is None else f", {count(group.num_images)} images"
    counts = f"{about(group.num_patients, std)} {people}{images}: "
    counts += (
        f"{about(group.num_positives, std)} malignant, {about(group.num_negatives, std)} other "
        f"{people if std else 'images'}"
    )
    few = ". Too few for a finding" if is_few(group, floor) else ""
    everybody = f"All test {people if group.count_std else 'images'}"
    name = everybody if group.attribute == "overall" else group_title(group.group)
    return Row(name, _cells(group.estimates, names), f"{counts}{few}")


def _alarm_row(alarms: Alarms, people: str) -> Row:
    everybody = alarms.attribute == "overall"
    malignant = about(alarms.num_positives, alarms.count_std)
    what = people if alarms.count_std else "images"
    note = f"{about(alarms.num_patients, alarms.count_std)} {people}, {malignant} malignant {what}"
    if alarms.few and not everybody:
        note += ". Too few to tell"
    return Row(
        "Everybody" if everybody else group_title(alarms.group),
        (_cell(alarms.found, 0), _cell(alarms.false_alarms, 0)),
        note,
    )


def _significant(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"
