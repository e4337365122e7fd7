"""The encrypted store of what was computed from images: rows named by image and patient.

Layout: one plain line that names the format and the version of the rows, then blocks. A block is
a frame (the lengths of the two parts that follow, and a 16-byte keyed digest of them), a sealed
index and sealed rows. The index, under the clinic's key, has each row's name and the id of its
patient's key. A row is sealed by itself, under its patient's key, and all rows are of one length.

So opening reads the indexes and no row, however many there are; a row is read from its place in
the file when it is asked for; and a patient is erased from a file that is never rewritten. A name
is a digest of the image's digest under the patient's key: nobody can tell what one of an erased
patient's named.

Rows are read by position, not through a memory map: a map would not save the copy that decrypting
makes, and a file that somebody cuts short would end the process where now there is an error.
"""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from skinml.data.row_index import NAME_BYTES, RowIndex
from skinml.durable import open_private, take_lock
from skinml.errors import DataError, EnvironmentProblem, IntegrityError, require_same_length
from skinml.stewardship.encryption import (
    SEAL_OVERHEAD_BYTES,
    derive_key,
    keyed_digest,
    keyed_digests,
    seal,
    unseal,
)
from skinml.stewardship.patient_keys import PatientKey, PatientKeys

DIGEST_BYTES = 32
_FAMILY = b"skinml-store-"
_MAGIC = _FAMILY + b"3 "
_LENGTH_BYTES = 8
_FRAME_BYTES = 2 * _LENGTH_BYTES + 16


