from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from skinml.data.partitions import assign_clinics, patient_labels
from skinml.data.settings import PartitionSettings
from skinml.errors import ConfigError
from skinml.seeding import Seeds

SEEDS = Seeds(3)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    random = np.random.default_rng(0)
    patients = [f"P{number}" for number in random.integers(0, 3_000, 6_000)]
    return pd.DataFrame(
        {
            "patient_id": patients,
            "label": random.integers(0, 3, 6_000),
            "clinic": random.choice(["a", "b", None], 6_000),
            "anatomical_site": random.choice(["trunk", None], 6_000),
        }
    )


def settings(by: str, **more: object) -> PartitionSettings:
    return PartitionSettings.model_validate({"by": by, "num_clinics": 4, "prefix": "c", **more})


@pytest.mark.parametrize("by", ["random", "dirichlet"])
def test_made_clinics_hold_whole_patients(frame: pd.DataFrame, by: str) -> None:
    clinics = assign_clinics(frame, settings(by), SEEDS)
    assert set(clinics) <= {"c-1", "c-2", "c-3", "c-4"}
    assert frame.assign(made=clinics).groupby("patient_id")["made"].nunique().max() == 1


@pytest.mark.parametrize("by", ["random", "dirichlet"])
def test_removing_a_patient_moves_no_other(frame: pd.DataFrame, by: str) -> None:
    clinics = assign_clinics(frame, settings(by), SEEDS)
    kept = (frame["patient_id"] != frame["patient_id"][0]).to_numpy()
    again = assign_clinics(frame[kept], settings(by), SEEDS)
    assert again.tolist() == clinics[kept].tolist()


@pytest.mark.parametrize("by", ["random", "dirichlet"])
def test_seed_decides(frame: pd.DataFrame, by: str) -> None:
    one, same, other = (
        assign_clinics(frame, settings(by), Seeds(seed)).tolist() for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other


def test_random_clinics_are_about_even(frame: pd.DataFrame) -> None:
    one = frame.drop_duplicates("patient_id")
    _, counts = np.unique(assign_clinics(one, settings("random"), SEEDS), return_counts=True)
    assert counts / len(one) == pytest.approx(np.full(4, 0.25), abs=0.05)


def skew(frame: pd.DataFrame, alpha: float) -> float:
    """Greatest distance of a clinic's share of a label from even."""
    labels = patient_labels(frame)
    clinics = assign_clinics(frame, settings("dirichlet", alpha=alpha), SEEDS)
    table = pd.crosstab(labels, clinics, normalize="index")
    return float((table - 0.25).abs().to_numpy().max())


def test_smaller_alpha_makes_clinics_differ_more(frame: pd.DataFrame) -> None:
    assert skew(frame, 1_000) < 0.06
    assert skew(frame, 0.1) > 0.4


def test_columns_and_site_are_taken_as_they_are(frame: pd.DataFrame) -> None:
    assert set(assign_clinics(frame, settings("column"), SEEDS)) == {"a", "b", "unknown"}
    assert set(assign_clinics(frame, settings("site"), SEEDS)) == {"trunk", "unknown"}
    assert set(assign_clinics(frame, settings("pooled"), SEEDS)) == {"c"}


def test_unknown_column_is_refused(frame: pd.DataFrame) -> None:
    with pytest.raises(ConfigError, match="column=hospital"):
        assign_clinics(frame, settings("column", column="hospital"), SEEDS)


def test_patient_label_is_the_commonest_and_the_higher_of_equals() -> None:
    frame = pd.DataFrame({"patient_id": list("aaabb"), "label": [0, 0, 1, 0, 1]})
    assert patient_labels(frame).tolist() == [0, 0, 0, 1, 1]
