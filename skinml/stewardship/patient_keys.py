"""One key a patient, so that a patient's data are erased by erasing 32 bytes.

Layout of the file: a magic line; the wrapping key, sealed under a key derived from the clinic's; a
row of fixed length a patient (pseudonym, key id, nonce, wrapped key); an HMAC over all of it. The
file is small (92 bytes a patient) and always replaced whole, through the clinic's anchors.

What erasing a key gives: whoever has the clinic's folder from then on, with its passphrase, can no
longer read what was sealed under the key. What it does not give: older copies of this file open
with the clinic's key. They can be in backups, in snapshots of the file system and, for a time that
nobody can state, in blocks that a disk has freed: the old file is overwritten with zeros, which a
hard disk obeys and an SSD or a file system that copies on write does not. Erasure there is up to
the backups' retention, to an encrypted disk, and to how old disks are destroyed.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from skinml.durable import locked, make_folder, overwritten
from skinml.errors import IntegrityError
from skinml.stewardship.anchored_file import AnchoredFile
from skinml.stewardship.anchors import Anchors
from skinml.stewardship.encryption import (
    KEY_BYTES,
    SEAL_OVERHEAD_BYTES,
    derive_key,
    keyed_digest,
    new_key,
    seal,
    unseal,
)
from skinml.stewardship.pseudonyms import pseudonyms

KEY_ID_BYTES = 16
_WHAT = "vault's keys"
_MAGIC = b"skinml-patient-keys-1\n"
_HEADER_BYTES = len(_MAGIC) + KEY_BYTES + SEAL_OVERHEAD_BYTES
_DIGEST_BYTES = 32
_PSEUDONYM_BYTES = 16
_NONCE_BYTES = 12
_TAG_BYTES = 16
_ROW_BYTES = _PSEUDONYM_BYTES + KEY_ID_BYTES + _NONCE_BYTES + KEY_BYTES + _TAG_BYTES


@dataclass(frozen=True)
class PatientKey:
    """The key of one patient.

    Attributes:
        id: 16 random bytes, stored in clear beside what is sealed under the key. It tells what
            belongs to one patient, and not to whom.
        key: 32 secret bytes: never log.
    """

    id: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class _Row:
    """What the file says of a patient: the key's id, and the key as it stands there."""

    pseudonym: bytes
    id: bytes
    wrapped: bytes = field(repr=False)


@dataclass(frozen=True)
class _Table:
    """The file's verified content."""

    wrapping: bytes = field(repr=False)
    rows: dict[bytes, _Row] = field(repr=False)
    by_id: dict[bytes, _Row] = field(repr=False)


