"""Erasing a patient from a clinic's folder: asked for once, finished whatever interrupts it.

The order: what is to be erased is written down, sealed; consent is withdrawn; the key is destroyed
and what it opened removed; the audit log says so; what was written down is removed. A process that
was killed in between leaves the first, and the next command at the clinic's desk does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from pathlib import Path

from skinml.clinic.certificates import certificate_path, certify
from skinml.clinic.consents import log_changes
from skinml.clinic.contribution_words import sentences
from skinml.clinic.contributions import Contributions, contributions_of, is_known, unknown_patient
from skinml.clinic.erased import begun_erasure, write_begun
from skinml.clinic.folder import ERASURE, ClinicFolder
from skinml.clinic.gate import require_role
from skinml.clinic.picture_lock import changing_pictures
from skinml.clinic.requests import answered
from skinml.durable import locked, remove
from skinml.stewardship.audit_log import AuditEntry
from skinml.stewardship.consent import USUALLY_WITHDRAWN, PatientState, Withdrawal
from skinml.stewardship.pseudonyms import pseudonym

_WHAT = "erasure"


@dataclass(frozen=True)
class Erased:
    """What came of an erasure. Per patient: never log.

    Attributes:
        key: Whether the patient had a key, which is destroyed now.
        objects: Files of the vault that were removed.
        contributions: Which released models the patient's data are in, and what bounds it.
        certificate: Where the signed statement of it lies; it names nobody.
    """

    key: bool
    objects: int
    contributions: Contributions
    certificate: Path


def erase_patient(
    folder: ClinicFolder, patient: str, *, now: datetime, even_if_unknown: bool = False
) -> Erased:
    """Erase a patient's data from the folder, and let no run use them again.

    Args:
        folder: The clinic's folder.
        patient: The patient's id.
        now: The time, with its zone.
        even_if_unknown: Record the no also of somebody of whom nothing is known.

    Returns:
        What was erased, and which models were trained before.

    Raises:
        DataError: If nothing is known of the patient; most likely the id is mistyped.
        EnvironmentProblem: If a file cannot be written or removed.
        IntegrityError: If something in the folder was changed.
        PolicyError: If the user may not.

    Guarantees:
        Killed at any moment after it began, the next command at the clinic's desk ends it: the
        consent is withdrawn, the key gone, and the audit log has one line of it. What the audit
        log, the register and the records of contributions say of the patient's pseudonym stays.
    """
    actor = require_role(folder, "erase")
    finish_erasure(folder)
    found = contributions_of(folder, patient)
    if not (found.runs or found.erased or even_if_unknown or is_known(folder, patient)):
        raise unknown_patient()
    key, objects = False, 0
    with locked(folder.path / ".erasure.lock", _WHAT):
        _finish(folder)  # of somebody else's, begun since
        asked = {"patient": patient, "at": now.isoformat(), "actor": actor}
        write_begun(folder, asked)
        key, objects = _erase(folder, asked)
    answered(folder, patient, "erase", now=now)
    found = contributions_of(folder, patient)
    return Erased(key, objects, found, certificate_path(folder, "erasure", now))


def finish_erasure(folder: ClinicFolder) -> bool:
    """End an erasure that was interrupted.

    Args:
        folder: The clinic's folder.

    Returns:
        Whether there was one.

    Raises:
        EnvironmentProblem: If a file cannot be written or removed.
        IntegrityError: If something in the folder was changed.
    """
    if not (folder.path / ERASURE).exists():
        return False
    with locked(folder.path / ".erasure.lock", _WHAT):
        return _finish(folder)


def _finish(folder: ClinicFolder) -> bool:
    begun = begun_erasure(folder)
    if begun is None:
        return False
    _erase(folder, begun)
    return True


def _erase(folder: ClinicFolder, asked: Mapping[str, str]) -> tuple[bool, int]:
    """Do all that is not done yet."""
    patient, actor = asked["patient"], asked["actor"]
    now, name = datetime.fromisoformat(asked["at"]), pseudonym(folder.key, patient)
    if not _is_withdrawn(folder.consents.state_of(patient), now):
        folder.consents.withdraw(patient, now=now, actor=actor)
    log_changes(folder)
    with changing_pictures(folder):  # so that an import which goes on hears of it, and no key after
        done = folder.vault.erase([patient])
        if not _is_logged(folder, name, now):
            folder.audit.write(
                "erasure", actor, now=now, patients=1, patient=name, objects=done.objects
            )
    key_gone = done.patients > 0
    _certify(folder, patient, now)
    remove(folder.path / ERASURE, _WHAT)
    return key_gone, done.objects


def _certify(folder: ClinicFolder, patient: str, now: datetime) -> None:
    """Sign what was done and what could not be; a repetition writes the same file again."""
    found, name = contributions_of(folder, patient), pseudonym(folder.key, patient)
    own = [each for each in folder.audit.entries() if _is_of(each, name, now)]
    objects = sum(int(entry.fields.get("objects", 0)) for entry in own)
    says = {
        "how": "The patient's key was destroyed: pictures, records, computed features and "
        "predictions in the clinic's folder cannot be read by anybody any more. Consent is "
        "withdrawn for all but care.",
        "files_removed": objects,
        "not_undone": " ".join(sentences(found)),
        "own_heads": "Heads that this clinic keeps to itself were trained without noise: what they "
        "learnt stays in them until they are removed.",
        "epsilon_of_what_left": found.epsilon if isfinite(found.epsilon) else "unbounded",
        "delta": found.delta,
        "models": found.models,
        "not_touched": "Care records and backups that the clinic keeps elsewhere, and files that "
        "pictures were brought in from.",
    }
    certify(folder, "erasure", says, now=now)


def _is_withdrawn(state: PatientState, now: datetime) -> bool:
    return any(
        isinstance(change.entry, Withdrawal)
        and set(change.entry.purposes) >= set(USUALLY_WITHDRAWN)
        and _is_at(change.at, now)
        for change in state.changes
    )


def _is_logged(folder: ClinicFolder, name: str, now: datetime) -> bool:
    return any(_is_of(entry, name, now) for entry in folder.audit.entries())


def _is_of(entry: AuditEntry, name: str, now: datetime) -> bool:
    about = entry.event == "erasure" and entry.fields.get("patient") == name
    return about and _is_at(entry.at, now)


def _is_at(written: str, now: datetime) -> bool:
    """Whether a journal's time, which is to the second, is that of a moment."""
    return datetime.fromisoformat(written).replace(microsecond=0) == now.replace(microsecond=0)
