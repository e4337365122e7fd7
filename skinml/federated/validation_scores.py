"""What a clinic adds up of its validation patients: scores for the threshold and for label sets."""

from __future__ import annotations

import numpy as np

from skinml.fairness.label_sets import SetsLayout, set_table, threshold_units
from skinml.fairness.thresholds import score_histogram
from skinml.privacy.quantise import GRID, counts_on_grid
from skinml.records import FloatArray, Predictions

SCORE_BINS = 64


def score_table(
    predictions: Predictions, layout: SetsLayout | None, max_clinics: int
) -> FloatArray:
    """Add up a clinic's validation patients.

    Args:
        predictions: What the model said of their images.
        layout: The rows for label sets; None where there are none.
        max_clinics: At how many clinics a patient may be.

    Returns:
        (2 + rows, 64) multiples of `GRID`: patients by truth and malignancy score, then what
        `label_sets.set_table` makes.

    Guarantees:
        Adding or removing all images of a patient moves the table by at most 1 / max_clinics in
        the L2 norm, exactly: with label sets both parts have their share of it.
    """
    exact = score_histogram(
        predictions.malignancy_scores, predictions.malignant, predictions.patients, SCORE_BINS
    )
    if layout is None:
        return counts_on_grid(exact, 1 / max_clinics)
    weight = threshold_units(layout.share, max_clinics)
    sets = set_table(predictions, layout, max_clinics)
    return np.asarray(np.concatenate([exact * weight, sets]) * GRID)
