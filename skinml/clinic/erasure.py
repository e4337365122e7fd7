"""Erasing a patient from a clinic's folder: asked for once, finished whatever interrupts it.

The order: what is to be erased is written down, sealed; consent is withdrawn; the key is destroyed
and what it opened removed; the audit log says so; the clinic's own heads that were fitted to the
patient are removed; a certificate is signed and the patient's request is answered; what was written
down is removed. A process that was killed in between leaves the first, and the next command at the
clinic's desk does the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import Any

from skinml.clinic.begun import ERASURE, alone_at, end_begun, finish_begun, write_begun
from skinml.clinic.certificates import certificate_path, certify
from skinml.clinic.consents import log_changes
from skinml.clinic.contribution_words import sentences
from skinml.clinic.contributions import Contributions, contributions_of, is_known, unknown_patient
from skinml.clinic.folder import ClinicFolder
from skinml.clinic.gate import require_role
from skinml.clinic.own_heads import heads_of
from skinml.clinic.picture_lock import changing_pictures
from skinml.clinic.requests import answered
from skinml.durable import remove
from skinml.stewardship.audit_log import AuditEntry
from skinml.stewardship.consent import USUALLY_WITHDRAWN, PatientState, Withdrawal
from skinml.stewardship.pseudonyms import pseudonym


@dataclass(frozen=True)
class Erased:
    """What came of an erasure. Per patient: never log.

    Attributes:
        key: Whether the patient had a key, which is destroyed now.
        objects: Files of the vault that were removed.
        heads: Heads that the clinic keeps to itself, fitted to the patient, that were removed.
        contributions: Which released models the patient's data are in, and what bounds it.
        certificate: Where the signed statement of it lies; it names nobody.
    """

    key: bool
    objects: int
    heads: int
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
        consent is withdrawn, the key gone, with the clinic's own heads that were fitted to the
        patient; the audit log has one line of it, and the patient's request is answered. What the
        audit log, the register and the records of contributions say of the patient's pseudonym
        stays.
    """
    actor = require_role(folder, "erase")
    finish_erasure(folder)
    require_known(folder, patient, even_if_unknown=even_if_unknown)
    with alone_at(folder, ERASURE, _erase):
        asked = {
            "patient": patient,
            "at": now.isoformat(),
            "actor": actor,
            "heads": _named(folder, heads_of(folder, patient)),
        }
        write_begun(folder, ERASURE, asked)
        key, objects, heads = _erase(folder, asked)
    found = contributions_of(folder, patient)
    return Erased(key, objects, heads, found, certificate_path(folder, "erasure", now))


def require_known(folder: ClinicFolder, patient: str, *, even_if_unknown: bool = False) -> None:
    """Look whether there is somebody to erase, before anybody is asked whether to go on.

    Args:
        folder: The clinic's folder.
        patient: The patient's id.
        even_if_unknown: Whether somebody of whom nothing is known will do.

    Raises:
        DataError: If nothing is known of the patient; most likely the id is mistyped.
        IntegrityError: If something in the folder was changed.
        PolicyError: If the user may not erase.
    """
    require_role(folder, "erase")
    found = contributions_of(folder, patient)
    if not (found.runs or found.erased or even_if_unknown or is_known(folder, patient)):
        raise unknown_patient()


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
    return finish_begun(folder, ERASURE, _erase)


def alone_with_erasures(folder: ClinicFolder) -> AbstractContextManager[None]:
    """Keep erasures out until the block ends, and first end one that was interrupted.

    Args:
        folder: The clinic's folder.

    Returns:
        The block's context.
    """
    return alone_at(folder, ERASURE, _erase)


def _erase(folder: ClinicFolder, asked: Mapping[str, Any]) -> tuple[bool, int, int]:
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
    # What was written down counts those that a process which was killed had removed already.
    heads = {*asked.get("heads", ()), *_named(folder, heads_of(folder, patient))}
    for each in sorted(heads):
        remove(folder.path / each, "own head")
    _certify(folder, patient, now, len(heads))
    answered(folder, patient, "erase", now=now, actor=actor)
    end_begun(folder, ERASURE)
    return done.patients > 0, done.objects, len(heads)


def _named(folder: ClinicFolder, paths: Iterable[Path]) -> list[str]:
    return [path.relative_to(folder.path).as_posix() for path in paths]


def _certify(folder: ClinicFolder, patient: str, now: datetime, heads: int) -> None:
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
        "own_heads": f"Heads that this clinic kept to itself and that were fitted to the patient, "
        f"without noise: {heads}, removed.",
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
