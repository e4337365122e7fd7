"""The key that signs a working folder's bundles, and the short form in which people compare it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from skinml.durable import locked, make_folder, read_whole, write_whole
from skinml.errors import IntegrityError
from skinml.stewardship.signing import new_signing_key

KEY_FILE = "bundle.key"
_DIGITS, _GROUP = 32, 4


def signing_key(root: Path) -> bytes:
    """Read the key of a working folder; make it where there is none.

    Args:
        root: The working folder, or a federation's folder.

    Returns:
        32 secret bytes: never log.

    Raises:
        EnvironmentProblem: If it cannot be read or written.
        IntegrityError: If others than its owner may read it, or it is damaged.
    """
    path = root / KEY_FILE
    make_folder(root, "working folder")
    with locked(root / f".{KEY_FILE}.lock", "key of bundles"):
        if not path.exists():
            write_whole(path, new_signing_key().hex().encode() + b"\n", "key of bundles")
        content = read_whole(path, "key of bundles")
    if path.stat().st_mode & 0o077:
        raise _unsafe(
            f"permissions={path.stat().st_mode & 0o777:o}",
            f"If nobody else can have read it: chmod 600 {KEY_FILE}. Else remove it: the next "
            "bundle makes another, whose fingerprint readers must be told.",
        )
    try:
        key = bytes.fromhex(content.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise _unsafe("another content", "Restore it from a backup, or remove it.")
    return key


def fingerprint(public_key: str) -> str:
    """Write a public key so short that people can compare it.

    Args:
        public_key: 64 hexadecimal digits.

    Returns:
        The first 32 digits of its SHA-256, in groups of four.

    Raises:
        ValueError: If it is no public key.

    >>> fingerprint("00" * 32)[:9]
    '6668 7aad'
    """
    digits = hashlib.sha256(bytes.fromhex(public_key)).hexdigest()[:_DIGITS]
    return " ".join(digits[at : at + _GROUP] for at in range(0, _DIGITS, _GROUP))


def is_key(public_key: str, told: str) -> bool:
    """Tell whether a key is the one that somebody named.

    Args:
        public_key: 64 hexadecimal digits.
        told: Its fingerprint with or without spaces, dashes or colons, or the whole key.

    Returns:
        Whether it is.
    """
    digits = "".join(letter for letter in told.lower() if letter not in " -:\t")
    return digits in (fingerprint(public_key).replace(" ", ""), public_key)


def _unsafe(got: str, do: str) -> IntegrityError:
    return IntegrityError(rule=f"a file {KEY_FILE} that is only its owner's", got=got, do=do)
