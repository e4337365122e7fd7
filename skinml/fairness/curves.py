"""Calibration and decision curves of everybody and of each group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from skinml.fairness.calibration import equal_mass_bins
from skinml.fairness.cells import Cell, cells_by_group, check_predictions, overall_cell
from skinml.fairness.intervals import clopper_pearson
from skinml.fairness.resampling import effective_patients
from skinml.fairness.settings import FairnessSettings
from skinml.records import Estimate, FloatArray, Predictions

RISKS = tuple(round(0.02 * step, 2) for step in range(1, 31))
"""Where net benefit is told, from 2 to 60 in a hundred."""
METHOD = "Clopper-Pearson on effective patients"


@dataclass(frozen=True)
class CalibrationPoint:
    """Items of like scores, and how often what the score is the probability of came true.

    Attributes:
        mean_score: Their mean score.
        observed: The share that came true, with its interval over patients.
        num_items: How many they are.
    """

    mean_score: float
    observed: Estimate
    num_items: int


@dataclass(frozen=True)
class NetBenefitPoint:
    """What alarms from one risk on are worth, in true alarms an item.

    Attributes:
        risk: The risk from which there is an alarm; it says how many false alarms one hit is worth.
        model: The model's net benefit.
        everybody: That of an alarm for everybody; that of none is 0.
    """

    risk: float
    model: float
    everybody: float


@dataclass(frozen=True)
class GroupCurves:
    """A group's calibration and decision curves.

    Attributes:
        attribute: What the groups are of; "overall" for everybody.
        group: The group's name.
        calibration: Bins of rising score.
        net_benefit: Rising risks.
    """

    attribute: str
    group: str
    calibration: tuple[CalibrationPoint, ...]
    net_benefit: tuple[NetBenefitPoint, ...]


def curves_values(curves: Sequence[GroupCurves]) -> tuple[Mapping[str, Any], ...]:
    """Write curves as plain values for JSON.

    Args:
        curves: The curves.

    Returns:
        A mapping a group; an undefined number is None, never 0.
    """
    return tuple(_CURVES.dump_python(tuple(curves), mode="json"))


def curves_from(values: Sequence[Mapping[str, Any]]) -> tuple[GroupCurves, ...]:
    """Read what `curves_values` wrote.

    Args:
        values: The plain values.

    Returns:
        The curves.
    """
    return _CURVES.validate_python(tuple(values))


_CURVES = TypeAdapter(tuple[GroupCurves, ...])


def curves_by_group(
    predictions: Predictions, settings: FairnessSettings
) -> tuple[GroupCurves, ...]:
    """Compute the curves of everybody and of each group of each attribute.

    Args:
        predictions: What a model said; per patient, and stays where it is.
        settings: Level, and the greatest number of bins.

    Returns:
        Everybody's curves first. A group has as many bins as its patients allow, at least one.

    Raises:
        DataError: If the predictions are not usable.
    """
    check_predictions(predictions)
    everybody = overall_cell(predictions, threshold=None)
    cells = (everybody, *cells_by_group(predictions, everybody, settings))
    return tuple(
        GroupCurves(
            cell.attribute, cell.group, calibration_curve(cell, settings), net_benefit_curve(cell)
        )
        for cell in cells
    )


def calibration_curve(cell: Cell, settings: FairnessSettings) -> tuple[CalibrationPoint, ...]:
    """Put items of like scores together and compare their mean score with what came true.

    Args:
        cell: The items of a group.
        settings: Level, and the greatest number of bins.

    Returns:
        A point a bin, in rising order of the scores.
    """
    bins = equal_mass_bins(cell.scores, cell.patients, settings.calibration_bins)
    found = []
    for number in range(int(bins.max()) + 1):
        inside = bins == number
        share = float(cell.malignant[inside].mean())
        support = effective_patients(cell.patients[inside])
        low, high = clopper_pearson(share * support, support, settings.level)
        observed = Estimate(share, low, high, settings.level, METHOD)
        mean = float(cell.scores[inside].mean())
        found.append(CalibrationPoint(mean, observed, int(inside.sum())))
    return tuple(found)


def net_benefit_curve(cell: Cell, risks: tuple[float, ...] = RISKS) -> tuple[NetBenefitPoint, ...]:
    """Compute what alarms are worth when somebody acts from a risk on.

    Args:
        cell: The items of a group.
        risks: The risks, each between 0 and 1.

    Returns:
        A point a risk.

    Source:
        Vickers and Elkin 2006, Medical Decision Making 26:565.
    """
    order = np.sort(cell.scores[cell.malignant]), np.sort(cell.scores[~cell.malignant])
    size, at = len(cell.scores), np.asarray(risks)
    hits, false = (_from_on(scores, at) / size for scores in order)
    odds = at / (1 - at)
    share = len(order[0]) / size
    model, everybody = hits - odds * false, share - odds * (1 - share)
    return tuple(
        NetBenefitPoint(risk, float(one), float(all_of_them))
        for risk, one, all_of_them in zip(risks, model, everybody, strict=True)
    )


def _from_on(rising: FloatArray, at: FloatArray) -> FloatArray:
    return np.asarray(len(rising) - np.searchsorted(rising, at, side="left"), dtype=float)
