"""Who was erased from a clinic's folder, and who may have a key there again."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date

from skinml.clinic.begun import ERASURE, read_begun
from skinml.clinic.folder import ClinicFolder
from skinml.clinic.picture_lock import changing_pictures
from skinml.stewardship.consent import USUALLY_WITHDRAWN
from skinml.stewardship.pseudonyms import pseudonym, pseudonyms


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
    names = erased_names(folder)
    if not names:
        return set()
    unique = sorted(patients)
    pairs = zip(unique, pseudonyms(folder.key, unique), strict=True)
    return {patient for patient, name in pairs if name in names}


def erased_names(folder: ClinicFolder) -> set[str]:
    """Find the pseudonyms of all who were erased here and have not come back since.

    Args:
        folder: The clinic's folder.

    Returns:
        Pseudonyms; see `erased_among`.

    Raises:
        EnvironmentProblem: If a file cannot be read.
        IntegrityError: If something in the folder was changed.
    """
    asked = {
        str(entry.fields.get("patient"))
        for entry in folder.audit.entries()
        if entry.event == "erasure"
    }
    begun = read_begun(folder, ERASURE)
    if begun is not None:
        asked.add(pseudonym(folder.key, begun["patient"]))
    return asked - set(folder.patient_keys.find_pseudonyms(asked)) if asked else set()


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
