"""What the readers share: opening a published metadata file and shaping a manifest's columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from skinml.data.manifest_rules import OPTIONAL, REQUIRED
from skinml.errors import DataError


def read_table(source: Path, name: str, columns: Iterable[str]) -> pd.DataFrame:
    """Read one metadata file of a published dataset as text.

    Args:
        source: The dataset's folder.
        name: The file's name as published.
        columns: The columns that the reader needs.

    Returns:
        The file's cells as stripped text, empty where there is none.

    Raises:
        DataError: If the file is missing, unreadable, empty, or lacks a column.
    """
    path = source / name
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(
            rule=f"the metadata file {name} as published",
            got=f"{type(error).__name__} in the folder {source.name}",
            do="Give the folder that the dataset was unpacked into.",
        ) from None
    missing = [column for column in columns if column not in table.columns]
    if missing or table.empty:
        raise DataError(
            rule=f"{name} with rows and the columns {', '.join(columns)}",
            got=f"no column {', '.join(missing)}" if missing else "no row",
            do="Download the file again: this is not the published layout.",
        )
    return table.fillna("").map(str.strip)


def manifest_columns(count: int, columns: Mapping[str, Iterable[str] | str]) -> pd.DataFrame:
    """Shape a manifest: the given columns, the others empty, in the canonical order.

    Args:
        count: Rows.
        columns: For each column its cells, or one word for all rows.

    Returns:
        (count) rows of text in the columns that a manifest may have.
    """
    filled = {
        name: [cells] * count if isinstance(cells, str) else list(cells)
        for name, cells in columns.items()
    }
    return pd.DataFrame({name: filled.get(name, [""] * count) for name in REQUIRED + OPTIONAL})


def whole_years(ages: Iterable[str]) -> list[str]:
    """Write ages without the ".0" that some files have.

    Args:
        ages: Years as text; empty where unknown.

    Returns:
        The same as whole years.

    Example:
        >>> whole_years(["80.0", "", "7"])
        ['80', '', '7']
    """
    return [age.removesuffix(".0") for age in ages]


def one_hot(table: pd.DataFrame, classes: Iterable[str]) -> list[str]:
    """Name the class of each row of a ground-truth table.

    Args:
        table: One column a class with 1 (or 1.0) where it holds.
        classes: The columns to read.

    Returns:
        The classes' names.

    Raises:
        DataError: If a row has no class or several.
    """
    marks = table[list(classes)].isin(["1", "1.0"])
    broken = int((marks.sum(axis=1) != 1).sum())
    if broken:
        raise DataError(
            rule="exactly one class in each row of the ground truth",
            got=f"{broken} rows with none or several",
            do="Download the file again: this is not the published layout.",
        )
    return marks.idxmax(axis=1).astype(str).tolist()
