"""How well groups were measured: who is unknown, and what noise did to their counts."""

from __future__ import annotations

from dataclasses import dataclass

from skinml.records import UNKNOWN_GROUP, RunRecord


@dataclass(frozen=True)
class Unknown:
    """How many patients' group nobody knows.

    Attributes:
        attribute: What the groups are of.
        num_unknown: Patients whose group is not known.
        num_patients: Patients in all of the attribute's groups.
        percent: The one of the other, in a hundred; None where there are no patients.
        count_std: Standard deviation of the noise in the first; 0 where it is exact.
    """

    attribute: str
    num_unknown: int
    num_patients: int
    percent: float | None
    count_std: float


@dataclass(frozen=True)
class NoiseShare:
    """How large the noise in a group's counts is beside the counts.

    Attributes:
        attribute: What the group is of; "overall" for everybody.
        group: The group.
        std: The noise's standard deviation in patients.
        positives_percent: That in a hundred malignant patients of the group; None where there are
            none.
        negatives_percent: The same of its other patients.
    """

    attribute: str
    group: str
    std: float
    positives_percent: float | None
    negatives_percent: float | None


def unknown_groups(record: RunRecord) -> tuple[Unknown, ...]:
    """Count patients whose group is not known.

    Args:
        record: What the run may show.

    Returns:
        An entry for each attribute; a patient with images of two groups counts in both.
    """
    found = []
    for attribute in dict.fromkeys(each.attribute for each in record.groups):
        groups = [each for each in record.groups if each.attribute == attribute]
        total = sum(max(each.num_patients, 0) for each in groups)
        missing = [each for each in groups if each.group == UNKNOWN_GROUP]
        unknown = max(sum(each.num_patients for each in missing), 0)
        found.append(
            Unknown(
                attribute,
                unknown,
                total,
                100 * unknown / total if total else None,
                max((each.count_std for each in missing), default=0.0),
            )
        )
    return tuple(found)


def noise_shares(record: RunRecord) -> tuple[NoiseShare, ...]:
    """Hold the noise in each group's counts against the counts.

    Args:
        record: What the run may show.

    Returns:
        An entry for everybody and for each group whose counts are noised.
    """

    def share(std: float, count: int) -> float | None:
        return 100 * std / count if count > 0 else None

    return tuple(
        NoiseShare(
            each.attribute,
            each.group,
            each.count_std,
            share(each.count_std, each.num_positives),
            share(each.count_std, each.num_negatives),
        )
        for each in (record.overall, *record.groups)
        if each.count_std > 0
    )
