"""What a model answers about one image: probabilities, a label set, or that it cannot tell.

The one function that the command line, Python and a served model call; see `answer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from skinml.errors import DataError
from skinml.fairness.label_sets import LabelSets
from skinml.fairness.recalibration import Line
from skinml.records import FloatArray, Labels

CLINICIAN = (
    "A clinician decides. This is not a diagnosis: it is what a research model makes of a picture, "
    "and it may be wrong."
)
NOT_CHECKED = (
    "Not checked: whether an image is unlike those that this model was trained on, for it keeps no "
    "mean of its training images. A picture of anything else gets an answer too: look at each "
    "picture first."
)
UNLIKE = "the image is unlike the images that the model was trained on"
NOTHING_FITS = "no label fits the image as well as true labels usually do"
TOO_MANY = "too many labels fit"
NO_SETS = (
    "this model has no label sets: its run released no counts for them (fairness.label_sets.share)"
)
TOO_FEW = "too few patients were there for a label set that keeps its promise"


@dataclass(frozen=True)
class AnswerTables:
    """What an answer needs beside an image's probabilities; all of it is in the saved model.

    Attributes:
        classes: What the model tells apart.
        threshold: Malignancy score from which the model raises an alarm; None where none was fixed.
        line: How malignancy scores are calibrated; None leaves them as they are.
        sets: The label sets; None where the run released no counts for them.
    """

    classes: Labels
    threshold: float | None
    line: Line | None
    sets: LabelSets | None


@dataclass(frozen=True)
class Answer:
    """What a model answers about one image.

    Attributes:
        probabilities: Calibrated, of each label; they sum to 1.
        label_set: The labels that hold the coverage, likeliest first; None without label sets.
        abstains: Whether the answer is "cannot tell".
        reasons: Why, in words; empty where it does not abstain.
        alarm: Whether the malignancy score reaches the run's threshold; None without a threshold.
        group: The group whose limits were used; None: the widest of all.
        coverage: Share of patients of each group whose true label is in the set; None without.
        likeness_checked: Whether it was looked at if the image is unlike the training images.
    """

    probabilities: dict[str, float]
    label_set: tuple[str, ...] | None
    abstains: bool
    reasons: tuple[str, ...]
    alarm: bool | None
    group: str | None
    coverage: float | None
    likeness_checked: bool

    def values(self) -> dict[str, Any]:
        """Write the answer as plain values.

        Returns:
            The fields by name, and the words that a clinician decides.
        """
        return {
            "probabilities": dict(self.probabilities),
            "label_set": None if self.label_set is None else list(self.label_set),
            "cannot_tell": self.abstains,
            "reasons": list(self.reasons),
            "alarm": self.alarm,
            "group": self.group,
            "coverage": self.coverage,
            "likeness_checked": self.likeness_checked,
            "who_decides": CLINICIAN,
        }


def answer(
    probabilities: FloatArray,
    group: str | None,
    tables: AnswerTables,
    *,
    unlike: bool | None = None,
) -> Answer:
    """Answer about one image.

    It cannot tell where the label set is empty or holds more than half of the labels, where there
    is no set, or where the image is unlike those that the model was trained on.

    Args:
        probabilities: (k,) of the model, as it gives them.
        group: Whose image it is, a group of `tables.sets.attribute`; None where nobody knows.
        tables: What the saved model holds.
        unlike: Whether the image is unlike the training images; None where nobody looked.

    Returns:
        The answer.

    Raises:
        ConfigError: If the sets know no such group.
        DataError: If the probabilities are not k numbers from 0 to 1 that sum to 1.

    Guarantees:
        A label's being in the set depends on the probabilities as the model gives them: the
        coverage is that of `label_sets`, whatever the calibration.
    """
    names = tables.classes.names
    found = np.asarray(probabilities, dtype=np.float64)
    inside = found.shape == (len(names),) and bool(((found >= 0) & (found <= 1)).all())
    if not inside or abs(float(found.sum()) - 1) > _ROUNDING:
        raise DataError(
            rule=f"{len(names)} probabilities from 0 to 1 that sum to 1",
            got=f"shape={found.shape}, sum={float(found.sum()):.3f}",
            do="Pass what the model gives for one image.",
        )
    shown = calibrated(found, tables)
    likeliest = np.argsort(-found, kind="stable")
    chosen: tuple[str, ...] | None = None
    reasons = [UNLIKE] if unlike else []
    if tables.sets is None:
        reasons.append(NO_SETS)
    else:
        members = tables.sets.members(found, group, tables.classes)
        chosen = tuple(names[at] for at in likeliest if members[at])
        limits = tables.sets.limits(group)
        if not chosen:
            reasons.append(NOTHING_FITS)
        elif 2 * len(chosen) > len(names):
            reasons.append(f"{TOO_MANY}: {', '.join(chosen)}".replace("_", " "))
            reasons += [TOO_FEW] if None in limits else []
    malignant = np.asarray(tables.classes.malignant)
    score = float(found[malignant].sum())
    return Answer(
        probabilities={name: float(shown[at]) for at, name in enumerate(names)},
        label_set=chosen,
        abstains=bool(reasons),
        reasons=tuple(reasons),
        alarm=None if tables.threshold is None else score >= tables.threshold,
        group=group if tables.sets is not None else None,
        coverage=None if tables.sets is None else tables.sets.coverage,
        likeness_checked=unlike is not None,
    )


def calibrated(probabilities: FloatArray, tables: AnswerTables) -> FloatArray:
    """Calibrate the chance of malignancy; within malignant and other labels nothing moves.

    Args:
        probabilities: (k,) of the model.
        tables: The classes and the line.

    Returns:
        (k,), summing to 1.
    """
    malignant = np.asarray(tables.classes.malignant)
    if tables.line is None or malignant.all() or not malignant.any():
        return probabilities
    score = min(float(probabilities[malignant].sum()), 1.0)
    moved = float(tables.line.of(np.asarray([score]))[0])
    found = probabilities.copy()
    for side, mass in ((malignant, moved), (~malignant, 1 - moved)):
        part = float(found[side].sum())
        # Where the model leaves a side nothing at all, its labels share what the line gives them.
        found[side] = found[side] * (mass / part) if part > 0 else mass / side.sum()
    return np.asarray(found)


# Probabilities may have passed through single precision.
_ROUNDING = 1e-3
