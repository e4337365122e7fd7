"""Keeping a patient's data without using them, until the question that stands open is settled."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from skinml.clinic.begun import RESTRICTION, alone_at, end_begun, finish_begun, write_begun
from skinml.clinic.consents import log_changes
from skinml.clinic.contributions import is_known, unknown_patient
from skinml.clinic.folder import ClinicFolder
from skinml.clinic.gate import require_role
from skinml.clinic.requests import answered
from skinml.errors import DataError
from skinml.stewardship.consent_rules import is_restricted


def restrict_patient(
    folder: ClinicFolder,
    patient: str,
    *,
    restricted: bool,
    now: datetime,
    even_if_unknown: bool = False,
) -> None:
    """Stop all use of a patient's data, or lift that.

    Args:
        folder: The clinic's folder.
        patient: The patient's id.
        restricted: Whether it begins; False lifts it.
        now: The time, with its zone.
        even_if_unknown: Record it also for somebody of whom nothing is known.

    Raises:
        DataError: If nothing is known of the patient, or the use stands already as it is asked.
        EnvironmentProblem: If a file cannot be written.
        IntegrityError: If register or audit log was changed.
        PolicyError: If the user may not.

    Guarantees:
        From the moment that this returns no run takes the patient in, on whatever ground, and one
        that is going on leaves the patient out from its next round. Nothing is deleted, and the
        consents are as they were when it is lifted. Killed at any moment after it began, the next
        command at the clinic's desk ends it.
    """
    actor = require_role(folder, "consent.change")
    if not even_if_unknown and not is_known(folder, patient):
        raise unknown_patient()
    with alone_at(folder, RESTRICTION, _carry_out):
        if _is_restricted(folder, patient) == restricted:
            raise DataError(
                rule="a change of how the use stands",
                got="a use that is restricted already"
                if restricted
                else "a use that is not restricted",
                do="Nothing was recorded, and nothing needs to be.",
            )
        asked = {
            "patient": patient,
            "restricted": restricted,
            "at": now.isoformat(),
            "actor": actor,
        }
        write_begun(folder, RESTRICTION, asked)
        _carry_out(folder, asked)


def finish_restriction(folder: ClinicFolder) -> bool:
    """End a restriction, or the lifting of one, that was interrupted.

    Args:
        folder: The clinic's folder.

    Returns:
        Whether there was one.

    Raises:
        EnvironmentProblem: If a file cannot be written.
        IntegrityError: If something in the folder was changed.
    """
    return finish_begun(folder, RESTRICTION, _carry_out)


def _carry_out(folder: ClinicFolder, asked: Mapping[str, Any]) -> None:
    """Do all that is not done yet."""
    patient, actor, restricted = asked["patient"], asked["actor"], bool(asked["restricted"])
    now = datetime.fromisoformat(asked["at"])
    if _is_restricted(folder, patient) != restricted:
        folder.consents.restrict(patient, restricted=restricted, now=now, actor=actor)
    log_changes(folder)
    if restricted:
        answered(folder, patient, "restrict", now=now, actor=actor)
    end_begun(folder, RESTRICTION)


def _is_restricted(folder: ClinicFolder, patient: str) -> bool:
    return is_restricted(folder.consents.state_of(patient).history)
