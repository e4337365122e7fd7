"""The threshold from validation data, through a histogram that can be released with noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skinml.errors import DataError, require_positive, require_same_length
from skinml.fairness.resampling import number_patients
from skinml.records import BoolArray, FloatArray, IntArray, StrArray

FALLBACK = 0.5


@dataclass(frozen=True)
class ThresholdChoice:
    """A threshold and where it comes from.

    Attributes:
        value: The malignancy score from which an item counts as alarm.
        source: How it was found, or why it is the fallback, in words for a reader.
        fallback: Whether the counts could not tell and 0.5 stands in.
    """

    value: float
    source: str
    fallback: bool


def score_edges(bins: int) -> FloatArray:
    """The public edges of the histogram's bins.

    Args:
        bins: Number of bins, at least 1.

    Returns:
        (bins + 1,) equally spaced from 0 to 1.
    """
    require_positive(bins=bins)
    return np.linspace(0.0, 1.0, bins + 1)


def score_histogram(
    scores: FloatArray, malignant: BoolArray, patients: StrArray, bins: int
) -> IntArray:
    """Count patients by truth and by mean malignancy score.

    A patient stands in one cell: their items' mean score, and their items' more frequent truth
    (malignant where both are equally frequent).

    Args:
        scores: (n,) malignancy scores from 0 to 1.
        malignant: (n,) the truth.
        patients: (n,) each item's patient.
        bins: Equally wide bins of the score; the last one includes 1.

    Returns:
        (2, bins) counts; row 0 is not malignant, row 1 is malignant.

    Raises:
        ConfigError: If bins is not above zero.
        DataError: If lengths differ or a score is not a number from 0 to 1.

    Guarantees:
        Adding or removing all items of one patient changes one count by 1 and no other, so that
        the sensitivity to one patient is 1 in the L1 and in the L2 norm.

    >>> score_histogram(np.array([0.1, 0.9]), np.array([False, True]), np.array(["a", "b"]), 2)
    array([[1, 0],
           [0, 1]])
    """
    require_positive(bins=bins)
    require_same_length(scores=scores, malignant=malignant, patients=patients)
    bad = ~((scores >= 0) & (scores <= 1))
    if bad.any():
        raise DataError(
            rule="malignancy scores from 0 to 1, without NaN",
            got=f"num_bad_rows={int(bad.sum())}",
            do="Check what the model returned.",
        )
    counts = np.zeros((2, bins), dtype=np.int64)
    if len(scores) == 0:
        return counts
    numbers, num_patients = number_patients(patients)
    # Summed in the order of the scores, so that the order of the rows cannot move a patient
    # across an edge by rounding.
    order = np.lexsort((scores, numbers))
    items = np.bincount(numbers, minlength=num_patients)
    sums = np.bincount(numbers[order], weights=scores[order], minlength=num_patients)
    positives = np.bincount(numbers, weights=malignant, minlength=num_patients)
    column = np.minimum((sums / items * bins).astype(np.int64), bins - 1)
    np.add.at(counts, ((2 * positives >= items).astype(np.int64), column), 1)
    return counts


def choose_threshold(counts: FloatArray | IntArray, edges: FloatArray) -> ThresholdChoice:
    """Find the edge with the greatest sensitivity plus specificity, from noisy counts too.

    The counts may carry noise and be negative. For each truth the number of patients at or above
    each edge must fall from the total to zero; the noisy numbers are replaced by the nearest
    falling sequence (least squares, isotonic), which is post-processing and costs no privacy.
    Where several neighbouring edges are equally good, the middle of the first run is taken.

    Args:
        counts: (2, bins) exact or noisy; row 0 is not malignant, row 1 is malignant.
        edges: (bins + 1,) rising.

    Returns:
        The threshold with its source in words; 0.5 where a total is at or below zero or no edge
        is better than chance.

    Raises:
        DataError: If shapes do not fit or a number is not finite.

    Source:
        Youden 1950, Cancer 3:32.
    """
    counts = np.asarray(counts, dtype=float)
    if counts.ndim != 2 or counts.shape != (2, len(edges) - 1) or not np.isfinite(counts).all():
        raise DataError(
            rule="finite counts of shape (2, bins) with bins + 1 edges",
            got=f"shape={counts.shape}, num_edges={len(edges)}",
            do="Pass the histogram together with the edges it was made with.",
        )
    totals = counts.sum(axis=1)
    if (totals <= 0).any():
        return ThresholdChoice(
            FALLBACK, "0.5, for the counts leave no patient of one of the two truths", fallback=True
        )
    gain = _share_above(counts[1]) - _share_above(counts[0])
    best = float(gain.max())
    if best <= 1e-12:
        return ThresholdChoice(FALLBACK, "0.5, for no other was better than chance", fallback=True)
    good = gain >= best - 1e-12
    first = int(np.argmax(good))
    run = int(np.argmin(good[first:])) or len(good) - first
    value = float((edges[first] + edges[first + run - 1]) / 2)
    return ThresholdChoice(
        value, "greatest sensitivity plus specificity on validation patients", fallback=False
    )


def youden_threshold(counts: FloatArray | IntArray, edges: FloatArray) -> float:
    """The value of `choose_threshold` alone.

    Args:
        counts: (2, bins) exact or noisy; row 0 is not malignant, row 1 is malignant.
        edges: (bins + 1,) rising.

    Returns:
        The threshold; 0.5 where the counts cannot tell.

    Raises:
        DataError: If shapes do not fit or a number is not finite.

    >>> youden_threshold(np.array([[5, 1, 0, 0], [0, 0, 2, 4]]), score_edges(4))
    0.5
    """
    return choose_threshold(counts, edges).value


def _share_above(row: FloatArray) -> FloatArray:
    """(bins + 1,) share of a row at or above each edge, falling from 1 to 0."""
    from scipy.optimize import isotonic_regression

    total = float(row.sum())
    above = total - np.concatenate([[0.0], np.cumsum(row)])
    falling = isotonic_regression(above, increasing=False).x
    share = np.clip(falling / total, 0.0, 1.0)
    # The two ends are known: everybody is at or above the first edge, nobody beyond the last.
    share[0], share[-1] = 1.0, 0.0
    return np.asarray(share)
