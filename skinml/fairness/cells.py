"""A cell: the items of one group, as the statistics want to see them. Per patient: never log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from skinml.errors import ConfigError, DataError
from skinml.fairness.resampling import number_patients
from skinml.fairness.settings import CROSS, FairnessSettings
from skinml.records import UNKNOWN_GROUP, BoolArray, FloatArray, IntArray, Predictions, StrArray

OVERALL = "overall"
# Rounding of single precision softmax outputs, with room.
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Cell:
    """The items of one group of one set of predictions.

    Attributes:
        attribute: What the groups are of; "overall" for everybody.
        group: The group's name.
        rows: (n,) the items' positions in the predictions.
        weights: (n,) how much each item counts; 1, unless the mix of cases is standardised.
        num_patients: Patients in all predictions.
        patients: (n,) each item's patient, numbered over all predictions.
        labels: (n,) index of the true class.
        decisions: (n,) index of the class decided for.
        probabilities: (n, classes).
        scores: (n,) malignancy scores.
        malignant: (n,) the truth.
        alarms: (n,) whether the item is called malignant.
        names: The classes' names.
        malignant_classes: For each class, whether it counts as malignant.
    """

    attribute: str
    group: str
    rows: IntArray
    weights: FloatArray
    num_patients: int
    patients: IntArray
    labels: IntArray
    decisions: IntArray
    probabilities: FloatArray
    scores: FloatArray
    malignant: BoolArray
    alarms: BoolArray
    names: tuple[str, ...]
    malignant_classes: tuple[bool, ...]


def check_predictions(predictions: Predictions) -> None:
    """Refuse predictions that no honest figure can be made of.

    Args:
        predictions: What a model said.

    Raises:
        DataError: If there is no item, a probability is not a number from 0 to 1, a row does not
            sum to 1, or a label or decision is not one of the classes.
    """
    num_classes = len(predictions.classes.names)
    shape = predictions.probabilities.shape
    if len(predictions) == 0:
        raise DataError(
            rule="at least one prediction", got="num_items=0", do="Check the split and its filter."
        )
    if shape != (len(predictions), num_classes):
        raise DataError(
            rule=f"probabilities of shape ({len(predictions)}, {num_classes})",
            got=f"shape={shape}",
            do="Give each item one probability a class.",
        )
    # NaN fails both comparisons.
    good = (predictions.probabilities >= 0) & (predictions.probabilities <= 1)
    _refuse_rows(np.asarray(~good.all(axis=1)), "probabilities from 0 to 1, without NaN")
    off = np.abs(predictions.probabilities.sum(axis=1) - 1) > _SUM_TOLERANCE
    _refuse_rows(np.asarray(off), "probabilities that sum to 1 in each row")
    for name, values in (("labels", predictions.labels), ("decisions", predictions.decisions)):
        bad = np.asarray((values < 0) | (values >= num_classes))
        _refuse_rows(bad, f"{name} from 0 to {num_classes - 1}")


def _refuse_rows(bad: BoolArray, rule: str) -> None:
    if bad.any():
        raise DataError(
            rule=rule,
            got=f"num_bad_rows={int(bad.sum())}, first_bad_row={int(np.argmax(bad))}",
            do="Correct these rows of the predictions; counting begins at 0.",
        )


def overall_cell(predictions: Predictions, *, threshold: float | None) -> Cell:
    """View everybody as one cell.

    Args:
        predictions: What a model said, already checked.
        threshold: The malignancy score from which an item is called malignant; None leaves it to
            the decided class.

    Returns:
        The cell.
    """
    patients, num_patients = number_patients(predictions.patients)
    scores = np.clip(predictions.malignancy_scores.astype(float), 0, 1)
    if threshold is None:
        alarms = np.asarray(predictions.classes.malignant, dtype=bool)[predictions.decisions]
    else:
        alarms = scores >= threshold
    return Cell(
        attribute=OVERALL,
        group=OVERALL,
        rows=np.arange(len(predictions)),
        weights=np.ones(len(predictions)),
        num_patients=num_patients,
        patients=patients,
        labels=predictions.labels,
        decisions=predictions.decisions,
        probabilities=predictions.probabilities.astype(float),
        scores=scores,
        malignant=predictions.malignant,
        alarms=alarms,
        names=predictions.classes.names,
        malignant_classes=predictions.classes.malignant,
    )


def part_of(cell: Cell, attribute: str, group: str, rows: IntArray) -> Cell:
    """View some items of a cell as a cell of their own.

    Args:
        cell: Everybody.
        attribute: What the group is of.
        group: The group's name.
        rows: Positions of the group's items.

    Returns:
        The group's cell; its patients keep their numbers.
    """
    return replace(
        cell,
        attribute=attribute,
        group=group,
        rows=cell.rows[rows],
        weights=cell.weights[rows],
        patients=cell.patients[rows],
        labels=cell.labels[rows],
        decisions=cell.decisions[rows],
        probabilities=cell.probabilities[rows],
        scores=cell.scores[rows],
        malignant=cell.malignant[rows],
        alarms=cell.alarms[rows],
    )


def columns_of(
    predictions: Predictions, settings: FairnessSettings
) -> Iterator[tuple[str, StrArray]]:
    """List what items are grouped by: each attribute, then each crossing.

    Args:
        predictions: Where the attributes are.
        settings: The crossings. What cases are told apart by is left out, unless its groups are
            to be compared: nobody is a case as one is of a sex.

    Yields:
        The attribute's name and (n,) each item's group. A crossing's are joined by " x ".

    Raises:
        ConfigError: If a crossing names an attribute that the predictions do not carry.
    """
    for attribute, values in predictions.groups.items():
        if attribute != settings.case_mix or attribute in settings.groups:
            yield attribute, values
    for crossing in settings.crossings:
        missing = [name for name in crossing if name not in predictions.groups]
        if missing:
            raise ConfigError(
                rule=f"crossings of attributes among {', '.join(predictions.groups) or 'none'}",
                got=f"fairness.crossings with {', '.join(missing)}",
                do="Add the attribute to data.groups, or take it out of fairness.crossings.",
            )
        joined = predictions.groups[crossing[0]]
        for name in crossing[1:]:
            joined = np.strings.add(np.strings.add(joined, CROSS), predictions.groups[name])
        yield CROSS.join(crossing), np.asarray(joined)


def cells_by_group(
    predictions: Predictions, everybody: Cell, settings: FairnessSettings
) -> tuple[Cell, ...]:
    """Part everybody by each attribute and each crossing.

    Args:
        predictions: Where the attributes are.
        everybody: The cell of all items.
        settings: The crossings, and what is no group.

    Returns:
        One cell a group, attributes behind one another; within an attribute the groups are in
        the order of the numbers that their names begin with, then of the names; unknown last.

    Raises:
        ConfigError: If a crossing names an attribute that the predictions do not carry.
    """
    cells = []
    for attribute, values in columns_of(predictions, settings):
        names, group_of = np.unique(values, return_inverse=True)
        order = sorted(range(len(names)), key=lambda at: _place(str(names[at])))
        cells += [
            part_of(everybody, attribute, str(names[at]), np.flatnonzero(group_of == at))
            for at in order
        ]
    return tuple(cells)


def _place(name: str) -> tuple[bool, float, str]:
    """Put 2 before 10, words behind numbers, and what nobody knows last."""
    number = re.match(r"\d+", name)
    unknown = UNKNOWN_GROUP in name.split(CROSS)
    return unknown, int(number[0]) if number else inf, name


def taken(predictions: Predictions, rows: BoolArray | IntArray) -> Predictions:
    """Keep some items, or put them in another order.

    Args:
        predictions: The predictions.
        rows: (n,) mask of the items, or their positions.

    Returns:
        The items in their order, or in that of the positions.
    """
    return Predictions(
        classes=predictions.classes,
        labels=predictions.labels[rows],
        probabilities=predictions.probabilities[rows],
        decisions=predictions.decisions[rows],
        patients=predictions.patients[rows],
        groups={name: values[rows] for name, values in predictions.groups.items()},
    )
