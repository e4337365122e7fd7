"""The index of rows agrees with a dictionary, however rows come in."""

from __future__ import annotations

import numpy as np
import pytest

from skinml.data import row_index
from skinml.data.row_index import RowIndex


def drawn(rng, count, spread):
    """Names of which many begin alike and some are equal."""
    names = np.zeros((count, 16), np.uint8)
    names[:, 0] = rng.integers(spread, size=count)
    names[:, 8] = rng.integers(spread, size=count)
    names[:, 15] = 255
    return names


@pytest.mark.parametrize("sizes", [[7], [60_000], [5, 9, 60_000, 3, 4, 50_001, 1]], ids=str)
@pytest.mark.parametrize("spread", [4, 200])
def test_the_earliest_row_of_a_name_is_found(sizes, spread):
    rng, index, expected, begin = np.random.default_rng(0), RowIndex(), {}, 0
    owner_of = {}
    for size in sizes:
        names, offsets = drawn(rng, size, spread), begin + np.arange(size)
        owners = rng.integers(0, 3, (size, 1), dtype=np.uint8).repeat(16, axis=1)
        index.add(names, owners, offsets)
        for name, owner, offset in zip(names, owners, offsets, strict=True):
            if expected.setdefault(name.tobytes(), int(offset)) == offset:
                owner_of[name.tobytes()] = owner.tobytes()
        begin += size
    asked = drawn(rng, 2000, spread + 50)
    asked[::3, 15] = 0
    asked[1] = names[-1]
    found = [expected.get(name.tobytes(), -1) for name in asked]
    assert index.find(asked).tolist() == found
    assert -1 in found
    assert max(found) >= 0
    assert index.owners() == set(owner_of.values())
    living = {bytes([1]) * 16, bytes([9]) * 16}
    assert index.count(living) == sum(owner in living for owner in owner_of.values())


def test_an_empty_index_finds_nothing():
    index = RowIndex()
    assert index.find(np.zeros((2, 16), np.uint8)).tolist() == [-1, -1]
    assert index.owners() == set()
    assert index.count([bytes(16)]) == 0
    assert row_index.NAME_BYTES == 16
