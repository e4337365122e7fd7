"""Keys, sealed bytes and keyed digests: what keeps a clinic's derived data unreadable elsewhere.

The one key of a clinic is never used itself. Each purpose has its own key, derived from it.
"""

from __future__ import annotations

import base64
import binascii
import errno
import hashlib
import hmac
import io
import json
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from skinml.durable import sync_folder
from skinml.errors import ConfigError, EnvironmentProblem, IntegrityError

KEY_BYTES = 32
SEAL_OVERHEAD_BYTES = 1 + 12 + 16  # version, nonce, tag
PIECE_BYTES = 2**20
_VERSION = b"\x01"
_NONCE_BYTES = 12
_LENGTH_BYTES = 8
_KEY_FILE_HEADER = "skinml-key-1"


def new_key() -> bytes:
    """Draw a key from the operating system.

    Returns:
        32 secret bytes: never log.
    """
    return os.urandom(KEY_BYTES)


def derive_key(key: bytes, purpose: str) -> bytes:
    """Derive the key of one purpose, so that no two uses share one.

    Args:
        key: 32 bytes from `new_key`.
        purpose: What the derived key is for; another purpose gives an unrelated key.

    Returns:
        32 secret bytes: never log.

    Raises:
        ConfigError: If the key is not 32 bytes.

    Source:
        RFC 5869, section 2.3 (HKDF-Expand with SHA-256).
    """
    _require_key(key)
    return HKDFExpand(hashes.SHA256(), KEY_BYTES, b"skinml/1/" + purpose.encode()).derive(key)


def seal(key: bytes, plaintext: bytes, *, context: bytes) -> bytes:
    """Encrypt bytes so that a change or another context is noticed.

    AES-256-GCM with a random 96-bit nonce under a key derived for this purpose.

    Args:
        key: 32 bytes from `new_key`.
        plaintext: What to hide, at most 2 GiB.
        context: What the bytes are and where they belong, such as a file's version and a block's
            number. Not secret and not stored; `unseal` needs the same.

    Returns:
        A version byte, the nonce, the ciphertext and its tag.

    Raises:
        ConfigError: If the key is not 32 bytes.

    Guarantees:
        Without the key the plaintext stays hidden but for its length, and no other bytes pass
        `unseal` with this context, for up to 2**32 seals under one key.

    Source:
        NIST SP 800-38D, section 8.2.2 (random nonces), section 8.3 (number of seals).
    """
    nonce = os.urandom(_NONCE_BYTES)
    cipher = AESGCM(derive_key(key, "seal"))
    return _VERSION + nonce + cipher.encrypt(nonce, plaintext, _VERSION + context)


def unseal(key: bytes, sealed: bytes, *, context: bytes) -> bytes:
    """Decrypt what `seal` made.

    Args:
        key: The key that it was sealed with.
        sealed: The result of `seal`.
        context: The context that it was sealed with.

    Returns:
        The plaintext.

    Raises:
        ConfigError: If the key is not 32 bytes.
        IntegrityError: If a byte, the context or the key is another.
    """
    if len(sealed) < SEAL_OVERHEAD_BYTES or sealed[:1] != _VERSION:
        raise _not_authentic()
    nonce, ciphertext = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
    cipher = AESGCM(derive_key(key, "seal"))
    try:
        return cipher.decrypt(nonce, ciphertext, _VERSION + context)
    except InvalidTag:
        raise _not_authentic() from None