class PatientKeys:
    """The keys of a clinic's patients.

    Args:
        path: Their file; made, with its folder, at the first `issue`.
        key: The clinic's key.
        anchors: The clinic's anchors; the file is anchored under its name.

    Guarantees:
        Killed at any moment, the file is as it was or as it was to become. Processes that change
        it exclude each other. A changed byte, a row that was taken out, put in or swapped, an
        older file and a missing one are an IntegrityError that names the vault. A key that was
        issued is on the disk before anyone can seal with it.
    """

    def __init__(self, path: Path, key: bytes, anchors: Anchors) -> None:
        self.path = path
        self.anchors = anchors
        self._key = key
        self._own = derive_key(key, "vault")
        self._file = AnchoredFile(path, _WHAT, anchors, self._parsed)

    def __len__(self) -> int:
        return len(self._read().rows)

    def pseudonyms(self, patients: Sequence[str]) -> list[str]:
        """Name patients as the clinic's files do, see `skinml.stewardship.pseudonyms`.

        Args:
            patients: The clinic's own ids.

        Returns:
            A pseudonym for each, in order.
        """
        return pseudonyms(self._key, patients)

    def issue(self, patients: Sequence[str]) -> dict[str, PatientKey]:
        """Look keys up, making those that are missing.

        Args:
            patients: The clinic's own ids; one may come twice.

        Returns:
            The key of each. Somebody whose key was erased and who comes back gets a new one,
            which opens nothing of old.

        Raises:
            EnvironmentProblem: If the file cannot be read or written.
            IntegrityError: If the file was changed.

        Guarantees:
            New keys are on the disk on return. Of two processes that issue a key to one patient
            at once, both get the same.
        """
        names = self._names(patients)
        table = self._read()
        if any(name not in table.rows for name in names.values()):
            with self._changing() as table:
                fresh = {name: None for name in names.values() if name not in table.rows}
                if fresh:
                    made = [_wrap(table.wrapping, name) for name in fresh]
                    table = self._write(table.wrapping, [*table.rows.values(), *made])
        rows = {patient: table.rows[name] for patient, name in names.items()}
        opened = self._opened(table, rows.values())
        return {patient: PatientKey(row.id, opened[row.id]) for patient, row in rows.items()}

    def find(self, ids: Collection[bytes]) -> dict[bytes, bytes]:
        """Look keys up by their ids.

        Args:
            ids: Ids of keys.

        Returns:
            The key of each id. One whose key was erased, or never was, is absent.

        Raises:
            EnvironmentProblem: If the file cannot be read.
            IntegrityError: If the file was changed.
        """
        table = self._read()
        return self._opened(table, [table.by_id[name] for name in ids if name in table.by_id])

    def find_pseudonyms(self, names: Collection[str]) -> dict[str, PatientKey]:
        """Look keys up by their patients' pseudonyms.

        Args:
            names: Pseudonyms.

        Returns:
            The key of each. One who has none is absent.

        Raises:
            EnvironmentProblem: If the file cannot be read.
            IntegrityError: If the file was changed.
        """
        table = self._read()
        rows = {name: table.rows.get(_bytes_of(name)) for name in names}
        there = {name: row for name, row in rows.items() if row is not None}
        opened = self._opened(table, there.values())
        return {name: PatientKey(row.id, opened[row.id]) for name, row in there.items()}

    def ids(self) -> dict[bytes, str]:
        """List all keys.

        Returns:
            The pseudonym of each key's patient by the key's id.

        Raises:
            EnvironmentProblem: If the file cannot be read.
            IntegrityError: If the file was changed.
        """
        return {name: row.pseudonym.hex() for name, row in self._read().by_id.items()}

    def erase(self, patients: Sequence[str]) -> int:
        """Erase the keys of patients, for good.

        Args:
            patients: The clinic's own ids; those without a key are passed over.

        Returns:
            How many keys there were.

        Raises:
            EnvironmentProblem: If the file cannot be read or written.
            IntegrityError: If the file was changed.

        Guarantees:
            On return the file on the disk is without the keys, and nothing in it leads to them.
            For what that does not cover, such as backups, see the head of this module.
        """
        gone = set(self._names(patients).values())
        with self._changing() as table:
            kept = [row for name, row in table.rows.items() if name not in gone]
            num_erased = len(table.rows) - len(kept)
            if num_erased:
                # Under a new wrapping key, so that a copy of the old one opens no later file.
                self._rewrap(table, kept)
        return num_erased

    def rotate(self) -> None:
        """Wrap all keys anew, under a new wrapping key.

        Ids and keys stay, so that no data are touched. It makes a wrapping key that may have been
        seen worthless for this file and later ones; older copies still open with the clinic's key.

        Raises:
            EnvironmentProblem: If the file cannot be read or written.
            IntegrityError: If the file was changed.
        """
        with self._changing() as table:
            self._rewrap(table, list(table.rows.values()))

    def is_fresh(self) -> bool:
        """Tell whether no key was ever issued.

        Returns:
            Whether there is no file, and never was.

        Raises:
            IntegrityError: If there was one.
        """
        return self._file.find() is None

    def _names(self, patients: Sequence[str]) -> dict[str, bytes]:
        """Name each patient once, in 16 bytes."""
        unique = list(dict.fromkeys(patients))
        return dict(zip(unique, map(bytes.fromhex, self.pseudonyms(unique)), strict=True))

    @contextmanager
    def _changing(self) -> Iterator[_Table]:
        make_folder(self.path.parent, "vault")
        with locked(self.path.with_name(f".{self.path.name}.lock"), _WHAT):
            yield self._read(anew=True)

    def _read(self, *, anew: bool = False) -> _Table:
        return self._file.find(anew=anew) or _Table(new_key(), {}, {})

    def _parsed(self, content: bytes) -> _Table:
        """Verify the file's own digest, which holds where the anchors had to be made anew too."""
        body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
        intact = hmac.compare_digest(bytes.fromhex(keyed_digest(self._own, body)), digest)
        if not intact or not body.startswith(_MAGIC):
            raise _changed("a changed byte, or another clinic's key")
        header = body[len(_MAGIC) : _HEADER_BYTES]
        wrapping = unseal(self._own, header, context=_MAGIC)
        rows: dict[bytes, _Row] = {}
        for start in range(_HEADER_BYTES, len(body), _ROW_BYTES):
            row = body[start : start + _ROW_BYTES]
            name, after = row[:_PSEUDONYM_BYTES], _PSEUDONYM_BYTES + KEY_ID_BYTES
            rows[name] = _Row(name, row[_PSEUDONYM_BYTES:after], row[after:])
        return _Table(wrapping, rows, {row.id: row for row in rows.values()})

    def _write(self, wrapping: bytes, rows: Sequence[_Row]) -> _Table:
        header = _MAGIC + seal(self._own, wrapping, context=_MAGIC)
        body = header + b"".join(row.pseudonym + row.id + row.wrapped for row in rows)
        return self._file.replace(body + bytes.fromhex(keyed_digest(self._own, body)))

    def _rewrap(self, table: _Table, rows: Sequence[_Row]) -> None:
        wrapping, opened = new_key(), self._opened(table, rows)
        wrapped = [_wrap(wrapping, row.pseudonym, row.id, opened[row.id]) for row in rows]
        with overwritten(self.path):
            self._write(wrapping, wrapped)

    def _opened(self, table: _Table, rows: Collection[_Row]) -> dict[bytes, bytes]:
        """Unwrap keys."""
        cipher = AESGCM(table.wrapping)
        try:
            return {
                row.id: cipher.decrypt(
                    row.wrapped[:_NONCE_BYTES], row.wrapped[_NONCE_BYTES:], row.pseudonym + row.id
                )
                for row in rows
            }
        except InvalidTag:
            raise _changed("a key in another patient's row") from None


def _wrap(
    wrapping: bytes, name: bytes, key_id: bytes | None = None, key: bytes | None = None
) -> _Row:
    """Wrap a key, or a new one, for its patient."""
    key_id, key = key_id or os.urandom(KEY_ID_BYTES), key or new_key()
    nonce = os.urandom(_NONCE_BYTES)
    return _Row(name, key_id, nonce + AESGCM(wrapping).encrypt(nonce, key, name + key_id))


def _bytes_of(name: str) -> bytes:
    """Read a pseudonym; what is none is nobody's."""
    try:
        return bytes.fromhex(name)
    except ValueError:
        return b""


def _changed(got: str) -> IntegrityError:
    return IntegrityError(
        rule=f"the {_WHAT} as they were last written",
        got=got,
        do="Restore the vault and its anchor from one backup; nothing is used until then.",
    )
