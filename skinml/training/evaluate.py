"""Predictions of a trained model: the other half of the local loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skinml.records import Labels, Predictions, Samples

Score = Callable[[NDArray[Any]], tuple[NDArray[np.float64], NDArray[np.int64]]]


def evaluate(score: Score, classes: Labels, samples: Samples) -> Predictions:
    """Score samples.

    Args:
        score: From inputs (n, ...) to probabilities (n, classes) and decisions (n,).
        classes: What the model tells apart.
        samples: What to score.

    Returns:
        The predictions; they are about patients and stay where the samples are.
    """
    if len(samples):
        probabilities, decisions = score(samples.inputs)
    else:
        probabilities = np.zeros((0, len(classes.names)))
        decisions = np.zeros(0, dtype=np.int64)
    return Predictions(
        classes=classes,
        labels=samples.labels,
        probabilities=probabilities,
        decisions=decisions,
        patients=samples.patients,
        groups=samples.groups,
    )
