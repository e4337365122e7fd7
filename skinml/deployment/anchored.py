"""Files of a clinic's folder that are anchored and of one form: set back or changed, it shows."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from skinml.clinic.folder import ClinicFolder
from skinml.errors import IntegrityError

_Values = TypeVar("_Values")


def find_anchored(
    folder: ClinicFolder, file: Path, what: str, form: TypeAdapter[_Values]
) -> _Values | None:
    """Read an anchored file.

    Args:
        folder: The clinic's folder.
        file: The file.
        what: What it is, for messages.
        form: What it must be.

    Returns:
        Its values; None where there is no such file.

    Raises:
        IntegrityError: If it was changed, or is of another form.
    """
    content = folder.anchors.find(file, what)
    if content is None:
        return None
    try:
        return form.validate_json(content)
    except ValidationError:
        raise IntegrityError(
            rule=f"a {what} of this release of skinml",
            got="another one's",
            do="Update skinml to the release that wrote it.",
        ) from None
