"""The rules that a manifest keeps, checked together so that a clinic corrects it in one go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaErrors

from skinml.data.manifest_paths import path_problems
from skinml.errors import DataError

REQUIRED = ("image", "patient_id", "diagnosis")
OPTIONAL = (
    "lesion_id",
    "clinic",
    "malignant",
    "age",
    "sex",
    "anatomical_site",
    "skin_tone",
    "skin_tone_scale",
    "modality",
    "series",
    "confirmation",
    "treatment",
    "outcome",
    "dataset",
    "licence",
    "kept_until",
    "published_split",
)
FIRST_ROW = 2
"""Number of the first image's row as a spreadsheet shows it: the header is row 1."""

SEXES = {"male": "male", "m": "male", "female": "female", "f": "female", "other": "other"}
FLAGS = {
    "1": True,
    "1.0": True,
    "true": True,
    "malignant": True,
    "0": False,
    "0.0": False,
    "false": False,
    "benign": False,
}
SERIES = {"before": "before", "after": "after"}
"""Places in a pair of photographs of a treatment's course."""

PUBLISHED_PARTS = {"train": "train", "test": "test"}
"""Parts that a publisher divided a dataset into."""

_MOST_LINES = 20
_MOST_YEARS = 120


def check_manifest(name: str, text: pd.DataFrame, root: Path | None) -> None:
    """Check every rule of a whole manifest.

    Args:
        name: The manifest's file name, for the message.
        text: The manifest's known columns as stripped text, empty where a value is missing; the
            index counts the rows from 0.
        root: The folder that the column `image` is relative to; None where it holds no paths.

    Raises:
        DataError: If a rule is broken. All problems are collected into one error, with a line a
            problem in its details, 20 lines at most.
    """
    missing = [column for column in REQUIRED if column not in text.columns]
    problems = [(1, f"column {column} is missing") for column in missing]
    if text.empty and not missing:
        problems.append((FIRST_ROW, "there is no image: the manifest is empty"))
    if not text.empty:
        problems += _schema_problems(text)
        if "image" in text and root is not None:
            found = path_problems(text["image"].tolist(), root)
            problems += [(position + FIRST_ROW, problem) for position, problem in found]
        if {"lesion_id", "patient_id"} <= set(text.columns):
            problems += _lesion_problems(text)
    if problems:
        raise _collected(name, problems)


def _collected(name: str, problems: list[tuple[int, str]]) -> DataError:
    lines = [f"row {row}: {problem}" for row, problem in sorted(problems)]
    details = lines[:_MOST_LINES]
    if len(lines) > _MOST_LINES:
        details.append(f"and {len(lines) - _MOST_LINES} more")
    count = "1 problem in" if len(lines) == 1 else f"{len(lines)} problems, the first in"
    return DataError(
        rule="a manifest that keeps all rules",
        got=f"{count} {lines[0]}",
        do=f"Correct {name}.",
        details=details,
    )


def _schema_problems(text: pd.DataFrame) -> list[tuple[int, str]]:
    present = [column for column in text.columns if column in _RULES]
    try:
        pa.DataFrameSchema({column: _RULES[column] for column in present}).validate(text, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases[["index", "column", "check"]].drop_duplicates()
        return [
            (int(index) + FIRST_ROW, _wording(str(column), str(check)))
            for index, column, check in cases.itertuples(index=False)
        ]
    return []


def _wording(column: str, check: str) -> str:
    return f"{column} stands in two rows" if "unique" in check else f"{column} must {check}"


def _is_years(cells: pd.Series[str]) -> pd.Series[bool]:
    return (cells == "") | pd.to_numeric(cells, errors="coerce").between(0, _MOST_YEARS)


def _is_day(cells: pd.Series[str]) -> pd.Series[bool]:
    days = pd.to_datetime(cells, format="%Y-%m-%d", errors="coerce")
    return (cells == "") | days.notna()


def _is_word(words: Mapping[str, object]) -> pa.Check:
    rule = f"be one of {', '.join(sorted(words))}, or empty"
    return pa.Check(lambda cells: (cells == "") | cells.str.casefold().isin(words), error=rule)


_FILLED = pa.Check(lambda cells: cells != "", error="not be empty")
_RULES = {
    "image": pa.Column(str, _FILLED, unique=True),
    "patient_id": pa.Column(str, _FILLED),
    "diagnosis": pa.Column(str, _FILLED),
    "age": pa.Column(
        str, pa.Check(_is_years, error=f"be a number of years from 0 to {_MOST_YEARS}, or empty")
    ),
    "sex": pa.Column(str, _is_word(SEXES)),
    "malignant": pa.Column(str, _is_word(FLAGS)),
    "series": pa.Column(str, _is_word(SERIES)),
    "published_split": pa.Column(str, _is_word(PUBLISHED_PARTS)),
    "kept_until": pa.Column(str, pa.Check(_is_day, error="be a day such as 2026-03-01, or empty")),
}


def _lesion_problems(text: pd.DataFrame) -> list[tuple[int, str]]:
    known = text[(text["lesion_id"] != "") & (text["patient_id"] != "")]
    first = known.groupby("lesion_id")["patient_id"].transform("first")
    rows = known.index[known["patient_id"] != first]
    return [(int(row) + FIRST_ROW, "lesion_id belongs to another patient above") for row in rows]
