"""A clinic's list of pictures, read by its terms: fewer columns, coarser ages, moved dates."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path

from skinml.clinic.folder import ClinicFolder
from skinml.clinic.importing_terms import (
    DATES,
    NEEDED,
    WORDS,
    ImportTerms,
    chosen_columns,
    require_plain_words,
    shown_headers,
)
from skinml.clinic.vocabulary import COLUMNS as LISTED
from skinml.clinic.vocabulary import coarsened
from skinml.data.manifest import manifest_of, table_cells
from skinml.data.manifest_rules import FIRST_ROW, OPTIONAL
from skinml.data.taxonomy import Taxonomy
from skinml.durable import read_whole
from skinml.errors import DataError, EnvironmentProblem
from skinml.stewardship.encryption import derive_key, keyed_digest
from skinml.stewardship.pictures import Picture

OLDEST = 90
_GROUPED_FROM = 89
_MOST_DAYS = 365
_FORMATS = ("%Y-%m-%d", "%Y%m%d", "%d.%m.%Y", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y/%m/%d")
_MOST_LINES = 20
_SHOWN_FROM = 3  # a word that stands in fewer rows may be a person's
_MOST_BYTES = 200 * 2**20
_CUT = {"month": 7, "year": 4}


@dataclass(frozen=True, repr=False)
class Row:
    """One row of a list. Per patient: never log.

    Attributes:
        number: Its number as a spreadsheet shows it.
        patient: The clinic's own id.
        image: The file, below the source.
        fields: What is kept beside it.
    """

    number: int
    patient: str
    image: str
    fields: Mapping[str, str]


@dataclass(frozen=True, repr=False)
class Records:
    """A list as it is kept.

    Attributes:
        rows: Its rows.
        kept: Columns that are kept.
        dropped: Headers that no column was declared for; what could be a name is "column 7".
        closed: Columns that the policy does not keep.
        others: By column, how many values are no word of its list and are kept as "other".
        digest: Keyed digest of the file.
    """

    rows: tuple[Row, ...]
    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    closed: tuple[str, ...]
    others: Mapping[str, int]
    digest: str


@dataclass(frozen=True)
class Dates:
    """How dates and ages are made coarser at one clinic.

    Attributes:
        terms: The clinic's terms.
        key: A key for the shifts alone.
        today: The day of the import.
    """

    terms: ImportTerms
    key: bytes = field(repr=False)
    today: date

    def read(self, cell: str) -> date | None:
        """Read a date; None for what is none."""
        formats = (self.terms.date_format,) if self.terms.date_format else _FORMATS
        for each in formats:
            try:
                return datetime.strptime(cell, each).date()
            except ValueError:
                continue
        return None

    def coarse(self, patient: str, day: date) -> str:
        """Write a date so that it is no longer the day itself.

        Guarantees:
            With "shift", all dates of a patient move by the same number of days, 1 to 365 forward
            or back, which nobody can work out without the clinic's key; so what lies between them
            stays.
        """
        cut = _CUT.get(self.terms.dates)
        if cut:
            return day.isoformat()[:cut]
        drawn = int(keyed_digest(self.key, patient.encode())[:16], 16) % (2 * _MOST_DAYS)
        days = drawn - _MOST_DAYS if drawn < _MOST_DAYS else drawn - _MOST_DAYS + 1
        try:
            return (day + timedelta(days=days)).isoformat()
        except OverflowError:
            return ""

    def age(self, born: date, taken: date | None) -> str:
        """Count whole years at the day of the picture, from 90 on in one group."""
        at = taken or self.today
        years = at.year - born.year - ((at.month, at.day) < (born.month, born.day))
        return grouped_age(str(years)) if 0 <= years <= 130 else ""


def dates_of(folder: ClinicFolder, terms: ImportTerms, today: date) -> Dates:
    """Say how a clinic makes dates coarser.

    Args:
        folder: The clinic's folder.
        terms: Its terms.
        today: The day of the import.

    Returns:
        The rule.
    """
    return Dates(terms, derive_key(folder.key, "dates of pictures"), today)


def grouped_age(cell: str) -> str:
    """Put ages over 89 into one group, as HIPAA 164.514(b)(2)(i)(C) asks; drop parts of a year.

    Args:
        cell: Years; anything else stays, for the list's own rules to refuse.

    Returns:
        Whole years, at most 90.

    >>> grouped_age("93"), grouped_age("41.5"), grouped_age("old")
    ('90', '41', 'old')
    """
    try:
        years = int(float(cell))
    except (ValueError, OverflowError):
        return cell
    return str(OLDEST if years > _GROUPED_FROM else years)


def read_records(
    folder: ClinicFolder,
    path: Path,
    terms: ImportTerms,
    dates: Dates,
    taxonomy: Taxonomy,
) -> Records:
    """Read a list of pictures, and refuse it as a whole where it breaks a rule.

    Args:
        folder: The clinic's opened folder.
        path: A CSV or Parquet file, by its ending.
        terms: Which column is what.
        dates: How dates are made coarser.
        taxonomy: The meaning of words.

    Returns:
        What is kept of it.

    Raises:
        ConfigError: If a column's name hides genetic or financial data.
        DataError: If a rule is broken. Messages name rows and columns, and no cell but words that
            stand in several rows.
        EnvironmentProblem: If the file cannot be read.
        PolicyError: If a column needs a purpose that the policy does not name.
    """
    content = _content(path)
    table = table_cells(path.name, content)
    headers = [str(header) for header in table.columns]
    policy = folder.policy
    columns, closed = chosen_columns(terms, headers, policy)
    for column in WORDS:
        if column in columns:
            require_plain_words(column, table[columns[column]].tolist(), policy)
    cells = {column: table[header].tolist() for column, header in columns.items()}
    others = _coarsen(cells, terms)
    rows = tuple(_rows(folder, cells, terms, dates))
    _require_manifest(rows, taxonomy)
    kept = {*columns, *terms.whole, *terms.dicom}
    kept = kept - {"birth_date"} | ({"age"} if "birth_date" in kept else set())
    used = {*columns.values(), *terms.columns.values()}
    return Records(
        rows=rows,
        kept=tuple(sorted(kept)),
        dropped=tuple(
            shown
            for header, shown in zip(headers, shown_headers(headers), strict=True)
            if header not in used
        ),
        closed=closed,
        others=others,
        digest=folder.pictures.digest_of(content),
    )


def _coarsen(cells: dict[str, list[str]], terms: ImportTerms) -> dict[str, int]:
    """Replace what is no word of a column's list; tell how many values that were, by column."""
    others: dict[str, int] = {}
    told = {str(column): words for column, words in terms.words.items()}
    same = {str(column): word for column, word in terms.whole.items()}
    for column in cells.keys() & set(LISTED):
        declared = [*told.get(column, ()), same.get(column, "")]
        cells[column], replaced = coarsened(column, cells[column], declared)
        if replaced:
            others[column] = replaced
    return dict(sorted(others.items()))


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise EnvironmentProblem(
            rule="a CSV or Parquet file with the list of pictures",
            got="no such file",
            do="Name it with --records.",
        )
    if path.stat().st_size > _MOST_BYTES:
        raise DataError(
            rule=f"a list of at most {_MOST_BYTES} bytes", got="a larger one", do="Divide it."
        )
    return read_whole(path, "list of pictures")


