"""The encrypted store of what was computed from images: rows named by image and patient.

Layout: one plain line that names the format and the version of the rows, then blocks. A block is
a frame (8 bytes of length and a 16-byte keyed digest of it) and as many sealed bytes. Inside, each
patient's rows are sealed once more, under the patient's own key, see `skinml.data.patient_rows`.
The outer seal keeps a change from being used, whosever rows it hits; the inner one lets a patient
be erased from a file that is never rewritten.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from skinml.data.patient_rows import PackedRows, pack_rows
from skinml.durable import open_private, take_lock
from skinml.errors import DataError, EnvironmentProblem, IntegrityError, require_same_length
from skinml.stewardship.encryption import derive_key, keyed_digest, seal, unseal
from skinml.stewardship.patient_keys import PatientKey, PatientKeys

DIGEST_BYTES = 32
_FAMILY = b"skinml-store-"
_MAGIC = _FAMILY + b"2 "
_LENGTH_BYTES = 8
_FRAME_BYTES = _LENGTH_BYTES + 16
_BATCH_BYTES = 64 * 2**20  # blocks whose keys are looked up together

_Kind = tuple[np.dtype[Any], tuple[int, ...]]
_Name = tuple[bytes, str]  # digest of the image, patient


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
        written over. A changed byte is noticed before any row of its block is used. Blocks cut
        off at the end are not noticed: they count as not computed yet. The rows of a patient
        whose key is erased can be read by nobody and are not in the store any more.
    """

    def __init__(self, path: Path, key: bytes, keys: PatientKeys, version: str) -> None:
        self.path = path
        self.version = version
        self._key = derive_key(key, "row store")
        self._keys = keys
        self._header = _MAGIC + json.dumps(version).encode() + b"\n"
        self._owners: dict[str, PatientKey] = {}
        self._blocks: list[NDArray[Any]] = []
        self._places: dict[_Name, tuple[int, int, bytes]] = {}  # block, row in it, key's id
        self._kind: _Kind | None = None
        self._num_sealed = 0  # blocks of the file that were taken in
        self._end = 0
        if path.exists():
            try:
                with path.open("rb") as file:
                    self._read_on(file)
            except OSError as error:
                raise _refused(path, error) from error

    def __len__(self) -> int:
        return len(self._places)

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
        self._forget_erased()
        names = zip(digests, patients, strict=True)
        return [place for place, name in enumerate(names) if name not in self._places]

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
            IntegrityError: If the vault was changed.
        """
        num_missing = len(self.find_missing(digests, patients))
        if num_missing or not digests or self._kind is None:
            raise DataError(
                rule="images of patients with a row in the store",
                got=f"num_missing={num_missing} of {len(digests)}",
                do="Compute and append the missing rows first; erased patients have none.",
            )
        dtype, shape = self._kind
        rows = np.empty((len(digests), *shape), dtype)
        for place, name in enumerate(zip(digests, patients, strict=True)):
            block, row, _ = self._places[name]
            rows[place] = self._blocks[block][row]
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
        wanted = sorted(set(patients))
        if wanted:
            names = dict(zip(wanted, self._keys.pseudonyms(wanted), strict=True))
            there = self._keys.find_pseudonyms(names.values())
            self._owners |= {each: there[name] for each, name in names.items() if name in there}

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
        self._kind = self._kind or (rows.dtype, rows.shape[1:])
        self._index(digests, patients, [self._owners[each].id for each in patients], rows)

    def _of_the_living(self, patients: Sequence[str]) -> list[int]:
        """Find the positions of patients whose key is there."""
        self.admit(set(patients) - self._owners.keys())
        owners = [self._owners.get(each) for each in patients]
        living = self._keys.find({each.id for each in owners if each is not None})
        return [at for at, each in enumerate(owners) if each is not None and each.id in living]

    def _forget_erased(self) -> None:
        """Drop the rows of patients whose key is gone."""
        ids = {key_id for _, _, key_id in self._places.values()}
        gone = ids - self._keys.find(ids).keys() if ids else ids
        if gone:
            self._places = {
                name: place for name, place in self._places.items() if place[2] not in gone
            }

    def _write_block(
        self, file: BinaryIO, digests: Sequence[bytes], patients: Sequence[str], rows: NDArray[Any]
    ) -> None:
        """Write the header where there is none, then one block, over whatever a crash left."""
        names = np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), DIGEST_BYTES)
        arrays = {"digests": names, "rows": rows}
        packed = pack_rows(arrays, patients, self._owners, self._header)
        file.truncate(self._end)
        file.seek(self._end)
        if self._end == 0:
            file.write(self._header)
        sealed = seal(self._key, bytes(packed), context=self._context(self._num_sealed))
        file.write(self._frame(self._num_sealed, len(sealed)) + sealed)
        file.flush()
        os.fsync(file.fileno())
        self._end = file.tell()
        self._num_sealed += 1

    def _read_on(self, file: BinaryIO) -> None:
        """Take in the blocks from where reading last ended."""
        size = os.fstat(file.fileno()).st_size
        if size < self._end:
            raise self._changed("shorter than it was")
        file.seek(self._end)
        if self._end == 0:
            header = file.read(len(self._header))
            if header != self._header:
                if size < len(self._header) and self._header.startswith(header):
                    return  # a crash cut the very first write short
                raise self._other_header(header)
            self._end = len(self._header)
        waiting: list[PackedRows] = []
        num_waiting = 0
        while self._end + _FRAME_BYTES <= size:
            frame = file.read(_FRAME_BYTES)
            length = int.from_bytes(frame[:_LENGTH_BYTES], "little")
            if frame != self._frame(self._num_sealed, length):
                raise self._changed("a changed byte or another key")
            if self._end + _FRAME_BYTES + length > size:
                break  # a crash cut the last block short
            waiting.append(self._unsealed(file.read(length)))
            self._end += _FRAME_BYTES + length
            self._num_sealed += 1
            num_waiting += length
            if num_waiting > _BATCH_BYTES:
                self._take_in(waiting)
                waiting, num_waiting = [], 0
        self._take_in(waiting)

    def _unsealed(self, sealed: bytes) -> PackedRows:
        """Decrypt the outer seal of the next block."""
        try:
            content = unseal(self._key, sealed, context=self._context(self._num_sealed))
        except IntegrityError:
            raise self._changed("a changed byte or another key") from None
        return PackedRows(content, self._header)

    def _take_in(self, blocks: Sequence[PackedRows]) -> None:
        """Make the rows of blocks findable, but for those of erased patients."""
        ids = {key_id for block in blocks for key_id in block.key_ids}
        living = self._keys.find(ids) if ids else {}
        for block in blocks:
            self._kind = self._kind or block.kind("rows")
            try:
                opened = block.open(living)
            except IntegrityError:
                raise self._changed("rows under another key than the vault's") from None
            digests = [name.tobytes() for name in opened.arrays["digests"]]
            self._index(digests, opened.patients, opened.key_ids, opened.arrays["rows"])

    def _index(
        self,
        digests: Sequence[bytes],
        patients: Sequence[str],
        key_ids: Sequence[bytes],
        rows: NDArray[Any],
    ) -> None:
        """Make one block's rows findable; an earlier row stays unless its patient was erased."""
        number = len(self._blocks)
        self._blocks.append(rows)
        for row, name in enumerate(zip(digests, patients, strict=True)):
            known = self._places.get(name)
            if known is None or known[2] != key_ids[row]:
                self._places[name] = (number, row, key_ids[row])

    def _context(self, number: int) -> bytes:
        """Bind a block to the version and to its place."""
        return self._header + f"block {number}".encode()

    def _frame(self, number: int, length: int) -> bytes:
        """Make what stands before a block; its digest tells a changed length from a cut file."""
        prefix = length.to_bytes(_LENGTH_BYTES, "little")
        tag = bytes.fromhex(keyed_digest(self._key, self._context(number) + b" frame " + prefix))
        return prefix + tag[: _FRAME_BYTES - _LENGTH_BYTES]

    def _check_rows(
        self, digests: Sequence[bytes], patients: Sequence[str], rows: NDArray[Any]
    ) -> None:
        """Refuse rows that do not fit the store."""
        require_same_length(digests=digests, patients=patients, rows=rows)
        dtype, shape = self._kind or (rows.dtype, rows.shape[1:])
        fits = rows.dtype == dtype and rows.shape[1:] == shape
        if not fits or not digests or any(len(digest) != DIGEST_BYTES for digest in digests):
            raise DataError(
                rule=f"rows of type {dtype} and shape {shape} under digests of "
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
