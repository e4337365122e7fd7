"""Sums modulo 2**64: from a grid to whole numbers, masks, and back.

64 bits hold any sum that can occur: inputs are at most 2**52 grid units, so that even a hundred of
them stay below 2**59 and no sum wraps before it is read as a signed number.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

from skinml.errors import IntegrityError
from skinml.federated.secure_keys import SECRET_BYTES, derived
from skinml.federated.secure_session import broken
from skinml.records import FloatArray

Words = NDArray[np.uint64]

LARGEST = 2**52
"""Greatest size of one clinic's number, in grid units: float64 holds it exactly."""


def to_ring(values: FloatArray, grid: float) -> Words:
    """Turn multiples of a grid into whole numbers modulo 2**64.

    Args:
        values: Multiples of the grid, of any shape.
        grid: The unit.

    Returns:
        (size,) words; negative numbers stand above 2**63.

    Raises:
        IntegrityError: If a value is off the grid, too large or not finite: nothing is sent then.
    """
    units = np.asarray(values, dtype=np.float64).ravel() / grid
    if not (np.isfinite(units).all() and (np.abs(units) <= LARGEST).all()):
        raise _unfit("finite numbers of at most 2**52 grid units in a secure sum")
    if not np.array_equal(units, np.rint(units)):
        raise _unfit("multiples of the grid in a secure sum")
    return units.astype(np.int64).view(np.uint64)


def from_ring(words: Words, grid: float) -> FloatArray:
    """Turn a sum modulo 2**64 back into multiples of a grid.

    Args:
        words: (size,) words.
        grid: The unit.

    Returns:
        (size,) float64 values.
    """
    return np.asarray(words.view(np.int64).astype(np.float64) * grid)


def mask(seed: bytes, size: int) -> Words:
    """Expand a seed into words that look uniform (the key stream of ChaCha20, RFC 8439).

    Args:
        seed: 16 bytes, used for one mask only.
        size: Words wanted.

    Returns:
        (size,) words.
    """
    key = derived(seed, [b"mask"], 32)
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    return np.frombuffer(stream.update(bytes(8 * size)), dtype="<u8").astype(np.uint64, copy=False)


def bound_to(seed: bytes, query: bytes) -> bytes:
    """Bind a pairwise mask to what both clinics were asked.

    A coordinator could otherwise send one clinic its model and all others one for which their
    sums are zero: the total would be that clinic's alone. Masks for different queries do not
    cancel out.

    Args:
        seed: 16 bytes that a pair of clinics shares.
        query: Digest of what the coordinator sent.

    Returns:
        The 16 bytes of the seed to use.

    Source:
        Pasquini, Francati and Ateniese 2022, "Eluding secure aggregation in federated learning via
        model inconsistency", CCS, section 6.
    """
    return derived(seed, [b"query", query], SECRET_BYTES)


def add_mask(total: Words, seed: bytes, *, plus: bool) -> None:
    """Add a mask to a sum, or take it away, modulo 2**64 and in place.

    Args:
        total: The sum.
        seed: The mask's seed.
        plus: Whether it is added.
    """
    words = mask(seed, len(total))
    if plus:
        np.add(total, words, out=total)
    else:
        np.subtract(total, words, out=total)


def require_unmasked(words: Words, clinics: int) -> None:
    """Refuse a total in which masks are left, as where clinics were asked different things.

    Args:
        words: (size,) the opened total.
        clinics: How many clinics' sums are in it.

    Raises:
        IntegrityError: If a number is larger than so many clinics' can be together. Under a mask
            that is left, each of a total's numbers passes with a chance of clinics / 2**11.
    """
    values = words.view(np.int64)
    if not ((values <= clinics * LARGEST) & (values >= -clinics * LARGEST)).all():
        raise broken(f"masks that cancel out in the sum of {clinics} clinics", "some that do not")


def _unfit(rule: str) -> IntegrityError:
    return IntegrityError(rule=rule, got="another one", do="Nothing was sent. Report this defect.")
