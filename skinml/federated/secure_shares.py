"""Shares of a secret: any t of them give it, fewer tell nothing (Shamir 1979).

The sharing itself is pycryptodome's, over the field of 2**128 elements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from Crypto.Protocol.SecretSharing import Shamir

from skinml.federated.secure_keys import SECRET_BYTES
from skinml.federated.secure_session import broken


def split(secret: bytes, threshold: int, names: Sequence[str]) -> dict[str, bytes]:
    """Share a secret out.

    Args:
        secret: 16 bytes.
        threshold: How many shares give it back, from 1.
        names: Who gets one, in an order that everybody knows.

    Returns:
        A share of 16 bytes for each name.

    Guarantees:
        Fewer than threshold shares are independent of the secret; the coefficients come from the
        system's entropy.
    """
    shares = Shamir.split(threshold, len(names), secret, ssss=False)
    return {names[index - 1]: share for index, share in shares}


def combine(shares: Mapping[str, bytes], threshold: int, names: Sequence[str], of: str) -> bytes:
    """Put a secret together again.

    Args:
        shares: Shares by who held them.
        threshold: How many are needed.
        names: All who got one, in the same order.
        of: Whose secret it is, for the error.

    Returns:
        The 16 bytes: of the first threshold shares; whether they are the secret, its use will tell.

    Raises:
        IntegrityError: If there are too few, or one has another length.
    """
    held = [(names.index(name) + 1, share) for name, share in sorted(shares.items())]
    if len(held) < threshold or any(len(share) != SECRET_BYTES for _, share in held):
        raise broken(f"{threshold} whole shares of clinic {of}'s secret", f"{len(held)} shares")
    return bytes(Shamir.combine(held[:threshold], ssss=False))
