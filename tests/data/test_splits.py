from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skinml.data.settings import DataSettings, LeakageSettings, SplitFractions
from skinml.data.splits import (
    LEFT_OUT,
    assign_splits,
    divide,
    keyed_uniforms,
    require_disjoint,
)
from skinml.errors import DataError

FRACTIONS = SplitFractions()
ids = st.lists(st.text(max_size=8), min_size=1, max_size=40)


@given(ids, st.text(min_size=1, max_size=8), st.integers(0, 39))
def test_removing_a_patient_moves_no_other(patients: list[str], key: str, which: int) -> None:
    splits = assign_splits(patients, key, FRACTIONS)
    gone = patients[which % len(patients)]
    left = [index for index, patient in enumerate(patients) if patient != gone]
    kept = [patients[index] for index in left]
    assert assign_splits(kept, key, FRACTIONS).tolist() == splits[left].tolist()


@given(ids)
def test_a_patient_is_in_one_split(patients: list[str]) -> None:
    doubled = np.asarray(patients + patients[::-1], dtype=object)
    require_disjoint(doubled, assign_splits(doubled.tolist(), "key", FRACTIONS))


parted = st.lists(st.tuples(st.text(max_size=3), st.sampled_from(["train", "test"])), min_size=1)


@given(parted, st.integers(0, 39))
@example([("", "test"), ("\x00", "train")], 0)  # NumPy's own strings cannot tell these apart
def test_a_published_split_tests_its_own_and_removing_a_patient_moves_no_other(
    rows: list[tuple[str, str]], which: int
) -> None:
    leakage = LeakageSettings(shared_units="leave_out")
    settings = DataSettings(
        name="mine", root=Path(), split="published", split_key="key", leakage=leakage
    )
    frame = pd.DataFrame(rows, columns=["patient_id", "published_split"])
    splits = divide(frame, settings)
    assert ((splits == "test") == (frame["published_split"] == "test")).all()
    kept = splits != LEFT_OUT
    require_disjoint(frame["patient_id"].to_numpy(object)[kept], splits[kept])
    stay = (frame["patient_id"] != rows[which % len(rows)][0]).to_numpy()
    if stay.any():
        assert divide(frame[stay], settings).tolist() == splits[stay].tolist()


def test_uniforms_are_the_keyed_hash() -> None:
    digest = hmac.new(b"key", b"patient", hashlib.sha256).digest()
    expected = int.from_bytes(digest[:8], "big") / 2**64
    assert keyed_uniforms(["patient"], "key")[0] == pytest.approx(expected, abs=2**-53)


def test_shares_are_near_the_fractions() -> None:
    splits = assign_splits([f"P{number}" for number in range(20_000)], "key", FRACTIONS)
    names, counts = np.unique(splits, return_counts=True)
    shares = dict(zip(names.tolist(), counts / len(splits), strict=True))
    # Five standard deviations of a binomial share.
    assert shares == pytest.approx({"train": 0.7, "validation": 0.1, "test": 0.2}, abs=0.017)


def test_another_key_deals_anew() -> None:
    patients = [f"P{number}" for number in range(200)]
    one, other = (assign_splits(patients, key, FRACTIONS) for key in ("one", "other"))
    assert (one != other).any()


@pytest.mark.parametrize("empty", ["train", "validation", "test"])
def test_no_split_may_be_closed(empty: str) -> None:
    """Without validation patients a threshold would be read from noise alone."""
    shares = {name: 0.5 for name in ("train", "validation", "test") if name != empty}
    with pytest.raises(ValueError, match=empty):
        SplitFractions(**shares, **{empty: 0.0})


def test_one_patient_in_two_splits_is_refused_without_the_id() -> None:
    with pytest.raises(DataError, match="1 patients in two") as caught:
        require_disjoint(np.array(["Ada", "Ada", "Bo"]), np.array(["train", "test", "test"]))
    assert "Ada" not in str(caught.value)


@pytest.mark.parametrize("train", [0.5, -0.1, 0.71])
def test_fractions_must_sum_to_one(train: float) -> None:
    with pytest.raises(ValueError, match=r"train|sum to 1"):
        SplitFractions(train=train)
