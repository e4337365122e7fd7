"""Contributions as whole multiples of a public grid, and clipped as such.

A sum on the grid is exact: floating point adds nothing, whatever the order, and a patient's share
of it is bounded in integers and not up to rounding. Values stay float64, which holds every
multiple that occurs here exactly: a grid of 2**-28 and sums below 2**24 take 52 bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skinml.errors import require_positive
from skinml.privacy.clipping import clip_rows
from skinml.records import FloatArray

GRID = 2.0**-28
"""The grid of all sums; each of the two factors of a rank-one contribution has its root."""

_FACTOR = 2**14
_LARGEST_FACTOR = 2
_GREATEST_WEIGHT = 2.0**10
# So many rows in double precision stay in a processor's cache; columns beside zeros up to a whole
# vector register are multiplied several times as fast as an odd number of them.
_ROWS_AT_ONCE = 64
_COLUMNS_AT_ONCE = 8


def on_grid(rows: FloatArray, bound: float) -> FloatArray:
    """Clip each patient's vector and cut it down to the grid.

    Args:
        rows: (n, d) one vector a patient.
        bound: Greatest L2 norm allowed, above zero and at most 4.

    Returns:
        (n, d) multiples of `GRID`; a row with a NaN or an infinity becomes zeros.

    Raises:
        ConfigError: If bound is zero, negative or NaN.

    Guarantees:
        Each row's norm is at most bound, exactly: it is compared in integers.

    Example:
        >>> (on_grid(np.array([[0.6, 0.8]]), 1.0) / GRID).tolist()
        [[161061273.0, 214748364.0]]
    """
    clipped = np.trunc(clip_rows(rows.astype(np.float64), bound) / GRID).astype(np.int64)
    limit = int(bound / GRID) ** 2
    for row in np.flatnonzero(np.einsum("ij,ij->i", clipped, clipped) > limit):
        clipped[row] = _shrunk(clipped[row], limit)
    return np.asarray(clipped * GRID)


def counts_on_grid(counts: NDArray[np.number[Any]], share: float) -> FloatArray:
    """Weigh counts of patients, each patient in one cell, by a share on the grid.

    Args:
        counts: Whole numbers of patients, of any shape.
        share: Weight of one patient, above 0 and at most 1.

    Returns:
        The counts times the share cut down to the grid.

    Guarantees:
        One patient changes one number by at most share, exactly.
    """
    return np.asarray(counts.astype(np.float64) * (int(share / GRID) * GRID))


def factor_of(rows: FloatArray) -> NDArray[np.int16]:
    """Cut vectors down to the coarser grid of a rank-one contribution's factor.

    Args:
        rows: (n, d) values from -2 to 2, not including.

    Returns:
        (n, d) multiples of the root of `GRID`; what is not finite, or outside, becomes 0.
    """
    fits = np.abs(rows) < _LARGEST_FACTOR  # false for NaN
    return np.asarray(np.trunc(np.where(fits, rows, 0) * _FACTOR).astype(np.int16))


def squared_norms(rows: NDArray[np.int16]) -> NDArray[np.int64]:
    """Compute the squared norms of factors in integers.

    Args:
        rows: (n, d) from `factor_of`.

    Returns:
        (n,) in units of `GRID`.
    """
    wide = rows.astype(np.int32)
    return np.asarray(np.einsum("ij,ij->i", wide, wide, dtype=np.int64))


def clipped_factor(rows: FloatArray, others: NDArray[np.int64], bound: float) -> NDArray[np.int16]:
    """Cut the second factors down to the grid so that every product keeps the clip.

    Args:
        rows: (n, k) second factors, already clipped up to rounding.
        others: (n,) squared norms of the first factors, see `squared_norms`.
        bound: Greatest L2 norm of a patient's outer product, above zero.

    Returns:
        (n, k) multiples of the root of `GRID`.

    Raises:
        ConfigError: If bound is zero, negative or NaN.

    Guarantees:
        The product of the two factors' norms is at most bound for each patient, exactly.
    """
    require_positive(clip_norm=bound)
    second = factor_of(rows)
    limit = int(bound / GRID) ** 2
    # Below 2**63: two norms of at most 2 make 2**30 units each, and are far below in truth.
    while len(over := np.flatnonzero((squares := others * squared_norms(second)) > limit)):
        # Whatever a number is multiplied by that is below 1, what is cut down is smaller by one.
        shrink = np.minimum(np.sqrt(limit / squares[over]), 1 - 2.0**-40)
        second[over] = np.trunc(second[over] * shrink[:, None])
    return second


def clipped_columns(
    rows: FloatArray, others: NDArray[np.int64], bound: float, weights: Sequence[float]
) -> NDArray[np.int16]:
    """Cut the second factors down to the grid so that each column of a product keeps its own clip.

    Args:
        rows: (n, k) second factors, already clipped up to rounding.
        others: (n,) squared norms of the first factors, see `squared_norms`.
        bound: Greatest L2 norm of a patient's whole outer product, above zero.
        weights: k public weights above zero; a column's bound is its part of bound, see
            `skinml.privacy.clipping.class_bounds`.

    Returns:
        (n, k) multiples of the root of `GRID`.

    Raises:
        ConfigError: If bound or a weight is zero, negative, infinite or NaN.

    Guarantees:
        For each patient the norm of the first factor times the size of column j's second factor
        is at most column j's bound, exactly, and so the whole product's norm is at most bound. A
        patient's factors do not depend on the other patients.

    Example:
        >>> first = factor_of(np.array([[1.0, 0.0]]))
        >>> clipped_columns(np.array([[0.9, -0.9]]), squared_norms(first), 1.0, (3, 4)) / 2**14
        array([[ 0.59997559, -0.79998779]])
    """
    require_positive(clip_norm=bound)
    for weight in weights:
        require_positive(class_clip_weight=weight)
    squares = [Fraction(weight) ** 2 for weight in weights]
    whole = int(bound / GRID) ** 2
    # Rounded down one by one, so that together they are at most the whole's limit. One beyond
    # 2**63, which is a norm of 11, is lowered to that: inputs have norm 1, and lower is safe.
    limits = [min(int(whole * square / sum(squares)), 2**63 - 1) for square in squares]
    allowed = np.asarray(limits, np.int64) // np.maximum(others, 1)[:, None]
    # No factor's square reaches 2**30; up to there the root cut down is that of the whole numbers.
    largest = np.floor(np.sqrt(np.minimum(allowed, 2**30 - 1)))
    return np.asarray(np.clip(factor_of(rows), -largest, largest).astype(np.int16))


def products(
    first: NDArray[np.int16],
    weight: NDArray[np.floating[Any]],
    rows_at_once: int = _ROWS_AT_ONCE,
) -> FloatArray:
    """Multiply factors with a public weight so that no row depends on the others, not in one bit.

    Blocked floating-point products round a row by where it stands among the others: removing a
    patient would then move the rest by a unit here and there. In whole numbers nothing is rounded.

    Args:
        first: (n, d) from `factor_of`.
        weight: (d, k), finite; read to multiples of 2**-16 and at most 2**10 in size.
        rows_at_once: Patients turned into double precision at once.

    Returns:
        (n, k) products, exact for the weight as it was read, up to 2**12 features.
    """
    units = np.rint(np.clip(weight.astype(np.float64), -_GREATEST_WEIGHT, _GREATEST_WEIGHT) * 2**16)
    units = _widened(units)
    found = np.empty((len(first), units.shape[1]))
    for block, rows in _doubled(first, rows_at_once):
        np.matmul(rows, units, out=found[block])
    return found[:, : weight.shape[1]] * (2.0**-16 / _FACTOR)


def summed_products(
    first: NDArray[np.int16], second: NDArray[np.int16], rows_at_once: int = _ROWS_AT_ONCE
) -> FloatArray:
    """Add up the outer products of patients' factors, exactly.

    Args:
        first: (n, d) from `factor_of`.
        second: (n, k) from `clipped_factor`.
        rows_at_once: Patients turned into double precision at once.

    Returns:
        (d, k) multiples of `GRID`. All products and partial sums are whole numbers below 2**53
        for up to 2**22 patients, so that no order of summation changes them.
    """
    wide = _widened(second)
    total = np.zeros((first.shape[1], wide.shape[1]))
    for block, rows in _doubled(first, rows_at_once):
        total += rows.T @ wide[block]
    return total[:, : second.shape[1]] * GRID


def _widened(columns: NDArray[np.number[Any]]) -> FloatArray:
    """Put columns of zeros beside others, up to a number that is multiplied fast."""
    count = columns.shape[1]
    wide = np.zeros((len(columns), count + -count % _COLUMNS_AT_ONCE))
    wide[:, :count] = columns
    return wide


def _doubled(rows: NDArray[np.int16], at_once: int) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Turn rows into double precision block by block, each into the memory of the one before."""
    room = np.empty((min(at_once, len(rows)), rows.shape[1]))
    for start in range(0, len(rows), at_once):
        block = slice(start, min(start + at_once, len(rows)))
        part = room[: block.stop - start]
        np.copyto(part, rows[block])
        yield block, part


def _shrunk(row: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    while int(row @ row) > limit:
        row = row - np.sign(row)
    return row
