"""Lists of consents, as a clinic's own system exports them: CSV files, checked as a whole."""

from __future__ import annotations

import csv
import datetime
import io
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import cast

from skinml.errors import DataError
from skinml.stewardship.consent import Consent, ConsentRecord
from skinml.stewardship.consent_book import collector_paused
from skinml.stewardship.consent_rules import (
    FORM_VERSION,
    GIVERS,
    HOWS,
    USUAL_DATA,
    GivenBy,
    How,
)
from skinml.stewardship.purposes import DATA_KINDS, PURPOSES, DataKind, Purpose

COLUMNS = (
    "patient_id",
    "purposes",
    "data",
    "valid_from",
    "valid_until",
    "form_version",
    "how",
    "given_by",
    "withdrawn",
)
"""The list's columns, in any order; `data`, `valid_until` and `withdrawn` may be missing."""

_NEEDED = tuple(word for word in COLUMNS if word not in ("data", "valid_until", "withdrawn"))
_FIRST_ROW = 2
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_MOST_RANGES = 200
_Facts = tuple[Consent | None, datetime.date | None, tuple[str, ...]]


def read_consents(content: bytes, name: str, *, today: datetime.date) -> tuple[ConsentRecord, ...]:
    r"""Read a list of consents and check all of it.

    Args:
        content: A CSV file in UTF-8 with commas and the columns of `COLUMNS`; several purposes
            or kinds of data in one cell have a semicolon between them, days are YYYY-MM-DD.
            Empty `data` means images and records.
        name: What the file is called, for messages.
        today: No withdrawal may lie after it.

    Returns:
        One record a row, in the file's order; blank lines are skipped.

    Raises:
        DataError: If anything is wrong. All problems are collected, each with the numbers of its
            rows as a spreadsheet shows them, and no cell is quoted.

    Example:
        >>> rows = b"patient_id,purposes,valid_from,form_version,how,given_by\n"
        >>> rows += b"7,care;research,2026-01-15,v2,paper,patient\n"
        >>> read_consents(rows, "list.csv", today=datetime.date(2026, 3, 1))[0].consent.purposes
        ('care', 'research')
    """
    with collector_paused():
        records, problems = _read_rows(_rows(content, name), name, today)
    if problems:
        raise _collected(problems, name)
    if not records:
        raise _unreadable("at least one consent", "an empty list", name)
    return tuple(records)


def _read_rows(
    rows: Iterator[tuple[int, list[str]]], name: str, today: datetime.date
) -> tuple[list[ConsentRecord], dict[str, list[int]]]:
    """Read all rows; the second result has the rows of each problem."""
    header = [cell.strip() for cell in next(rows, (0, []))[1]]
    problems: dict[str, list[int]] = {}
    _check_header(header, name)
    records, known = [], dict[tuple[str, ...], _Facts]()
    for number, cells in rows:
        if len(cells) != len(header):
            problems.setdefault("has more or fewer cells than the header", []).append(number)
            continue
        row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        patient = row.pop("patient_id")
        facts = tuple(row.values())
        if facts not in known:
            known[facts] = _read_facts(row, today)
        consent, withdrawn, wrong = known[facts]
        if not patient or not patient.isprintable():
            wrong = ("patient_id must be filled with printable characters", *wrong)
        for problem in wrong:
            problems.setdefault(problem, []).append(number)
        if consent is not None:
            records.append(ConsentRecord(patient, consent, withdrawn))
    return records, problems


