"""The encrypted store of what was computed from images: rows named by image and patient.

Layout: one plain line that names the format and the version of the rows, then blocks. A block is
a frame (the lengths of the two parts that follow, and a 16-byte keyed digest of them), a sealed
index and sealed rows. The index, under the clinic's key, has each row's name and the id of its
patient's key. A row is sealed by itself, under its patient's key, and all rows are of one length.

So opening reads the indexes and no row, however many there are; a row is read from its place in
the file when it is asked for; and a patient is erased from a file that is never rewritten. A name
is a digest of the image's digest under the patient's key: nobody can tell what one of an erased
patient's named.

Rows are read through a memory map that asks for pages before it touches them, see `MappedFile`: a
file that is cut short, or a network drive that fails, is an error and not the process's end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from skinml.data.mapped_file import MappedFile
from skinml.data.row_index import NAME_BYTES, RowIndex
from skinml.data.store_blocks import (
    FAMILY,
    FRAME_BYTES,
    LENGTH_BYTES,
    MAGIC,
    Blocks,
    Kind,
    row_names,
)
from skinml.durable import open_private, overwritten, sync, sync_folder, take_lock
from skinml.errors import DataError, EnvironmentProblem, IntegrityError, require_same_length
from skinml.stewardship.encryption import derive_key, seal, unseal
from skinml.stewardship.patient_keys import PatientKey, PatientKeys

DIGEST_BYTES = 32
_LONGEST_HEADER = 4096
_ROWS_A_BLOCK = 1024  # of a store that is written anew


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
        self._blocks = Blocks(derive_key(key, "row store"), version)
        self._keys = keys
        self._owners: dict[str, PatientKey] = {}
        self._open()

    def _open(self) -> None:
        """Take in the file from its beginning."""
        self._index = RowIndex()
        self._kind: Kind | None = None
        self._num_sealed = 0  # blocks of the file that were taken in
        self._end = 0
        self._file: MappedFile | None = None  # that was taken in, to read rows from
        if self.path.exists():
            try:
                with self.path.open("rb") as file:
                    self._read_on(file)
            except OSError as error:
                raise _refused(self.path, error) from error

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
        finally:
            self._mapped().forget()
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
                self._take(file)
                self._check_rows(digests, patients, rows)
                self._write_block(file, digests, patients, rows)
        except OSError as error:
            raise _refused(self.path, error) from error

    def retain(self, digests: Sequence[bytes], patients: Sequence[str]) -> int:
        """Drop all rows but some; those stay as they are sealed, and nothing is computed again.

        Args:
            digests: n digests of images whose rows stay; those without a row are passed over.
            patients: The patient of each.

        Returns:
            How many rows are left.

        Raises:
            DataError: If there are not as many patients as digests.
            EnvironmentProblem: If the file cannot be written: the old one stays.
            IntegrityError: If the vault or the file was changed.

        Guarantees:
            Killed at any moment, there is the old file or the new one, whole. The new one has no
            byte of a row that was dropped, and the old one is overwritten, see
            `skinml.durable.overwritten`. Whoever has the old one open is told that it has gone.
        """
        require_same_length(digests=digests, patients=patients)
        try:
            with self.path.open("r+b") as file:
                self._take(file)
                offsets, names, _ = self._look_up(digests, patients)
                there, first = np.unique(offsets, return_index=True)
                chosen = first[there >= 0]
                with overwritten(self.path):
                    self._write_anew(names[chosen], offsets[chosen])
        except OSError as error:
            raise _refused(self.path, error) from error
        self._open()
        return len(chosen)

    def _write_anew(self, names: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        """Put a file with these rows alone in the place of the store's."""
        ids = self._index.find_owners(names)
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.unlink(missing_ok=True)  # left by a crash, or laid there
        descriptor = open_private(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self._blocks.header)
            for number, start in enumerate(range(0, len(names), _ROWS_A_BLOCK)):
                part = slice(start, start + _ROWS_A_BLOCK)
                file.write(self._block(number, names[part], ids[part], offsets[part]))
            file.flush()
            sync(file.fileno())
        partial.replace(self.path)
        sync_folder(self.path.parent)

    def _block(
        self,
        number: int,
        names: NDArray[np.uint8],
        ids: NDArray[np.uint8],
        offsets: NDArray[np.int64],
    ) -> bytes:
        """Make a block of rows that are in the file already."""
        kind = self._kind
        if kind is None:
            raise self._changed("rows without a block")
        rows, size = self._mapped(), kind.sealed_bytes
        parts = [rows.read(offset, size) for offset in offsets.tolist()]
        rows.forget()
        if any(len(part) != size for part in parts):
            raise self._changed("shorter than it was")
        sealed = b"".join(parts)
        index = self._blocks.index(number, kind, names, ids)
        return self._blocks.frame(number, len(index), len(sealed)) + index + sealed

    def _take(self, file: BinaryIO) -> None:
        """Keep others from writing, and take in what they wrote."""
        take_lock(file.fileno(), "feature store")
        if not os.path.samestat(self.path.stat(), os.fstat(file.fileno())):
            raise self._changed("another file in its place")
        self._read_on(file)

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
        names[places] = row_names(
            [digests[at] for at in places], [owners[patients[at]] for at in places]
        )
        offsets[places] = self._index.find(names[places])
        return offsets, names, owners

    def _row(self, kind: Kind, offset: int, owner: PatientKey, name: bytes) -> NDArray[Any]:
        """Read and unseal one row."""
        sealed = self._mapped().read(offset, kind.sealed_bytes)
        try:
            plain = unseal(owner.key, sealed, context=self._blocks.row_context(name))
        except IntegrityError:
            raise self._changed("a changed byte in a row") from None
        return np.frombuffer(plain, kind.dtype).reshape(kind.shape)

    def _write_block(
        self, file: BinaryIO, digests: Sequence[bytes], patients: Sequence[str], rows: NDArray[Any]
    ) -> None:
        """Write the header where there is none, then one block, over whatever a crash left."""
        kind, owners = Kind.of(rows), [self._owners[each] for each in patients]
        names = row_names(digests, owners)
        ids = np.frombuffer(b"".join(each.id for each in owners), np.uint8).reshape(names.shape)
        index = self._blocks.index(self._num_sealed, kind, names, ids)
        ready = rows.astype(kind.dtype, copy=False)
        sealed = b"".join(
            seal(owner.key, row.tobytes(), context=self._blocks.row_context(name.tobytes()))
            for owner, name, row in zip(owners, names, ready, strict=True)
        )
        frame = self._blocks.frame(self._num_sealed, len(index), len(sealed))
        file.truncate(self._end)
        file.seek(self._end)
        if self._end == 0:
            file.write(self._blocks.header)
        file.write(frame + index)
        begin = file.tell()
        file.write(sealed)
        file.flush()
        sync(file.fileno())
        self._end = file.tell()
        self._num_sealed += 1
        self._kind = kind
        self._index.add(names, ids, begin + kind.sealed_bytes * np.arange(len(names)))

    def _read_on(self, file: BinaryIO) -> None:
        """Take in the indexes of blocks from where reading last ended."""
        descriptor = self._hold(file.fileno()).descriptor
        size = os.fstat(descriptor).st_size
        if size < self._end:
            raise self._changed("shorter than it was")
        if self._end == 0:
            header = os.pread(descriptor, len(self._blocks.header), 0)
            if header != self._blocks.header:
                if size < len(self._blocks.header) and self._blocks.header.startswith(header):
                    return  # a crash cut the very first write short
                raise self._other_header(header)
            self._end = len(self._blocks.header)
        found: list[tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]] = []
        while self._end + FRAME_BYTES <= size:
            frame = os.pread(descriptor, FRAME_BYTES, self._end)
            index_bytes = int.from_bytes(frame[:LENGTH_BYTES], "little")
            row_bytes = int.from_bytes(frame[LENGTH_BYTES : 2 * LENGTH_BYTES], "little")
            if frame != self._blocks.frame(self._num_sealed, index_bytes, row_bytes):
                raise self._changed("a changed byte or another key")
            begin = self._end + FRAME_BYTES + index_bytes
            if begin + row_bytes > size:
                break  # a crash cut the last block short
            index = os.pread(descriptor, index_bytes, self._end + FRAME_BYTES)
            found.append(self._opened(index, begin))
            self._end = begin + row_bytes
            self._num_sealed += 1
        if found:
            names, ids, offsets = zip(*found, strict=True)
            self._index.add(np.concatenate(names), np.concatenate(ids), np.concatenate(offsets))

    def _hold(self, descriptor: int) -> MappedFile:
        """Keep the file open to read rows from."""
        if self._file is None:  # opened anew: a copy would keep the lock that a writer takes
            self._file = MappedFile(self.path)
        if not os.path.sameopenfile(self._file.descriptor, descriptor):
            raise self._changed("another file in its place")
        return self._file

    def _mapped(self) -> MappedFile:
        """Give the file to read rows from."""
        if self._file is None:
            raise self._changed("rows without a file")
        return self._file

    def _opened(
        self, sealed: bytes, begin: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
        """Open the next block's index: names, ids of keys, and where the rows begin."""
        try:
            kind, names, ids = self._blocks.opened(self._num_sealed, sealed)
        except IntegrityError:
            raise self._changed("a changed byte or another key") from None
        self._kind = self._kind or kind
        return names, ids, begin + kind.sealed_bytes * np.arange(len(names))

    def _check_rows(
        self, digests: Sequence[bytes], patients: Sequence[str], rows: NDArray[Any]
    ) -> None:
        """Refuse rows that do not fit the store."""
        require_same_length(digests=digests, patients=patients, rows=rows)
        own = Kind.of(rows)
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
        if not header.startswith(FAMILY):
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


def retain_in(
    path: Path, key: bytes, keys: PatientKeys, digests: Sequence[bytes], patients: Sequence[str]
) -> bool:
    """Drop all rows of a store but some, whatever version it is of; see `FeatureStore.retain`.

    Args:
        path: The store's file.
        key: The clinic's key.
        keys: The keys of the clinic's patients.
        digests: n digests of images whose rows stay.
        patients: The patient of each.

    Returns:
        Whether it was done; not where the file is no store that this release can open.

    Raises:
        EnvironmentProblem: If the file cannot be read or written.
    """
    try:
        with path.open("rb") as file:
            line = file.readline(_LONGEST_HEADER)
        version = json.loads(line.removeprefix(MAGIC)) if line.startswith(MAGIC) else None
        if not isinstance(version, str):
            return False
        FeatureStore(path, key, keys, version).retain(digests, patients)
    except OSError as error:
        raise _refused(path, error) from error
    except (DataError, IntegrityError, ValueError):
        return False
    return True


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
