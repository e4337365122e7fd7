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
    from skinml.data.settings import SplitFractions


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


def require_disjoint(patients: NDArray[np.str_], splits: NDArray[np.str_]) -> None:
    """Check that no patient is in two splits.

    Args:
        patients: (n,) the id of each item's patient.
        splits: (n,) the split of each item.

    Raises:
        DataError: If a patient is in two splits, or the lengths differ.
    """
    require_same_length(patients=patients, splits=splits)
    known, found = patients.tolist(), splits.tolist()
    last = dict(zip(known, found, strict=True))
    shared = {p for p, split in zip(known, found, strict=True) if last[p] != split}
    if shared:
        raise DataError(
            rule="each patient in one split",
            got=f"{len(shared)} patients in two or more splits",
            do="Split by patient_id only, as skinml.data.splits.assign_splits does.",
        )
