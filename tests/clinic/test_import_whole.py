"""200 hostile files through the command, with the real models; then the check and a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from skinml.clinic.consents import add_consent
from skinml.clinic.folder import open_folder
from skinml.data.foreign_pictures import open_picture
from skinml.data.settings import ImageLimits
from tests.clinic.hostile_pictures import PLANTED, make_hostile
from tests.clinic.rights import FORM, NOW, make
from tests.clinic.test_import import everywhere, leaks, rows_of
from tests.experiments.conftest import SMALL

ROOT = Path(__file__).parents[2]
_MAIN = "import sys; from skinml.cli.main import main; sys.exit(main())"


def skinml(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _MAIN, *words],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.slow
def test_nothing_planted_is_anywhere_after_import_check_and_run(tmp_path) -> None:
    hostile = make_hostile(tmp_path, 200, with_models=True)
    (tmp_path / "desk").mkdir()
    made = make(tmp_path / "desk", least_patients="5", least_clinics="1")
    work = tmp_path / "work"
    work.mkdir()
    told = skinml(
        work,
        "clinic",
        "import",
        str(hostile.source),
        "--records",
        str(hostile.records),
        "--folder",
        str(made.path),
        "--json",
    )
    assert told.returncode == 0, told.stderr
    report = json.loads(told.stdout.splitlines()[-1])
    folder = open_folder(made.path)
    found: dict[str, Counter[str]] = {}
    for row in rows_of(hostile.records):
        picture = folder.pictures.find(folder.pictures.number_of(row["patient_id"], row["image"]))
        found.setdefault(hostile.kinds[row["image"]], Counter())[picture.state] += 1
        if hostile.kinds[row["image"]] == "writing" and picture.usable:
            pixels = open_picture(folder.vault.read(picture.object), ImageLimits()).pixels
            assert np.ptp(pixels[14:26, 16:220].reshape(-1, 3), axis=0).max() < 12
    assert found["face"].keys() <= {"masked", "to_review"}
    assert found["writing"].keys() <= {"masked", "to_review"}
    assert sum(report["states"].values()) == 200
    assert report["states"]["rejected"] == sum(s == "rejected" for s in hostile.expected.values())
    for patient in {each.patient for each in folder.pictures.pictures().values() if each.usable}:
        agreed = FORM | {"purposes": ("care", "research", "federated_training")}
        add_consent(folder, patient, agreed, now=NOW)
    checked = skinml(work, "clinic", "check", "--folder", str(made.path), "--no-measure")
    ran = skinml(
        work,
        "run",
        "quickstart",
        *(word for word in SMALL if not word.startswith("tracking")),
        "tracking.enabled=true",
        "federation=centralised",
        "privacy.trust=local",
        "data.source=manifest",
        f"data.root={made.path}",
        "data.leakage.near_duplicates=report",
        "--json",
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1])["metrics"]["n_images"] > 0
    spoken = [told.stdout, told.stderr, checked.stdout, checked.stderr, ran.stdout, ran.stderr]
    assert leaks("".join(spoken).encode()) == []
    assert leaks(everywhere(open_folder(made.path))) == []
    files = [path for path in work.rglob("*") if path.is_file()]
    assert any("mlflow" in path.as_posix() for path in files)
    for path in files:
        assert leaks(path.as_posix().encode() + path.read_bytes(), PLANTED) == [], path.name
