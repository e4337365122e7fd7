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

    Guarantees:
        Whatever weights a coordinator sends, every item gets probabilities: a row that would not
        be finite becomes uniform. Were it an error, whether a patient is there could be told from
        whether there is an answer.
    """
    if len(samples):
        with np.errstate(all="ignore"):
            probabilities, decisions = score(samples.inputs)
            broken = np.flatnonzero(~np.isfinite(probabilities.sum(axis=1)))
        probabilities[broken] = 1 / len(classes.names)
        decisions[broken] = 0
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
