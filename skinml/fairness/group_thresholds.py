"""What a threshold of each group's own would change, and at what price: an analysis, no model.

Each group's threshold is chosen on validation patients so that the group's sensitivity is that of
everybody at the run's own threshold, and is then held against the run's threshold on the test
patients: same patients, two decisions. Using such thresholds means that a patient's group is known
and used when the model is, which may be neither possible nor allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor

import numpy as np
from scipy.special import expit

from skinml.errors import require_in_range
from skinml.fairness.calibration import score_logits
from skinml.fairness.cells import taken
from skinml.fairness.comparisons import paired_difference
from skinml.fairness.groups import evaluate_groups
from skinml.fairness.settings import FairnessSettings
from skinml.records import UNKNOWN_GROUP, BoolArray, Estimate, FloatArray, Labels, Predictions

EVERYBODY = "everybody"
TWO_WAYS = Labels(("other", "malignant"), (False, True))
NO_GROUP = "no group has enough validation patients"
ERRORS = ("sensitivity", "specificity")
# Thresholds are told, and used, to this part of 1: finer ones would be single patients' scores.
_STEPS = 1000


@dataclass(frozen=True)
class Compared:
    """A figure of a group before and after something is done, on the same test patients.

    Attributes:
        before: As the run's model and threshold have it.
        after: With what is tried.
        difference: After less before, from paired resamples.
    """

    before: Estimate
    after: Estimate
    difference: Estimate


@dataclass(frozen=True)
class GroupThreshold:
    """A group's own threshold and what it does on the test patients.

    Attributes:
        group: The group; "everybody" for all groups, each at its own threshold.
        threshold: Its threshold; None where there are too few validation patients, who then keep
            the run's, and for everybody.
        reason: Why nothing was tried; empty where something was.
        figures: Sensitivity and specificity.
    """

    group: str
    threshold: float | None
    reason: str
    figures: Mapping[str, Compared]


def group_names(predictions: Predictions, attribute: str) -> tuple[str, ...]:
    """List the known groups of an attribute.

    Args:
        predictions: Where the attribute is.
        attribute: Its name.

    Returns:
        The names in their order, without "unknown".
    """
    names = np.unique(predictions.groups[attribute]).tolist()
    return tuple(name for name in names if name != UNKNOWN_GROUP)


def part_of_group(predictions: Predictions, attribute: str, group: str) -> Predictions:
    """Keep the items of one group, and no attribute.

    Args:
        predictions: All items.
        attribute: What the groups are of.
        group: The group; "everybody" keeps all.

    Returns:
        The items in their order.
    """
    values = predictions.groups[attribute]
    rows = np.arange(len(values)) if group == EVERYBODY else np.flatnonzero(values == group)
    return replace(taken(predictions, rows), groups={})


def as_malignant(predictions: Predictions, scores: FloatArray, alarms: BoolArray) -> Predictions:
    """Turn scores and alarms into predictions of two classes.

    Args:
        predictions: The items.
        scores: (n,) malignancy scores from 0 to 1.
        alarms: (n,) which items are called malignant.

    Returns:
        The items with classes "other" and "malignant"; an item is decided to be malignant where
        it is called so.
    """
    return Predictions(
        classes=TWO_WAYS,
        labels=predictions.malignant.astype(np.int64),
        probabilities=np.stack([1 - scores, scores], axis=1),
        decisions=np.asarray(alarms, dtype=np.int64),
        patients=predictions.patients,
        groups=predictions.groups,
    )


def scores_of(predictions: Predictions) -> FloatArray:
    """Read malignancy scores, sums of probabilities in single precision kept within 0 and 1.

    Args:
        predictions: The items.

    Returns:
        (n,) from 0 to 1.
    """
    return np.clip(predictions.malignancy_scores.astype(np.float64), 0.0, 1.0)


def threshold_for(scores: FloatArray, malignant: BoolArray, sensitivity: float) -> float:
    """Find the greatest threshold that finds a share of the malignant items.

    Args:
        scores: (n,) from 0 to 1.
        malignant: (n,) the truth, at least one of them true.
        sensitivity: The share, from 0 to 1.

    Returns:
        The threshold, in thousandths, rounded down.

    Raises:
        ConfigError: If the share is outside its range.

    >>> threshold_for(np.array([0.1, 0.42, 0.77, 0.9]), np.array([False, True, True, True]), 0.6)
    0.77
    """
    require_in_range(0, 1, sensitivity=sensitivity)
    found = np.sort(scores[malignant])[::-1]
    # A share that is met exactly must not ask for one more by rounding.
    wanted = max(1, ceil(sensitivity * len(found) - 1e-9))
    return floor(float(found[wanted - 1]) * _STEPS + 1e-9) / _STEPS


def compared(
    pair: tuple[Predictions, Predictions],
    attribute: str,
    group: str,
    figures: Sequence[str],
    settings: FairnessSettings,
    rng: Callable[[], np.random.Generator],
) -> dict[str, Compared]:
    """Hold a group's items against each other as two ways have them.

    Args:
        pair: All items before, and the same items after; alarms are their decisions.
        attribute: What the groups are of.
        group: The group, or "everybody".
        figures: Names of figures.
        settings: Replicates and level.
        rng: Opens a stream at its beginning, so that all figures draw the same resamples.

    Returns:
        The comparisons by figure.

    Raises:
        ConfigError: If there is no figure of a name.
        DataError: If the predictions are not usable.
    """
    bare = settings.model_copy(update={"crossings": ()})
    before, after = (part_of_group(each, attribute, group) for each in pair)
    found = [
        evaluate_groups(each, threshold=None, settings=bare, rng=rng(), figures=figures)[0]
        for each in (before, after)
    ]
    return {
        name: Compared(
            found[0].estimates[name],
            found[1].estimates[name],
            paired_difference(after, before, name, settings=bare, rng=rng()),
        )
        for name in figures
    }


def group_thresholds(
    validation: Predictions,
    test: Predictions,
    attribute: str,
    threshold: float,
    *,
    settings: FairnessSettings,
    rng: Callable[[], np.random.Generator],
) -> tuple[float | None, tuple[GroupThreshold, ...]]:
    """Choose each group's threshold on validation patients and try it on test patients.

    Args:
        validation: What the model said of validation patients.
        test: What it said of test patients, with the same attributes.
        attribute: What the groups are of.
        threshold: The run's threshold.
        settings: Replicates, level and the fewest malignant patients that decide anything.
        rng: Opens a stream at its beginning, which patients are resampled from.

    Returns:
        The sensitivity that is aimed at, everybody's among the validation patients; None where
        none of them is malignant. And everybody, then each group of the test patients. Intervals
        are those of the test patients: that other validation patients give other thresholds is
        not in them.

    Raises:
        DataError: If the predictions are not usable.
    """
    scores, truth = scores_of(validation), validation.malignant
    if not truth.any():
        return None, ()
    aim = float((scores[truth] >= threshold).mean())
    values = validation.groups[attribute]
    names = group_names(test, attribute)
    chosen: dict[str, float] = {}
    reasons = dict.fromkeys((EVERYBODY, *names), "")
    for name in names:
        own = truth & (values == name)
        if len(np.unique(validation.patients[own])) < settings.exact_below:
            reasons[name] = f"fewer than {settings.exact_below} malignant validation patients"
        else:
            chosen[name] = threshold_for(scores, own, aim)
    if not chosen:
        reasons[EVERYBODY] = NO_GROUP
    pair = (_decided(test, attribute, threshold, {}), _decided(test, attribute, threshold, chosen))
    return aim, tuple(
        GroupThreshold(
            name,
            chosen.get(name),
            reason,
            {} if reason else compared(pair, attribute, name, ERRORS, settings, rng),
        )
        for name, reason in reasons.items()
    )


def _decided(
    test: Predictions, attribute: str, threshold: float, own: Mapping[str, float]
) -> Predictions:
    """Call items malignant from their groups' thresholds on, their scores moved to the run's."""
    scores, words = scores_of(test), test.groups[attribute].tolist()
    limits = np.array([own.get(word, threshold) for word in words])
    # So moved, the two ways are not taken for one model where no alarm on these patients differs.
    apart = score_logits(limits) - score_logits(np.full(len(limits), threshold))
    moved = np.where(limits == threshold, scores, expit(score_logits(scores) - apart))
    return as_malignant(test, moved, np.asarray(scores >= limits))
