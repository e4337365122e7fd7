"""Who may change a clinic's pictures: one at a time, and what a kill left is removed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from skinml.clinic.folder import ClinicFolder
from skinml.durable import locked
from skinml.stewardship.pictures import ORIGINAL, PENDING, PICTURE


@contextmanager
def changing_pictures(folder: ClinicFolder) -> Iterator[None]:
    """Keep others from changing vault and register of pictures until the block ends.

    Put the new object first, then the line of the register, then discard the old object: whatever
    a kill leaves in between, no line names an object that is not there. Keys of patients are
    destroyed under it too, so that what is asked of them inside holds until the block ends. Who
    needs the lock of erasures as well takes that one first.

    Args:
        folder: The clinic's folder.

    Yields:
        Nothing.

    Raises:
        EnvironmentProblem: If another process holds it for a minute.
    """
    with locked(folder.path / ".pictures.lock", "register of pictures"):
        yield


def remove_orphans(folder: ClinicFolder) -> None:
    """Remove what an import or a review that was killed had sealed and not put on record.

    Args:
        folder: The clinic's folder.

    Raises:
        EnvironmentProblem: If a file cannot be removed.
        IntegrityError: If the register was changed.
    """
    with changing_pictures(folder):
        discard_orphans(folder)


def discard_orphans(folder: ClinicFolder) -> None:
    """Remove pictures and originals that no line of the register names, in `changing_pictures`.

    Args:
        folder: The clinic's folder.

    Raises:
        EnvironmentProblem: If a file cannot be removed.
        IntegrityError: If the register was changed.
    """
    folder.vault.discard(orphans(folder))


def orphans(folder: ClinicFolder) -> set[str]:
    """Find pictures and originals that no line of the register names, in `changing_pictures`.

    Args:
        folder: The clinic's folder.

    Returns:
        Their ids in the vault: what an import or a review that was killed left.

    Raises:
        EnvironmentProblem: If a file cannot be read.
        IntegrityError: If the register was changed.
    """
    named = folder.pictures.objects() | folder.pictures.originals()
    return folder.vault.listed([PICTURE, PENDING, ORIGINAL]) - named