@dataclass(frozen=True)
class _Kind:
    """What a row is."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, rows: NDArray[Any]) -> _Kind:
        return cls(rows.dtype.newbyteorder("<"), rows.shape[1:])

    @property
    def sealed_bytes(self) -> int:
        return SEAL_OVERHEAD_BYTES + self.dtype.itemsize * prod(self.shape)

    def to_line(self) -> bytes:
        return json.dumps([self.dtype.str, self.shape]).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> _Kind:
        dtype, shape = json.loads(line)
        return cls(np.dtype(dtype), tuple(shape))


class FeatureStore:
    """An append-only encrypted file of rows, each under its image's digest and its patient.

    Rows are features (d,) or prepared images (height, width, 3); all of one type and shape. An
    image that two patients share has a row for each. Two processes may append to one store: each
    takes in what the other wrote.

    Args:
        path: The file; made at the first `append`.
        key: The clinic's key.
        keys: The keys of the clinic's patients.
        version: What the rows were made by, such as `Backbone.version`. Not secret.

    Raises:
        DataError: If the file holds rows of another version.
        EnvironmentProblem: If the file cannot be read.
        IntegrityError: If the file or the vault was changed, or the file has another key.

    Guarantees:
        A row is on the disk when `append` returns. A block that a crash cut short is dropped and
        written over. A changed byte is noticed on opening or before the row that it is in is used.
        Blocks cut off at the end are not noticed: they count as not computed yet. The rows of a
        patient whose key is erased can be read by nobody and are not in the store any more.
        Opening takes some 60 bytes of memory a row, whatever the rows' length.
    """

    def __init__(self, path: Path, key: bytes, keys: PatientKeys, version: str) -> None:
        self.path = path
        self.version = version
        self._key = derive_key(key, "row store")
        self._keys = keys
        self._header = _MAGIC + json.dumps(version).encode() + b"\n"
        self._owners: dict[str, PatientKey] = {}
        self._index = RowIndex()
        self._kind: _Kind | None = None
        self._num_sealed = 0  # blocks of the file that were taken in
        self._end = 0
        self._descriptor = -1  # the file that was taken in, to read rows from
        if path.exists():
            try:
                with path.open("rb") as file:
                    self._read_on(file)
            except OSError as error:
                raise _refused(path, error) from error

    def __len__(self) -> int:
        owners = self._index.owners()
        return self._index.count(self._keys.find(owners)) if owners else 0

    def find_missing(self, digests: Sequence[bytes], patients: Sequence[str]) -> list[int]:
        """Find which rows are not there, never computed or erased since.

        Args:
            digests: n digests of images.
            patients: The patient of each.

        Returns:
            Positions from 0 to n - 1 of those without a row, in order.

        Raises:
            DataError: If there are not as many patients as digests.
            IntegrityError: If the vault was changed.
        """
        require_same_length(digests=digests, patients=patients)
        offsets, _, _ = self._look_up(digests, patients)
        missing: list[int] = np.flatnonzero(offsets < 0).tolist()
        return missing

    def take(self, digests: Sequence[bytes], patients: Sequence[str]) -> NDArray[Any]:
        """Look rows up.

        Args:
            digests: n digests of images; one may come twice.
            patients: The patient of each; each pair is in the store.

        Returns:
            (n, ...) a copy of the rows in the order asked for.

        Raises:
            DataError: If a row is not in the store, no row is asked for, or there are not as
                many patients as digests.
            EnvironmentProblem: If the file cannot be read.
            IntegrityError: If a row or the vault was changed.
        """
        require_same_length(digests=digests, patients=patients)
        offsets, names, owners = self._look_up(digests, patients)
        num_missing = int((offsets < 0).sum())
        if num_missing or not digests or self._kind is None:
            raise DataError(
                rule="images of patients with a row in the store",
                got=f"num_missing={num_missing} of {len(digests)}",
                do="Compute and append the missing rows first; erased patients have none.",
            )
        rows = np.empty((len(digests), *self._kind.shape), self._kind.dtype)
        try:
            for place in np.argsort(offsets, kind="stable"):  # as they lie on the disk
                owner, name = owners[patients[place]], names[place].tobytes()
                rows[place] = self._row(self._kind, int(offsets[place]), owner, name)
        except OSError as error:
            raise _refused(self.path, error) from error
        return rows

    def admit(self, patients: Iterable[str]) -> None:
        """Find patients' keys at once; `append` does it too, but slower one by one.

        Args:
            patients: Whose rows will be appended. Whoever has no key gets none by this: the gate
                of a run gives keys, and nobody who was erased since comes back.

        Raises:
            EnvironmentProblem: If the vault cannot be read.
            IntegrityError: If the vault was changed.
        """
        self._owners |= self._living(patients)

    def append(self, digests: Sequence[bytes], patients: Sequence[str], rows: NDArray[Any]) -> None:
        """Write rows to the end of the file as one block.

        Args:
            digests: n digests of 32 bytes each. Where a pair of digest and patient is in the
                store already, the store keeps the row that it has.
            patients: The patient of each.
            rows: (n, ...), of the type and shape of the rows that are there.

        Raises:
            DataError: If lengths, types or shapes do not fit.
            EnvironmentProblem: If the file or the vault cannot be written.
            IntegrityError: If the vault was changed, or another process changed the file in
                another way than by appending.

        Guarantees:
            On return the block is on the disk. Whatever interrupts it, the earlier blocks stay.
            Rows of a patient who has no key, or was erased since `admit`, are not written.
        """
        self._check_rows(digests, patients, rows)
        chosen = self._of_the_living(patients)
        if not chosen:
            return
        digests = [digests[at] for at in chosen]
        patients = [patients[at] for at in chosen]
        rows = rows[chosen]
        try:
            with os.fdopen(open_private(self.path, os.O_RDWR | os.O_CREAT), "r+b") as file:
                take_lock(file.fileno(), "feature store")
                self._read_on(file)
                self._check_rows(digests, patients, rows)
                self._write_block(file, digests, patients, rows)
        except OSError as error:
            raise _refused(self.path, error) from error

    def _of_the_living(self, patients: Sequence[str]) -> list[int]:
        """Find the positions of patients whose key is there."""
        self.admit(set(patients) - self._owners.keys())
        owners = [self._owners.get(each) for each in patients]
        living = self._keys.find({each.id for each in owners if each is not None})
        return [at for at, each in enumerate(owners) if each is not None and each.id in living]

    def _living(self, patients: Iterable[str]) -> dict[str, PatientKey]:
        """Look the keys of patients up; who was erased has none."""
        wanted = sorted(set(patients))
        if not wanted:
            return {}
        names = dict(zip(wanted, self._keys.pseudonyms(wanted), strict=True))
        there = self._keys.find_pseudonyms(names.values())
        return {each: there[name] for each, name in names.items() if name in there}

    def _look_up(
        self, digests: Sequence[bytes], patients: Sequence[str]
    ) -> tuple[NDArray[np.int64], NDArray[np.uint8], dict[str, PatientKey]]:
        """Find where rows begin, -1 where there is none; their names; the keys of the patients."""
        owners = self._living(patients)
        places = [at for at, patient in enumerate(patients) if patient in owners]
        offsets = np.full(len(digests), -1, np.int64)
        names = np.zeros((len(digests), NAME_BYTES), np.uint8)
        names[places] = _names(
            [digests[at] for at in places], [owners[patients[at]] for at in places]
        )
        offsets[places] = self._index.find(names[places])
        return offsets, names, owners

    def _row(self, kind: _Kind, offset: int, owner: PatientKey, name: bytes) -> NDArray[Any]:
        """Read and unseal one row."""
        sealed = os.pread(self._descriptor, kind.sealed_bytes, offset)
        try:
            plain = unseal(owner.key, sealed, context=self._row_context(name))
        except IntegrityError:
            raise self._changed("a changed byte in a row") from None
        return np.frombuffer(plain, kind.dtype).reshape(kind.shape)

    def _write_block(
        self, file: BinaryIO, digests: Sequence[bytes], patients: Sequence[str], rows: NDArray[Any]
    ) -> None:
        """Write the header where there is none, then one block, over whatever a crash left."""
        kind, owners = _Kind.of(rows), [self._owners[each] for each in patients]
        names = _names(digests, owners)
        ids = np.frombuffer(b"".join(each.id for each in owners), np.uint8).reshape(names.shape)
        content = kind.to_line() + names.tobytes() + ids.tobytes()
        index = seal(self._key, content, context=self._context(self._num_sealed))
        ready = rows.astype(kind.dtype, copy=False)
        sealed = b"".join(
            seal(owner.key, row.tobytes(), context=self._row_context(name.tobytes()))
            for owner, name, row in zip(owners, names, ready, strict=True)
        )
        frame = self._frame(self._num_sealed, len(index), len(sealed))
        file.truncate(self._end)
        file.seek(self._end)
        if self._end == 0:
            file.write(self._header)
        file.write(frame + index)
        begin = file.tell()
        file.write(sealed)
        file.flush()
        os.fsync(file.fileno())
        self._end = file.tell()
        self._num_sealed += 1
        self._kind = kind
        self._index.add(names, ids, begin + kind.sealed_bytes * np.arange(len(names)))

    def _read_on(self, file: BinaryIO) -> None:
        """Take in the indexes of blocks from where reading last ended."""
        descriptor = self._hold(file.fileno())
        size = os.fstat(descriptor).st_size
        if size < self._end:
            raise self._changed("shorter than it was")
        if self._end == 0:
            header = os.pread(descriptor, len(self._header), 0)
            if header != self._header:
                if size < len(self._header) and self._header.startswith(header):
                    return  # a crash cut the very first write short
                raise self._other_header(header)
            self._end = len(self._header)
        found: list[tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]] = []
        while self._end + _FRAME_BYTES <= size:
            frame = os.pread(descriptor, _FRAME_BYTES, self._end)
            index_bytes = int.from_bytes(frame[:_LENGTH_BYTES], "little")
            row_bytes = int.from_bytes(frame[_LENGTH_BYTES : 2 * _LENGTH_BYTES], "little")
            if frame != self._frame(self._num_sealed, index_bytes, row_bytes):
                raise self._changed("a changed byte or another key")
            begin = self._end + _FRAME_BYTES + index_bytes
            if begin + row_bytes > size:
                break  # a crash cut the last block short
            index = os.pread(descriptor, index_bytes, self._end + _FRAME_BYTES)
            found.append(self._unsealed(index, begin))
            self._end = begin + row_bytes
            self._num_sealed += 1
        if found:
            names, ids, offsets = zip(*found, strict=True)
            self._index.add(np.concatenate(names), np.concatenate(ids), np.concatenate(offsets))

    def _hold(self, descriptor: int) -> int:
        """Keep the file open to read rows from, whatever becomes of its name; it stays the same."""
        if self._descriptor < 0:  # opened anew: a copy would keep the lock that a writer takes
            self._descriptor = os.open(self.path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)
        if not os.path.sameopenfile(self._descriptor, descriptor):
            raise self._changed("another file in its place")
        return self._descriptor

    def _unsealed(
        self, sealed: bytes, begin: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
        """Open the next block's index: names, ids of keys, and where the rows begin."""
        try:
            content = unseal(self._key, sealed, context=self._context(self._num_sealed))
        except IntegrityError:
            raise self._changed("a changed byte or another key") from None
        line, _, _ = content.partition(b"\n")
        if self._kind is None:
            self._kind = _Kind.from_line(line)
        both = np.frombuffer(content, np.uint8, offset=len(line) + 1)
        names, ids = both.reshape(2, -1, NAME_BYTES)
        return names, ids, begin + self._kind.sealed_bytes * np.arange(len(names))

    def _context(self, number: int) -> bytes:
        """Bind an index to the version and to its place."""
        return self._header + f"block {number}".encode()

    def _row_context(self, name: bytes) -> bytes:
        """Bind a row to the version and to its name."""
        return self._header + b"row " + name

    def _frame(self, number: int, index_bytes: int, row_bytes: int) -> bytes:
        """Make what stands before a block; its digest tells a changed length from a cut file."""
        lengths = b"".join(
            each.to_bytes(_LENGTH_BYTES, "little") for each in (index_bytes, row_bytes)
        )
        tag = bytes.fromhex(keyed_digest(self._key, self._context(number) + b" frame " + lengths))
        return (lengths + tag)[:_FRAME_BYTES]

    def _check_rows(
        self, digests: Sequence[bytes], patients: Sequence[str], rows: NDArray[Any]
    ) -> None:
        """Refuse rows that do not fit the store."""
        require_same_length(digests=digests, patients=patients, rows=rows)
        own = _Kind.of(rows)
        kind = self._kind or own
        if (
            own != kind
            or rows.dtype.hasobject
            or not digests
            or any(len(digest) != DIGEST_BYTES for digest in digests)
        ):
            raise DataError(
                rule=f"rows of type {kind.dtype} and shape {kind.shape} under digests of "
                f"{DIGEST_BYTES} bytes",
                got=f"num_rows={len(rows)}, type={rows.dtype}, shape={rows.shape[1:]}",
                do="Use one store for each kind of rows.",
            )

    def _other_header(self, header: bytes) -> DataError | IntegrityError:
        """Tell a store of another version from a file that is none."""
        if not header.startswith(_FAMILY):
            return self._changed("another beginning")
        return DataError(
            rule=f"a store of version {self.version} in today's format",
            got=f"another version or format in {self.path}",
            do="Use one file for each version, as `store_path` names them, and delete old ones.",
        )

    def _changed(self, got: str) -> IntegrityError:
        """Build the error for a store that somebody or something changed."""
        return IntegrityError(
            rule="a store as skinml wrote it, opened with its own key",
            got=f"{got} in {self.path}",
            do="Check which key belongs to it. It can be deleted: its rows are computed again.",
        )


