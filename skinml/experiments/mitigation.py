"""What a run's report tells of mitigation after training: only a simulation can compute it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from skinml.clinic.folder import ClinicFolder
from skinml.config import RunConfig
from skinml.experiments.released import DP_COUNTS
from skinml.experiments.samples import read_predictions
from skinml.experiments.yardsticks import pooled
from skinml.fairness.after_training import COUNTED, AfterTraining, after_training
from skinml.records import Labels
from skinml.seeding import Seeds


def mitigation_values(
    config: RunConfig,
    run: str,
    folders: Mapping[str, ClinicFolder],
    present: Sequence[str],
    classes: Labels,
    threshold: float,
) -> Mapping[str, Any] | None:
    """Try thresholds and recalibrations of groups' own on a run's predictions.

    Args:
        config: The run's config.
        run: The run's id.
        folders: The clinics' folders; not read where figures come from noised counts.
        present: The clinics that took part in the evaluation.
        classes: What the model tells apart.
        threshold: The run's threshold.

    Returns:
        Plain values for the record; None where the config asks for no analysis, or the data have
        no such groups.

    Raises:
        DataError: If predictions are not usable.
        IntegrityError: If a prediction was changed.
    """
    asked = config.mitigation
    if not asked.analysis or asked.group not in config.data.groups:
        return None
    if config.fairness.evaluation == DP_COUNTS:
        return AfterTraining(asked.group, COUNTED).values()
    validation, test = (
        pooled({name: read_predictions(folders[name], run, split, classes) for name in present})
        for split in ("validation", "test")
    )
    if len(validation) == 0 or len(test) == 0:
        return None
    seeds = Seeds(config.seed)
    return after_training(
        validation,
        test,
        asked.group,
        threshold,
        settings=config.fairness,
        rng=lambda: seeds.stream("after training"),
    ).values()
