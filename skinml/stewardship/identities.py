"""Whose a pseudonym is: the clinic's own id and a few fields, under the patient's own key.

Layout of the file: a magic line, then a row a patient: the key's id, the length of the seal (4
bytes, little endian), the sealed row. It is replaced whole, through the clinic's anchors. A row
whose key was erased cannot be read from that moment; the next change leaves it out.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from skinml.durable import make_folder
from skinml.errors import IntegrityError
from skinml.stewardship.anchored_file import AnchoredFile
from skinml.stewardship.encryption import seal, unseal
from skinml.stewardship.patient_keys import KEY_ID_BYTES, PatientKey, PatientKeys

_WHAT = "vault's table of pseudonyms"
_MAGIC = b"skinml-identities-1\n"
_LENGTH_BYTES = 4


@dataclass(frozen=True)
class Identity:
    """Who a patient is at the clinic. Never logged, never sent.

    Attributes:
        patient: The clinic's own id.
        fields: What else the clinic wrote down to find the patient again, such as a year of birth.
    """

    patient: str = field(repr=False)
    fields: Mapping[str, str] = field(default_factory=dict, repr=False)


class Identities:
    """The table of pseudonyms. The vault, which owns it, keeps two changes apart.

    Args:
        path: The file; made at the first `write`.
        keys: The patients' keys.

    Guarantees:
        Killed at any moment, the file is as it was or as it was to become. Any other change of it
        is an IntegrityError that names the vault.
    """

    def __init__(self, path: Path, keys: PatientKeys) -> None:
        self._keys = keys
        self._file = AnchoredFile(path, _WHAT, keys.anchors, _parsed)

    def find(self, pseudonym: str) -> Identity | None:
        """Look up whose a pseudonym is.

        Args:
            pseudonym: 32 hexadecimal digits.

        Returns:
            The patient; None where nobody has this pseudonym, or no longer.

        Raises:
            EnvironmentProblem: If a file cannot be read.
            IntegrityError: If a file was changed.
        """
        key = self._keys.find_pseudonyms([pseudonym]).get(pseudonym)
        row = (self._file.find() or {}).get(key.id) if key else None
        if key is None or row is None:
            return None
        try:
            values = json.loads(unseal(key.key, row, context=_context(key)))
        except IntegrityError:
            raise IntegrityError(
                rule=f"the {_WHAT} as it was last written",
                got="a row that does not open with its patient's key",
                do="Restore the vault and its anchor from one backup.",
            ) from None
        return Identity(values["patient"], values["fields"])

    def require_intact(self) -> None:
        """Verify the file.

        Raises:
            EnvironmentProblem: If it cannot be read.
            IntegrityError: If it was changed.
        """
        self._file.find()

    def write(self, entries: Mapping[PatientKey, Identity]) -> None:
        """Put patients in, or replace what is said of them; leave out those erased.

        Args:
            entries: What to say, by the patients' keys.

        Raises:
            EnvironmentProblem: If the file cannot be written.
            IntegrityError: If a file was changed.
        """
        old = self._file.find(anew=True) or {}
        known = self._keys.ids()
        rows = {name: row for name, row in old.items() if name in known}
        for key, entry in entries.items():
            values = {"patient": entry.patient, "fields": dict(entry.fields)}
            rows[key.id] = seal(key.key, json.dumps(values).encode(), context=_context(key))
        if rows != old:
            make_folder(self._file.path.parent, "vault")
            self._file.replace(_packed(rows))

    def missing(self, keys: Collection[PatientKey]) -> list[PatientKey]:
        """Tell of which patients nothing is said.

        Args:
            keys: The patients' keys.

        Returns:
            Those that are not in the table.

        Raises:
            EnvironmentProblem: If the file cannot be read.
            IntegrityError: If the file was changed.
        """
        rows = self._file.find() or {}
        return [key for key in keys if key.id not in rows]


def _context(key: PatientKey) -> bytes:
    """Bind a row to its place."""
    return _MAGIC + key.id


def _packed(rows: Mapping[bytes, bytes]) -> bytes:
    lengths = {name: len(row).to_bytes(_LENGTH_BYTES, "little") for name, row in rows.items()}
    return _MAGIC + b"".join(name + lengths[name] + row for name, row in rows.items())


def _parsed(content: bytes) -> dict[bytes, bytes]:
    """Read the table, which the anchors vouch for by now."""
    rows: dict[bytes, bytes] = {}
    place = len(_MAGIC)
    while place < len(content):
        start = place + KEY_ID_BYTES + _LENGTH_BYTES
        end = start + int.from_bytes(content[place + KEY_ID_BYTES : start], "little")
        rows[content[place : place + KEY_ID_BYTES]] = content[start:end]
        place = end
    return rows
