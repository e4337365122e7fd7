"""Which split a patient falls in: a keyed hash of the id, so that nobody moves anybody else."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skinml.errors import DataError, require_same_length
from skinml.records import SPLITS, FloatArray, StrArray

if TYPE_CHECKING:
    import pandas as pd

    from skinml.data.settings import DataSettings, SplitFractions

LEFT_OUT = "left_out"
"""Stands for a split in rows that no split may have."""


def keyed_uniforms(patients: Iterable[str], key: str) -> FloatArray:
    """Turn ids into numbers that look uniform and depend on the id and the key only.

    Args:
        patients: (n,) ids.
        key: The public key of the hash.

    Returns:
        (n,) values in [0, 1), the same wherever an id repeats.

    Example:
        >>> keyed_uniforms(["a", "b", "a"], "key").round(3).tolist()
        [0.469, 0.741, 0.469]
    """
    listed, secret = list(patients), key.encode()
    known = dict.fromkeys(listed, 0.0)
    for patient in known:
        digest = hmac.digest(secret, patient.encode(), "sha256")
        # 53 bits are what a float holds exactly, so the result stays below 1.
        known[patient] = (int.from_bytes(digest[:8], "big") >> 11) / 2**53
    return np.asarray([known[patient] for patient in listed], dtype=np.float64)


def assign_splits(
    patients: Iterable[str] | NDArray[np.str_], split_key: str, fractions: SplitFractions
) -> StrArray:
    """Put every patient into training, validation or test.

    Args:
        patients: (n,) the id of each item's patient.
        split_key: The public key of the hash.
        fractions: The expected share of patients in each split.

    Returns:
        (n,) "train", "validation" or "test".

    Guarantees:
        A patient's split depends on the id, the key and the fractions only: adding or removing
        another patient moves nobody. The shares hold in expectation, not exactly.
    """
    uniforms = keyed_uniforms(patients, split_key)
    limits = [fractions.train, fractions.train + fractions.validation]
    return np.asarray(SPLITS, dtype=np.str_)[np.searchsorted(limits, uniforms, side="right")]


def divide(frame: pd.DataFrame, settings: DataSettings) -> StrArray:
    """Put rows into training, validation or test, in the way that the settings name.

    A published split says who is tested; which of the others validate, the keyed hash says.

    Args:
        frame: (n) rows with `patient_id`, and with `published_split` where that is to be used.
        settings: The way, its key and fractions, and what a unit in both published parts does.

    Returns:
        (n,) "train", "validation" or "test"; `LEFT_OUT` for a row outside of the published test
        part whose unit is in it, where the settings leave those out.

    Raises:
        DataError: If a row has no published part, or a unit is in both and the settings refuse it.

    Guarantees:
        A row's split depends on its patient's own rows, the key and the fractions only. Unless
        `data.leakage.shared_units` is report, no patient is in two splits.
    """
    patients = frame["patient_id"].astype(str).tolist()
    if settings.split == "hash":
        return assign_splits(patients, settings.split_key, settings.fractions)
    unknown = int(frame["published_split"].isna().sum())
    if unknown:
        raise DataError(
            rule="a published_split, train or test, in each row (data.split=published)",
            got=f"{unknown} rows without",
            do="Prepare the manifest of a dataset that has one, or use data.split=hash.",
        )
    tested = np.asarray(frame["published_split"] == "test", dtype=bool)
    parts = [{patients[row] for row in np.flatnonzero(part)} for part in (tested, ~tested)]
    shared = parts[0] & parts[1]
    in_both = np.array([patient in shared for patient in patients], dtype=bool)
    if in_both.any() and settings.leakage.shared_units == "error":
        raise _in_both_parts(len(shared), tested, in_both)
    shares = settings.fractions
    limit = shares.train / (shares.train + shares.validation)
    trained = keyed_uniforms(patients, settings.split_key) < limit
    splits = np.where(tested, "test", np.where(trained, "train", "validation")).astype(object)
    if settings.leakage.shared_units == "leave_out":
        splits[in_both & ~tested] = LEFT_OUT
    return splits.astype(np.str_)


def _in_both_parts(units: int, tested: NDArray[np.bool_], in_both: NDArray[np.bool_]) -> DataError:
    images = int((tested & in_both).sum())
    return DataError(
        rule="each patient or lesion in one part of the published split",
        got=f"{units} in both, with {images} of {int(tested.sum())} test images",
        do="Use data.split=hash, or data.leakage.shared_units=leave_out, which tests on the "
        "published part and trains without those; or, for figures that are too good, "
        "data.leakage.shared_units=report with privacy.trust=none.",
    )


def count_shared(patients: NDArray[np.str_], splits: NDArray[np.str_]) -> int:
    """Count patients who are in two splits or more.

    Args:
        patients: (n,) the id of each item's patient.
        splits: (n,) the split of each item.

    Returns:
        Their number.

    Raises:
        DataError: If the lengths differ.

    Example:
        >>> count_shared(np.array(["a", "a", "b"]), np.array(["train", "test", "test"]))
        1
    """
    require_same_length(patients=patients, splits=splits)
    known, found = patients.tolist(), splits.tolist()
    last = dict(zip(known, found, strict=True))
    return len({p for p, split in zip(known, found, strict=True) if last[p] != split})


def require_disjoint(patients: NDArray[np.str_], splits: NDArray[np.str_]) -> None:
    """Check that no patient is in two splits.

    Args:
        patients: (n,) the id of each item's patient.
        splits: (n,) the split of each item.

    Raises:
        DataError: If a patient is in two splits, or the lengths differ.
    """
    shared = count_shared(patients, splits)
    if shared:
        raise DataError(
            rule="each patient in one split",
            got=f"{shared} patients in two or more splits",
            do="Split by patient_id only, as skinml.data.splits.assign_splits does.",
        )
