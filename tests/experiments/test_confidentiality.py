"""No patient and no image is named by anything that a run writes or prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.experiments.shown import dump, numbers_in

PATIENT = "Zanzibar-Quux"
PICTURE = "quuxshot"
LESION = "Lesionella"
CHECK = "import sys; from skinml.cli.main import main; sys.exit(main())"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """120 patients at two clinics, all of whose names would be recognised anywhere."""
    root = tmp_path / "data"
    (root / PICTURE).mkdir(parents=True)
    random = np.random.default_rng(0)
    rows = []
    for number in range(120):
        name = f"{PICTURE}/{PICTURE}-{number:03d}.png"
        pixels = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
        rows.append(
            {
                "image": name,
                "patient_id": f"{PATIENT}-{number:03d}",
                "lesion_id": f"{LESION}-{number:03d}",
                "clinic": "north" if number % 4 < 2 else "south",
                "diagnosis": "mel" if number % 2 else "nv",
                "age": 20 + number % 60,
                "sex": "female",
            }
        )
    table = pd.DataFrame(rows)
    table.to_csv(root / "manifest.csv", index=False)
    consents = table[["patient_id"]].assign(
        purposes="federated_training", valid_from="2026-01-01", form_version="v1", how="paper"
    )
    consents = consents.assign(given_by="patient", withdrawn=["2026-02-01"] + [""] * 119)
    consents.iloc[:-1].to_csv(root / "consents.csv", index=False)
    return root


def test_no_file_and_no_output_names_a_patient_or_an_image(data: Path, tmp_path: Path) -> None:
    place = tmp_path / "work"
    words = (
        "run",
        "quickstart",
        "data.source=manifest",
        f"data.root={data}",
        "data.consents=consents.csv",
        f"work_dir={place}",
        "model=small_cnn",
        "model.image_size=16",
        "privacy.trust=local",
        "training.network.rounds=2",
        "training.network.steps_per_round=1",
        "fairness.replicates=100",
        "federation.cpus=1",
    )
    done = subprocess.run(
        [sys.executable, "-c", CHECK, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    planted = [word.encode() for word in (PATIENT, PICTURE, LESION)]
    told = (done.stdout + done.stderr).encode()
    assert not [word for word in planted if word in told]
    files = [path for path in place.rglob("*") if path.is_file()]
    kinds = {path.name for path in files}
    # The search must have had the places before it where a name could be.
    assert {"report.html", "report.json", "result.json", "record.json", "mlflow.db"} <= kinds
    assert {"bundle.json", "ledger.jsonl", "predictions-test.sealed", "MLmodel"} <= kinds
    assert {"consent.journal", "audit.journal", "contributions.journal", "keys.sealed"} <= kinds
    _require_no_exact_counts(place)
    for path in files:
        content = path.read_bytes()
        found = [word for word in planted if word in content or _wide(word) in content]
        assert not found, path.relative_to(place)
        assert not any(word.decode() in str(path.relative_to(place)) for word in planted)


def _require_no_exact_counts(place: Path) -> None:
    """Two of 120 patients were refused; MLflow knows neither number, but the test patients'."""
    (record,) = (json.loads(path.read_text()) for path in place.glob("runs/*/record.json"))
    told = numbers_in(dump(place / "mlflow.db"))
    assert record["overall"]["num_patients"] in told
    assert not {118, 119, 120} & told - set(record["admissions"]["counts"].values())


def _wide(word: bytes) -> bytes:
    """The word as NumPy stores text: four bytes a letter."""
    return word.decode().encode("utf-32-le")


def test_the_search_finds_a_name_that_numpy_wrote(tmp_path: Path) -> None:
    np.save(tmp_path / "names.npy", np.array([f"{PATIENT}-001"]))
    assert _wide(PATIENT.encode()) in (tmp_path / "names.npy").read_bytes()