def seal_pieces(key: bytes, content: bytes | memoryview, context: str) -> Iterator[bytes]:
    """Seal content of any length in pieces of at most 1 MiB.

    Args:
        key: 32 bytes from `new_key`.
        content: What to hide.
        context: What the content is and where it belongs, see `seal`.

    Yields:
        A flag, "1" for the last piece, the length of the seal (8 bytes, little endian), the seal.
        Written one after the other they are what `open_pieces` reads. Empty content is one piece.

    Raises:
        ConfigError: If the key is not 32 bytes.

    Guarantees:
        Those of `seal` for the whole: a piece that is changed, left out, doubled, moved, or put in
        from other content is noticed, also where pieces are missing at the end.

    >>> import io
    >>> key = new_key()
    >>> sealed = b"".join(seal_pieces(key, b"lesion", context="demonstration"))
    >>> open_pieces(key, io.BytesIO(sealed), context="demonstration").read()
    b'lesion'
    """
    num_pieces = max(1, -(-len(content) // PIECE_BYTES))
    for number in range(num_pieces):
        piece = bytes(content[number * PIECE_BYTES : (number + 1) * PIECE_BYTES])
        final = b"1" if number == num_pieces - 1 else b"0"
        sealed = seal(key, piece, context=_piece_context(context, number, final))
        yield final + len(sealed).to_bytes(_LENGTH_BYTES, "little") + sealed


def open_pieces(key: bytes, file: IO[bytes], context: str) -> io.BytesIO:
    """Unseal what `seal_pieces` made, from a file's place to its end.

    Args:
        key: The key that it was sealed with.
        file: A file that can be sought in, at the first piece.
        context: The context that it was sealed with.

    Returns:
        The content, at its start.

    Raises:
        ConfigError: If the key is not 32 bytes.
        IntegrityError: If a byte, the context or the key is another, if pieces are missing, or if
            anything follows the last one.
    """
    start = file.tell()
    left = file.seek(0, os.SEEK_END) - start
    file.seek(start)
    plain = io.BytesIO()
    number, final = 0, b"0"
    while left or final != b"1":
        final = file.read(1)
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        left -= 1 + _LENGTH_BYTES + length
        # A length beyond the file's end is never read: it could be any number.
        sealed = file.read(length) if left >= 0 else b""
        plain.write(unseal(key, sealed, context=_piece_context(context, number, final)))
        number += 1
    plain.seek(0)
    return plain


def keyed_digest(key: bytes, data: bytes) -> str:
    """Name data by a digest that nobody can compute or test without the key.

    Args:
        key: 32 bytes from `new_key`.
        data: What to name.

    Returns:
        64 hexadecimal digits.

    Raises:
        ConfigError: If the key is not 32 bytes.

    Source:
        RFC 2104, HMAC with SHA-256.
    """
    return keyed_digests(key, (data,))[0]


def keyed_digests(key: bytes, items: Iterable[bytes]) -> list[str]:
    """Name many data as `keyed_digest` does, deriving the key once.

    Args:
        key: 32 bytes from `new_key`.
        items: What to name.

    Returns:
        64 hexadecimal digits for each.

    Raises:
        ConfigError: If the key is not 32 bytes.
    """
    own = derive_key(key, "keyed-digest")
    return [hmac.digest(own, data, hashlib.sha256).hex() for data in items]


def write_key(path: Path, key: bytes) -> None:
    """Write a key to a new file that only its owner may read.

    Args:
        path: The file to make; its folder must exist.
        key: 32 bytes from `new_key`.

    Raises:
        ConfigError: If the key is not 32 bytes.
        EnvironmentProblem: If the file exists or cannot be written.

    Guarantees:
        A key that is there is never overwritten. The file's mode is 0600 from its first moment,
        and on return it is on the disk.
    """
    _require_key(key)
    line = f"{_KEY_FILE_HEADER} {base64.b64encode(key).decode()}\n".encode()
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise EnvironmentProblem(
            rule="no key file yet",
            got=f"path={path}",
            do="Keep the key that is there, or move it away first.",
        ) from None
    except OSError as error:
        raise _cannot("write", path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _cannot("write", path, error) from error


def read_key(path: Path) -> bytes:
    """Read a key that only its owner may read.

    Args:
        path: A file from `write_key`.

    Returns:
        32 secret bytes: never log.

    Raises:
        EnvironmentProblem: If the file is missing, unreadable, open to other users, or another
            user's.
        IntegrityError: If it does not hold a key.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(1024)
    except OSError as error:
        raise _cannot("read", path, error) from error
    require_private(path, status)
    header, _, encoded = content.decode("ascii", errors="replace").strip().partition(" ")
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if header != _KEY_FILE_HEADER or len(key) != KEY_BYTES:
        raise IntegrityError(
            rule=f"a line '{_KEY_FILE_HEADER}' with a key of {KEY_BYTES} bytes",
            got=f"another content of {path}",
            do="Restore the key file from its backup.",
        )
    return key


def require_private(path: Path, status: os.stat_result, what: str = "key file") -> None:
    """Refuse the file of a secret that another user can read or could have written.

    Args:
        path: The file, for the message.
        status: Its status, from the descriptor that it was read through.
        what: What it is, for the message.

    Raises:
        EnvironmentProblem: If it belongs to another user than this one or root, or if its mode
            gives its group or everyone anything.
    """
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise EnvironmentProblem(
            rule=f"a {what} that only its owner can use",
            got=f"mode={mode:04o} of {path}",
            do=f"Find out who has read it, then: chmod 600 {path}",
        )
    if status.st_uid not in (os.geteuid(), 0):
        raise EnvironmentProblem(
            rule=f"a {what} that belongs to you or to root",
            got=f"another owner of {path}",
            do=f"Find out who put it there, and use the {what} that is yours.",
        )


def _piece_context(context: str, number: int, final: bytes) -> bytes:
    """Bind a piece to what the whole is, to its place, and to being the last or not."""
    return f"skinml-pieces-1 {json.dumps(context)} {number} ".encode() + final


def _require_key(key: bytes) -> None:
    """Refuse a key of another length."""
    if len(key) != KEY_BYTES:
        raise ConfigError(
            rule=f"a key of {KEY_BYTES} bytes",
            got=f"length={len(key)}",
            do="Make keys with `skinml.stewardship.encryption.new_key`.",
        )


def _not_authentic() -> IntegrityError:
    """Build the error of `unseal`; it cannot tell which of its reasons holds."""
    return IntegrityError(
        rule="sealed bytes as they were written, with their own key and context",
        got="bytes that fail the check",
        do="Restore them from a backup, or check that the key belongs to them.",
    )


def _cannot(verb: str, path: Path, error: OSError) -> EnvironmentProblem:
    """Build the error of a file operation that the system refused."""
    return EnvironmentProblem(
        rule=f"a key file that skinml can {verb}",
        got=f"path={path} ({error.strerror})",
        do="Plug in the disk that it is on, or bring it back from its backup."
        if verb == "read" and error.errno == errno.ENOENT
        else "Check the folder, its permissions and the space on the disk.",
    )
