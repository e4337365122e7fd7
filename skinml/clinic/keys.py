"""Changing what a clinic's folder is locked with, and the keys below it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from skinml.clinic.folder import LOCKED_KEY, ClinicFolder, locked_anew
from skinml.clinic.gate import require_role
from skinml.errors import ConfigError
from skinml.stewardship.passphrases import SecretSource
from skinml.stewardship.unlocking import Unlock, forget_secret


def rotate_patient_keys(folder: ClinicFolder, *, now: datetime) -> int:
    """Wrap all patients' keys anew. What is sealed under them stays as it is.

    Args:
        folder: The clinic's folder.
        now: The time, for the audit log.

    Returns:
        How many keys there are.

    Raises:
        EnvironmentProblem: If a file cannot be written.
        IntegrityError: If the vault or the audit log was changed.
        PolicyError: If the user may not.
    """
    actor = require_role(folder, "keys.rotate")
    folder.patient_keys.rotate()
    count = len(folder.patient_keys)
    folder.audit.write("key rotated", actor, now=now, key="patient keys", count=count)
    return count


def change_lock(
    folder: ClinicFolder, unlock: Unlock, source: SecretSource, *, now: datetime
) -> None:
    """Lock the clinic's key with something else, or with another passphrase.

    Whoever kept a copy of the old locked key and knows the old secret still has the clinic's key.

    Args:
        folder: The clinic's folder, opened with the old secret.
        unlock: What to lock it with; its secret is made here.
        source: Gives the new passphrase, where one is needed.
        now: The time, for the audit log.

    Raises:
        ConfigError: If the passphrase is too short, the new key file would be inside the folder,
            or the clinic is a virtual one, whose key is not locked.
        EnvironmentProblem: If a file cannot be written, or there is a secret in the new place.
        IntegrityError: If the folder was changed.
        PolicyError: If the user may not.

    Guarantees:
        Killed at any moment, the old secret opens the folder or the new one does.
    """
    actor = require_role(folder, "keys.rotate")
    old = folder.lock
    inside = unlock.path is not None and Path(unlock.path).resolve().is_relative_to(
        folder.path.resolve()
    )
    if old is None or inside:
        raise ConfigError(
            rule="a secret outside the folder of a real clinic",
            got="a virtual clinic" if old is None else "a key file inside the folder",
            do="Name a place that whoever copies the folder does not have.",
        )
    content = locked_anew(folder.key, unlock, source)
    folder.audit.write("key rotated", actor, now=now, key="clinic key")
    folder.anchors.replace(folder.path / "keys" / LOCKED_KEY, content, "locked key")
    forget_secret(old)
