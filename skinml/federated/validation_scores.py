"""What a clinic adds up of its validation patients, in one release, and how the sum is read.

Scores for the threshold stand first, then the rows for label sets, then those for a mean of
features. Each part has its share of the squared sensitivity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt, sqrt

import numpy as np

from skinml.errors import DataError
from skinml.fairness.label_sets import SetsLayout, set_table, threshold_units
from skinml.fairness.thresholds import score_histogram
from skinml.privacy.clipping import mean_by_patient
from skinml.privacy.quantise import GRID, counts_on_grid, on_grid
from skinml.records import FloatArray, Predictions, Samples, StrArray

SCORE_BINS = 64
# Part of a patient's squared norm that tells how many patients there are: a mean needs that, and
# from the scores' 128 cells it would come with five times the noise.
_COUNTED = 0.2
# A mean of which noise makes up more says little: see `mean_of_features`.
_LEAST_SIGNAL = 0.5


@dataclass(frozen=True)
class FeaturePart:
    """What a clinic adds to the release of its validation patients' features.

    Attributes:
        share: Part of the squared sensitivity, above 0 and below 1.
        look: From samples to (n, d) features of norm at most 1. A row depends on that sample
            alone, in every bit.
    """

    share: float
    look: Callable[[Samples], FloatArray]

    def rows(self, samples: Samples, max_clinics: int) -> FeatureRows:
        """Add up a clinic's validation patients.

        Args:
            samples: Their images.
            max_clinics: At how many clinics a patient may be.

        Returns:
            What `score_table` takes.
        """
        table = feature_table(self.look(samples), samples.patients, self.share, max_clinics)
        return FeatureRows(self.share, table)


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """A clinic's sum of features.

    Attributes:
        share: Part of the squared sensitivity that it has.
        table: From `feature_table`, with this share.
    """

    share: float
    table: FloatArray


def score_table(
    predictions: Predictions,
    layout: SetsLayout | None,
    max_clinics: int,
    features: FeatureRows | None = None,
) -> FloatArray:
    """Add up a clinic's validation patients.

    Args:
        predictions: What the model said of their images.
        layout: The rows for label sets; None where there are none.
        max_clinics: At how many clinics a patient may be.
        features: The sum of the same patients' features; None where none is released.

    Returns:
        (2 + rows, 64) multiples of `GRID`: patients by truth and malignancy score, then what
        `label_sets.set_table` makes, then what `feature_table` made.

    Guarantees:
        Adding or removing all images of a patient moves the table by at most 1 / max_clinics in
        the L2 norm, exactly: with label sets or features each part has its share of it.
    """
    exact = score_histogram(
        predictions.malignancy_scores, predictions.malignant, predictions.patients, SCORE_BINS
    )
    if layout is None and features is None:
        return counts_on_grid(exact, 1 / max_clinics)
    shares = (layout.share if layout else 0.0, features.share if features else 0.0)
    parts = [exact * (threshold_units(shares[0], max_clinics, shares[1]) * GRID)]
    if layout is not None:
        parts.append(set_table(predictions, layout, max_clinics) * GRID)
    if features is not None:
        parts.append(features.table)
    return np.asarray(np.concatenate(parts))


def feature_rows(num_features: int) -> int:
    """Tell how many rows of 64 a sum of features takes.

    Args:
        num_features: d, a multiple of 64.

    Returns:
        The number: one row says how many patients there are.

    Raises:
        DataError: If d is no multiple of 64.
    """
    if num_features % SCORE_BINS:
        raise DataError(
            rule=f"features whose number is a multiple of {SCORE_BINS}",
            got=f"num_features={num_features}",
            do="Use EfficientNet-Lite0.",
        )
    return 1 + num_features // SCORE_BINS


def feature_table(
    features: FloatArray, patients: StrArray, share: float, max_clinics: int
) -> FloatArray:
    """Add up patients' mean features, and beside them how many patients there are.

    A patient's vector has 64 equal numbers, whose squares make up a fifth, and the mean of the
    features of the patient's images; it is clipped as a whole.

    Args:
        features: (n, d), rows of norm at most 1.
        patients: (n,) each row's patient.
        share: Part of the squared sensitivity, above 0 and below 1.
        max_clinics: At how many clinics a patient may be.

    Returns:
        (1 + d / 64, 64) multiples of `GRID`.

    Raises:
        DataError: If d is no multiple of 64.

    Guarantees:
        Adding or removing all rows of a patient moves the table by at most
        sqrt(share) / max_clinics in the L2 norm, exactly, whatever the features are; a patient of
        whose features one is NaN or infinite adds zeros.
    """
    rows = feature_rows(features.shape[1])
    means, _ = mean_by_patient(features.astype(np.float64), patients)
    bound = _feature_bound(share, max_clinics)
    counted = np.full((len(means), SCORE_BINS), sqrt(_COUNTED / SCORE_BINS))
    whole = np.concatenate([counted, means * sqrt(1 - _COUNTED)], axis=1)
    return np.asarray(on_grid(whole * bound, bound).sum(axis=0).reshape(rows, SCORE_BINS))


def mean_of_features(
    released: FloatArray, share: float, max_clinics: int, std: float
) -> FloatArray | None:
    """Read the mean of patients' features from the noisy sum over the clinics.

    Noise in d numbers makes the mean longer than it is. It is shortened by the part of its squared
    length that noise has on average, so that its inner product with an image, over its squared
    length, is what it would be without noise, but for the noise in that one direction.

    Args:
        released: (1 + d / 64, 64) the rows of the sum.
        share: As in `feature_table`.
        max_clinics: As in `feature_table`.
        std: Standard deviation of the noise in each number of the sum; 0 where there is none.

    Returns:
        (d,); None where noise has more than half of the squared length, or there is nobody.

    Source:
        James and Stein 1961, Estimation with quadratic loss, for the factor.
    """
    bound = _feature_bound(share, max_clinics)
    count = float(released[0].sum()) / (sqrt(_COUNTED * SCORE_BINS) * bound)
    raw = released[1:].ravel()
    length = float(raw @ raw)
    signal = 1 - raw.size * std**2 / length if length > 0 else 0.0
    if signal < _LEAST_SIGNAL or count <= 0:
        return None
    return np.asarray(raw * (signal / (sqrt(1 - _COUNTED) * bound * count)))


def _feature_bound(share: float, max_clinics: int) -> float:
    """The greatest norm of a patient's vector: a multiple of the grid whose square fits exactly."""
    return isqrt(int(share * 2**56) // max_clinics**2) * GRID
