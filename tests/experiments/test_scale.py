"""Whole runs with many clinics through Flower's simulation: each small, all of them taking part."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from skinml.data.settings import SplitFractions
from skinml.data.splits import assign_splits
from skinml.data.synthetic.cohort import write_cohort
from skinml.data.synthetic.settings import SyntheticSettings
from skinml.experiments.run import run

SPLIT_KEY = "skinml-1"


def deal(place: Path, clinics: int) -> Path:
    """Draw a cohort and deal it out: a patient of each class to train on, and one beside them."""
    write_cohort(place, SyntheticSettings(num_patients=4 * clinics + 50, image_size=32), seed=1)
    frame = pd.read_csv(place / "manifest.csv", dtype=str).drop_duplicates("patient_id")
    split = assign_splits(frame["patient_id"], SPLIT_KEY, SplitFractions())
    held_out, malignant = split != "train", frame["malignant"] == "1"
    kinds = (held_out, ~held_out & malignant, ~held_out & ~malignant)
    parts = [frame[kind].head(clinics).copy() for kind in kinds]
    assert [len(part) for part in parts] == [clinics] * len(parts)
    for part in parts:
        part["clinic"] = [f"clinic-{number:03d}" for number in range(clinics)]
    pd.concat(parts).to_csv(place / "manifest.csv", index=False)
    return place


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("clinics", "trust"), [(50, "distributed"), (500, "central")])
def test_a_run_of_many_clinics_ends_with_all_of_them_in_every_round(
    clinics: int, trust: str, tmp_path: Path
) -> None:
    finished = run(
        "quickstart",
        (
            "data.source=manifest",
            f"data.root={deal(tmp_path / 'cohort', clinics)}",
            f"work_dir={tmp_path / 'work'}",
            f"privacy.trust={trust}",
            "training.head.rounds=3",
            "model.batch_size=4",  # clinics of three images: the rest of a batch is padding
            "fairness.replicates=100",
            "federation.cpus=2",
            "tracking.enabled=false",
        ),
    )
    rounds = finished.record.participation
    assert [each.round for each in rounds] == [1, 2, 3, 4, 5]
    assert {len(each.took_part) for each in rounds} == {clinics}
    assert json.loads((finished.folder / "result.json").read_text()) == finished.result
