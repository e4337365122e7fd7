"""From predictions to figures with intervals, overall and for each group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skinml.fairness.catalogue import measures_of
from skinml.fairness.cells import Cell, cells_by_group, check_predictions, overall_cell
from skinml.fairness.measures import Measure, estimate, point_value
from skinml.fairness.resampling import patient_weights
from skinml.fairness.settings import FairnessSettings
from skinml.records import FloatArray, GroupResult, Predictions


def evaluate_groups(
    predictions: Predictions,
    *,
    threshold: float | None,
    settings: FairnessSettings,
    rng: np.random.Generator,
) -> tuple[GroupResult, tuple[GroupResult, ...]]:
    """Compute all figures overall and for each group of each attribute.

    For two classes the figures are `auroc`, `balanced_accuracy`, `sensitivity`, `specificity`,
    `brier`, `calibration_intercept`, `calibration_slope` and `ece`, all of the malignancy score
    but balanced accuracy, which is of the decided classes. For more classes `auroc` is the macro
    one-vs-rest mean, `ece` that of the decided class's probability, and `malignancy_auroc` and
    `malignancy_ece` stand beside them.

    Args:
        predictions: What a model said; per patient, and stays where it is.
        threshold: The malignancy score from which an item counts as alarm, from data that these
            predictions do not hold; None counts items whose decided class is malignant.
        settings: Replicates, level and floors.
        rng: The stream that patients are resampled from.

    Returns:
        Everybody's figures, and each group's, attributes behind one another; "unknown" is a
        group like the others. An undefined figure has no value and says why.

    Raises:
        DataError: If the predictions are empty, not finite, not probabilities or inconsistent.

    Guarantees:
        The same predictions, settings and stream give the same figures; the order of the rows
        changes them by rounding only. All figures share one draw of patient weights.
    """
    check_predictions(predictions)
    everybody, num_patients = overall_cell(predictions, threshold=threshold)
    cells = (everybody, *cells_by_group(predictions, everybody))
    measures = [measures_of(cell, settings) for cell in cells]
    drawn = replicate_cells(cells, measures, num_patients, settings.replicates, rng)
    results = [
        _result(cell, found, replicates, settings)
        for cell, found, replicates in zip(cells, measures, drawn, strict=True)
    ]
    return results[0], tuple(results[1:])


def replicate_cells(
    cells: Sequence[Cell],
    measures: Sequence[Sequence[Measure]],
    num_patients: int,
    replicates: int,
    rng: np.random.Generator,
) -> list[FloatArray]:
    """Compute every figure of every cell under the same resampled patients.

    Args:
        cells: The groups; their patients are numbered over all of them.
        measures: The figures of each cell.
        num_patients: Patients in all.
        replicates: Replicates of the bootstrap.
        rng: The stream that patients are resampled from.

    Returns:
        For each cell (figures, replicates); NaN where a figure is undefined.
    """
    drawn = [np.full((len(found), replicates), np.nan) for found in measures]
    largest = max(num_patients, *(len(cell.labels) for cell in cells))
    start = 0
    for weights in patient_weights(num_patients, largest, replicates=replicates, rng=rng):
        columns = slice(start, start + weights.shape[1])
        for cell, found, values in zip(cells, measures, drawn, strict=True):
            items = weights[cell.patients]
            for row, measure in enumerate(found):
                if measure.statistic is not None:
                    values[row, columns] = measure.statistic(items)
        start = columns.stop
    return drawn


def _result(
    cell: Cell, measures: Sequence[Measure], replicates: FloatArray, settings: FairnessSettings
) -> GroupResult:
    num_items = len(cell.labels)
    return GroupResult(
        attribute=cell.attribute,
        group=cell.group,
        num_images=num_items,
        num_patients=len(np.unique(cell.patients)),
        num_positives=int(cell.malignant.sum()),
        num_negatives=int((~cell.malignant).sum()),
        estimates={
            measure.name: estimate(measure, num_items, values, settings)
            for measure, values in zip(measures, replicates, strict=True)
        },
    )


def point_metrics(
    predictions: Predictions, *, threshold: float | None = None
) -> dict[str, float | None]:
    """Compute every figure on all items, without intervals.

    Args:
        predictions: What a model said.
        threshold: As for `evaluate_groups`.

    Returns:
        The figures by name, None where undefined, and `n_images` and `n_patients`.

    Raises:
        DataError: If the predictions are empty, not finite, not probabilities or inconsistent.
    """
    check_predictions(predictions)
    everybody, num_patients = overall_cell(predictions, threshold=threshold)
    num_items = len(everybody.labels)
    figures = {
        measure.name: point_value(measure, num_items)
        for measure in measures_of(everybody, FairnessSettings())
    }
    return {**figures, "n_images": num_items, "n_patients": num_patients}
