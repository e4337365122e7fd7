from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from skinml.data.images import Inspection, inspect_images
from skinml.data.leakage import audit_leakage
from skinml.data.look_alikes import near_duplicates
from skinml.data.manifest import read_manifest
from skinml.data.settings import ImageLimits, LeakageSettings, SplitFractions
from skinml.data.splits import assign_splits
from skinml.errors import DataError

REPORT = LeakageSettings(near_duplicates="report")


def inspection(digest: str, bits: np.ndarray) -> Inspection:
    return Inspection(digest, np.packbits(bits).tobytes(), 10, 10)


def hashes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (count, 256), dtype=np.uint8)


def flipped(bits: np.ndarray, number: int) -> np.ndarray:
    changed = bits.copy()
    changed[:number] ^= 1
    return changed


def names(*values: str) -> np.ndarray:
    return np.asarray(values)


def test_near_duplicates_agree_with_brute_force() -> None:
    bits = hashes(60)
    bits[7], bits[50], bits[51] = flipped(bits[3], 9), flipped(bits[3], 20), bits[20]
    found = near_duplicates(np.packbits(bits, axis=1), 110)
    expected = [
        (one, other, int((bits[one] != bits[other]).sum()))
        for one, other in combinations(range(60), 2)
        if (bits[one] != bits[other]).sum() <= 110
    ]
    assert sorted(map(tuple, found.tolist())) == expected
    assert {(3, 7, 9), (3, 50, 20), (20, 51, 0)} <= set(expected)


@pytest.mark.parametrize("distance", [23, 24, 25])
def test_look_alikes_across_splits_are_refused_up_to_the_distance(distance: int) -> None:
    bits = hashes(1)[0]
    pair = [inspection("a", bits), inspection("b", flipped(bits, distance))]
    patients, splits = names("P", "Q"), names("train", "test")
    reported = audit_leakage(pair, patients, splits, REPORT)
    assert reported.num_near_duplicates == int(distance <= 24)
    if distance <= 24:
        with pytest.raises(DataError, match="1 pairs within 24 bits, the first in rows 8 and 9"):
            audit_leakage(pair, patients, splits, LeakageSettings(), rows=[8, 9])


def test_look_alikes_within_a_split_are_no_leak() -> None:
    bits = hashes(1)[0]
    pair = [inspection("a", bits), inspection("b", bits)]
    report = audit_leakage(pair, names("P", "Q"), names("test", "test"), LeakageSettings())
    assert report.num_near_duplicates == 0


@pytest.mark.parametrize("settings", [LeakageSettings(), REPORT])
@pytest.mark.parametrize("splits", [("train", "test"), ("train", "train")])
def test_same_file_under_two_patients_is_always_refused(
    settings: LeakageSettings, splits: tuple[str, str]
) -> None:
    pair = [inspection("a", hashes(1)[0])] * 2
    with pytest.raises(DataError, match="byte-identical pairs under two patients") as caught:
        audit_leakage(pair, names("Ada", "Bo"), names(*splits), settings, rows=[2, 5])
    assert "rows 2 and 5" in str(caught.value)
    assert "Ada" not in str(caught.value)


def test_same_file_twice_under_one_patient_is_counted() -> None:
    pair = [inspection("a", hashes(1)[0])] * 3
    report = audit_leakage(pair, names("P", "P", "P"), names("test", "test", "test"), REPORT)
    assert report.num_identical == 3


def test_patient_in_two_splits_is_refused() -> None:
    two = [inspection(name, bits) for name, bits in zip("ab", hashes(2), strict=True)]
    with pytest.raises(DataError, match="each patient in one split"):
        audit_leakage(two, names("P", "P"), names("train", "test"), REPORT)


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_images_pass(count: int) -> None:
    some = [inspection("a", hashes(1)[0])] * count
    report = audit_leakage(some, np.full(count, "P"), np.full(count, "test"), LeakageSettings())
    assert report.num_images == count


@pytest.mark.derm
@pytest.mark.slow
def test_shipped_split_of_the_real_images_has_no_leak(derm_root: Path) -> None:
    frame = read_manifest(derm_root / "manifest.csv", root=derm_root).frame
    inspections = inspect_images(frame["image"].tolist(), derm_root, ImageLimits())
    patients = frame["patient_id"].to_numpy(str)
    splits = assign_splits(patients.tolist(), "skinml-1", SplitFractions())
    report = audit_leakage(inspections, patients, splits, LeakageSettings())
    assert (report.num_images, report.num_identical) == (13984, 3)
    # The hashes do find the known copies: most lesions of both sources are joined by patient_id.
    bits = np.frombuffer(b"".join(each.perceptual_hash for each in inspections), dtype=np.uint8)
    pairs = near_duplicates(bits.reshape(len(inspections), -1), 24)
    assert (patients[pairs[:, 0]] == patients[pairs[:, 1]]).all()
    assert len(pairs) > 20
