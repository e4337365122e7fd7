"""All figures of a set of predictions, in one place for runs, evaluations and predictions files."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from skinml.fairness.curves import curves_by_group, curves_values
from skinml.fairness.evaluation import find_gaps
from skinml.fairness.groups import measured_groups
from skinml.fairness.settings import FairnessSettings
from skinml.records import GroupResult, Predictions
from skinml.seeding import Seeds


@dataclass(frozen=True)
class Figures:
    """What predictions tell about a model.

    Attributes:
        overall: The figures on everybody.
        groups: The figures by group.
        gaps: Comparisons of groups; None: none were made.
        curves: Calibration and decision curves, as `skinml.fairness.curves` writes them.
    """

    overall: GroupResult
    groups: tuple[GroupResult, ...]
    gaps: Mapping[str, Any] | None
    curves: tuple[Mapping[str, Any], ...]


def figures_of(
    predictions: Predictions,
    *,
    threshold: float | None,
    settings: FairnessSettings,
    seeds: Seeds,
    figures: Collection[str] | None = None,
) -> Figures:
    """Compute all figures of predictions.

    Args:
        predictions: What a model said; per patient, and stays where it is.
        threshold: The malignancy score from which an item counts as alarm.
        settings: Intervals, comparisons and margins.
        seeds: The root of the streams that patients are resampled from.
        figures: Names of the figures wanted; None: all.

    Returns:
        The figures; the same arguments give the same ones.

    Raises:
        ConfigError: If the settings name an attribute that the predictions do not carry.
        DataError: If the predictions are not usable.
    """
    rng = seeds.stream("bootstrap")
    overall, groups, measured = measured_groups(
        predictions, threshold=threshold, settings=settings, rng=rng, figures=figures
    )
    gaps = find_gaps(predictions, measured, settings, rng).values()
    return Figures(overall, groups, gaps, curves_values(curves_by_group(predictions, settings)))
