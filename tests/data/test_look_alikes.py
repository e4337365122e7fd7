from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from skinml.data.look_alikes import near_duplicates

MANY = 20_500
FAMILIES, MEMBERS = 60, 4


def families(distance: int) -> tuple[NDArray[np.uint8], set[tuple[int, int, int]]]:
    """Draw many hashes, some of which stem from one another, and list who is near to whom.

    Drawn hashes differ in 128 bits, give or take 8: that two of different families are within 40
    has a chance below 1e-20.
    """
    rng = np.random.default_rng(distance)
    bits = rng.integers(0, 2, (MANY, 256), dtype=np.uint8)
    members = rng.permutation(MANY)[: FAMILIES * MEMBERS].reshape(FAMILIES, MEMBERS)
    expected = set()
    for family in members:
        for child in family[1:]:
            flips = rng.choice(256, int(rng.integers(0, distance + 3)), replace=False)
            bits[child] = bits[family[0]]
            bits[child, flips] ^= 1
        for one, other in combinations(sorted(family.tolist()), 2):
            apart = int((bits[one] != bits[other]).sum())
            if apart <= distance:
                expected.add((one, other, apart))
    return np.packbits(bits, axis=1), expected


@pytest.mark.parametrize("distance", [0, 12, 24, 25, 26, 40])
def test_none_of_many_is_missed_and_none_is_told_twice(distance: int) -> None:
    hashes, expected = families(distance)
    found = [(one, other, apart) for one, other, apart in near_duplicates(hashes, distance)]
    assert len(found) == len(expected) > FAMILIES
    assert set(found) == expected
    assert found == sorted(found)


def test_hashes_that_share_most_of_their_bits_are_all_compared() -> None:
    keys = np.random.default_rng(0).integers(0, 2**16, MANY, dtype=np.uint16)
    hashes = np.zeros((MANY, 32), dtype=np.uint8)
    hashes[:, 5:7] = keys.view(np.uint8).reshape(MANY, 2)
    one, other, apart = near_duplicates(hashes, 1).T
    assert (np.bitwise_count(keys[one] ^ keys[other]) == apart).all()
    assert (one < other).all()
    counts = np.bincount(keys, minlength=2**16)
    same = int((counts * (counts - 1)).sum()) // 2
    values = np.arange(2**16)
    by_one = sum(int((counts * counts[values ^ 1 << bit]).sum()) for bit in range(16)) // 2
    assert np.bincount(apart).tolist() == [same, by_one]
    assert len(set(zip(one.tolist(), other.tolist(), strict=True))) == same + by_one


def test_one_picture_many_times_is_found_in_each_pair() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (MANY, 32), dtype=np.uint8)
    copies = np.arange(100, 100 + 300 * 7, 7)
    hashes[copies] = hashes[copies[0]]
    found = near_duplicates(hashes, 24)
    assert set(map(tuple, found.tolist())) == {
        (one, other, 0) for one, other in combinations(copies.tolist(), 2)
    }
