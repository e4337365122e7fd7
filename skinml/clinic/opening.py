"""Opening a clinic's folder for the person at the screen."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

from skinml.clinic.begun import CORRECTION, ERASURE, KINDS, RESTRICTION, RETENTION, read_begun
from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.errors import ConfigError
from skinml.stewardship.passphrases import FILE_VARIABLE, SecretSource, source_from
from skinml.stewardship.unlocking import Unlock, by_key_file, by_keyring, by_passphrase

_NEW_FILE_VARIABLE = "SKINML_NEW_PASSPHRASE_FILE"


def open_at_screen(path: Path, source: SecretSource | None = None) -> ClinicFolder:
    """Open a folder; where it needs a passphrase, ask at the terminal or read the private file.

    What was begun at this desk and interrupted is ended first: an erasure, a correction, a
    restriction, an end of retention.

    Args:
        path: The folder.
        source: Gives the passphrase; by default `secret_source`.

    Returns:
        The folder, verified.

    Raises:
        ConfigError: If it is no clinic's folder.
        EnvironmentProblem: If others can open it, its key cannot be unlocked, or an interrupted
            command cannot be ended.
        IntegrityError: If the passphrase is wrong or anything in the folder was changed.
    """
    folder = open_folder(path, source or secret_source())
    for kind in KINDS:
        if read_begun(folder, kind) is not None:
            _finishers()[kind](folder)
    return folder


def _finishers() -> dict[str, Callable[[ClinicFolder], bool]]:
    """Load what ends a command that was interrupted: rare, and slow to load."""
    from skinml.clinic.correction import finish_correction
    from skinml.clinic.erasure import finish_erasure
    from skinml.clinic.restriction import finish_restriction
    from skinml.clinic.retention import finish_retention

    return {
        ERASURE: finish_erasure,
        CORRECTION: finish_correction,
        RESTRICTION: finish_restriction,
        RETENTION: finish_retention,
    }


def secret_source() -> SecretSource:
    """Choose where the passphrase comes from: the terminal, or a private file.

    Returns:
        The source; it asks once, however often it is used.
    """
    return cache(source_from(os.environ))


def new_secret() -> SecretSource:
    """Choose where a new passphrase of a clinic that has one comes from.

    Returns:
        The source: the terminal, or the private file that SKINML_NEW_PASSPHRASE_FILE names.
    """
    chosen = {FILE_VARIABLE: os.environ.get(_NEW_FILE_VARIABLE, "")}
    return source_from(chosen, new=True)


def new_lock(unlock: str, clinic: str) -> Unlock:
    """Read what a folder shall be locked with.

    Args:
        unlock: "passphrase", "keyring", or the path of a new key file.
        clinic: The clinic's name, for the keyring's entry.

    Returns:
        The lock.

    Raises:
        ConfigError: If it is neither: a slip such as "pasphrase" makes no key file of that name.
    """
    if unlock == "passphrase":
        return by_passphrase()
    if unlock == "keyring":
        # One entry a lock: the old one is removed only when the new one holds.
        return by_keyring(f"{clinic} {os.urandom(4).hex()}")
    place = Path(unlock).expanduser()
    if not place.is_absolute():
        raise ConfigError(
            rule="passphrase, keyring or a path from the root on",
            got=f"unlock={unlock}",
            do="Write the whole path, such as /media/usb/skinml.",
        )
    return by_key_file(place)
