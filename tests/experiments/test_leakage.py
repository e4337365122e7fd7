"""The leakage audit is part of every run, and what it lets pass is on record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from skinml.data.images import Inspection
from skinml.data.leakage import audit_leakage
from skinml.data.settings import LeakageSettings, SplitFractions
from skinml.data.splits import assign_splits
from skinml.errors import DataError
from skinml.experiments.run import Finished

RunSmall = Callable[..., Finished]
NUM_PATIENTS = 80
NETWORK = (
    "model=small_cnn",
    "privacy=local",
    "model.image_size=16",
    "training.network.rounds=1",
    "training.network.steps_per_round=1",
    "federation=centralised",
    "data.source=manifest",
)


@pytest.fixture
def leaking(tmp_path: Path) -> tuple[Path, tuple[int, int]]:
    """A folder in which a test patient has a training patient's picture, a little darker."""
    root = tmp_path / "data"
    root.mkdir()
    random = np.random.default_rng(0)
    patients = [f"P{number}" for number in range(NUM_PATIENTS)]
    pixels = random.integers(0, 256, (NUM_PATIENTS, 20, 24, 3), dtype=np.uint8)
    splits = assign_splits(patients, "skinml-1", SplitFractions()).tolist()
    train, test = splits.index("train"), splits.index("test")
    pixels[test] = (pixels[train] * 0.97).astype(np.uint8)
    for patient, picture in zip(patients, pixels, strict=True):
        Image.fromarray(picture).save(root / f"{patient}.png")
    pd.DataFrame(
        {
            "image": [f"{patient}.png" for patient in patients],
            "patient_id": patients,
            "clinic": "north",
            "diagnosis": ["mel" if number % 2 else "nv" for number in range(NUM_PATIENTS)],
            "licence": "CC BY 4.0",
        }
    ).to_csv(root / "manifest.csv", index=False)
    return root, (min(train, test) + 2, max(train, test) + 2)


def test_a_near_duplicate_across_splits_stops_the_run(
    run_small: RunSmall, leaking: tuple[Path, tuple[int, int]], tmp_path: Path
) -> None:
    root, (first, second) = leaking
    with pytest.raises(DataError) as caught:
        run_small(tmp_path / "work", *NETWORK, f"data.root={root}")
    assert caught.value.details == (f"rows {first} and {second}",)


def test_what_the_config_lets_pass_is_counted_in_the_record_and_the_report(
    run_small: RunSmall, leaking: tuple[Path, tuple[int, int]], tmp_path: Path
) -> None:
    words = (*NETWORK, f"data.root={leaking[0]}", "data.leakage.near_duplicates=report")
    finished = run_small(tmp_path / "work", *words)
    (stage,) = [s for s in finished.record.cohort_flow if s.name == "audited for leakage"]
    assert stage.note.startswith("1 pair of near-duplicates across splits")
    assert stage.num_images == NUM_PATIENTS
    assert "near-duplicates across splits" in (finished.folder / "report.html").read_text()
    assert "near-duplicates across splits" in json.dumps(
        json.loads((finished.folder / "report.json").read_text())
    )


def test_one_patient_in_two_splits_is_an_error() -> None:
    inspections = [Inspection(f"{n:064x}", bytes([n] * 32), 20, 20) for n in range(3)]
    with pytest.raises(DataError, match="each patient in one split"):
        audit_leakage(
            inspections,
            np.array(["a", "b", "a"]),
            np.array(["train", "train", "test"]),
            LeakageSettings(),
        )
