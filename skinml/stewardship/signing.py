"""A clinic's signatures: whoever checks them needs nothing but the clinic's public key."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from skinml.errors import ConfigError


def new_signing_key() -> bytes:
    """Draw a signing key from the operating system.

    Returns:
        32 secret bytes (an Ed25519 private key, RFC 8032): never log.
    """
    return Ed25519PrivateKey.generate().private_bytes_raw()


def public_key_hex(signing_key: bytes) -> str:
    """Derive the public key, which the clinic hands to whoever shall check its log.

    Args:
        signing_key: 32 bytes from `new_signing_key`.

    Returns:
        64 hexadecimal digits; not secret.

    Raises:
        ConfigError: If the key is not 32 bytes.
    """
    public = _private(signing_key).public_key()
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


class Signature:
    """A seal that only the holder of the signing key makes and everybody can check.

    Args:
        public_key: 64 hexadecimal digits.
        signing_key: 32 bytes; None where seals are only checked.

    Raises:
        ConfigError: If a key is malformed, or the two do not belong together.

    Source:
        RFC 8032, Ed25519.
    """

    def __init__(self, public_key: str, signing_key: bytes | None = None, *, about: bytes) -> None:
        self._about = about
        self._public = _public(public_key)
        self._private = None if signing_key is None else _private(signing_key)
        if signing_key is not None and public_key_hex(signing_key) != public_key:
            raise _bad_key("a signing key and its own public key", "keys of two pairs")

    def make(self, content: bytes) -> str:
        """Sign a line.

        Args:
            content: What to vouch for.

        Returns:
            128 hexadecimal digits.

        Raises:
            ConfigError: If there is no signing key.
        """
        if self._private is None:
            raise _bad_key("a signing key", "only a public key")
        return self._private.sign(self._about + content).hex()

    def fits(self, content: bytes, seal: str) -> bool:
        """Tell whether a signature vouches for bytes.

        Args:
            content: The bytes.
            seal: The signature.

        Returns:
            Whether it does.
        """
        return _verifies(self._public, self._about + content, seal)


def _verifies(key: Ed25519PublicKey, content: bytes, signature: str) -> bool:
    try:
        raw = bytes.fromhex(signature)
        if raw.hex() != signature:
            return False
        key.verify(raw, content)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _private(signing_key: bytes) -> Ed25519PrivateKey:
    try:
        return Ed25519PrivateKey.from_private_bytes(signing_key)
    except ValueError:
        raise _bad_key("a signing key of 32 bytes", f"length={len(signing_key)}") from None


def _public(public_key: str) -> Ed25519PublicKey:
    try:
        raw = bytes.fromhex(public_key)
        if raw.hex() == public_key:
            return Ed25519PublicKey.from_public_bytes(raw)
    except ValueError:
        pass
    raise _bad_key("a public key of 64 hexadecimal digits", f"{len(public_key)} characters")


def _bad_key(rule: str, got: str) -> ConfigError:
    return ConfigError(rule=rule, got=got, do="Take the key from the clinic's folder.")
