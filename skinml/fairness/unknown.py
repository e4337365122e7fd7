"""How often a group is not known, by clinic and by the other groups: who drops out of comparisons.

Where skin tone was read off photographs, this is how often it could not be measured, and whose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skinml.fairness.cells import Cell, columns_of
from skinml.fairness.intervals import clopper_pearson
from skinml.fairness.settings import CROSS, FairnessSettings
from skinml.records import UNKNOWN_GROUP, Estimate, Predictions

METHOD = "Clopper-Pearson on patients"


@dataclass(frozen=True)
class UnknownShare:
    """Of the patients of one group, how many nobody knows another group of.

    Attributes:
        attribute: What is not known, such as skin tone.
        by: What the patients are parted by, such as the clinic.
        group: Their group.
        num_patients: Patients in it.
        share: The share of them that has an image whose group is not known.
    """

    attribute: str
    by: str
    group: str
    num_patients: int
    share: Estimate


def unknown_shares(
    predictions: Predictions, everybody: Cell, settings: FairnessSettings
) -> tuple[UnknownShare, ...]:
    """Tell for each compared attribute how often it is unknown, by all others.

    Args:
        predictions: Where the attributes are.
        everybody: All items.
        settings: What is compared; level.

    Returns:
        An entry for each attribute that somebody's group is unknown of, and each group of the
        others; cases apart, as in all figures by group.
    """
    columns = [each for each in columns_of(predictions, settings) if CROSS not in each[0]]
    found = []
    for attribute, values in columns:
        unknown = values == UNKNOWN_GROUP
        if attribute not in settings.groups or not unknown.any():
            continue
        for by, groups in columns:
            if by == attribute:
                continue
            for group in np.unique(groups).tolist():
                inside = groups == group
                total = len(np.unique(everybody.patients[inside]))
                part = len(np.unique(everybody.patients[inside & unknown]))
                limits = clopper_pearson(part, total, settings.level)
                share = Estimate(part / total, *limits, settings.level, METHOD)
                found.append(UnknownShare(attribute, by, group, total, share))
    return tuple(found)
