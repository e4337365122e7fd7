"""The look at a clinic's pictures: the same one twice, and patients on both sides of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skinml.clinic.findings import Finding, counted
from skinml.data.look_alikes import near_duplicates
from skinml.data.splits import require_disjoint
from skinml.errors import DataError
from skinml.records import StrArray

if TYPE_CHECKING:
    from skinml.data.images import Inspection

_MOST_LINES = 20
Pairs = list[tuple[int, int]]


@dataclass(frozen=True)
class _Repeats:
    """Pairs of positions, the first below the second."""

    same_patient: Pairs
    other_patient: Pairs


def image_findings(
    inspections: Sequence[Inspection],
    patients: StrArray,
    splits: StrArray,
    rows: Sequence[int],
    max_distance: int,
) -> list[Finding]:
    """Look for what pictures of two patients, or two splits, have in common.

    Args:
        inspections: (n,) one an image.
        patients: (n,) the id of each image's patient; read, never told.
        splits: (n,) the split of each image.
        rows: (n,) row of each image in the manifest.
        max_distance: Greatest distance of two perceptual hashes that counts as a look-alike.

    Returns:
        Three findings: copies, look-alikes, splits.
    """
    copies = _copies(inspections, patients)
    alike, crossing = _look_alikes(inspections, patients, splits, max_distance)
    return [
        _about_copies(copies, rows),
        _about_look_alikes(alike, crossing, rows),
        _about_splits(patients, splits),
    ]


def _copies(inspections: Sequence[Inspection], patients: StrArray) -> _Repeats:
    holders: dict[str, list[int]] = {}
    for position, each in enumerate(inspections):
        holders.setdefault(each.digest, []).append(position)
    same: Pairs = []
    other: Pairs = []
    for first, *rest in holders.values():
        for second in rest:
            (same if patients[first] == patients[second] else other).append((first, second))
    return _Repeats(same, other)


def _look_alikes(
    inspections: Sequence[Inspection], patients: StrArray, splits: StrArray, max_distance: int
) -> tuple[Pairs, Pairs]:
    """Find look-alikes of two patients: those within a split, and those across two."""
    # Copies are told apart from look-alikes: of several, the first stands for all.
    firsts = list({each.digest: at for at, each in reversed(list(enumerate(inspections)))}.values())
    within: Pairs = []
    crossing: Pairs = []
    if len(firsts) < 2:
        return within, crossing
    hashes = np.frombuffer(
        b"".join(inspections[at].perceptual_hash for at in firsts), dtype=np.uint8
    ).reshape(len(firsts), -1)
    for one, another, _ in near_duplicates(hashes, max_distance).tolist():
        first, second = sorted((firsts[one], firsts[another]))
        if patients[first] != patients[second]:
            side = within if splits[first] == splits[second] else crossing
            side.append((first, second))
    return within, crossing


def _about_copies(copies: _Repeats, rows: Sequence[int]) -> Finding:
    topic = "Same file twice"
    if copies.other_patient:
        pairs = counted(len(copies.other_patient), "pair")
        return Finding(
            "red",
            topic,
            f"{pairs} of identical files stand under two different patients.",
            "Correct patient_id, or take the copies out of the list.",
            _lines(copies.other_patient, rows),
        )
    if copies.same_patient:
        pairs = counted(len(copies.same_patient), "pair")
        return Finding(
            "amber",
            topic,
            f"{pairs} of identical files, each pair within one patient: the picture counts twice "
            "in a result by image.",
            "Take the copies out of the list.",
            _lines(copies.same_patient, rows),
        )
    return Finding("green", topic, "Every file is there once.")


def _about_look_alikes(within: Pairs, crossing: Pairs, rows: Sequence[int]) -> Finding:
    topic = "Look-alikes"
    do = "Look at both pictures. If they show one patient, give both rows the same patient_id"
    if crossing:
        pairs = counted(len(crossing), "pair")
        return Finding(
            "red",
            topic,
            f"{pairs} of pictures that look alike, under two patients, one of whom trains the "
            "model and the other tests it: results would look better than they are.",
            f"{do}; if not, say so to the run with data.leakage.near_duplicates=report.",
            _lines(crossing, rows),
        )
    if within:
        pairs = counted(len(within), "pair")
        return Finding(
            "amber",
            topic,
            f"{pairs} of pictures that look alike stand under two patients.",
            f"{do}; if not, nothing is wrong.",
            _lines(within, rows),
        )
    return Finding("green", topic, "No two patients have pictures that look alike.")


def _about_splits(patients: StrArray, splits: StrArray) -> Finding:
    topic = "Train and test"
    try:
        require_disjoint(patients, splits)
    except DataError as error:
        return Finding("red", topic, f"There are {error.got}.", error.do)
    return Finding("green", topic, "No patient is both in training and in testing.")


def _lines(pairs: Pairs, rows: Sequence[int]) -> tuple[str, ...]:
    lines = [f"rows {rows[first]} and {rows[second]}" for first, second in pairs[:_MOST_LINES]]
    if len(pairs) > _MOST_LINES:
        lines.append(f"and {len(pairs) - _MOST_LINES} more")
    return tuple(lines)
