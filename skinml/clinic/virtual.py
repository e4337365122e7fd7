"""The clinic folders of a simulation: made from its config, opened like any other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from skinml.clinic.folder import ClinicFolder, create_folder, open_folder
from skinml.clinic.identity import read_identity
from skinml.clinic.policies import put_in_force
from skinml.durable import locked, make_folder
from skinml.errors import DataError, PolicyError
from skinml.stewardship.policy import Policy
from skinml.stewardship.roles import os_user

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}")


def virtual_folder(root: Path, anchors: Path, name: str, policy: Policy) -> ClinicFolder:
    """Open the folder of a virtual clinic, or make it.

    Args:
        root: The folder of all virtual clinics.
        anchors: The folder of their anchors.
        name: The clinic's name.
        policy: The policy that it shall have; its clinic's name is filled in. Where another one
            is in force, this one takes its place and the audit log says so.

    Returns:
        The folder.

    Raises:
        DataError: If the name could not be a folder's.
        EnvironmentProblem: If the folder cannot be written.
        IntegrityError: If something in the folder was changed.
        PolicyError: If it is a real clinic's: only its steward changes its policy.
    """
    if not _NAME.fullmatch(name):
        raise DataError(
            rule="clinic names of up to 64 letters, digits, spaces, '_', '-' and '.'",
            got=f"clinic={name[:80]!r}",
            do="Rename the clinic in the manifest.",
        )
    wanted = policy.model_copy(update={"clinic": name})
    make_folder(root, "working folder")
    with locked(root / ".lock", "working folder"):
        if not (root / name).exists():
            return create_folder(
                root / name,
                name=name,
                policy=wanted,
                anchors=anchors,
                virtual=True,
            )
        folder = _open(root / name)
        put_in_force(folder, wanted, os_user(), now=datetime.now(UTC))
    return folder


def find_virtual_folder(root: Path, name: str) -> ClinicFolder | None:
    """Open the folder of a virtual clinic, if there is one.

    Args:
        root: The folder of all virtual clinics.
        name: The clinic's name.

    Returns:
        The folder; None where there is none of this name.

    Raises:
        IntegrityError: If something in the folder was changed.
        PolicyError: If it is a real clinic's.
    """
    if not _NAME.fullmatch(name) or not (root / name).exists():
        return None
    return _open(root / name)


def find_virtual_among(roots: Sequence[Path], name: str) -> ClinicFolder | None:
    """Open the folder of a virtual clinic in the first of several places that has one.

    Args:
        roots: Folders in which it may be.
        name: The clinic's name.

    Returns:
        The folder; None where no place has one of this name.

    Raises:
        IntegrityError: If something in the folder was changed.
        PolicyError: If it is a real clinic's.
    """
    return next(filter(None, (find_virtual_folder(root, name) for root in roots)), None)


def _open(path: Path) -> ClinicFolder:
    """Open a folder, but never a real clinic's: a working folder can be named to hold one."""
    if not read_identity(path).virtual:
        raise _real(path)
    folder = open_folder(path)
    if not folder.identity.virtual:  # it was exchanged since the look above
        raise _real(path)
    return folder


def _real(path: Path) -> PolicyError:
    return PolicyError(
        rule="the folder of a clinic that exists only in simulations",
        got=f"the folder of a real clinic, {path.name}",
        do="Choose another work_dir; a simulation keeps out of real clinics' folders.",
    )
