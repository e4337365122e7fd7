"""Who was erased from a clinic's folder, and who may have a key there again."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import date

from skinml.clinic.folder import ERASURE, ClinicFolder
from skinml.clinic.picture_lock import changing_pictures
from skinml.durable import read_whole, write_whole
from skinml.errors import EnvironmentProblem
from skinml.stewardship.consent import USUALLY_WITHDRAWN
from skinml.stewardship.encryption import derive_key, seal, unseal
from skinml.stewardship.pseudonyms import pseudonym, pseudonyms

_WHAT = "erasure"
_CONTEXT = b"skinml erasure 1"


def write_begun(folder: ClinicFolder, asked: Mapping[str, str]) -> None:
    """Write down, sealed, what an erasure was asked for.

    Args:
        folder: The clinic's folder.
        asked: The patient, when, and by whom.

    Raises:
        EnvironmentProblem: If it cannot be written.
    """
    sealed = seal(_key(folder), json.dumps(dict(asked)).encode(), context=_CONTEXT)
    write_whole(folder.path / ERASURE, sealed, _WHAT)


def begun_erasure(folder: ClinicFolder) -> Mapping[str, str] | None:
    """Read what an erasure that is not ended yet was asked for.

    Args:
        folder: The clinic's folder.

    Returns:
        What `write_begun` was given: never log. None where there is none.

    Raises:
        EnvironmentProblem: If it cannot be read.
        IntegrityError: If it was changed.
    """
    path = folder.path / ERASURE
    if not path.exists():
        return None
    try:
        content = read_whole(path, _WHAT)
    except EnvironmentProblem:
        if path.exists():
            raise
        return None  # it has ended since
    asked = json.loads(unseal(_key(folder), content, context=_CONTEXT))
    return {str(name): str(value) for name, value in asked.items()}


def erased_among(folder: ClinicFolder, patients: Collection[str]) -> set[str]:
    """Find patients who were erased here and have not come back since.

    Args:
        folder: The clinic's folder.
        patients: The clinic's own ids.

    Returns:
        Those who were erased, or of whom an erasure has begun, and who have no key. Who comes
        back, by a consent recorded since, has one.

    Raises:
        EnvironmentProblem: If a file cannot be read.
        IntegrityError: If something in the folder was changed.

    Guarantees:
        Inside `changing_pictures` the answer holds until the block ends.
    """
    asked = {
        str(entry.fields.get("patient"))
        for entry in folder.audit.entries()
        if entry.event == "erasure"
    }
    begun = begun_erasure(folder)
    if begun is not None:
        asked.add(pseudonym(folder.key, begun["patient"]))
    if not asked:
        return set()
    unique = sorted(patients)
    names = dict(zip(unique, pseudonyms(folder.key, unique), strict=True))
    there = folder.patient_keys.find_pseudonyms(asked)
    return {patient for patient, name in names.items() if name in asked and name not in there}


def give_keys(
    folder: ClinicFolder, patients: Collection[str], purposes: Collection[str], day: date
) -> None:
    """Give keys to patients and note who they are, but for whoever was erased and is not back.

    Args:
        folder: The clinic's folder.
        patients: The clinic's own ids.
        purposes: What their data may be wanted for.
        day: The day of use.

    Raises:
        EnvironmentProblem: If a file cannot be read or written.
        IntegrityError: If something in the folder was changed.

    Guarantees:
        Who was erased here gets a key only where a consent recorded since covers a purpose, also
        where the erasure goes on meanwhile.
    """
    with changing_pictures(folder):
        gone = sorted(erased_among(folder, patients))
        back = {
            patient
            for purpose in set(purposes) & set(USUALLY_WITHDRAWN)  # what an erasure ended
            for patient, why in zip(
                gone, folder.consents.verdicts(gone, purpose, day) if gone else (), strict=True
            )
            if not why
        }
        folder.vault.remember(sorted(set(patients) - (set(gone) - back)))


def _key(folder: ClinicFolder) -> bytes:
    return derive_key(folder.key, "erasure")
