"""Keys of a secure sum: one agreement a run, fresh secrets each attempt.

A clinic keeps 32 secret bytes a run. Its X25519 keys follow from them, one to seal messages to
each peer and one for the pairwise masks. The two secrets of each attempt are drawn anew. In the
paper a clinic that drops out gives up its mask key itself; here that key serves many rounds, so it
gives up only the pairwise seeds of that one attempt, sealed under a key that it had shared out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from skinml.federated.secure_session import Attempt, broken, joined, parted

SECRET_BYTES = 16
"""Bytes of each secret that is shared out: one block of the sharing's field."""

# Every key seals one message; where a clinic lost track of what it sent, still no nonce is used
# twice under it.
_NONCE_BYTES = 12
_TAG_BYTES = 16
_LENGTH_BYTES = 4  # in front of each part, see `secure_session.joined`


@dataclass(frozen=True)
class PublicKeys:
    """What a clinic advertises.

    Attributes:
        sealing: X25519 public key for messages to this clinic, 32 bytes.
        masking: X25519 public key for pairwise masks, 32 bytes.
    """

    sealing: bytes
    masking: bytes


@dataclass(frozen=True, repr=False)
class Keyring:
    """A clinic's secrets for one run.

    Attributes:
        clinic: The clinic.
        secret: 32 bytes from the system's entropy, drawn for the run; never leaves the clinic.
    """

    clinic: str
    secret: bytes
    _agreed: dict[tuple[bytes, ...], bytes] = field(default_factory=dict, compare=False)

    def public(self, attempt: Attempt) -> PublicKeys:
        """Derive what the clinic advertises in the run of an attempt."""
        return PublicKeys(
            self._private(attempt, b"sealing").public_key().public_bytes_raw(),
            self._private(attempt, b"masking").public_key().public_bytes_raw(),
        )

    def pair_seed(self, attempt: Attempt, peer: PublicKeys) -> bytes:
        """Derive the seed of the mask shared with a peer in this attempt, 16 bytes."""
        common = self._common(attempt, b"masking", peer.masking)
        return derived(common, [attempt.context, b"pair mask"], SECRET_BYTES)

    def channel(self, attempt: Attempt, peer: PublicKeys, sender: str, recipient: str) -> bytes:
        """Derive the key of the one message from a sender to a recipient in this attempt."""
        common = self._common(attempt, b"sealing", peer.sealing)
        return derived(
            common, [attempt.context, b"channel", sender.encode(), recipient.encode()], 32
        )

    def _common(self, attempt: Attempt, what: bytes, peer: bytes) -> bytes:
        """Agree on a key with a peer, once a run (X25519, RFC 7748)."""
        known = (attempt.session.digest, what, peer)
        if known not in self._agreed:
            public = X25519PublicKey.from_public_bytes(peer)
            self._agreed[known] = self._private(attempt, what).exchange(public)
        return self._agreed[known]

    def _private(self, attempt: Attempt, what: bytes) -> X25519PrivateKey:
        # For the run as a whole: not of the round.
        return X25519PrivateKey.from_private_bytes(
            derived(self.secret, [attempt.session.digest, what], 32)
        )


def derived(secret: bytes, labels: list[bytes], length: int) -> bytes:
    """Derive a key by HKDF-SHA256 (RFC 5869).

    Args:
        secret: Key material.
        labels: What the key is for.
        length: Bytes wanted.

    Returns:
        The key.
    """
    return HKDF(SHA256(), length, salt=None, info=joined(labels)).derive(secret)


def sealed(key: bytes, content: bytes, context: bytes) -> bytes:
    """Seal one message under a key that seals no other (ChaCha20-Poly1305, RFC 8439).

    Args:
        key: 32 bytes, derived for this message alone.
        content: What it says.
        context: What it is bound to.

    Returns:
        A random nonce, then the ciphertext with its tag.
    """
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, content, context)


def unsealed(key: bytes, ciphertext: bytes, context: bytes, what: str) -> bytes:
    """Open what `sealed` gave.

    Args:
        key: The same key.
        ciphertext: The ciphertext.
        context: The same context.
        what: What it is, for the error.

    Returns:
        The content.

    Raises:
        IntegrityError: If key, content or context is another.
    """
    try:
        nonce, rest = ciphertext[:_NONCE_BYTES], ciphertext[_NONCE_BYTES:]
        return ChaCha20Poly1305(key).decrypt(nonce, rest, context)
    except (InvalidTag, ValueError):  # ValueError: too short to hold a nonce
        raise broken(f"{what}, sealed for this attempt", "another content or key") from None


def share_lengths(clinics: int) -> list[int]:
    """Tell how long the parts of a message of step "shares" are, so that nothing else fits in.

    Args:
        clinics: The number k of participants.

    Returns:
        Bytes of the sealed pair seeds, of the commitment, and of the letter to each clinic.

    Example:
        >>> share_lengths(3)
        [68, 32, 68, 68, 68]
    """
    around, part = _NONCE_BYTES + _TAG_BYTES, _LENGTH_BYTES + SECRET_BYTES
    return [around + (clinics - 1) * part, 32, *[around + 2 * part] * clinics]


def new_secret() -> bytes:
    """Draw a secret of an attempt from the system's entropy.

    Drawn and not derived: who shares an attempt's secrets once more, after the book of answers was
    lost, or in another run of the same name, never has the same self mask twice.

    Returns:
        16 secret bytes.
    """
    return os.urandom(SECRET_BYTES)


def sealed_seeds(
    keyring: Keyring, attempt: Attempt, roster: Mapping[str, PublicKeys], secret: bytes
) -> bytes:
    """Seal a clinic's pairwise seeds of one attempt under a key that it shares out.

    Args:
        keyring: The clinic's secrets.
        attempt: The attempt.
        roster: Everybody's public keys.
        secret: The key's 16 bytes, which are shared out.

    Returns:
        A ciphertext for the coordinator, of no use without the key.
    """
    seeds = [
        keyring.pair_seed(attempt, roster[name])
        for name in attempt.session.participants
        if name != keyring.clinic
    ]
    key = derived(secret, [b"sealed seeds"], 32)
    return sealed(key, joined(seeds), attempt.context + keyring.clinic.encode())


def opened_seeds(
    secret: bytes, ciphertext: bytes, attempt: Attempt, owner: str
) -> dict[str, bytes]:
    """Open the pairwise seeds of a clinic that dropped out.

    Args:
        secret: The key's 16 bytes, put together from shares.
        ciphertext: From `sealed_seeds`.
        attempt: The attempt.
        owner: The clinic.

    Returns:
        A seed for each other participant.

    Raises:
        IntegrityError: If the secret or the ciphertext is another.
    """
    key = derived(secret, [b"sealed seeds"], 32)
    context = attempt.context + owner.encode()
    seeds = parted(unsealed(key, ciphertext, context, f"the mask seeds of clinic {owner}"))
    others = [name for name in attempt.session.participants if name != owner]
    if [len(seed) for seed in seeds] != [SECRET_BYTES] * len(others):
        raise broken(f"a mask seed of clinic {owner} for each other clinic", "another number")
    return dict(zip(others, seeds, strict=True))
