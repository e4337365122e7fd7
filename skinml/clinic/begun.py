"""What was begun at a clinic's desk and is not ended yet, written down before it is done.

An erasure, a removal of what was kept for its days, a correction and a restriction take several
steps. Each writes down first, sealed, what it is about to do; whatever interrupts it, the next
command at the desk reads that and does the rest. The anchors know of each such file, so that an
older one that is put back, of what was ended long ago, is done to nobody a second time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from skinml.clinic.folder import ClinicFolder
from skinml.durable import locked, overwritten
from skinml.errors import IntegrityError
from skinml.stewardship.encryption import derive_key, seal, unseal

ERASURE = "erasure"
RETENTION = "retention"
CORRECTION = "correction"
RESTRICTION = "restriction"
KINDS = (ERASURE, CORRECTION, RESTRICTION, RETENTION)
"""In the order in which they are ended."""
CarryOut = Callable[[ClinicFolder, dict[str, Any]], object]
"""Does all of a plan that is not done yet, and ends it."""


def file_of(kind: str) -> str:
    """Name the file that holds what was begun.

    Args:
        kind: One of `KINDS`.

    Returns:
        Its name in the clinic's folder.

    >>> file_of("erasure")
    'erasure.sealed'
    """
    return f"{kind}.sealed"


def write_begun(folder: ClinicFolder, kind: str, plan: Mapping[str, Any]) -> None:
    """Write down, sealed, what is about to be done.

    Args:
        folder: The clinic's folder.
        kind: One of `KINDS`.
        plan: Plain JSON values.

    Raises:
        EnvironmentProblem: If it cannot be written.
        IntegrityError: If the anchors were changed.

    Guarantees:
        Killed at any moment, nothing was begun or `read_begun` gives all of it.
    """
    sealed = seal(derive_key(folder.key, kind), json.dumps(plan).encode(), context=_context(kind))
    folder.anchors.replace(folder.path / file_of(kind), sealed, kind)


def read_begun(folder: ClinicFolder, kind: str) -> dict[str, Any] | None:
    """Read what was begun and is not ended.

    Args:
        folder: The clinic's folder.
        kind: One of `KINDS`.

    Returns:
        What `write_begun` was given: never log. None where there is none.

    Raises:
        EnvironmentProblem: If it cannot be read.
        IntegrityError: If it was changed, was taken away before it ended, or is an older one that
            was put back.
    """
    try:
        content = folder.anchors.find(folder.path / file_of(kind), kind)
    except IntegrityError:
        if folder.anchors.holds(file_of(kind)):
            raise
        raise IntegrityError(
            rule=f"no {file_of(kind)} where no {kind} was interrupted",
            got="an older copy of it, or one that an older skinml wrote",
            do=f"If it was put back, move {file_of(kind)} away: nothing was done. If skinml was "
            "updated since, let the release before end it.",
        ) from None
    if content is None:
        return None
    plan = json.loads(unseal(derive_key(folder.key, kind), content, context=_context(kind)))
    return {str(name): value for name, value in plan.items()}


def end_begun(folder: ClinicFolder, kind: str) -> None:
    """Remove what was written down, once all of it is done.

    It says whom it was about, under the clinic's key: zeros are written over it, see `overwritten`
    for what that is worth.

    Args:
        folder: The clinic's folder.
        kind: One of `KINDS`.

    Raises:
        EnvironmentProblem: If it cannot be removed.
        IntegrityError: If the anchors were changed.

    Guarantees:
        Killed at any moment, it is there whole or gone.
    """
    path = folder.path / file_of(kind)
    with overwritten(path):
        folder.anchors.remove(path, kind)


@contextmanager
def alone_at(folder: ClinicFolder, kind: str, carry_out: CarryOut) -> Iterator[None]:
    """Keep others out who would begin the same, and first end what somebody else left.

    Args:
        folder: The clinic's folder.
        kind: One of `KINDS`.
        carry_out: Does all of a plan that is not done yet, and ends it.

    Yields:
        Nothing.

    Raises:
        EnvironmentProblem: If a file cannot be written or removed.
        IntegrityError: If something in the folder was changed.
    """
    with _locked(folder, kind):
        _end(folder, kind, carry_out)
        yield


def finish_begun(folder: ClinicFolder, kind: str, carry_out: CarryOut) -> bool:
    """End what was begun and interrupted.

    Args:
        folder: The clinic's folder.
        kind: One of `KINDS`.
        carry_out: Does all of a plan that is not done yet, and ends it.

    Returns:
        Whether there was anything.

    Raises:
        EnvironmentProblem: If a file cannot be written or removed.
        IntegrityError: If something in the folder was changed.
    """
    if read_begun(folder, kind) is None:
        return False
    with _locked(folder, kind):
        return _end(folder, kind, carry_out)


def _locked(folder: ClinicFolder, kind: str) -> AbstractContextManager[None]:
    return locked(folder.path / f".{kind}.lock", kind)


def _end(folder: ClinicFolder, kind: str, carry_out: CarryOut) -> bool:
    plan = read_begun(folder, kind)
    if plan is None:
        return False
    carry_out(folder, plan)
    return True


def _context(kind: str) -> bytes:
    return f"skinml {kind} 1".encode()
