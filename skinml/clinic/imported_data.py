"""A clinic's imported pictures as a manifest, for checks and runs; never written to a file."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from skinml.clinic.folder import ClinicFolder
from skinml.clinic.identity import FILE
from skinml.stewardship.retention import last_day_of_use, shortened

if TYPE_CHECKING:
    from skinml.data.manifest import Manifest
    from skinml.data.taxonomy import Taxonomy


def is_clinic_folder(path: Path, other: Path | None = None) -> bool:
    """Tell whether a folder of data is a clinic's own folder, with what was imported there.

    Args:
        path: A folder.
        other: Another one; then both must be the same.

    Returns:
        Whether it is.
    """
    place = path.expanduser()
    if other is None:
        return (place / FILE).is_file()
    return place.resolve() == other.expanduser().resolve()


def imported_manifest(
    folder: ClinicFolder, purpose: str, day: date, taxonomy: Taxonomy | None = None
) -> Manifest:
    """List the pictures that may be used: accepted, or masked.

    Each row has the last day of its use for the purpose, by the policy's days, in `kept_until`; the
    gate looks at it. Fields whose days are over are left out here.

    Args:
        folder: The clinic's opened folder.
        purpose: What the pictures shall be used for.
        day: The day of use.
        taxonomy: The meaning of words; the shipped one by default.

    Returns:
        The manifest; its rows count the usable pictures in the order of their first import.

    Raises:
        DataError: If there is none, or a word is not known.
        IntegrityError: If the register of pictures was changed.
    """
    from skinml.data.manifest import manifest_of
    from skinml.data.sealed_images import SealedImages

    rules = folder.policy.retention
    rows = []
    for picture in folder.pictures.pictures().values():
        if not picture.usable:
            continue
        last = last_day_of_use(picture, rules, purpose)
        own = {"patient_id": picture.patient, "image": picture.object or ""}
        end = {} if last is None else {"kept_until": last.isoformat()}
        rows.append({**shortened(picture, rules, day).fields, **own, **end})
    return manifest_of(
        rows, root=SealedImages(folder.vault), name=f"pictures of {folder.name}", taxonomy=taxonomy
    )
