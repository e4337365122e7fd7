"""Who contributed to what: a clinic's own record of each release, and its line in the audit log.

The record answers, long after a run, whether a patient's data were in a model. It names patients
by pseudonym and is sealed; the audit log holds only how many there were.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from skinml.clinic.folder import ClinicFolder
from skinml.durable import make_folder
from skinml.errors import IntegrityError
from skinml.journal import Journal, KeyedSeal
from skinml.privacy.ledger import Entry
from skinml.stewardship.encryption import derive_key, seal, unseal
from skinml.stewardship.pseudonyms import pseudonyms

_FILE = "contributions.journal"


@dataclass(frozen=True, repr=False)
class Contribution:
    """Whose data one round of a run read. Per patient: never log.

    Attributes:
        round: The round.
        attempt: The attempt at it.
        entries: Positions of its releases in the ledger.
        patients: Pseudonyms by split, sorted. Where a recipe samples, these are the patients that
            could have been in the sample. Under `records.EVERY_SPLIT` all who asked at the gate,
            the refused among them, if the round counted those.
    """

    round: int
    attempt: int
    entries: tuple[int, ...]
    patients: Mapping[str, tuple[str, ...]]


class ReleaseRecord:
    """Writes one run's record at one clinic.

    Args:
        folder: The clinic's folder.
        run: The run's id.
        actor: The user who started the run.
    """

    def __init__(self, folder: ClinicFolder, run: str, actor: str) -> None:
        self._folder = folder
        self._run = run
        self._actor = actor
        self._journal = _journal(folder, run)
        self._known: dict[str, str] = {}
        # Of the last round: whose data are read changes rarely, and naming them takes a while.
        self._names: dict[str, tuple[Sequence[str], list[str]]] = {}

    def note(
        self,
        entries: Sequence[Entry],
        patients: Mapping[str, Sequence[str]],
        named: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Write down a round's releases, which are in the ledger by now, before they are computed.

        Args:
            entries: Their entries.
            patients: The patients whose data are read, by split, as the clinic itself names them.
            named: The same for splits whose patients are known by pseudonym only.

        Raises:
            EnvironmentProblem: If the record cannot be written.
            IntegrityError: If the record, the ledger or the audit log was changed.
        """
        read = {split: self._pseudonyms(split, ids) for split, ids in patients.items()}
        read |= {split: sorted(set(names)) for split, names in (named or {}).items()}
        binding = entries[0].binding
        body = {
            "attempt": binding.attempt,
            "entries": [entry.index for entry in entries],
            "patients": {split: self._named(split, names) for split, names in read.items()},
            "round": binding.round,
        }
        self._journal.append(lambda _: [body])
        # Another run may have written since: the mark is that of this round's own last entry.
        mark = self._folder.ledger.mark_at(entries[-1].index + 1)
        self._folder.audit.write(
            "release",
            self._actor,
            now=datetime.now(UTC),
            run=binding.run,
            round=binding.round,
            attempt=binding.attempt,
            releases=[entry.name for entry in entries],
            patients=sum(map(len, read.values())),
            entries=mark.count,
            head=mark.head,
            unit=binding.unit,
        )

    def note_not_finite(self, round_: int, patients: int) -> None:
        """Write into the audit log that patients' contributions to a round became zeros.

        Nothing is written where there were none.

        Args:
            round_: The round's number.
            patients: How many patients' contributions were not finite.

        Raises:
            EnvironmentProblem: If the log cannot be written.
            IntegrityError: If the audit log was changed.
        """
        if patients > 0:
            self._folder.audit.write(
                "not finite",
                self._actor,
                now=datetime.now(UTC),
                run=self._run,
                round=round_,
                patients=patients,
            )

    def _pseudonyms(self, split: str, ids: Sequence[str]) -> list[str]:
        known, names = self._names.get(split, ((), []))
        if ids != known:
            names = sorted(set(pseudonyms(self._folder.key, sorted(set(ids)))))
            self._names[split] = ids, names
        return names

    def _named(self, split: str, names: Sequence[str]) -> dict[str, str]:
        """Write a list of pseudonyms once, and later only its digest."""
        text = json.dumps(names).encode()
        digest = hashlib.sha256(text).hexdigest()
        if self._known.get(split) == digest:
            return {"same": digest}
        self._known[split] = digest
        sealed = seal(_key(self._folder), zlib.compress(text), context=digest.encode())
        return {"digest": digest, "sealed": base64.b64encode(sealed).decode()}


def read_contributions(folder: ClinicFolder, run: str) -> tuple[Contribution, ...]:
    """Read whose data each round of a run read.

    Args:
        folder: The clinic's folder.
        run: The run's id.

    Returns:
        One entry a round that was answered; none where the run was not here.

    Raises:
        EnvironmentProblem: If the record cannot be read.
        IntegrityError: If it was changed.
    """
    lists: dict[str, tuple[str, ...]] = {}
    found = []
    for body in _journal(folder, run).read():
        patients = {}
        for split, named in body["patients"].items():
            if "sealed" in named:
                lists[named["digest"]] = _opened(folder, named)
            patients[split] = lists[named.get("same", named.get("digest"))]
        entries = tuple(body["entries"])
        found.append(Contribution(body["round"], body["attempt"], entries, patients))
    return tuple(found)


def _opened(folder: ClinicFolder, named: Mapping[str, str]) -> tuple[str, ...]:
    sealed = base64.b64decode(named["sealed"])
    text = zlib.decompress(unseal(_key(folder), sealed, context=named["digest"].encode()))
    if hashlib.sha256(text).hexdigest() != named["digest"]:
        raise IntegrityError(
            rule="a record of contributions as it was written",
            got="a list of other patients",
            do="Restore it from a backup.",
        )
    return tuple(json.loads(text))


def _journal(folder: ClinicFolder, run: str) -> Journal:
    place: Path = folder.run(run)
    make_folder(place, "folder of a run")
    name = f"record of contributions of clinic {folder.name} to run {run}"
    return Journal(place / _FILE, name, KeyedSeal(_key(folder)))


def _key(folder: ClinicFolder) -> bytes:
    return derive_key(folder.key, "contributions")
