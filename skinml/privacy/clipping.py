"""Bounds on what one patient can change in a sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skinml.errors import require_positive
from skinml.records import FloatArray


def clip_factors(norms: FloatArray, bound: float) -> FloatArray:
    """Compute by how much each contribution must shrink to fit the bound.

    Args:
        norms: (n,) L2 norm of each patient's whole contribution.
        bound: Greatest norm allowed, above zero.

    Returns:
        (n,) factors from 0 to 1; 0 where the norm is NaN or infinite, 1 where it is zero.

    Raises:
        ConfigError: If bound is zero, negative or NaN.

    Guarantees:
        norms * factors is at most bound, up to rounding.

    Source:
        Abadi et al. 2016, arXiv:1607.00133, Algorithm 1.

    Example:
        >>> clip_factors(np.array([0.0, 1.0, 4.0, np.inf]), 2.0).tolist()
        [1.0, 1.0, 0.5, 0.0]
    """
    require_positive(clip_norm=bound)
    finite = np.isfinite(norms)
    factors = bound / np.maximum(np.where(finite, norms, bound), bound)
    return np.asarray(np.where(finite, factors, 0.0))


def class_bounds(bound: float, weights: Sequence[float]) -> FloatArray:
    """Divide the bound of a patient's whole contribution among the columns of the classes.

    Args:
        bound: Greatest L2 norm of the whole contribution, above zero.
        weights: k public weights above zero; equal ones give each column bound / sqrt(k).

    Returns:
        (k,) bounds in proportion to the weights, whose squares add up to that of bound.

    Raises:
        ConfigError: If bound or a weight is zero, negative, infinite or NaN.

    Source:
        McMahan et al. 2018, arXiv:1710.06963, section 2.3, clipping by layer.

    Example:
        >>> class_bounds(0.5, (3, 4)).tolist()
        [0.3, 0.4]
    """
    require_positive(clip_norm=bound)
    for weight in weights:
        require_positive(class_clip_weight=weight)
    shares = np.asarray(weights, dtype=np.float64) / max(weights)
    return np.asarray(bound * shares / np.sqrt(np.sum(shares**2)))


def clip_factors_by_class(norms: FloatArray, bounds: FloatArray) -> FloatArray:
    """Compute by how much each column of each contribution must shrink to fit its own bound.

    Args:
        norms: (n, k) L2 norms of the columns of each patient's contribution.
        bounds: (k,) greatest norm of each column, above zero, see `class_bounds`.

    Returns:
        (n, k) factors from 0 to 1; a row of zeros where one of its norms is NaN or infinite.

    Raises:
        ConfigError: If a bound is zero, negative or NaN.

    Guarantees:
        norms * factors is at most bounds, up to rounding.

    Example:
        >>> clip_factors_by_class(np.array([[1.0, 4.0], [0.0, np.inf]]), np.array([2, 1])).tolist()
        [[1.0, 0.25], [0.0, 0.0]]
    """
    columns = [clip_factors(norms[:, at], float(bound)) for at, bound in enumerate(bounds)]
    finite = np.isfinite(norms).all(axis=1, keepdims=True)
    return np.asarray(np.where(finite, np.stack(columns, axis=1), 0.0))


def clip_rows(rows: FloatArray, bound: float) -> FloatArray:
    """Clip each patient's vector to the bound.

    Args:
        rows: (n, d) one vector a patient.
        bound: Greatest L2 norm allowed, above zero.

    Returns:
        (n, d) the clipped vectors; a row with a NaN or an infinity becomes zeros.

    Raises:
        ConfigError: If bound is zero, negative or NaN.

    Guarantees:
        Each row's norm is at most bound, up to rounding.
    """
    finite = np.isfinite(rows).all(axis=1, keepdims=True)
    clean = np.where(finite, rows, 0.0)
    # In double precision: float32 squares overflow from 2e19 on.
    with np.errstate(over="ignore"):  # from 1e154 on a norm is infinite, and the row zeros
        norms = np.linalg.norm(clean.astype(np.float64), axis=1)
    return np.asarray(clean * clip_factors(norms, bound)[:, None])


def mean_by_patient(
    rows: FloatArray, patients: NDArray[Any]
) -> tuple[FloatArray, NDArray[np.intp]]:
    """Average each patient's rows, so that further images buy no more weight.

    Args:
        rows: (n, d) one row an item.
        patients: (n,) each item's patient.

    Returns:
        (p, d) one row a patient in the order of the sorted ids, and (n,) each item's position
        among the patients.
    """
    _, position, counts = np.unique(patients, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), rows.shape[1]), dtype=rows.dtype)
    # Infinities of both signs add up to NaN, which the clip turns into zeros.
    with np.errstate(invalid="ignore", over="ignore"):
        np.add.at(sums, position, rows)
    return sums / counts[:, None].astype(rows.dtype), position


def modal_labels(
    labels: NDArray[np.integer[Any]], position: NDArray[np.intp], malignant: NDArray[np.bool_]
) -> NDArray[np.intp]:
    """Find each patient's most frequent label; ties go to a malignant class, then the first.

    Args:
        labels: (n,) class of each item.
        position: (n,) each item's position among the patients, all positions taken.
        malignant: (classes,) whether a class is malignant.

    Returns:
        (p,) a class for each patient.
    """
    counts = np.zeros((int(position.max(initial=-1)) + 1, len(malignant)))
    np.add.at(counts, (position, labels), 1.0)
    return np.asarray(np.argmax(counts + 0.5 * malignant, axis=1))
