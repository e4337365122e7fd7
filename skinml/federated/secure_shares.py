"""Shares of a secret: any t of them give it, fewer tell nothing (Shamir 1979).

The sharing is pycryptodome's, over the field of 2**128 elements: a polynomial whose value at 0 is
the secret, and at i the share of the i-th clinic. Putting together is done here, for all secrets of
an attempt at once: the weights of interpolation depend on nothing but who gave shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from Crypto.Protocol.SecretSharing import Shamir

from skinml.federated.secure_keys import SECRET_BYTES
from skinml.federated.secure_session import broken

_BITS = 8 * SECRET_BYTES
_TAIL = 0b10000111
"""The field's polynomial is x**128 + x**7 + x**2 + x + 1; these are its terms below x**128."""


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


def combine(
    shares: Mapping[str, Sequence[bytes]], threshold: int, names: Sequence[str]
) -> list[bytes]:
    """Put secrets together again.

    Args:
        shares: By who held them, a share of each secret, in one order of the secrets.
        threshold: How many shares a secret needs.
        names: All who got one, in the order that they were shared out in.

    Returns:
        The secrets of 16 bytes, from the shares of the first threshold holders; whether they are
        the right ones, their use will tell.

    Raises:
        IntegrityError: If there are too few holders, or shares of another number or length.

    Guarantees:
        No step depends on the bits of a share, only on who gave shares.
    """
    holders = sorted(shares)[:threshold]
    counts = {len(shares[name]) for name in holders}
    if len(holders) < threshold or len(counts) != 1:
        raise broken(f"a share of each secret from {threshold} clinics", f"{len(shares)} clinics")
    if any(len(share) != SECRET_BYTES for name in holders for share in shares[name]):
        raise broken(f"shares of {SECRET_BYTES} bytes", "another length")
    points = tuple(names.index(name) + 1 for name in holders)
    rows = [int.from_bytes(b"".join(shares[name]), "big") for name in holders]
    count = counts.pop()
    whole = _weighted(rows, _weights(points), count).to_bytes(count * SECRET_BYTES, "big")
    return [whole[at : at + SECRET_BYTES] for at in range(0, len(whole), SECRET_BYTES)]


def _weighted(rows: Sequence[int], weights: Sequence[int], count: int) -> int:
    """Add up rows of field elements, each times its weight.

    A row is one long number with an element every 128 bits, so that all are doubled at once
    (Horner's rule over the weights' bits).

    Args:
        rows: One a holder.
        weights: One a row; public.
        count: Elements in a row.

    Returns:
        The row of sums.
    """
    ones = sum(1 << (_BITS * place) for place in range(count))
    total = 0
    for bit in reversed(range(_BITS)):
        carried = (total >> (_BITS - 1)) & ones
        total = ((total ^ (carried << (_BITS - 1))) << 1) ^ (carried * _TAIL)
        for row, weight in zip(rows, weights, strict=True):
            if weight >> bit & 1:
                total ^= row
    return total


@lru_cache(maxsize=64)
def _weights(points: tuple[int, ...]) -> tuple[int, ...]:
    """Give the weights with which values at some points make the value at 0 (Lagrange).

    Args:
        points: Different numbers from 1; public.

    Returns:
        For each point i the product of m / (m - i) over all other points m.
    """
    weights = []
    for point in points:
        above = below = 1
        for other in points:
            if other != point:
                above = _times(above, other)
                below = _times(below, other ^ point)
        weights.append(_times(above, _inverse(below)))
    return tuple(weights)


def _times(element: int, factor: int) -> int:
    """Multiply in the field; the smaller the factor, the faster. For public numbers alone."""
    product = 0
    while factor:
        if factor & 1:
            product ^= element
        element <<= 1
        if element >> _BITS:
            element ^= (1 << _BITS) | _TAIL
        factor >>= 1
    return product


def _inverse(element: int) -> int:
    """Invert in the field, by Euclid's algorithm over polynomials. For public numbers alone.

    Source:
        Hankerson, Menezes and Vanstone 2004, "Guide to elliptic curve cryptography", algorithm
        2.48.
    """
    rest, other = element, (1 << _BITS) | _TAIL
    found, kept = 1, 0
    while rest != 1:
        shift = rest.bit_length() - other.bit_length()
        if shift < 0:
            rest, other, found, kept, shift = other, rest, kept, found, -shift
        rest ^= other << shift
        found ^= kept << shift
    return found
