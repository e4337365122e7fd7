"""Patient weights: the one source of uncertainty that all figures and groups share.

A replicate of the patient bootstrap gives every patient a whole number of copies. It is drawn
once and used for every figure of every group, so that all their differences are paired.
Shapes: n items, m patients, b replicates.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from skinml.errors import require_positive
from skinml.records import FloatArray, IntArray

# Weights held at once, and the most replicates of a block: what rows weigh shall stay near the
# processor's cache.
_BLOCK_WEIGHTS = 12_000_000
_BLOCK_REPLICATES = 128
_TURNED = 1024


def patient_weights(
    num_patients: int, *, replicates: int, rng: np.random.Generator
) -> Iterator[FloatArray]:
    """Draw the weights of all patients, some replicates at a time.

    Args:
        num_patients: Patients m, at least 1.
        replicates: Replicates in all.
        rng: The stream to draw from.

    Yields:
        (m, b) copies of each patient; every column sums to m. The blocks' b add up to replicates.

    Raises:
        ConfigError: If a number is not above zero.
    """
    require_positive(num_patients=num_patients, replicates=replicates)
    size = max(1, min(_BLOCK_REPLICATES, _BLOCK_WEIGHTS // num_patients))
    for start in range(0, replicates, size):
        count = min(size, replicates - start)
        copies = np.empty((count, num_patients))
        for row in copies:
            # 64-bit draws: the stream does not depend on where a block ends.
            drawn = rng.integers(num_patients, size=num_patients, dtype=np.int64)
            row[:] = np.bincount(drawn, minlength=num_patients)
        yield _transposed(copies)


def _transposed(rows: FloatArray) -> FloatArray:
    """Turn (b, m) to (m, b), some patients at a time so that they stay in the cache."""
    turned = np.empty(rows.shape[::-1])
    for start in range(0, rows.shape[1], _TURNED):
        turned[start : start + _TURNED] = rows[:, start : start + _TURNED].T
    return turned


def number_patients(patients: np.typing.NDArray[np.str_]) -> tuple[IntArray, int]:
    """Number the patients in the order of their ids, whatever the order of the rows.

    Args:
        patients: (n,) ids.

    Returns:
        (n,) each item's patient from 0 to m - 1, and m.
    """
    names, numbers = np.unique(patients, return_inverse=True)
    return numbers.reshape(-1), len(names)


def effective_patients(patients: IntArray, weights: FloatArray | None = None) -> float:
    """Count patients as if each contributed the same number of items.

    Kish's effective sample size of the patients, weighted by their items. It is the number of
    patients where all have equally many items and smaller where a few have most of them, which
    is the right number when the items of one patient are all right or all wrong together.

    Args:
        patients: (n,) each item's patient as a number from 0.
        weights: (n,) how much each item counts; None: each once.

    Returns:
        From 0 (no items) to the number of patients.

    Source:
        Kish 1965, Survey Sampling, section 8.2.

    >>> effective_patients(np.array([0, 0, 1, 1]))
    2.0
    """
    if len(patients) == 0:
        return 0.0
    counts = np.bincount(patients, weights=weights).astype(float)
    return float(counts.sum() ** 2 / (counts**2).sum())
