"""scikit-learn's logistic regression, without privacy: what to hold a run's model against."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skinml.privacy.clipping import mean_by_patient, modal_labels
from skinml.records import Labels, Samples
from skinml.training.evaluate import Score

_THUMBNAIL = 16


def fit_logistic(samples: Samples, classes: Labels, *, penalty_inverse: float = 10.0) -> Score:
    """Fit a logistic regression on one averaged row and the modal label of each patient.

    The decision leaves the classes' prior out, as the head's does, so that balanced accuracies
    can be compared.

    Args:
        samples: Training samples, features or images; images are reduced to thumbnails first.
        classes: What to tell apart.
        penalty_inverse: C of scikit-learn.

    Returns:
        From inputs to probabilities and decisions; a class that training lacked gets 0.

    Raises:
        ValueError: If training holds one class only (scikit-learn's).
    """
    from sklearn.linear_model import LogisticRegression

    rows, position = mean_by_patient(_flat(samples.inputs), samples.patients)
    malignant = np.asarray(classes.malignant, dtype=bool)
    labels = modal_labels(samples.labels, position, malignant)
    model = LogisticRegression(C=penalty_inverse, max_iter=2000).fit(rows, labels)
    prior = np.bincount(labels, minlength=len(malignant))[model.classes_] / len(labels)

    def score(inputs: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        found = model.predict_proba(_flat(inputs))
        probabilities = np.zeros((len(inputs), len(malignant)))
        probabilities[:, model.classes_] = found
        decisions = model.classes_[(found / prior).argmax(axis=1)]
        return probabilities, decisions.astype(np.int64)

    return score


def _flat(inputs: NDArray[Any]) -> NDArray[np.float64]:
    """Leave features as they are; average images over blocks down to thumbnails."""
    if inputs.ndim == 2:
        return inputs.astype(np.float64)
    count, size = inputs.shape[:2]
    block = max(size // _THUMBNAIL, 1)
    side = size // block
    cut = inputs[:, : side * block, : side * block].astype(np.float64) / 255
    means = cut.reshape(count, side, block, side, block, -1).mean(axis=(2, 4))
    return np.asarray(means.reshape(count, -1))
