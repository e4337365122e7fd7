"""What recalibrating each group's scores would change: an analysis, never part of the model.

The scores' log odds are straightened by logistic regression (Cox 1958), fitted on validation
patients: once for everybody and once for each group. A group's own line is held against the line
for everybody on the test patients, so that what only mends the model as a whole is not called
fair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from skinml.fairness.calibration import score_logits
from skinml.fairness.group_thresholds import (
    EVERYBODY,
    NO_GROUP,
    Compared,
    as_malignant,
    compared,
    group_names,
    scores_of,
)
from skinml.fairness.settings import FairnessSettings
from skinml.records import BoolArray, FloatArray, Predictions

FIGURES = ("brier", "calibration_intercept", "calibration_slope")
_MORE = ("auroc",)
_STEPS = 50
_TOLERANCE = 1e-10
# Where rounding lets no step lower the loss, one as short as this is the end of the way.
_NEARLY = 1e-6
_PARTS = tuple(0.5**power for power in range(30))
# A steeper line means scores that separate the classes: no finite fit.
_STEEPEST = 100.0
# Of a line from noised counts: one over the variance of the prior; and what is beyond belief.
_PRIOR = np.array([4.0, 4.0])
_FLATTEST = 0.1
_MOST_NOISE = 0.25  # that noise moves either number by: half of what the prior gives or takes


@dataclass(frozen=True)
class Line:
    """A straight line through log odds.

    Attributes:
        intercept: Added to the log odds.
        slope: What they are multiplied by.
    """

    intercept: float
    slope: float

    def of(self, scores: FloatArray) -> FloatArray:
        """Recalibrate scores.

        Args:
            scores: (n,) from 0 to 1.

        Returns:
            (n,) from 0 to 1.
        """
        return np.asarray(expit(self.intercept + self.slope * score_logits(scores)))


@dataclass(frozen=True)
class Recalibrated:
    """A group's line and what it does on the test patients.

    Attributes:
        group: The group; "everybody" for all groups, each by its own line.
        line: The group's line, for everybody the one fitted to all; None where there is none, and
            the line for everybody is used.
        reason: Why nothing was tried; empty where something was.
        figures: Brier score, calibration intercept and slope, for everybody the AUROC too; before:
            by the line for everybody, after: by the group's own.
    """

    group: str
    line: Line | None
    reason: str
    figures: Mapping[str, Compared]


def fit_line(scores: FloatArray, truth: BoolArray) -> Line | None:
    """Fit a logistic regression of the truth on the scores' log odds.

    Args:
        scores: (n,) from 0 to 1.
        truth: (n,).

    Returns:
        The line; None where there is no finite one: a class is missing, all scores are equal, or
        they separate the classes.

    Source:
        Cox 1958, Biometrika 45; Newton's method on the log likelihood.
    """
    odds = score_logits(scores)
    centre = float(odds.mean())
    design = np.stack([np.ones(len(scores)), odds - centre])
    signs = np.where(truth, 1.0, -1.0)

    def loss(line: FloatArray) -> float:
        return float(np.logaddexp(0.0, -signs * (line @ design)).sum())

    found = np.zeros(2)
    for _ in range(_STEPS):
        chances = expit(found @ design)
        information = (design * (chances * (1 - chances))) @ design.T
        if np.linalg.cond(information) > 1 / _TOLERANCE:
            return None
        step = np.linalg.solve(information, design @ (truth - chances))
        if np.abs(step).max() < _TOLERANCE:
            return Line(float(found[0] - found[1] * centre), float(found[1]))
        # A whole step may overshoot; some part of it lowers the loss, which is convex.
        part = next((p for p in _PARTS if loss(found + p * step) < loss(found)), 0.0)
        found = found + part * step
        if part == 0.0 or abs(found[1]) > _STEEPEST:
            break
    flat = np.abs(step).max() < _NEARLY and abs(found[1]) <= _STEEPEST
    return Line(float(found[0] - found[1] * centre), float(found[1])) if flat else None


def line_from_counts(counts: FloatArray, edges: FloatArray, std: float = 0.0) -> Line | None:
    """Straighten scores by noised counts of patients, which costs no privacy beyond the counts.

    Maximum a posteriori logistic regression on the bins' middles. The counts enter the likelihood's
    slope linearly, so that noise leaves its mean where it is; the prior, an intercept of 0 and a
    slope of 1 give or take one half, keeps the line near the scores where counts tell little.

    Args:
        counts: (2, bins) patients, neither whole nor above 0 for certain; row 1 is malignant.
        edges: (bins + 1,) of the malignancy score, rising.
        std: Standard deviation of the noise in each count, in patients.

    Returns:
        The line; None where the noise is too much for any: where it would move the intercept or the
        slope by more than a quarter (standard deviation, by the delta method).

    >>> even = np.array([[8.0, 2.0], [2.0, 8.0]])
    >>> line_from_counts(1e6 * even, np.array([0.0, 0.4, 1.0])).slope > 1
    True
    """
    odds = score_logits((edges[:-1] + edges[1:]) / 2)
    design = np.stack([np.ones(len(odds)), odds])
    totals, malignant = counts.sum(axis=0), counts[1]
    found = np.array([0.0, 1.0])
    for _ in range(_STEPS):
        chances = expit(found @ design)
        slope = design @ (malignant - totals * chances) - _PRIOR * (found - [0.0, 1.0])
        information = (design * (totals * chances * (1 - chances))) @ design.T + np.diag(_PRIOR)
        if np.linalg.eigvalsh(information).min() <= 0:
            return None
        step = np.clip(np.linalg.solve(information, slope), -1, 1)
        found = found + step
        if np.abs(step).max() < _NEARLY:
            noise = (design * (chances**2 + (1 - chances) ** 2)) @ design.T * std**2
            moved = np.linalg.solve(information, np.linalg.solve(information, noise).T)
            sound = _FLATTEST < found[1] < 1 / _FLATTEST and abs(found[0]) < 1 / _FLATTEST
            sound = sound and np.diag(moved).max() <= _MOST_NOISE**2
            return Line(float(found[0]), float(found[1])) if sound else None
    return None


def recalibrations(
    validation: Predictions,
    test: Predictions,
    attribute: str,
    *,
    settings: FairnessSettings,
    rng: Callable[[], np.random.Generator],
) -> tuple[Recalibrated, ...]:
    """Fit lines on validation patients and try them on test patients.

    Args:
        validation: What the model said of validation patients.
        test: What it said of test patients, with the same attributes.
        attribute: What the groups are of.
        settings: Replicates, level and the fewest patients of either truth that a fit needs.
        rng: Opens a stream at its beginning, which patients are resampled from.

    Returns:
        Everybody, then each group of the test patients; nothing where not even the line for
        everybody can be fitted.

    Raises:
        DataError: If the predictions are not usable.
    """
    scores, values = scores_of(validation), validation.groups[attribute]
    common = fit_line(scores, validation.malignant)
    if common is None:
        return ()
    names = group_names(test, attribute)
    lines: dict[str, Line] = {}
    reasons = dict.fromkeys((EVERYBODY, *names), "")
    for name in names:
        rows = np.asarray(values == name)
        reasons[name] = _too_few(validation, rows, settings.exact_below)
        line = None if reasons[name] else fit_line(scores[rows], validation.malignant[rows])
        if line is not None:
            lines[name] = line
        elif not reasons[name]:
            reasons[name] = "the scores of these validation patients have no finite fit"
    if not lines:
        reasons[EVERYBODY] = NO_GROUP
    pair = (_redrawn(test, attribute, common, {}), _redrawn(test, attribute, common, lines))
    found = []
    for name, reason in reasons.items():
        figures = (*FIGURES, *_MORE) if name == EVERYBODY else FIGURES
        made = {} if reason else compared(pair, attribute, name, figures, settings, rng)
        line = common if name == EVERYBODY else lines.get(name)
        found.append(Recalibrated(name, line, reason, made))
    return tuple(found)


def _too_few(validation: Predictions, rows: BoolArray, least: int) -> str:
    for truth, words in ((validation.malignant, "malignant"), (~validation.malignant, "other")):
        if len(np.unique(validation.patients[rows & truth])) < least:
            return f"fewer than {least} {words} validation patients"
    return ""


def _redrawn(
    test: Predictions, attribute: str, common: Line, own: Mapping[str, Line]
) -> Predictions:
    """Recalibrate each item by its group's line, or by the common one."""
    scores, values = scores_of(test), test.groups[attribute]
    found = common.of(scores)
    for name, line in own.items():
        found = np.where(values == name, line.of(scores), found)
    return as_malignant(test, found, np.asarray(found >= 0.5))  # no figure here reads the alarms
