"""Rows of many patients in one piece of bytes, each patient's rows sealed under that patient's key.

Layout: one JSON line of the arrays' names, types and shapes and of each part's key id, number of
rows and length; then the parts. Inside a part: the length of the patient's id, the id, and for
each row its place among all rows and its values. Who cannot find a part's key, because it was
erased, reads the others. The line is not sealed here: whoever keeps the bytes seals them whole.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skinml.errors import DataError, IntegrityError, require_same_length
from skinml.stewardship.encryption import SEAL_OVERHEAD_BYTES, seal, unseal
from skinml.stewardship.patient_keys import PatientKey

_PLACE = np.dtype("<i8")
_ID_LENGTH_BYTES = 4
_CHUNK_BYTES = 16 * 2**20  # rows laid out at once: bounds the memory on top of the arrays


@dataclass(frozen=True, repr=False)
class PatientRows:
    """The rows that could be opened, in the order in which they were packed.

    Attributes:
        patients: The patient of each row; per patient: never log.
        key_ids: The id of the key that each row was sealed under.
        arrays: (n, ...) each, by name; they can be written to.
    """

    patients: list[str]
    key_ids: list[bytes]
    arrays: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class _Column:
    """One array's place in the bytes of a row."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int

    @property
    def end(self) -> int:
        return self.begin + self.dtype.itemsize * prod(self.shape)


@dataclass(frozen=True)
class _Part:
    """One patient's part of the bytes."""

    key_id: bytes
    num_rows: int
    begin: int
    end: int


class PackedRows:
    """What `pack_rows` made, not opened yet.

    Args:
        content: The bytes; authentic, for whoever kept them has checked it.
        context: The context that they were packed with.
    """

    def __init__(self, content: bytes | memoryview, context: bytes) -> None:
        self._content = memoryview(content)
        self._context = context
        end = _line_end(self._content)
        columns, parts = json.loads(bytes(self._content[:end]))
        self._columns = _columns([(name, np.dtype(kind), shape) for name, kind, shape in columns])
        self._parts = []
        for key_id, num_rows, length in parts:
            self._parts.append(_Part(bytes.fromhex(key_id), num_rows, end, end + length))
            end += length

    @property
    def key_ids(self) -> set[bytes]:
        """The ids of the keys that the parts are sealed under."""
        return {part.key_id for part in self._parts}

    def open(self, keys: Mapping[bytes, bytes]) -> PatientRows:
        """Open the parts of the patients who have a key.

        Args:
            keys: Patients' keys by id; parts of other ids are left out.

        Returns:
            The rows of those parts.

        Raises:
            IntegrityError: If a part was not sealed under the key of its id, or in this context.
        """
        parts = [part for part in self._parts if part.key_id in keys]
        rows = np.empty((sum(part.num_rows for part in parts), _width(self._columns)), np.uint8)
        patients: list[str] = []
        key_ids: list[bytes] = []
        for part in parts:
            sealed = bytes(self._content[part.begin : part.end])
            key = keys[part.key_id]
            plain = unseal(key, sealed, context=_part_context(self._context, part.key_id))
            begin = _ID_LENGTH_BYTES + int.from_bytes(plain[:_ID_LENGTH_BYTES], "little")
            row = len(patients)
            rows[row : row + part.num_rows].reshape(-1)[:] = np.frombuffer(plain[begin:], np.uint8)
            patients += [plain[_ID_LENGTH_BYTES:begin].decode()] * part.num_rows
            key_ids += [part.key_id] * part.num_rows
        places = rows[:, : _PLACE.itemsize].copy().view(_PLACE)[:, 0]
        order = np.argsort(places, kind="stable")
        arrays = {each.name: _values(rows, order, each) for each in self._columns}
        return PatientRows([patients[at] for at in order], [key_ids[at] for at in order], arrays)


