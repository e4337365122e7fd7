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

# Weights held at once. Blocks of this size stay near the processor's cache, which is worth more
# than fewer turns of the loop.
_BLOCK_WEIGHTS = 400_000


def patient_weights(
    num_patients: int, num_items: int, *, replicates: int, rng: np.random.Generator
) -> Iterator[FloatArray]:
    """Draw the weights of all patients, some replicates at a time.

    Args:
        num_patients: Patients m, at least 1.
        num_items: Items that the weights will be spread over; it sets the size of a block.
        replicates: Replicates in all.
        rng: The stream to draw from.

    Yields:
        (m, b) copies of each patient; every column sums to m. The blocks' b add up to replicates.

    Raises:
        ConfigError: If a number is not above zero.
    """
    require_positive(num_patients=num_patients, num_items=num_items, replicates=replicates)
    size = max(1, _BLOCK_WEIGHTS // num_items)
    for start in range(0, replicates, size):
        count = min(size, replicates - start)
        # 64-bit draws: the stream does not depend on where a block ends.
        drawn = rng.integers(num_patients, size=(count, num_patients), dtype=np.int64)
        drawn += np.arange(count, dtype=np.int64)[:, None] * num_patients
        copies = np.bincount(drawn.ravel(), minlength=count * num_patients)
        yield np.ascontiguousarray(copies.reshape(count, num_patients).T, dtype=np.float64)


def number_patients(patients: np.typing.NDArray[np.str_]) -> tuple[IntArray, int]:
    """Number the patients in the order of their ids, whatever the order of the rows.

    Args:
        patients: (n,) ids.

    Returns:
        (n,) each item's patient from 0 to m - 1, and m.
    """
    names, numbers = np.unique(patients, return_inverse=True)
    return numbers.reshape(-1), len(names)


def effective_patients(patients: IntArray) -> float:
    """Count patients as if each contributed the same number of items.

    Kish's effective sample size of the patients, weighted by their items. It is the number of
    patients where all have equally many items and smaller where a few have most of them, which
    is the right number when the items of one patient are all right or all wrong together.

    Args:
        patients: (n,) each item's patient as a number from 0.

    Returns:
        From 0 (no items) to the number of patients.

    Source:
        Kish 1965, Survey Sampling, section 8.2.

    >>> effective_patients(np.array([0, 0, 1, 1]))
    2.0
    """
    if len(patients) == 0:
        return 0.0
    counts = np.unique(patients, return_counts=True)[1].astype(float)
    return float(counts.sum() ** 2 / (counts**2).sum())
