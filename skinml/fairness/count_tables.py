"""A table of test patients by group, truth and score: all that a published figure is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from skinml.errors import require_positive
from skinml.fairness.resampling import number_patients
from skinml.records import (
    UNKNOWN_GROUP,
    BoolArray,
    FloatArray,
    IntArray,
    Predictions,
    StrArray,
)

BINS = 16
"""Bins of the score. Fewer blur the scores, more collect noise: with 300 patients, 90 of them
malignant, and noise of standard deviation 2 in each count, 8, 16, 20 and 32 bins lower an AUROC of
0.89 by 0.006, 0.002, 0.001 and 0.000, and its interval is 0.13, 0.16, 0.17 and 0.19 wide; where
most scores are near 0, they lower it by 0.04, 0.02, 0.01 and 0.01. Of 16 and 20, the scores times
16 are exact in binary, so that an item at a threshold is on the right side of it, and the 64 bins
of the validation scores join into 16."""


@dataclass(frozen=True)
class CountsLayout:
    """Which cells there are. Public: it follows from the config, never from the data.

    Attributes:
        columns: Each attribute with the names of its groups; whoever is in none of them counts as
            "unknown", which is the last name of each.
        bins: Equally wide bins of the malignancy score from 0 to 1; the last one includes 1.
    """

    columns: tuple[tuple[str, tuple[str, ...]], ...]
    bins: int = BINS

    @property
    def groups(self) -> tuple[tuple[str, str], ...]:
        """Attribute and name of each group, in the order of the table's first axis."""
        return tuple((attribute, name) for attribute, names in self.columns for name in names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Groups, truths (not malignant, malignant), bins."""
        return len(self.groups), 2, self.bins


def layout_of(vocabulary: Mapping[str, tuple[str, ...]], bins: int = BINS) -> CountsLayout:
    """Lay out a table.

    Args:
        vocabulary: For each attribute, the public names of its groups.
        bins: Bins of the score.

    Returns:
        The layout, each attribute with "unknown" as its last group; where no attribute is given,
        everybody stands in one group of the attribute "overall".

    >>> layout_of({"sex": ("female", "male")}).columns
    (('sex', ('female', 'male', 'unknown')),)
    """
    require_positive(bins=bins)
    columns = tuple(
        (attribute, (*(name for name in names if name != UNKNOWN_GROUP), UNKNOWN_GROUP))
        for attribute, names in vocabulary.items()
    )
    return CountsLayout(columns or (("overall", ("overall",)),), bins)


def patient_table(predictions: Predictions, layout: CountsLayout, units: int) -> IntArray:
    """Count patients by group, truth and score in whole units, each patient with an equal weight.

    A patient's items share the patient's weight equally, in each attribute anew.

    Args:
        predictions: What a model said of the items.
        layout: The cells.
        units: Weight of a whole patient in each attribute, above 0.

    Returns:
        (groups, 2, bins) sums of units; row 0 of the second axis is not malignant, row 1 is.

    Raises:
        ConfigError: If units is not above zero.

    Guarantees:
        Adding or removing all items of a patient adds or takes whole numbers that sum up to at
        most units in each attribute, whatever the other patients are: with G attributes the table
        moves by at most units times the root of G in the L2 norm. Each score has a bin, one that
        is no number that of 0.5, so that no patient's items can make the count fail.
    """
    require_positive(units=units)
    table = np.zeros(layout.shape, dtype=np.int64)
    if len(predictions) == 0:
        return table
    weights = equal_weights(predictions.patients, units)
    truth = predictions.malignant.astype(np.int64)
    column = bins_of(predictions.malignancy_scores, layout.bins, otherwise=0.5)
    start = 0
    for attribute, names in layout.columns:
        values = predictions.groups.get(attribute)
        found = (
            np.full(len(predictions), len(names) - 1)
            if values is None
            else places_of(values, names)
        )
        np.add.at(table, (start + found, truth, column), weights)
        start += len(names)
    return table


def equal_weights(patients: StrArray, units: int) -> IntArray:
    """Share the weight of each patient equally between the patient's items.

    Args:
        patients: (n,) each item's patient, at least one.
        units: Weight of a whole patient, above 0.

    Returns:
        (n,) whole numbers; those of a patient sum up to at most units.
    """
    numbers, num_patients = number_patients(patients)
    return np.asarray(units // np.bincount(numbers, minlength=num_patients)[numbers])


def bins_of(scores: FloatArray, bins: int, *, otherwise: float) -> IntArray:
    """Put each score into one of equally wide bins from 0 to 1, whatever it is.

    Args:
        scores: (n,); what is below 0 or above 1 goes into the first or last bin.
        bins: Number of bins.
        otherwise: What a score that is no number counts as.

    Returns:
        (n,) from 0 to bins - 1; the last bin includes 1.
    """
    known = np.clip(np.nan_to_num(scores.astype(np.float64), nan=otherwise), 0, 1)
    return np.minimum((known * bins).astype(np.int64), bins - 1)


def places_of(values: StrArray, names: tuple[str, ...]) -> IntArray:
    """Find each value among names.

    Args:
        values: (n,).
        names: At least one.

    Returns:
        (n,) the place of each value; what is not there counts as the last of the names.
    """
    place = {name: at for at, name in enumerate(names)}
    return np.asarray([place.get(value, len(names) - 1) for value in values.tolist()])


@dataclass(frozen=True)
class NoisyTable:
    """Noised counts of one group's patients.

    Attributes:
        counts: (2, bins) patients, neither whole nor above 0 for certain; row 1 is malignant.
        std: Standard deviation of the noise in each count.
    """

    counts: FloatArray
    std: float


def group_tables(
    released: FloatArray, layout: CountsLayout, std: float
) -> tuple[NoisyTable, tuple[NoisyTable, ...]]:
    """Part a released table into everybody's and each group's counts.

    Each attribute counts the same patients, so that its groups' sum is one more measurement of
    everybody. The measurements are joined with weights by their noise, and each group is moved by
    an equal part of what its attribute's sum is off: the best linear unbiased estimates, for which
    nothing is paid.

    Args:
        released: (groups, 2, bins) noised patients.
        layout: Its cells.
        std: Standard deviation of the noise in each count.

    Returns:
        Everybody's table, and each group's in the order of the layout.

    Source:
        Hay et al. 2010, VLDB 3:1021, section 4.1, for the estimates under a known sum.
    """
    sizes = np.array([len(names) for _, names in layout.columns])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    sums = np.add.reduceat(released, starts, axis=0)
    shares = (1 / sizes) / (1 / sizes).sum()
    everybody = np.tensordot(shares, sums, axes=1)
    variance = std**2 / (1 / sizes).sum()
    tables = []
    for column, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        own = released[start : start + size] + (everybody - sums[column]) / size
        # Deviations from the attribute's mean, and the mean, are independent of one another.
        spread = std**2 * (1 - 1 / size) + variance / size**2
        tables += [NoisyTable(counts, float(np.sqrt(spread))) for counts in own]
    return NoisyTable(everybody, float(np.sqrt(variance))), tuple(tables)


def above(counts: FloatArray | IntArray, edge: int) -> BoolArray:
    """(bins,) which bins lie at or above the edge of a number."""
    return np.arange(counts.shape[-1]) >= edge
