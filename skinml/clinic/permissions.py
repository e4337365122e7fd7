"""Who of the computer's users can get at a clinic's files."""

from __future__ import annotations

import grp
import os
import stat
from pathlib import Path

from skinml.errors import EnvironmentProblem


def require_private(folder: Path, group: str | None) -> None:
    """Check that nobody else can enter a clinic's folder.

    Args:
        folder: The folder; everything directly in it and in `keys` is looked at too.
        group: A Unix group that shares it; None: nobody does.

    Raises:
        EnvironmentProblem: If others can, if a file belongs to somebody else, or if something in
            the folder is a link.
    """
    kept = {folder, *folder.iterdir(), *(folder / "keys").glob("*")}
    shared = group_number(group)
    for path in sorted(kept):
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            raise _open(path, "a link", "Replace the link by what it points to.")
        mode, by_group = stat.S_IMODE(status.st_mode), status.st_gid == shared
        if mode & (0o007 if by_group else 0o077):
            right = "o-rwx" if by_group else "go-rwx"
            raise _open(
                path, f"mode={mode:04o}", f"Find out who has read it, then: chmod {right} {path}"
            )
        if status.st_uid != os.geteuid() and not by_group and os.geteuid() != 0:
            raise _open(path, "another owner", f"Give it to the user who runs skinml: {path}")


def group_number(group: str | None) -> int | None:
    """Look a Unix group up.

    Args:
        group: Its name; None: none.

    Returns:
        Its number; None for none.

    Raises:
        EnvironmentProblem: If this computer has no such group.
    """
    if group is None:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise EnvironmentProblem(
            rule="the Unix group that shares the clinic's folder",
            got=f"no group {group} on this computer",
            do="Make the group, or make the folder private again.",
        ) from None


def _open(path: Path, got: str, do: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        rule="a clinic's folder that nobody else can open", got=f"{got} of {path.name}", do=do
    )
