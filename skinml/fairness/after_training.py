"""What could be done against gaps after training: thresholds and recalibrations of groups' own.

None of it is in the model. It reads validation and test patients exactly, so that only whoever sees
all predictions can make it, and no epsilon covers it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from skinml.fairness.group_thresholds import GroupThreshold, group_names, group_thresholds
from skinml.fairness.recalibration import Recalibrated, recalibrations
from skinml.fairness.settings import FairnessSettings
from skinml.records import Predictions

COUNTED = (
    "it takes validation patients' scores by group, and what the clinics released of them is not "
    "by group"
)
NO_MALIGNANT = "no validation patient is malignant"
ONE_GROUP = "the test patients are of fewer than two known groups"


@dataclass(frozen=True)
class AfterTraining:
    """What a report tells of mitigation after training.

    Attributes:
        attribute: What the groups are of.
        left_out: Why there is nothing; empty where there is something.
        aim: The sensitivity that groups' thresholds are chosen for: everybody's on the validation
            patients, at the run's threshold.
        thresholds: Everybody, then each group.
        recalibrations: The same; empty where no line could be fitted to the validation patients.
    """

    attribute: str
    left_out: str = ""
    aim: float | None = None
    thresholds: tuple[GroupThreshold, ...] = ()
    recalibrations: tuple[Recalibrated, ...] = ()

    def values(self) -> dict[str, Any]:
        """Give plain values for JSON; an undefined number is None, never 0."""
        found: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return found


_ADAPTER = TypeAdapter(AfterTraining)


def after_training_from(values: Mapping[str, Any]) -> AfterTraining:
    """Read what `AfterTraining.values` wrote.

    Args:
        values: The plain values.

    Returns:
        The analysis.
    """
    return _ADAPTER.validate_python(values)


def after_training(
    validation: Predictions,
    test: Predictions,
    attribute: str,
    threshold: float,
    *,
    settings: FairnessSettings,
    rng: Callable[[], np.random.Generator],
) -> AfterTraining:
    """Try thresholds and recalibrations of groups' own.

    Args:
        validation: What the model said of validation patients.
        test: What it said of test patients.
        attribute: What the groups are of; both carry it.
        threshold: The run's threshold.
        settings: Replicates, level, and how many patients a choice needs.
        rng: Opens a stream at its beginning, which patients are resampled from.

    Returns:
        The analysis.

    Raises:
        DataError: If the predictions are not usable.
    """
    if len(group_names(test, attribute)) < 2:
        return AfterTraining(attribute, ONE_GROUP)
    aim, thresholds = group_thresholds(
        validation, test, attribute, threshold, settings=settings, rng=rng
    )
    if aim is None:
        return AfterTraining(attribute, NO_MALIGNANT)
    lines = recalibrations(validation, test, attribute, settings=settings, rng=rng)
    return AfterTraining(attribute, "", aim, thresholds, lines)
