"""Blocked products of factors are the whole numbers' own, whatever the blocks and columns."""

from __future__ import annotations

import numpy as np
import pytest

from skinml.privacy.quantise import GRID, products, summed_products


def _drawn(rows, features, classes):
    rng = np.random.default_rng(rows + classes)
    first = rng.integers(-(2**9), 2**9, size=(rows, features)).astype(np.int16)
    second = rng.integers(-(2**14), 2**14, size=(rows, classes)).astype(np.int16)
    return first, second, rng.normal(size=(features, classes))


@pytest.mark.parametrize("classes", [1, 2, 7, 8, 9])
@pytest.mark.parametrize(("rows", "at_once"), [(0, 4), (1, 4), (9, 4), (9, 256), (300, 256)])
def test_products_and_sums_are_those_of_python_integers_in_every_bit(rows, at_once, classes):
    first, second, weight = _drawn(rows, 12, classes)
    units = np.rint(weight * 2**16).astype(object)
    exact = first.astype(object) @ units
    found = products(first, weight, at_once)
    assert np.array_equal(found, exact.astype(np.float64) * 2.0**-30)
    summed = first.astype(object).T @ second.astype(object)
    found = summed_products(first, second, at_once)
    assert np.array_equal(found, summed.astype(np.float64).reshape(12, classes) * GRID)
