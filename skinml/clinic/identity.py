"""Who a clinic's folder belongs to and where its anchor is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skinml.durable import read_whole
from skinml.errors import ConfigError, IntegrityError
from skinml.journal import KeyedSeal, canonical
from skinml.stewardship.encryption import derive_key, keyed_digest

FILE = "clinic.json"


class Identity(BaseModel):
    """What stands in `clinic.json`; nothing of it is secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    name: str = Field(description="The clinic's name.")
    id: str = Field(pattern=r"^[0-9a-f]{32}$", description="Random; never used for another folder.")
    public_key: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="Ed25519 key that the audit log is checked with."
    )
    key_check: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="Keyed digest that only the clinic's key gives."
    )
    anchor: str = Field(description="The anchors' file, from the folder or from the root.")
    group: str | None = Field(None, description="Unix group that shares the folder; none: nobody.")
    virtual: bool = Field(False, description="Whether the clinic exists only in simulations.")


def new_id() -> str:
    """Draw an id.

    Returns:
        32 hexadecimal digits that no other folder has.
    """
    return os.urandom(16).hex()


def key_check(key: bytes, clinic_id: str) -> str:
    """Make the digest by which a wrong key is told from damaged files.

    Args:
        key: The clinic's key.
        clinic_id: The folder's id.

    Returns:
        64 hexadecimal digits.
    """
    return keyed_digest(derive_key(key, "key check"), clinic_id.encode())


def identity_bytes(identity: Identity, key: bytes) -> bytes:
    """Write an identity so that a change shows.

    Args:
        identity: The identity.
        key: The clinic's key, which seals it.

    Returns:
        The content of `clinic.json`.
    """
    values = identity.model_dump(mode="json")
    seal = KeyedSeal(derive_key(key, "identity")).make(canonical(values))
    return json.dumps(values | {"seal": seal}, indent=1, sort_keys=True).encode() + b"\n"


def read_identity(folder: Path) -> Identity:
    """Read an identity before its key is known; `require_sealed` holds it to the key later.

    Args:
        folder: The clinic's folder.

    Returns:
        The identity.

    Raises:
        ConfigError: If the folder is no clinic's.
        EnvironmentProblem: If the file cannot be read.
        IntegrityError: If it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        if any((folder / name).exists() for name in ("policy.yaml", "ledger.jsonl", "key")):
            raise _damaged(folder, "no clinic.json beside a clinic's other files")
        raise ConfigError(
            rule="the folder of a clinic",
            got=f"folder={folder} without clinic.json",
            do="Name the folder with --folder, or make one: skinml clinic init --folder FOLDER",
        )
    try:
        values = json.loads(read_whole(path, "clinic.json"))
        del values["seal"]
        return Identity.model_validate(values)
    except (ValueError, KeyError, TypeError, ValidationError):
        raise _damaged(folder, "another content") from None


def require_sealed(folder: Path, identity: Identity, key: bytes) -> None:
    """Check that the key is the folder's own and that the identity is as it was written.

    Args:
        folder: The clinic's folder.
        identity: What `read_identity` gave.
        key: The unlocked key.

    Raises:
        IntegrityError: If not.
    """
    if key_check(key, identity.id) != identity.key_check:
        raise IntegrityError(
            rule=f"the key of clinic {identity.name}",
            got="another key, or a changed clinic.json",
            do="Unlock with this folder's own key, or restore clinic.json from a backup.",
        )
    if read_whole(folder / FILE, "clinic.json") != identity_bytes(identity, key):
        raise _damaged(folder, "another content")


def _damaged(folder: Path, got: str) -> IntegrityError:
    return IntegrityError(
        rule=f"an unchanged clinic.json in {folder.name}",
        got=got,
        do="Restore it from a backup. If an earlier release of skinml made this folder, move the "
        "folder away: a new one will be made.",
    )