def pack_rows(
    arrays: Mapping[str, NDArray[Any]],
    patients: Sequence[str],
    owners: Mapping[str, PatientKey],
    context: bytes,
) -> memoryview:
    """Lay out rows so that each patient's are sealed under that patient's key.

    Args:
        arrays: (n, ...) each: numbers, truth values or fixed-width text; never objects.
        patients: The patient of each row, n ids.
        owners: Their keys.
        context: What the rows are; opening needs the same.

    Returns:
        The bytes for `PackedRows`. Types, shapes and how many rows each key has are in clear.

    Raises:
        DataError: If an array holds objects, or does not have n rows.

    Guarantees:
        A patient's id and values are in the patient's own part only.
    """
    require_rows(arrays, patients)
    kinds = [(name, _little(values.dtype), values.shape[1:]) for name, values in arrays.items()]
    columns = _columns(kinds)
    width = _width(columns)
    names, inverse = np.unique(np.array(patients, dtype=str), return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    counts = np.bincount(inverse, minlength=len(names))
    people = [_Person(name, owners[name]) for name in names.tolist()]
    table = [
        [person.owner.id.hex(), int(count), person.sealed_length(int(count) * width)]
        for person, count in zip(people, counts, strict=True)
    ]
    header = [[name, dtype.str, list(shape)] for name, dtype, shape in kinds], table
    packed = io.BytesIO()
    packed.write(json.dumps(header).encode() + b"\n")
    for part, rows in _chunks(people, counts, order, arrays, columns):
        plain = part.id_bytes + rows.tobytes()
        owner = part.owner
        packed.write(seal(owner.key, plain, context=_part_context(context, owner.id)))
    return packed.getbuffer()


def require_plain(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Refuse arrays whose values are not plain bytes.

    Args:
        arrays: The arrays by name.

    Raises:
        DataError: If one holds objects or records, or is a single value.
    """
    refused = sorted(
        name
        for name, value in arrays.items()
        if value.dtype.hasobject or value.dtype.kind == "V" or value.ndim == 0
    )
    if refused:
        raise DataError(
            rule="arrays of numbers or fixed-width text",
            got=f"objects, records or a single value in array={refused[0]}",
            do="Convert the array, text with `.astype(str)`.",
        )


def require_rows(arrays: Mapping[str, NDArray[Any]], patients: Sized) -> None:
    """Refuse arrays that are not plain, or do not have a row for each patient given.

    Args:
        arrays: The arrays by name.
        patients: The patient of each row.

    Raises:
        DataError: If one holds objects or records, or has another number of rows.
    """
    require_plain(arrays)
    sized: dict[str, Sized] = {"rows of patients": patients, **arrays}
    require_same_length(**sized)


@dataclass(frozen=True, repr=False)
class _Person:
    """A patient and the patient's key."""

    patient: str
    owner: PatientKey

    @property
    def id_bytes(self) -> bytes:
        patient = self.patient.encode()
        return len(patient).to_bytes(_ID_LENGTH_BYTES, "little") + patient

    def sealed_length(self, num_bytes: int) -> int:
        return SEAL_OVERHEAD_BYTES + len(self.id_bytes) + num_bytes


def _chunks(
    people: Sequence[_Person],
    counts: NDArray[np.int64],
    order: NDArray[np.intp],
    arrays: Mapping[str, NDArray[Any]],
    columns: Sequence[_Column],
) -> Iterator[tuple[_Person, NDArray[np.uint8]]]:
    """Lay out the rows of the people in turn, so many at once that the memory stays bounded."""
    ends = np.cumsum(counts)
    most = max(1, _CHUNK_BYTES // _width(columns))
    first = 0
    while first < len(people):
        begin = int(ends[first] - counts[first])
        last = max(first + 1, int(np.searchsorted(ends, begin + most, side="right")))
        rows = _laid_out(order[begin : ends[last - 1]], arrays, columns)
        for number in range(first, last):
            end = int(ends[number]) - begin
            yield people[number], rows[end - int(counts[number]) : end]
        first = last


def _laid_out(
    places: NDArray[np.intp], arrays: Mapping[str, NDArray[Any]], columns: Sequence[_Column]
) -> NDArray[np.uint8]:
    """Put the values of some rows side by side as bytes, behind each row's place."""
    rows = np.empty((len(places), _width(columns)), np.uint8)
    rows[:, : _PLACE.itemsize] = _as_bytes(places.astype(_PLACE))
    for each in columns:
        chosen = arrays[each.name][places].astype(each.dtype, copy=False)
        rows[:, each.begin : each.end] = _as_bytes(chosen)
    return rows


def _as_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Look at n rows of values as (n, bytes of a row)."""
    flat = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    return flat.reshape(len(values), -1) if len(flat) else np.empty((len(values), 0), np.uint8)


def _values(rows: NDArray[np.uint8], order: NDArray[np.intp], column: _Column) -> NDArray[Any]:
    """Read one array back, in the order in which it was packed."""
    shape = (len(rows), *column.shape)
    if column.begin == column.end or not len(rows):
        return np.zeros(shape, column.dtype)
    content = rows[order, column.begin : column.end]
    return (
        np.ascontiguousarray(content).view(np.uint8).reshape(-1).view(column.dtype).reshape(shape)
    )


def _columns(kinds: Collection[tuple[str, np.dtype[Any], Sequence[int]]]) -> list[_Column]:
    """Give each array its place in the bytes of a row."""
    columns: list[_Column] = []
    begin = _PLACE.itemsize
    for name, dtype, shape in kinds:
        columns.append(_Column(name, dtype, tuple(shape), begin))
        begin = columns[-1].end
    return columns


def _width(columns: Sequence[_Column]) -> int:
    """Count the bytes of a row."""
    return columns[-1].end if columns else _PLACE.itemsize


def _little(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Name a type so that every machine reads the same."""
    return dtype.newbyteorder("<")


def _line_end(content: memoryview) -> int:
    """Find where the first line ends."""
    step = 2**16
    for begin in range(0, len(content), step):
        place = bytes(content[begin : begin + step]).find(b"\n")
        if place >= 0:
            return begin + place + 1
    raise IntegrityError(
        rule="rows as skinml packed them",
        got="no first line",
        do="Restore the file from a backup, or make it again.",
    )


def _part_context(context: bytes, key_id: bytes) -> bytes:
    """Bind a part to the purpose of the rows and to its key's id."""
    return b"skinml-patient-rows-1 " + key_id + b" " + context
