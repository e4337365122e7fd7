"""From predictions to figures with intervals, overall and for each group."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from skinml.fairness.catalogue import measures_of
from skinml.fairness.cells import Cell, cells_by_group, check_predictions, overall_cell
from skinml.fairness.delong import delong_estimate
from skinml.fairness.measures import Measure, estimate
from skinml.fairness.resampling import patient_weights
from skinml.fairness.settings import FairnessSettings
from skinml.records import Estimate, FloatArray, GroupResult, Predictions


@dataclass(frozen=True)
class Measured:
    """A cell with its figures and their replicates. Per patient: never log.

    Attributes:
        cell: The items of a group.
        measures: Its figures.
        replicates: (figures, b) each figure under the patients' weights that all cells share.
    """

    cell: Cell
    measures: tuple[Measure, ...]
    replicates: FloatArray


def evaluate_groups(
    predictions: Predictions,
    *,
    threshold: float | None,
    settings: FairnessSettings,
    rng: np.random.Generator,
    figures: Collection[str] | None = None,
) -> tuple[GroupResult, tuple[GroupResult, ...]]:
    """Compute all figures overall and for each group of each attribute.

    For two classes the figures are `auroc`, `balanced_accuracy`, `sensitivity`, `specificity`,
    `ppv`, `npv`, `net_benefit_at_...`, `brier`, `observed_to_expected`, `calibration_intercept`,
    `calibration_slope` and `ece`, all of the malignancy score but balanced accuracy, which is of
    the decided classes. For more classes `auroc` is the macro one-vs-rest mean, `ece` that of the
    decided class's probability, `malignancy_auroc` and `malignancy_ece` stand beside them, and so
    do `top_..._accuracy`, and `auroc_of_...` and `sensitivity_of_...` for each class.

    Args:
        predictions: What a model said; per patient, and stays where it is.
        threshold: The malignancy score from which an item counts as alarm, from data that these
            predictions do not hold; None counts items whose decided class is malignant.
        settings: Replicates, level and floors.
        rng: The stream that patients are resampled from.
        figures: Names of the figures wanted; None: all.

    Returns:
        Everybody's figures, and each group's, attributes behind one another and then crossings;
        "unknown" is a group like the others. An undefined figure has no value and says why.

    Raises:
        ConfigError: If a crossing names an attribute that the predictions do not carry.
        DataError: If the predictions are empty, not finite, not probabilities or inconsistent.

    Guarantees:
        The same predictions, settings and stream give the same figures; the order of the rows
        changes them by rounding only. All figures share one draw of patient weights.
    """
    overall, groups, _ = measured_groups(
        predictions, threshold=threshold, settings=settings, rng=rng, figures=figures
    )
    return overall, groups


def measured_groups(
    predictions: Predictions,
    *,
    threshold: float | None,
    settings: FairnessSettings,
    rng: np.random.Generator,
    figures: Collection[str] | None = None,
) -> tuple[GroupResult, tuple[GroupResult, ...], tuple[Measured, ...]]:
    """Compute as `evaluate_groups` does, and keep what comparisons of groups start from.

    Args:
        predictions: As for `evaluate_groups`.
        threshold: As for `evaluate_groups`.
        settings: As for `evaluate_groups`.
        rng: As for `evaluate_groups`.
        figures: As for `evaluate_groups`.

    Returns:
        Everybody's figures, each group's, and the cells of both with their replicates.

    Raises:
        ConfigError: If a crossing names an attribute that the predictions do not carry.
        DataError: If the predictions are empty, not finite, not probabilities or inconsistent.
    """
    check_predictions(predictions)
    everybody = overall_cell(predictions, threshold=threshold)
    cells = (everybody, *cells_by_group(predictions, everybody, settings))
    measures = [measures_of(cell, settings, figures) for cell in cells]
    drawn = replicate_cells(measures, everybody.num_patients, settings.replicates, rng)
    kept = tuple(Measured(*each) for each in zip(cells, measures, drawn, strict=True))
    results = [_result(each, settings) for each in kept]
    return results[0], tuple(results[1:]), kept


def replicate_cells(
    measures: Sequence[Sequence[Measure]],
    num_patients: int,
    replicates: int,
    rng: np.random.Generator,
) -> list[FloatArray]:
    """Compute every figure of every cell under the same resampled patients.

    Args:
        measures: The figures of each cell; their patients are numbered over all of them.
        num_patients: Patients in all.
        replicates: Replicates of the bootstrap.
        rng: The stream that patients are resampled from.

    Returns:
        For each cell (figures, replicates); NaN where a figure is undefined.
    """
    drawn = [np.full((len(found), replicates), np.nan) for found in measures]
    start = 0
    for weights in patient_weights(num_patients, replicates=replicates, rng=rng):
        columns = slice(start, start + weights.shape[1])
        for found, values in zip(measures, drawn, strict=True):
            values[:, columns] = weighed(found, weights)
        start = columns.stop
    return drawn


def weighed(measures: Sequence[Measure], weights: FloatArray) -> FloatArray:
    """Compute the figures of one cell for many weightings of the patients.

    Args:
        measures: The figures.
        weights: (m, b) weights of all patients.

    Returns:
        (figures, b); NaN where a figure is undefined.
    """
    found = np.full((len(measures), weights.shape[1]), np.nan)
    # Figures that are read off the same rows share one product.
    products: dict[int, FloatArray] = {}
    for row, measure in enumerate(measures):
        if measure.statistic is not None and measure.rows is not None:
            key = id(measure.rows)
            if key not in products:
                products[key] = measure.rows.weigh(weights)
            found[row] = measure.statistic(products[key])
    return found


def _result(each: Measured, settings: FairnessSettings) -> GroupResult:
    cell = each.cell
    return GroupResult(
        attribute=cell.attribute,
        group=cell.group,
        num_images=len(cell.labels),
        num_patients=int(np.count_nonzero(np.bincount(cell.patients))),
        num_positives=int(cell.malignant.sum()),
        num_negatives=int((~cell.malignant).sum()),
        estimates={
            measure.name: estimate(measure, values, settings)
            for measure, values in zip(each.measures, each.replicates, strict=True)
        },
        cross_checks=_cross_checks(cell, settings),
    )


def _cross_checks(cell: Cell, settings: FairnessSettings) -> dict[str, Estimate]:
    """DeLong's interval of the malignancy score's AUROC, where each patient has one item."""
    one_each = int(np.bincount(cell.patients).max()) == 1
    if not one_each or cell.malignant.all() or not cell.malignant.any():
        return {}
    if len(cell.names) == 2 and sum(cell.malignant_classes) != 1:
        return {}
    name = "auroc" if len(cell.names) == 2 else "malignancy_auroc"
    return {name: delong_estimate(cell.scores, cell.malignant, settings.level)}


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
    cell = overall_cell(predictions, threshold=threshold)
    figures = {each.name: each.value for each in measures_of(cell, FairnessSettings())}
    return {**figures, "n_images": len(cell.labels), "n_patients": cell.num_patients}