def _names(digests: Sequence[bytes], owners: Sequence[PatientKey]) -> NDArray[np.uint8]:
    """Name rows, (n, 16): by the image, under the key of its patient."""
    places: dict[bytes, list[int]] = {}
    for place, owner in enumerate(owners):
        places.setdefault(owner.key, []).append(place)
    names = np.empty((len(digests), NAME_BYTES), np.uint8)
    for key, mine in places.items():
        found = keyed_digests(key, [b"store row " + digests[at] for at in mine])
        for at, name in zip(mine, found, strict=True):
            names[at] = np.frombuffer(bytes.fromhex(name)[:NAME_BYTES], np.uint8)
    return names


def store_path(folder: Path, version: str) -> Path:
    """Name the file of a store so that each version has its own.

    Args:
        folder: Where a clinic keeps its stores.
        version: The version of the rows.

    Returns:
        A path in the folder.

    >>> store_path(Path("cache"), "small images/64px").name
    'small-images-64px.store'
    """
    words = "".join(sign if sign.isalnum() or sign in "._-" else "-" for sign in version)
    return folder / f"{words}.store"


def _refused(path: Path, error: OSError) -> EnvironmentProblem:
    """Build the error of a file operation that the system refused."""
    return EnvironmentProblem(
        rule="a cache that can be read and written",
        got=f"path={path} ({error.strerror})",
        do="Check its permissions and the space on the disk.",
    )
