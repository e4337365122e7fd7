"""Reading some columns of a CSV or Parquet file of any size, a batch of rows at a time."""

from __future__ import annotations

import csv
import difflib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from skinml.errors import DataError

_BLOCK_BYTES = 8 << 20
_BATCH_ROWS = 1 << 17
_MAX_HEADER = 1 << 20
_SEPARATORS = (",", ";", "\t")
_PARQUET = (".parquet", ".pq")
# What files write where there is nothing; compared without regard to case.
_NOTHING = ("", "na", "n/a", "nan", "null", "none", "<na>", "#n/a")
_SHOWN_NAMES = 12


def open_batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Read some columns of a table.

    Args:
        path: A CSV file with a line of names, or a Parquet file.
        columns: The columns wanted, each once.

    Yields:
        Batches of all columns as text, null where the file has nothing; a number of a Parquet
        file as text that reads as the same number.

    Raises:
        DataError: If the file is missing, is no table, or lacks a column.

    Guarantees:
        A few batches are in memory at once, never the whole file.
    """
    if not path.is_file():
        raise DataError(rule="a predictions file", got=f"no file {path.name}", do="Check the path.")
    try:
        known = _parquet_names(path) if _is_parquet(path) else _csv_names(path)
        _require_columns(known, columns)
        batches = _parquet(path, columns) if _is_parquet(path) else _csv(path, columns)
        for batch in batches:
            yield pa.record_batch([_text(column) for column in batch.columns], list(columns))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError) as error:
        # The library's own words may quote a cell, and with it a patient.
        raise DataError(
            rule="a CSV file in UTF-8 with as many cells in each row as in its first line, or a "
            "Parquet file",
            got=f"{path.name}, which cannot be read as one",
            do="Export the file anew.",
        ) from error


def digest_of(path: Path) -> str:
    """Compute a file's digest.

    Args:
        path: The file.

    Returns:
        "sha256:" and the digest in hexadecimal.
    """
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() in _PARQUET


def _parquet_names(path: Path) -> list[str]:
    return list(pq.read_schema(path).names)


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns)):
            yield batch.select(list(columns))


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        return file.readline(_MAX_HEADER).decode("utf-8-sig").rstrip("\r\n")


def _separator(line: str) -> str:
    return max(_SEPARATORS, key=line.count)


def _csv_names(path: Path) -> list[str]:
    line = _first_line(path)
    return next(csv.reader([line], delimiter=_separator(line)), [])


def _csv(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    read = pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES)
    parse = pyarrow.csv.ParseOptions(
        delimiter=_separator(_first_line(path)), newlines_in_values=True
    )
    convert = pyarrow.csv.ConvertOptions(
        include_columns=list(columns),
        column_types=dict.fromkeys(columns, pa.string()),
        strings_can_be_null=False,
    )
    yield from pyarrow.csv.open_csv(path, read, parse, convert)


def _require_columns(known: Sequence[str], wanted: Sequence[str]) -> None:
    twice = sorted({name for name in wanted if known.count(name) > 1})
    if twice:
        raise DataError(
            rule="column names that differ",
            got=f"two columns {twice[0]}",
            do="Rename one of them.",
        )
    for name in wanted:
        if name not in known:
            raise DataError(rule=f"a column {name}", got=_names(known), do=_advice(known, name))


def _names(known: Sequence[str]) -> str:
    if any(_is_number(name) for name in known):
        # Then it is a row of data, which may hold a patient's id.
        return "a first line with numbers in it, where the columns' names should stand"
    more = f" and {len(known) - _SHOWN_NAMES} more" if len(known) > _SHOWN_NAMES else ""
    return f"the columns {', '.join(known[:_SHOWN_NAMES])}{more}"


def _advice(known: Sequence[str], name: str) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    if near and not any(_is_number(each) for each in known):
        return f"Did you mean {near[0]}?"
    return "Give the name of one of the file's columns; names are case-sensitive."


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _text(column: pa.Array) -> pa.Array:
    """Turn a column to text, with null for nothing and 3 for 3.0."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if not (_is_text(kind) or _is_plain(kind)):
        raise DataError(
            rule="columns of words, numbers or truth values",
            got=f"a column of type {kind}",
            do="Flatten the column before you export it.",
        )
    words = pc.utf8_trim_whitespace(column if _is_text(kind) else _cast(column))
    nothing = pc.is_in(pc.utf8_lower(words), pa.array(_NOTHING, words.type))
    return pc.if_else(nothing, pa.scalar(None, words.type), words).cast(pa.large_string())


def _cast(column: pa.Array) -> pa.Array:
    whole: Any = column
    if pa.types.is_floating(column.type):
        whole = column.cast(pa.float64())
        whole = pc.if_else(pc.is_nan(whole), pa.scalar(None, pa.float64()), whole)
        # 3.0 is how a whole number looks in a column that has gaps.
        integral = pc.equal(pc.floor(whole), whole)
        small = pc.less(pc.abs(whole), 1e15)
        if pc.all(pc.fill_null(pc.and_(integral, small), True)).as_py():
            whole = whole.cast(pa.int64())
    return whole.cast(pa.string())


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_plain(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    )