def _rows(
    folder: ClinicFolder, cells: Mapping[str, Sequence[str]], terms: ImportTerms, dates: Dates
) -> Iterable[Row]:
    problems: list[str] = []
    count = len(cells["patient_id"])
    if not count:
        problems.append("there is no row")
    seen: set[str] = set()
    for place in range(count):
        given = {column: values[place] for column, values in cells.items()}
        number = FIRST_ROW + place
        empty = [column for column in NEEDED if not given[column]]
        problems += [f"row {number}: {column} must not be empty" for column in empty]
        if given["image"] and given["image"] in seen:
            problems.append(f"row {number}: image stands in two rows")
        seen.add(given["image"])
        fields, wrong = _fields(folder, given, dates)
        problems += [f"row {number}: {column} must be a date" for column in wrong]
        if not problems:
            fields = {**{str(column): value for column, value in terms.whole.items()}, **fields}
            yield Row(number, given["patient_id"], given["image"], fields)
    if problems:
        more = [f"and {len(problems) - _MOST_LINES} more"] if len(problems) > _MOST_LINES else []
        raise DataError(
            rule="a list of pictures that keeps all rules",
            got=f"{len(problems)} problems, the first in {problems[0]}",
            do="Correct the list; for another way of writing dates set date_format.",
            details=[*problems[:_MOST_LINES], *more],
        )


def _fields(
    folder: ClinicFolder, given: Mapping[str, str], dates: Dates
) -> tuple[dict[str, str], list[str]]:
    """Make one row's cells coarser; tell which dates are none."""
    fields = {
        column: cell
        for column, cell in given.items()
        if cell and column not in ("patient_id", "image", "birth_date", *DATES)
    }
    if "age" in fields:
        fields["age"] = grouped_age(fields["age"])
    if "lesion_id" in fields:
        fields["lesion_id"] = folder.pictures.digest_of(
            json.dumps(["lesion", fields["lesion_id"]]).encode()
        )[:16]
    if "skin_tone" not in fields:
        fields.pop("skin_tone_scale", None)  # it says nothing alone
    days: dict[str, date] = {}
    wrong = []
    for column in ("birth_date", *DATES):
        cell = given.get(column, "")
        day = dates.read(cell) if cell else None
        if cell and day is None:
            wrong.append(column)
        if day is not None:
            days[column] = day
    for column in DATES:
        if column in days:
            fields[column] = dates.coarse(given["patient_id"], days[column])
    if "birth_date" in days and "age" not in fields:
        fields["age"] = dates.age(days["birth_date"], days.get("taken"))
    return {column: value for column, value in fields.items() if value}, wrong


