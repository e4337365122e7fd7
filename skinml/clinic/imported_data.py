"""A clinic's imported pictures as a manifest, for checks and runs; never written to a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from skinml.clinic.folder import ClinicFolder
from skinml.clinic.identity import FILE

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


def imported_manifest(folder: ClinicFolder, taxonomy: Taxonomy | None = None) -> Manifest:
    """List the pictures that may be used: accepted, or masked.

    Args:
        folder: The clinic's opened folder.
        taxonomy: The meaning of words; the shipped one by default.

    Returns:
        The manifest; its rows count the usable pictures in the order of their first import.

    Raises:
        DataError: If there is none, or a word is not known.
        IntegrityError: If the register of pictures was changed.
    """
    from skinml.data.manifest import manifest_of
    from skinml.data.sealed_images import SealedImages

    rows = [
        {**picture.fields, "patient_id": picture.patient, "image": picture.object or ""}
        for picture in folder.pictures.pictures().values()
        if picture.usable
    ]
    return manifest_of(
        rows, root=SealedImages(folder.vault), name=f"pictures of {folder.name}", taxonomy=taxonomy
    )
