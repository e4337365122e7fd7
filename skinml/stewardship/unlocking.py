"""What a clinic's key is locked with: a passphrase, a key file, or the operating system's keyring.

The clinic's key never lies on the disk as it is. It is sealed under a second key, and that one
comes from a passphrase through scrypt, from a file that only its owner can read, or from the
keyring. Secrets are never process arguments and never values of environment variables: other users
of the machine can see the former, and children inherit the latter.

What this protects against: a folder that was copied, or a disk that was stolen, without the secret.
What it does not: somebody who is the same user, or root, while skinml runs; a key file that is
copied along with the folder; a machine whose memory is swapped to an unencrypted disk.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from skinml.durable import cannot
from skinml.errors import ConfigError, EnvironmentProblem, IntegrityError
from skinml.stewardship.encryption import (
    KEY_BYTES,
    derive_key,
    new_key,
    read_key,
    seal,
    unseal,
    write_key,
)
from skinml.stewardship.passphrases import SecretSource as SecretSource
from skinml.stewardship.passphrases import checked

Method = Literal["passphrase", "key_file", "keyring"]


class Unlock(BaseModel):
    """How a clinic's key is locked. Nothing in it is secret; `Unlock` belongs to its wrapped key.

    Attributes:
        method: What the key is locked with.
        scrypt_n: CPU and memory cost, a power of two; with r = 8 it takes n KiB.
        scrypt_r: Block size.
        scrypt_p: Parallelisation.
        salt: 32 hexadecimal digits, drawn once for each passphrase.
        path: The key file, absolute.
        service: The keyring's service.
        user: The keyring's user, one for each clinic.

    Source:
        RFC 7914 (scrypt); OWASP Password Storage Cheat Sheet, 2023 (n = 2**17, r = 8, p = 1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method
    scrypt_n: Annotated[int, Field(ge=2**14, le=2**20)] | None = None
    scrypt_r: Annotated[int, Field(ge=8, le=16)] | None = None
    scrypt_p: Annotated[int, Field(ge=1, le=4)] | None = None
    salt: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None = None
    path: str | None = None
    service: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    user: Annotated[str, Field(min_length=1, max_length=100)] | None = None

    @model_validator(mode="after")
    def _holds_what_its_method_needs(self) -> Self:
        needed = _NEEDED[self.method]
        given = {name for name in _FIELDS if getattr(self, name) is not None}
        if given != needed:
            raise ValueError(f"{self.method} needs exactly: {', '.join(sorted(needed))}")
        if self.scrypt_n is not None and self.scrypt_n & (self.scrypt_n - 1):
            raise ValueError("scrypt_n is a power of two")
        if self.path is not None and not Path(self.path).is_absolute():
            raise ValueError("the key file's path is absolute")
        return self


_NEEDED: dict[Method, set[str]] = {
    "passphrase": {"scrypt_n", "scrypt_r", "scrypt_p", "salt"},
    "key_file": {"path"},
    "keyring": {"service", "user"},
}
_FIELDS = frozenset[str]().union(*_NEEDED.values())


def by_passphrase(*, scrypt_n: int = 2**17) -> Unlock:
    """Lock with a passphrase, under a new salt.

    Args:
        scrypt_n: A power of two from 2**14 to 2**20. The default takes 128 MiB and about half a
            second, each time that the folder is opened and for each guess of an attacker.

    Returns:
        The settings.
    """
    return Unlock(
        method="passphrase", scrypt_n=scrypt_n, scrypt_r=8, scrypt_p=1, salt=os.urandom(16).hex()
    )


def by_key_file(path: Path) -> Unlock:
    """Lock with a key file, best on another disk than the folder.

    Args:
        path: The file; `make_secret` makes it.

    Returns:
        The settings.
    """
    return Unlock(method="key_file", path=str(path.absolute()))


def by_keyring(clinic: str) -> Unlock:
    """Lock with the operating system's keyring.

    Args:
        clinic: The clinic's id, for the keyring's entry.

    Returns:
        The settings.
    """
    return Unlock(method="keyring", service="skinml", user=clinic)


def make_secret(unlock: Unlock) -> None:
    """Make the secret of a key file or a keyring's entry, for a new lock; a passphrase has none.

    Args:
        unlock: The new lock.

    Raises:
        EnvironmentProblem: If there is a secret in its place already, which something else may
            need, or if it cannot be written.
    """
    if unlock.method == "key_file":
        write_key(Path(unlock.path or ""), new_key())
    elif unlock.method == "keyring":
        if _keyring_secret(unlock) is not None:
            raise EnvironmentProblem(
                rule="no secret of this clinic in the keyring yet",
                got="one that is there",
                do="Keep it, or remove it with the keyring's own program first.",
            )
        _set_keyring_secret(unlock, base64.b64encode(new_key()).decode())


def forget_secret(unlock: Unlock) -> None:
    """Remove the secret of a key file or a keyring's entry, after another lock has replaced it.

    Args:
        unlock: The lock that is no longer used.

    Raises:
        EnvironmentProblem: If it cannot be removed. One that is gone already is no problem.
    """
    if unlock.method == "key_file":
        try:
            Path(unlock.path or "").unlink(missing_ok=True)
        except OSError as error:
            raise cannot("remove", "key file", error) from error
    elif unlock.method == "keyring" and _keyring_secret(unlock) is not None:
        backend, refusal = _keyring()
        try:
            backend.delete_password(unlock.service or "", unlock.user or "")
        except refusal as error:
            raise _no_keyring() from error


def wrap(key: bytes, unlock: Unlock, source: SecretSource) -> bytes:
    """Lock a clinic's key.

    Args:
        key: The clinic's key.
        unlock: What to lock it with; its secret is there, see `make_secret`.
        source: Gives a new passphrase, where one is needed.

    Returns:
        The wrapped key, 61 bytes; not secret without the secret.

    Raises:
        ConfigError: If the passphrase is shorter than 12 characters or longer than 4096 bytes, or
            the key is not 32 bytes.
        EnvironmentProblem: If the secret cannot be read.
        IntegrityError: If the key file or the keyring's entry holds no key.
    """
    if len(key) != KEY_BYTES:
        raise ConfigError(
            rule=f"a key of {KEY_BYTES} bytes",
            got=f"length={len(key)}",
            do="Make keys with `skinml.stewardship.encryption.new_key`.",
        )
    return seal(_locking_key(unlock, source, new=True), key, context=_context(unlock))


def unwrap(wrapped: bytes, unlock: Unlock, source: SecretSource) -> bytes:
    """Unlock a clinic's key.

    Args:
        wrapped: From `wrap`.
        unlock: What it was locked with.
        source: Gives the passphrase, where one is needed.

    Returns:
        The clinic's key: never log.

    Raises:
        ConfigError: If the passphrase is longer than 4096 bytes.
        EnvironmentProblem: If the secret cannot be read.
        IntegrityError: If the secret is another, or anything was changed.
    """
    locking = _locking_key(unlock, source, new=False)
    try:
        return unseal(locking, wrapped, context=_context(unlock))
    except IntegrityError:
        secret = unlock.method.replace("_", " ")
        raise IntegrityError(
            rule=f"the clinic's key, opened with its {secret}",
            got=f"a wrong {secret} or a damaged file",
            do="Try again, or restore keys/ and clinic.json from one backup.",
        ) from None


def change_lock(
    wrapped: bytes, old: Unlock, source: SecretSource, new: Unlock, new_source: SecretSource
) -> bytes:
    """Lock a clinic's key with something else, or with another passphrase.

    The key stays, and so does all that is sealed under it: whoever kept a copy of the old wrapped
    key and knows the old secret still has it.

    Args:
        wrapped: The key as it is locked.
        old: What with.
        source: Gives the old passphrase, where one is needed.
        new: What to lock it with; its secret is there, see `make_secret`.
        new_source: Gives the new passphrase, where one is needed.

    Returns:
        The key, locked anew.

    Raises:
        ConfigError: If the new passphrase is too short, or one is too long.
        EnvironmentProblem: If a secret cannot be read.
        IntegrityError: If the old secret is another, or anything was changed.
    """
    return wrap(unwrap(wrapped, old, source), new, new_source)


def packed(unlock: Unlock, wrapped: bytes) -> bytes:
    """Lay out a locked key with what it is locked with, so that one file replaces both.

    Args:
        unlock: What the key is locked with.
        wrapped: From `wrap`.

    Returns:
        A line of JSON.
    """
    values = {"unlock": unlock.model_dump(exclude_none=True), "wrapped": wrapped.hex()}
    return json.dumps(values, sort_keys=True).encode() + b"\n"


def unpacked(content: bytes) -> tuple[Unlock, bytes]:
    """Read what `packed` laid out.

    Args:
        content: The line.

    Returns:
        What the key is locked with, and the wrapped key, neither of them verified.

    Raises:
        IntegrityError: If it is no such line.
    """
    try:
        values = json.loads(content)
        wrapped = bytes.fromhex(values.pop("wrapped"))
        unlock = Unlock.model_validate(values.pop("unlock"))
        if content == packed(unlock, wrapped):
            return unlock, wrapped
    except (ValidationError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # whatever stands there, it is not what was written
    raise IntegrityError(
        rule="a clinic's locked key as skinml wrote it",
        got="another content",
        do="Restore keys/ and clinic.json from one backup.",
    )


def _locking_key(unlock: Unlock, source: SecretSource, *, new: bool) -> bytes:
    """Obtain the second key from its secret."""
    if unlock.method == "passphrase":
        secret = checked(source(), new=new)
        n, r, p = unlock.scrypt_n or 0, unlock.scrypt_r or 0, unlock.scrypt_p or 0
        salt = bytes.fromhex(unlock.salt or "")
        try:
            stretched = Scrypt(salt=salt, length=KEY_BYTES, n=n, r=r, p=p).derive(secret)
        except MemoryError as error:
            raise EnvironmentProblem(
                rule=f"{n * r // 2**13} MiB of memory to check the passphrase",
                got="less",
                do="Close other programs and try again.",
            ) from error
    elif unlock.method == "key_file":
        stretched = read_key(Path(unlock.path or ""))
    else:
        stretched = _key_from_keyring(unlock)
    return derive_key(stretched, f"unlock/{unlock.method}")


def _key_from_keyring(unlock: Unlock) -> bytes:
    secret = _keyring_secret(unlock)
    if secret is None:
        raise EnvironmentProblem(
            rule="this clinic's secret in the keyring",
            got="none",
            do="Unlock the keyring, or log in as the user who made the clinic's folder.",
        )
    try:
        return base64.b64decode(secret, validate=True)
    except (binascii.Error, ValueError):
        raise IntegrityError(
            rule="this clinic's secret in the keyring as skinml put it there",
            got="another entry",
            do="Restore the keyring from its backup.",
        ) from None


def _keyring_secret(unlock: Unlock) -> str | None:
    backend, refusal = _keyring()
    try:
        secret = backend.get_password(unlock.service, unlock.user)
    except refusal as error:
        raise _no_keyring() from error
    return None if secret is None else str(secret)


def _set_keyring_secret(unlock: Unlock, secret: str) -> None:
    backend, refusal = _keyring()
    try:
        backend.set_password(unlock.service, unlock.user, secret)
    except refusal as error:
        raise _no_keyring() from error


def _keyring() -> tuple[Any, type[Exception]]:
    """Import the door to the operating system's keyring, which few commands need."""
    import keyring
    from keyring.errors import KeyringError

    return keyring, KeyringError


def _no_keyring() -> EnvironmentProblem:
    return EnvironmentProblem(
        rule="an operating system's keyring that can be used",
        got="none, or one that refuses",
        do="Log in to a desktop session with a keyring, or lock the key with a passphrase.",
    )


def _context(unlock: Unlock) -> bytes:
    """Bind a wrapped key to its method; a key file may move."""
    return f"skinml clinic key, {unlock.method}".encode()
