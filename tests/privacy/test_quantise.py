"""Clips that hold in integers: the oracle is Python's own unbounded integers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skinml.errors import ConfigError
from skinml.privacy.clipping import class_bounds
from skinml.privacy.quantise import (
    GRID,
    clipped_columns,
    clipped_factor,
    counts_on_grid,
    factor_of,
    on_grid,
    products,
    squared_norms,
    summed_products,
)


def from_factor(rows):
    """The values of a factor."""
    return rows / 2.0**14


ROWS = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6),
    elements=st.floats(allow_nan=True, allow_infinity=True),
)


def exact_square(row):
    """The squared norm of multiples of the grid, as a fraction."""
    return sum(Fraction(float(value)) ** 2 for value in row)


@given(rows=ROWS, bound=st.floats(1e-3, 4.0))
@settings(max_examples=150, deadline=None)
def test_no_row_on_the_grid_is_longer_than_the_bound(rows, bound):
    clipped = on_grid(rows, bound)
    assert np.array_equal(clipped / GRID, np.trunc(clipped / GRID))
    for row in clipped:
        assert exact_square(row) <= Fraction(bound) ** 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_becomes_zeros(bad):
    """P5: and only that patient's row does."""
    rows = np.array([[0.5, bad], [0.25, 0.25]])
    assert on_grid(rows, 1.0).tolist() == [[0.0, 0.0], [0.25, 0.25]]
    assert from_factor(factor_of(rows)).tolist() == [[0.5, 0.0], [0.25, 0.25]]


def test_a_short_row_is_cut_by_less_than_one_unit():
    rows = np.array([[0.1, -0.2, 0.3]])
    cut = rows - on_grid(rows, 1.0)
    assert (np.abs(cut) < GRID).all()
    assert (np.sign(cut) * np.sign(rows) >= 0).all()


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan")])
def test_a_bound_that_is_none_is_refused(bound):
    with pytest.raises(ConfigError):
        on_grid(np.ones((1, 2)), bound)
    with pytest.raises(ConfigError):
        clipped_factor(np.ones((1, 2)), np.ones(1, np.int64), bound)
    with pytest.raises(ConfigError):
        clipped_columns(np.ones((1, 2)), np.ones(1, np.int64), bound, (1, 1))


@given(seed=st.integers(0, 2**32), bound=st.floats(0.01, 2.0), stretch=st.floats(0.5, 3.0))
@settings(max_examples=60, deadline=None)
def test_no_outer_product_is_longer_than_the_bound(seed, bound, stretch):
    """Also where the rows handed over were clipped badly."""
    rng = np.random.default_rng(seed)
    first = factor_of(rng.normal(size=(8, 40)) / 6)
    errors = rng.normal(size=(8, 3))
    lengths = np.linalg.norm(from_factor(first), axis=1) * np.linalg.norm(errors, axis=1)
    errors *= np.minimum(stretch * bound / lengths, 1.9 / np.abs(errors).max())[:, None]
    second = clipped_factor(errors, squared_norms(first), bound)
    for z, e in zip(first.tolist(), second.tolist(), strict=True):
        product = sum(v * v for v in z) * sum(v * v for v in e)
        assert Fraction(product) * Fraction(GRID) ** 2 <= Fraction(bound) ** 2


WEIGHTS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5)


