"""Predictions made up for the tests of this room."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from skinml.records import Labels, Predictions

BINARY = Labels(("benign", "malignant"), (False, True))


def binary_predictions(scores, malignant, patients=None, groups=None, threshold=0.5) -> Predictions:
    """Predictions of two classes from malignancy scores."""
    scores = np.asarray(scores, dtype=float)
    if patients is None:
        patients = [f"p{row}" for row in range(len(scores))]
    return Predictions(
        classes=BINARY,
        labels=np.asarray(malignant).astype(int),
        probabilities=np.stack([1 - scores, scores], axis=1),
        decisions=(scores >= threshold).astype(int),
        patients=np.asarray(patients, dtype=str),
        groups={name: np.asarray(values, dtype=str) for name, values in (groups or {}).items()},
    )


def clustered(rng, num_patients=60, images=(1, 4), shift=1.2, spread=1.0) -> Predictions:
    """Patients with several images whose truths and scores hang together; tones 1 to 3."""
    counts = rng.integers(images[0], images[1] + 1, size=num_patients)
    patient = np.repeat(np.arange(num_patients), counts)
    effect = rng.normal(size=num_patients)[patient]
    malignant = rng.random(len(patient)) < 1 / (1 + np.exp(0.7 - effect))
    latent = shift * (malignant - 0.5) + 0.5 * effect + spread * rng.normal(size=len(patient))
    tone = (rng.integers(1, 4, size=num_patients)[patient]).astype(str)
    return binary_predictions(
        1 / (1 + np.exp(-latent)),
        malignant,
        [f"p{number:04d}" for number in patient],
        {"skin_tone": tone},
    )


def many_classes(rng, num_items=400, num_classes=4, tilt=1.5) -> Predictions:
    """One image a patient; the last two classes are malignant."""
    labels = rng.integers(num_classes, size=num_items)
    logits = rng.normal(size=(num_items, num_classes))
    logits[np.arange(num_items), labels] += tilt
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Predictions(
        classes=Labels(
            tuple(f"class {index}" for index in range(num_classes)),
            tuple(index >= num_classes - 2 for index in range(num_classes)),
        ),
        labels=labels,
        probabilities=probabilities,
        decisions=probabilities.argmax(axis=1),
        patients=np.array([f"p{row:05d}" for row in range(num_items)]),
        groups={"sex": np.where(rng.random(num_items) < 0.5, "f", "m")},
    )


def reordered(predictions: Predictions, order) -> Predictions:
    """The same items in another order, or repeated."""
    return Predictions(
        classes=predictions.classes,
        labels=predictions.labels[order],
        probabilities=predictions.probabilities[order],
        decisions=predictions.decisions[order],
        patients=predictions.patients[order],
        groups={name: values[order] for name, values in predictions.groups.items()},
    )


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """The builders above; a fixture, because test modules do not import each other."""
    return SimpleNamespace(
        binary=binary_predictions, clustered=clustered, classes=many_classes, reordered=reordered
    )
