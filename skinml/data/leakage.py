"""The audit for one picture, or one patient, on both sides of a split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skinml.data.look_alikes import near_duplicates
from skinml.data.splits import count_shared, require_disjoint
from skinml.errors import DataError, require_same_length
from skinml.records import IntArray, StrArray

if TYPE_CHECKING:
    from skinml.data.images import Inspection
    from skinml.data.settings import LeakageSettings

_MOST_LINES = 20


@dataclass(frozen=True)
class LeakageReport:
    """What the audit found on data that passed it.

    Attributes:
        num_images: Images looked at.
        num_patients_shared: Patients in two splits; 0 unless the settings only report them.
        num_identical: Pairs of byte-identical files, all within one patient.
        num_near_duplicates: Pairs of look-alikes across two splits.
        max_distance: The distance up to which two hashes count as look-alikes.
    """

    num_images: int
    num_patients_shared: int
    num_identical: int
    num_near_duplicates: int
    max_distance: int


def audit_leakage(
    inspections: Sequence[Inspection],
    patients: StrArray,
    splits: StrArray,
    settings: LeakageSettings,
    *,
    rows: Sequence[int] | None = None,
) -> LeakageReport:
    """Look for patients and pictures that two splits share.

    A picture is found again after recompression, resizing and small changes of brightness or
    margin, not after mirroring, rotation or a closer crop.

    Args:
        inspections: (n,) one an image.
        patients: (n,) the id of each image's patient.
        splits: (n,) the split of each image.
        settings: What counts as a near-duplicate and what it does.
        rows: (n,) row of each image in the manifest, for messages; by default the positions.

    Returns:
        What was found, where it is no error.

    Raises:
        DataError: If byte-identical images belong to two patients or, unless the settings only
            report them, if a patient is in two splits or near-duplicates cross splits.
    """
    require_same_length(inspections=inspections, patients=patients, splits=splits)
    numbers = range(len(inspections)) if rows is None else rows
    if settings.shared_units != "report":
        require_disjoint(patients, splits)
    num_identical = _require_own_images(inspections, patients, numbers)
    pairs: IntArray = np.empty((0, 3), dtype=np.int64)
    if len(inspections) > 1:
        hashes = np.frombuffer(
            b"".join(each.perceptual_hash for each in inspections), dtype=np.uint8
        ).reshape(len(inspections), -1)
        pairs = near_duplicates(hashes, settings.max_distance)
        pairs = pairs[splits[pairs[:, 0]] != splits[pairs[:, 1]]]
    if len(pairs) and settings.near_duplicates == "error":
        raise _found(
            rule="no near-duplicate images across train, validation and test",
            what=f"{len(pairs)} pairs within {settings.max_distance} bits",
            pairs=[(numbers[first], numbers[second]) for first, second, _ in pairs.tolist()],
            do="Give both images one patient_id if they show one patient; otherwise lower "
            "data.leakage.max_distance or set data.leakage.near_duplicates to report.",
        )
    return LeakageReport(
        num_images=len(inspections),
        num_patients_shared=count_shared(patients, splits),
        num_identical=num_identical,
        num_near_duplicates=len(pairs),
        max_distance=settings.max_distance,
    )


def _require_own_images(
    inspections: Sequence[Inspection], patients: StrArray, rows: Sequence[int]
) -> int:
    """Count byte-identical pairs within a patient; refuse them across patients."""
    repeated = _repeated([each.digest for each in inspections])
    shared = [
        (rows[positions[0]], rows[other])
        for positions in repeated
        for other in positions[1:]
        if patients[other] != patients[positions[0]]
    ]
    if shared:
        raise _found(
            rule="each image with one patient",
            what=f"{len(shared)} byte-identical pairs under two patients",
            pairs=shared,
            do="Correct patient_id, or take the copies out of the manifest.",
        )
    return sum(len(positions) * (len(positions) - 1) // 2 for positions in repeated)


def _repeated(digests: Sequence[str]) -> list[list[int]]:
    """Give the positions of each digest that is there more than once."""
    counts = Counter(digests)
    if len(counts) == len(digests):
        return []
    holders: dict[str, list[int]] = {}
    for position, digest in enumerate(digests):
        if counts[digest] > 1:
            holders.setdefault(digest, []).append(position)
    return list(holders.values())


def _found(*, rule: str, what: str, pairs: list[tuple[int, int]], do: str) -> DataError:
    lines = [f"rows {first} and {second}" for first, second in pairs]
    details = lines[:_MOST_LINES]
    if len(lines) > _MOST_LINES:
        details.append(f"and {len(lines) - _MOST_LINES} more")
    return DataError(rule=rule, got=f"{what}, the first in {lines[0]}", do=do, details=details)