@given(
    seed=st.integers(0, 2**32),
    bound=st.one_of(st.floats(0.01, 2.0), st.sampled_from([0.5, 1.0, 60.0, 1e6])),
    weights=st.one_of(st.integers(1, 5).map(lambda k: [1.0] * k), WEIGHTS),
    stretch=st.sampled_from([0.0, 0.9, 1.0, 1.0 + 1e-15, 3.0]),
    longest=st.sampled_from([0.1, 1.0, 1.99]),
)
@settings(max_examples=120, deadline=None)
def test_each_column_keeps_its_bound_and_the_whole_product_its_own(
    seed, bound, weights, stretch, longest
):
    """In whole numbers, also where the rows were not clipped before and inputs are hostile."""
    rng = np.random.default_rng(seed)
    first = factor_of(rng.uniform(-longest, longest, size=(6, 40)))
    lengths = np.linalg.norm(from_factor(first), axis=1)
    bounds = class_bounds(bound, weights)
    sizes = np.minimum(stretch * bounds / lengths[:, None], 1.99)
    errors = rng.choice([-1, 1], size=sizes.shape) * sizes
    second = clipped_columns(errors, squared_norms(first), bound, weights)
    total = sum(Fraction(weight) ** 2 for weight in weights)
    for z, e, error in zip(first.tolist(), second.tolist(), errors.tolist(), strict=True):
        square = sum(v * v for v in z) * Fraction(GRID) ** 2
        for value, weight, asked in zip(e, weights, error, strict=True):
            allowed = Fraction(bound) ** 2 * Fraction(weight) ** 2 / total
            assert square * value**2 <= allowed
            # Not smaller than it must be: one unit more would be too long, or more than was asked.
            more = abs(value) + 1
            room = min(allowed, Fraction(2) ** 7)  # 2**63 units squared: no limit is greater
            short = square * more**2 <= room * (1 - Fraction(1, 2**20))
            assert not (short and more <= abs(asked) * 2**14)
        assert square * sum(v * v for v in e) <= Fraction(bound) ** 2


def test_a_column_is_clipped_alike_whoever_else_is_there():
    rng = np.random.default_rng(3)
    first = factor_of(rng.normal(size=(300, 50)) / 7)
    errors, weights = rng.normal(size=(300, 4)), (1.0, 2.0, 1.0, 0.3)
    whole = clipped_columns(errors, squared_norms(first), 0.5, weights)
    kept = rng.permutation(300)[:111]
    alone = clipped_columns(errors[kept], squared_norms(first[kept]), 0.5, weights)
    assert np.array_equal(alone, whole[kept])
    assert np.abs(whole).max(axis=0).all()


def test_what_is_not_finite_has_no_column_and_no_input_no_bound():
    errors = np.array([[np.nan, np.inf], [1.5, -1.5]])
    second = clipped_columns(errors, np.array([2**28, 0]), 0.5, (1, 1))
    assert from_factor(second).tolist() == [[0.0, 0.0], [1.5, -1.5]]


@pytest.mark.parametrize("weights", [(1.0, 0.0), (1.0, -1.0), (1.0, np.nan), (np.inf, 1.0)])
def test_weights_that_give_no_bound_are_refused(weights):
    with pytest.raises(ConfigError, match="class_clip_weight"):
        clipped_columns(np.ones((1, 2)), np.ones(1, np.int64), 1.0, weights)
    with pytest.raises(ConfigError, match="class_clip_weight"):
        class_bounds(1.0, weights)


def test_the_sum_of_products_is_exact_in_any_order_and_any_blocks():
    rng = np.random.default_rng(1)
    first, second = (rng.integers(-(2**14), 2**14, (500, n)).astype(np.int16) for n in (20, 3))
    exact = np.zeros((20, 3), dtype=object)
    for z, e in zip(first, second, strict=True):
        exact += np.outer(z.astype(object), e.astype(object))
    found = summed_products(first, second)
    assert (found / GRID).astype(object).tolist() == exact.tolist()
    order = rng.permutation(500)
    assert np.array_equal(found, summed_products(first[order], second[order], rows_at_once=7))


def test_one_patient_moves_a_count_by_its_share_and_no_more():
    counts = np.array([[3, 0], [2, 7]])
    assert np.array_equal(counts_on_grid(counts, 1.0), counts)
    third = counts_on_grid(np.array([1]), 1 / 3)[0]
    assert Fraction(third) <= Fraction(1, 3) < Fraction(third) + Fraction(GRID)


def test_a_patients_product_does_not_depend_on_who_else_is_there():
    """Removing others, or their order, changes not one bit; single precision would."""
    rng = np.random.default_rng(2)
    first = factor_of(rng.normal(size=(700, 1281)) / 36)
    weight = rng.normal(size=(1281, 3)) * 20
    whole = products(first, weight)
    kept = rng.permutation(700)[:333]
    assert np.array_equal(products(first[kept], weight), whole[kept])
    assert np.array_equal(products(first, weight, rows_at_once=13), whole)
    np.testing.assert_allclose(whole, from_factor(first) @ weight, atol=1e-3)
    assert products(first[:0], weight).shape == (0, 3)