def _require_manifest(rows: Sequence[Row], taxonomy: Taxonomy) -> None:
    """Hold the rows against the rules of a manifest, so that checks and runs can read them."""
    plain: Sequence[Mapping[str, str]] = [
        {
            **{column: value for column, value in row.fields.items() if column in OPTIONAL},
            "diagnosis": row.fields["diagnosis"],
            "patient_id": row.patient,
            "image": str(row.number),
        }
        for row in rows
    ]
    _require_scales(plain, taxonomy)
    _require_known_words(plain, taxonomy)
    manifest_of(plain, root=Path(), name="list of pictures", taxonomy=taxonomy)


def _require_scales(rows: Sequence[Mapping[str, str]], taxonomy: Taxonomy) -> None:
    known = taxonomy.tone_words
    bare = sum(
        "skin_tone" in row and row.get("skin_tone_scale", "").casefold() not in known
        for row in rows
    )
    if bare:
        raise DataError(
            rule=f"a scale of each skin tone: {', '.join(sorted(known))}",
            got=f"{bare} rows with a tone of no known scale",
            do="Write under 'whole' in the file of --terms, say, skin_tone_scale: fitzpatrick.",
        )


def _require_known_words(rows: Sequence[Mapping[str, str]], taxonomy: Taxonomy) -> None:
    unknown: Counter[tuple[str, str]] = Counter()
    scales = [row.get("skin_tone_scale", "").casefold() for row in rows]
    readers: dict[str, Callable[[list[str]], Mapping[str, int]]] = {
        "diagnosis": lambda words: taxonomy.diagnoses(words, [""] * len(words)).unmapped,
        "anatomical_site": lambda words: taxonomy.sites(words, [""] * len(words)).unmapped,
        "skin_tone": lambda words: taxonomy.tones(words, scales).unmapped,
    }
    for column, reader in readers.items():
        for word, count in reader([row.get(column, "") for row in rows]).items():
            unknown[column, word] += count
    if not unknown:
        return
    often = [(key, count) for key, count in unknown.most_common() if count >= _SHOWN_FROM]
    lines = [f"{column}: '{word}' in {count} rows" for (column, word), count in often]
    rare = len(unknown) - len(often)
    if rare:
        lines.append(f"{rare} words that stand in one or two rows, which are not shown")
    raise DataError(
        rule="words that the taxonomy maps",
        got=f"{len(unknown)} unknown words; {lines[0]}",
        do="Correct them, or say in a YAML file what they mean and name it with --taxonomy.",
        details=lines[:_MOST_LINES],
    )


def tagged(
    told: Iterable[tuple[str, str]], terms: ImportTerms, dates: Dates, row: Row
) -> dict[str, str]:
    """Take what the terms ask of a DICOM header, as coarse as the list's own columns.

    Args:
        told: The header's tags that were asked for, with their values.
        terms: What the clinic declared.
        dates: How dates and ages are made coarse.
        row: The row of the picture.

    Returns:
        Values by column.
    """
    tags = dict(told)
    found = {column: tags[tag] for column, tag in terms.dicom.items() if tag in tags}
    fields: dict[str, str] = {}
    taken = dates.read(found["taken"]) if "taken" in found else None
    born = dates.read(found["birth_date"]) if "birth_date" in found else None
    if taken is not None:
        fields["taken"] = dates.coarse(row.patient, taken)
    if born is not None:
        fields["age"] = dates.age(born, taken)
    age = found.get("age", "")
    if age[:-1].isdigit() and age.endswith("Y"):
        fields["age"] = grouped_age(age[:-1])
    sex = found.get("sex", "").upper()
    if sex in ("M", "F", "O"):
        fields["sex"] = {"M": "male", "F": "female", "O": "other"}[sex]
    return {column: value for column, value in fields.items() if value}


def from_header(known: Picture, terms: ImportTerms) -> dict[str, str]:
    """Say what a picture's own header may have told, which a changed row does not take away.

    Args:
        known: The picture as it is on record.
        terms: What the clinic declared.

    Returns:
        Values by column.
    """
    told = {"age" if column == "birth_date" else str(column) for column in terms.dicom}
    return {column: value for column, value in known.fields.items() if column in told}
