"""A clinic's store of what it holds of its patients, each thing under its patient's own key.

    vault/keys.sealed          the patients' keys, see `patient_keys`
    vault/patients.sealed      whose a pseudonym is, see `identities`
    vault/objects/ab/ID        one thing, such as an image

An object's id is its patient's key id and 16 random bytes, in hexadecimal, `ab` its first two
digits. So a patient's objects are found by their names, and no index can disagree with the files.
Whoever sees the folder can tell which objects are one patient's, how many and how large, not
whose. Inside: a line with the kind, then pieces of at most 1 MiB, see `encryption.seal_pieces`.

What erasure gives and what it does not is said at the head of `patient_keys`. The files go after
the keys and are not overwritten: without the keys they are noise.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from skinml.durable import (
    cannot,
    locked,
    make_folder,
    read_whole,
    remove,
    write_whole,
)
from skinml.errors import ConfigError, DataError, IntegrityError
from skinml.stewardship.encryption import open_pieces, seal_pieces
from skinml.stewardship.identities import Identities, Identity
from skinml.stewardship.patient_keys import KEY_ID_BYTES, PatientKey, PatientKeys

_WHAT = "object in the vault"
_MAGIC = b"skinml-object-1 "
_ID = re.compile(r"[0-9a-f]{64}")
_KIND = re.compile(r"[a-z][a-z_]{0,31}")
_KEY_ID_DIGITS = 2 * KEY_ID_BYTES


@dataclass(frozen=True)
class Erasure:
    """What an erasure did.

    Attributes:
        patients: Patients whose key there was and is no more.
        objects: Files that were removed.
    """

    patients: int
    objects: int


class Vault:
    """The vault of one clinic.

    Args:
        folder: Its folder; made when something is put in.
        keys: The patients' keys, best in the same folder.

    Guarantees:
        Killed at any moment, each object, key and row is there whole or not at all, and everything
        of which a call has returned is on the disk. A changed byte, an exchanged file and another
        clinic's key are an IntegrityError that names the vault; so is a missing file where its
        patient's key is there. What was sealed under an erased key is erased, never "changed".
        Processes that change the vault exclude each other.
    """

    def __init__(self, folder: Path, keys: PatientKeys) -> None:
        self.folder = folder
        self.keys = keys
        self._objects = folder / "objects"
        self._identities = Identities(folder / "patients.sealed", keys)

    def put(self, patient: str, content: bytes, *, kind: str) -> str:
        """Store one thing of a patient, see `put_all`.

        Args:
            patient: The clinic's own id; a key is issued where there is none.
            content: The thing.
            kind: What it is, such as "image".

        Returns:
            The object's id.

        Raises:
            ConfigError: If the kind is no such word.
            EnvironmentProblem: If it cannot be written.
            IntegrityError: If the vault was changed.
        """
        return self.put_all([patient], [content], kind=kind)[0]

    def put_all(
        self, patients: Sequence[str], contents: Iterable[bytes], *, kind: str
    ) -> list[str]:
        """Store many things, taking them one by one.

        Nobody else can change the vault meanwhile: pass some hundreds at a time.

        Args:
            patients: The clinic's own id for each thing. Keys are issued, and rows of the table of
                pseudonyms written, for those who have none.
            contents: As many things.
            kind: What they are, up to 32 small letters and "_"; not secret.

        Returns:
            The objects' ids.

        Raises:
            ConfigError: If the kind is no such word.
            EnvironmentProblem: If something cannot be written.
            IntegrityError: If the vault was changed.
            ValueError: If there are more or fewer things than patients.

        Guarantees:
            Each object is on the disk on return. Interrupted, those written stay, readable.
        """
        if not _KIND.fullmatch(kind):
            raise ConfigError(
                rule="a kind of up to 32 small letters and '_'",
                got=f"kind={kind[:40]!r}",
                do="Name what is stored in one word.",
            )
        with self._locked():
            keys = self._enrolled(patients, {})
            pairs = zip(patients, contents, strict=True)
            return [self._write(keys[patient], content, kind) for patient, content in pairs]

    def enrol(self, patients: Mapping[str, Mapping[str, str]]) -> None:
        """Write down who patients are, under their own keys.

        Args:
            patients: By the clinic's own id, a few fields. They replace what was there.

        Raises:
            EnvironmentProblem: If it cannot be written.
            IntegrityError: If the vault was changed.
        """
        with self._locked():
            self._enrolled(list(patients), patients)

    def remember(self, patients: Sequence[str]) -> None:
        """Write down who patients are, and leave what is known of them as it is.

        Args:
            patients: By the clinic's own id.

        Raises:
            EnvironmentProblem: If it cannot be written.
            IntegrityError: If the vault was changed.
        """
        with self._locked():
            self._enrolled(patients, {})

    def identify(self, pseudonym: str) -> str | None:
        """Tell whose a pseudonym is.

        Args:
            pseudonym: 32 hexadecimal digits.

        Returns:
            The clinic's own id: never log. None where nobody has this pseudonym, or no longer.

        Raises:
            EnvironmentProblem: If a file cannot be read.
            IntegrityError: If the vault was changed.
        """
        identity = self.look_up(pseudonym)
        return identity.patient if identity else None

    def look_up(self, pseudonym: str) -> Identity | None:
        """Tell all that the table says of a pseudonym, see `identify`.

        Args:
            pseudonym: 32 hexadecimal digits.

        Returns:
            Id and fields; None where nobody has this pseudonym, or no longer.

        Raises:
            EnvironmentProblem: If a file cannot be read.
            IntegrityError: If the vault was changed.
        """
        return self._identities.find(pseudonym)

    def read(self, object_id: str, kinds: Collection[str] | None = None) -> bytes:
        """Read one object.

        Args:
            object_id: From `put`.
            kinds: What it may be; None: anything.

        Returns:
            What was stored.

        Raises:
            DataError: If it was erased, or never there.
            EnvironmentProblem: If the file cannot be read.
            IntegrityError: If it was changed, is missing although its patient's key is there, or
                is of another kind.
        """
        found = dict(self.find([object_id], kinds))
        if object_id not in found:
            raise DataError(
                rule=f"an {_WHAT} whose key is there",
                got="an erased one, or one that never was",
                do="Leave it out: nobody can read it any more.",
            )
        return found[object_id]

    def find(
        self, object_ids: Iterable[str], kinds: Collection[str] | None = None
    ) -> Iterator[tuple[str, bytes]]:
        """Read many objects one by one, passing over those that were erased.

        Args:
            object_ids: From `put`.
            kinds: What they may be; None: anything.

        Yields:
            An id, and what was stored under it.

        Raises:
            EnvironmentProblem: If a file cannot be read.
            IntegrityError: If one was changed, is missing although its patient's key is there, or
                is of another kind.
        """
        for object_id in object_ids:
            if not _ID.fullmatch(object_id):
                continue
            key_id = bytes.fromhex(object_id[:_KEY_ID_DIGITS])
            key = self.keys.find([key_id]).get(key_id)
            if key is None:
                continue
            try:
                kind, content = self._read(object_id, key)
            except IntegrityError:
                # It may have been erased in between; then its key is gone before its file is.
                if self.keys.find([key_id]):
                    raise
                continue
            if kinds is not None and kind not in kinds:
                raise _changed("one of another kind")
            yield object_id, content

    def objects(self, patient: str, *, kind: str | None = None) -> list[str]:
        """List a patient's objects.

        Args:
            patient: The clinic's own id.
            kind: Only those of this kind; all where None.

        Returns:
            Their ids, sorted.

        Raises:
            EnvironmentProblem: If a file cannot be read.
            IntegrityError: If the vault was changed.
        """
        name = self.keys.pseudonyms([patient])[0]
        key = self.keys.find_pseudonyms([name]).get(name)
        if key is None:
            return []
        digits = key.id.hex()
        try:
            names = sorted(path.name for path in (self._objects / digits[:2]).glob(f"{digits}*"))
        except OSError as error:
            raise cannot("list", "vault", error) from error
        if kind is None:
            return names
        return [name for name in names if self._read(name, key.key)[0] == kind]

    def erase(self, patients: Sequence[str]) -> Erasure:
        """Erase patients: their keys, then their objects and who they were.

        Args:
            patients: The clinic's own ids; those that the vault does not know are passed over.

        Returns:
            What was erased, with whatever an interrupted erasure had left.

        Raises:
            EnvironmentProblem: If a file cannot be written or removed.
            IntegrityError: If the vault was changed.

        Guarantees:
            From the moment that the keys are gone nothing of the patients can be read, whatever
            interrupts the rest; the next erasure or `sweep` then removes what is left.
        """
        with self._locked():
            num_patients = self.keys.erase(patients)
            return Erasure(num_patients, self._sweep())

    def listed(self, kinds: Collection[str]) -> set[str]:
        """List all objects of some kinds, whosever they are.

        Args:
            kinds: The kinds; they stand in the clear, so that nothing is decrypted.

        Returns:
            The objects' ids; those that were erased too, until they are swept.

        Raises:
            EnvironmentProblem: If a file cannot be read.
        """
        heads = {_MAGIC + kind.encode() + b"\n" for kind in kinds}
        found = set()
        for path in self._files():
            if _ID.fullmatch(path.name):
                with suppress(FileNotFoundError), path.open("rb") as file:
                    if file.readline(len(_MAGIC) + 40) in heads:
                        found.add(path.name)
        return found

    def discard(self, object_ids: Collection[str]) -> int:
        """Remove single objects; the keys of their patients stay.

        Args:
            object_ids: From `put`; what is not there is passed over.

        Returns:
            How many there were.

        Raises:
            EnvironmentProblem: If a file cannot be removed.
        """
        with self._locked():
            paths = [self._place(each) for each in object_ids if _ID.fullmatch(each)]
            there = [path for path in paths if path.exists()]
            for path in there:
                remove(path, _WHAT)
            return len(there)

    def sweep(self) -> int:
        """Remove what no key opens any more, and what a crash left half-written.

        Returns:
            Files that were removed.

        Raises:
            EnvironmentProblem: If a file cannot be removed.
            IntegrityError: If the vault was changed.
        """
        with self._locked():
            return self._sweep()

    def require_intact(self) -> None:
        """Verify keys and table of pseudonyms, as a folder is opened; objects as they are read.

        Raises:
            EnvironmentProblem: If a file cannot be read.
            IntegrityError: If one was changed.
        """
        self.keys.is_fresh()
        self._identities.require_intact()

    def verify(self) -> int:
        """Read every object.

        Returns:
            How many there are, beside erased ones.

        Raises:
            EnvironmentProblem: If a file cannot be read.
            IntegrityError: If one was changed.
        """
        return sum(1 for _ in self.find(path.name for path in self._files()))

    def _enrolled(
        self, patients: Sequence[str], fields: Mapping[str, Mapping[str, str]]
    ) -> dict[str, PatientKey]:
        """Issue keys and write the rows that are missing or new."""
        keys = self.keys.issue(patients)
        missing = {key.id for key in self._identities.missing(keys.values())}
        entries = {
            key: Identity(patient, fields.get(patient, {}))
            for patient, key in keys.items()
            if patient in fields or key.id in missing
        }
        if entries:
            self._identities.write(entries)
        return keys

    def _write(self, key: PatientKey, content: bytes, kind: str) -> str:
        object_id = key.id.hex() + os.urandom(32 - KEY_ID_BYTES).hex()
        path = self._place(object_id)
        make_folder(path.parent, "vault")
        pieces = seal_pieces(key.key, content, _context(object_id, kind))
        write_whole(path, b"".join((_MAGIC + kind.encode() + b"\n", *pieces)), _WHAT)
        return object_id

    def _read(self, object_id: str, key: bytes) -> tuple[str, bytes]:
        """Read an object's kind and content."""
        path = self._place(object_id)
        if not path.exists():
            raise _changed("a missing file")
        file = io.BytesIO(read_whole(path, _WHAT))
        header = file.readline(len(_MAGIC) + 40)
        kind = header[len(_MAGIC) : -1].decode("ascii", errors="replace")
        try:
            content = open_pieces(key, file, _context(object_id, kind)).read()
        except IntegrityError:
            raise _changed("a changed byte, or another object's file") from None
        if header != _MAGIC + kind.encode() + b"\n":
            raise _changed("another beginning")
        return kind, content

    def _sweep(self) -> int:
        if self.keys.is_fresh():
            return 0  # objects without any keys' file are a vault half restored, not erased
        known = self.keys.ids()
        num_removed = 0
        for path in list(self._files()):
            if not _ID.fullmatch(path.name) or _key_id(path) not in known:
                remove(path, _WHAT)
                num_removed += _ID.fullmatch(path.name) is not None
        self._identities.write({})
        return num_removed

    def _files(self) -> Iterator[Path]:
        """Walk over all files of objects."""
        try:
            for folder in sorted(self._objects.glob("??")):
                yield from folder.iterdir()
        except OSError as error:
            raise cannot("list", "vault", error) from error

    def _place(self, object_id: str) -> Path:
        return self._objects / object_id[:2] / object_id

    @contextmanager
    def _locked(self) -> Iterator[None]:
        make_folder(self.folder, "vault")
        with locked(self.folder / ".vault.lock", "vault"):
            yield


def _key_id(path: Path) -> bytes:
    """Read the key's id from an object's name."""
    return bytes.fromhex(path.name[:_KEY_ID_DIGITS])


def _context(object_id: str, kind: str) -> str:
    """Bind an object's pieces to its name and kind."""
    return f"vault object {object_id} {kind}"


def _changed(got: str) -> IntegrityError:
    return IntegrityError(
        rule=f"every {_WHAT} as it was written",
        got=got,
        do="Restore the vault and its anchor from one backup.",
    )
