"""Two models on the same items: the difference of a figure, paired by patient."""

from __future__ import annotations

import numpy as np

from skinml.errors import DataError, require_one_of
from skinml.fairness.catalogue import figure_names, measures_of
from skinml.fairness.cells import check_predictions, overall_cell
from skinml.fairness.groups import replicate_cells
from skinml.fairness.intervals import expanded_percentiles, unseen_around
from skinml.fairness.settings import FairnessSettings
from skinml.records import Estimate, Predictions

PAIRED = "paired patient bootstrap"


def paired_difference(
    a: Predictions,
    b: Predictions,
    metric: str,
    *,
    threshold_a: float | None = None,
    threshold_b: float | None = None,
    settings: FairnessSettings,
    rng: np.random.Generator,
) -> Estimate:
    """Estimate how much a figure of one model lies above another's on the same items.

    Args:
        a: One model's predictions.
        b: The other's, on the same items in the same order.
        metric: Name of the figure, such as "auroc".
        threshold_a: The first model's threshold, as for `evaluate_groups`.
        threshold_b: The second model's.
        settings: Replicates and level.
        rng: The stream that patients are resampled from.

    Returns:
        The figure of a less that of b; undefined with a reason where one of them is.

    Raises:
        ConfigError: If there is no figure of this name.
        DataError: If the items differ, or predictions are not usable.
    """
    _require_same_items(a, b)
    cells, measures = [], []
    for predictions, threshold in ((a, threshold_a), (b, threshold_b)):
        check_predictions(predictions)
        cell = overall_cell(predictions, threshold=threshold)
        require_one_of(figure_names(cell, settings), metric=metric)
        cells.append(cell)
        measures.append(measures_of(cell, settings, [metric]))
    values = [found[0].value for found in measures]
    if values[0] is None or values[1] is None:
        reason = measures[0][0].reason or measures[1][0].reason
        return Estimate(None, level=settings.level, reason=reason)
    drawn = replicate_cells(measures, cells[0].num_patients, settings.replicates, rng)
    floors = [found[0].floor for found in measures]
    above, below = (np.maximum(one[0], floor) for one, floor in zip(drawn, floors, strict=True))
    support = min(found[0].support for found in measures)
    limits = expanded_percentiles(above - below, support, settings.level)
    difference = values[0] - values[1]
    if limits is None:
        reason = "too few patients for an interval"
        return Estimate(difference, level=settings.level, method=PAIRED, reason=reason)
    low, high, method = min(limits[0], difference), max(limits[1], difference), PAIRED
    same = np.array_equal(cells[0].probabilities, cells[1].probabilities)
    same = same and np.array_equal(cells[0].alarms, cells[1].alarms)
    if high - low < 1e-12 and not (same and np.array_equal(a.decisions, b.decisions)):
        # No patient told the models apart here; as many patients may still hide this share.
        low, high = unseen_around(difference, support, settings.level)
        method = "no discordant patient: exact"
    return Estimate(difference, low, high, settings.level, method)


def _require_same_items(a: Predictions, b: Predictions) -> None:
    same = (
        a.classes == b.classes
        and np.array_equal(a.labels, b.labels)
        and np.array_equal(a.patients, b.patients)
    )
    if not same:
        raise DataError(
            rule="two sets of predictions on the same items in the same order",
            got=f"num_items_a={len(a)}, num_items_b={len(b)}, with other labels or patients",
            do="Score one test set with both models.",
        )