def _rows(content: bytes, name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that hold something, with their numbers."""
    try:
        text = content.decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        for number, cells in enumerate(reader, start=1):
            if any(cell.strip() for cell in cells):
                yield number, cells
    except UnicodeDecodeError:
        raise _unreadable("text in UTF-8", "other bytes", name) from None
    except csv.Error:
        raise _unreadable("a CSV file with commas", "broken quotes or cells", name) from None


def _check_header(header: Sequence[str], name: str) -> None:
    missing = [column for column in _NEEDED if column not in header]
    unknown = len([column for column in header if column not in COLUMNS])
    double = len(header) - len(set(header))
    parts = [f"no column {', '.join(missing)}"] if missing else []
    parts += [f"{unknown} columns of another name"] if unknown else []
    if len(header) == 1:  # what a spreadsheet writes where the comma is the decimal mark
        parts.append("a first row without a comma")
    parts += [f"{double} columns that stand there twice"] if double else []
    if parts:
        raise _unreadable(f"the columns {', '.join(COLUMNS)}", "; ".join(parts), name)


def _read_facts(row: Mapping[str, str], today: datetime.date) -> _Facts:
    """Read all cells but the patient's; equal rows are read once."""
    wrong: list[str] = []
    purposes = _words(row, "purposes", PURPOSES, wrong)
    data = _words(row, "data", DATA_KINDS, wrong) if row.get("data") else USUAL_DATA
    begin = _day(row, "valid_from", wrong)
    end = _day(row, "valid_until", wrong) if row.get("valid_until") else None
    withdrawn = _day(row, "withdrawn", wrong) if row.get("withdrawn") else None
    if not re.fullmatch(FORM_VERSION, row["form_version"]):
        wrong.append("form_version must be up to 40 letters, digits and . _ @ + - without a space")
    for column, words in (("how", HOWS), ("given_by", GIVERS)):
        if row[column] not in words:
            wrong.append(f"{column} must be one of {', '.join(words)}")
    if begin and end and end < begin:
        wrong.append("valid_until must not lie before valid_from")
    if begin and withdrawn and withdrawn < begin:
        wrong.append("withdrawn must not lie before valid_from")
    if withdrawn and withdrawn > today:
        wrong.append("withdrawn must not lie after today")
    if wrong or begin is None:
        return None, None, tuple(wrong)
    consent = Consent(
        purposes=cast(tuple[Purpose, ...], purposes),
        data=cast(tuple[DataKind, ...], data),
        valid_from=begin,
        valid_until=end,
        form_version=row["form_version"],
        how=cast(How, row["how"]),
        given_by=cast(GivenBy, row["given_by"]),
    )
    return consent, withdrawn, ()


def _words(
    row: Mapping[str, str], column: str, allowed: Collection[str], wrong: list[str]
) -> tuple[str, ...]:
    words = tuple(word.strip() for word in row[column].split(";") if word.strip())
    if not words or not set(words) <= set(allowed):
        wrong.append(f"{column} must be of {', '.join(allowed)}, with ';' between them")
    return words


def _day(row: Mapping[str, str], column: str, wrong: list[str]) -> datetime.date | None:
    cell = row[column]
    try:
        if _DAY.fullmatch(cell):
            return datetime.date.fromisoformat(cell)
    except ValueError:
        pass  # a day that no month has
    wrong.append(f"{column} must be a day such as 2026-03-01")
    return None


def _collected(problems: Mapping[str, Sequence[int]], name: str) -> DataError:
    details = [f"{_ranges(rows)}: {problem}" for problem, rows in problems.items()]
    wrong = {row for rows in problems.values() for row in rows}
    plural = "1 row" if len(wrong) == 1 else f"{len(wrong)} rows"
    kinds = "1 kind of problem" if len(details) == 1 else f"{len(details)} kinds of problems"
    return DataError(
        rule="a list of consents that keeps all rules",
        got=f"{kinds} in {plural}, the first {details[0]}",
        do=f"Correct {name}; nothing was imported.",
        details=details,
    )


def _ranges(rows: Sequence[int]) -> str:
    """Write row numbers short: rows 2, 5-9."""
    spans: list[list[int]] = []
    for row in rows:
        if spans and row == spans[-1][1] + 1:
            spans[-1][1] = row
        else:
            spans.append([row, row])
    words = [str(low) if low == high else f"{low}-{high}" for low, high in spans[:_MOST_RANGES]]
    if len(spans) > _MOST_RANGES:
        left = sum(high - low + 1 for low, high in spans[_MOST_RANGES:])
        words.append(f"and {left} more")
    return f"{'row' if len(rows) == 1 else 'rows'} {', '.join(words)}"


def _unreadable(rule: str, got: str, name: str) -> DataError:
    return DataError(rule=rule, got=got, do=f"Correct {name}; nothing was imported.")
