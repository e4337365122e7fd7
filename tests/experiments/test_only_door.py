"""Nobody's image is opened who may not be used, and only the modules named here know the door."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from skinml.data.settings import SplitFractions
from skinml.data.splits import assign_splits
from skinml.experiments.run import Finished
from tests.experiments.conftest import SMALL

PACKAGE = Path(__file__).parents[2] / "skinml"
TODAY = datetime.now(UTC).date()
SPLIT_KEY = "skinml-1"
NOTE = "CC BY letter of Mrs Planted-77"

# Runs each command of a list in one process, writes down which images were opened meanwhile, and
# lets a patient withdraw after the first.
_WATCHED = """
import json, os, sys
from datetime import UTC, datetime
from pathlib import Path

images, place, told = (Path(word).resolve() for word in sys.argv[1:4])
patient, *commands = json.load(sys.stdin)
opened = set()

def watch(event, details):
    if event == "open" and isinstance(details[0], (str, bytes)):
        path = os.path.realpath(os.fsdecode(details[0]))
        if path.startswith(str(images) + os.sep):
            opened.add(os.path.relpath(path, images.parent))

sys.addaudithook(watch)
from skinml.cli.main import main
from skinml.clinic.folder import open_folder

stages = []
for number, command in enumerate(commands):
    opened.clear()
    (run,) = os.listdir(place / "runs") if number else ("",)
    code = main([run if word == "RUN" else word for word in command])
    stages.append([code, sorted(opened)])
    if number == 0:
        register = open_folder(place / "clinics" / "pooled").consents
        register.withdraw(patient, now=datetime.now(UTC), actor="steward")
told.write_text(json.dumps(stages))
"""


@dataclass(frozen=True)
class Mixed:
    """A folder in which some rows have a licence, some a consent, and some neither.

    Attributes:
        root: The folder.
        rows: Its manifest, with `split`, and `barred`, true where nobody may open the image.
        withdraws: A test patient whose rows have a licence, and who withdraws after the run.
    """

    root: Path
    rows: pd.DataFrame
    withdraws: str


@pytest.fixture(scope="module")
def mixed(not_private: Finished, tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    (drawn,) = (not_private.folder.parents[1] / "cohorts").glob("synthetic-*")
    root = tmp_path_factory.mktemp("mixed") / "data"
    shutil.copytree(drawn, root)
    (root / "manifest.yaml").unlink()
    rows = pd.read_csv(root / "manifest.csv", dtype=str)
    patients = sorted(rows["patient_id"].unique())
    number = rows["patient_id"].map({name: place for place, name in enumerate(patients)})
    second = rows.duplicated("patient_id")
    # Every third patient has a licence, and every ninth but one only for the first image.
    rows["licence"] = (number % 3 == 0).map({True: "CC0-1.0", False: NOTE})
    rows.loc[second & (number % 9 == 3), "licence"] = ""
    table = pd.DataFrame({"patient_id": patients}).assign(
        purposes="care;research",
        valid_from=str(TODAY - timedelta(days=30)),
        valid_until="",
        form_version="v2",
        how="paper",
        given_by="patient",
        withdrawn="",
    )
    place = pd.Series(range(len(patients)))
    table.loc[place % 5 == 1, "purposes"] = "care;federated_training"
    table.loc[place % 7 == 2, "valid_until"] = str(TODAY - timedelta(days=1))
    table.loc[place % 11 == 4, "withdrawn"] = str(TODAY - timedelta(days=1))
    asked = place % 3 != 0
    agreed = asked & (place % 5 != 1) & (place % 7 != 2) & (place % 11 != 4)
    table[asked].to_csv(root / "consents.csv", index=False)
    rows.to_csv(root / "manifest.csv", index=False)
    split = assign_splits(rows["patient_id"], SPLIT_KEY, SplitFractions())
    barred = rows["licence"].isin(["", NOTE]) & ~number.map(agreed)
    rows = rows.assign(split=split, barred=barred)
    licensed = rows[(rows["licence"] == "CC0-1.0") & (rows["split"] == "test")]
    return Mixed(root, rows, str(licensed["patient_id"].iloc[0]))


@dataclass(frozen=True)
class Watched:
    """What a run, an evaluation and a check did.

    Attributes:
        opened: The images that each opened.
        place: Their working folder.
        printed: All that they printed.
    """

    opened: tuple[set[str], ...]
    place: Path
    printed: str


@pytest.fixture(scope="module")
def watched(mixed: Mixed, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """Run, evaluate and check in one process that writes down what it opens."""
    place = tmp_path_factory.mktemp("watched") / "work"
    told = place.parent / "told.json"
    run = ("run", "quickstart", *SMALL, "federation=centralised", "privacy.trust=none")
    data = ("data.source=manifest", f"data.root={mixed.root}", "data.consents=consents.csv")
    pooled = str(place / "clinics" / "pooled")
    commands = [
        (*run, *data, f"work_dir={place}"),
        ("evaluate", "RUN", "--data", str(mixed.root), "--work-dir", str(place)),
        ("clinic", "check", "--data", str(mixed.root), "--folder", pooled, "--purpose", "research"),
    ]
    ran = subprocess.run(
        [sys.executable, "-c", _WATCHED, str(mixed.root / "images"), str(place), str(told)],
        input=json.dumps([mixed.withdraws, *commands]),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    stages = json.loads(told.read_text())
    assert [code for code, _ in stages] == [0, 0, 0], ran.stderr
    opened = tuple(set(images) for _, images in stages)
    return Watched(opened, place, ran.stdout + ran.stderr)


def test_no_image_of_a_patient_without_a_ground_is_ever_opened(
    mixed: Mixed, watched: Watched
) -> None:
    rows = mixed.rows
    assert (rows["barred"] & (rows["split"] == "test")).any()
    some = rows.groupby("patient_id")["barred"].agg(["any", "all"])
    assert (some["any"] & ~some["all"]).any()  # a patient with rows of both kinds
    gone = rows["patient_id"] == mixed.withdraws
    may = ~rows["barred"]
    run, evaluated, checked = watched.opened
    assert run == set(rows["image"][may])
    assert evaluated == set(rows["image"][may & ~gone & (rows["split"] == "test")])
    assert checked == set(rows["image"][may & ~gone])


def test_what_a_clinic_notes_where_a_licence_would_stand_stays_there(
    mixed: Mixed, watched: Watched
) -> None:
    assert (mixed.rows["licence"] == NOTE).any()
    assert "CC0-1.0" in next(watched.place.glob("runs/*/report.html")).read_text()
    assert NOTE not in watched.printed
    for path in watched.place.rglob("*"):
        if path.is_file():
            assert NOTE.encode() not in path.read_bytes(), path.name


# Who may ask the door, make a cohort, read a list of images, or open a picture. A new name here
# is a new way to patients' data: it must go through `admissible` before it reads anything.
_CALLERS = {
    "admissible": {"clinic/check.py", "data/cohort.py"},
    "assess": {"clinic/check_consents.py", "stewardship/admissibility.py"},
    "row_reasons": {"experiments/samples.py"},
    "build_cohort": {
        "experiments/audit_sides.py",  # after the run's own gates
        "experiments/cohorts.py",
        "experiments/evaluate.py",
        "experiments/site_count.py",  # behind the clinic's own door, and counts alone
    },
    "Cohort": {"data/cohort.py"},
    "read_manifest": {
        "clinic/check.py",
        "experiments/cohorts.py",
        "experiments/site_count.py",
        "experiments/tones.py",  # at the clinic's own desk; the files stay beside the manifest
    },
    "imported_manifest": {
        "clinic/check.py",
        "experiments/cohorts.py",
        "experiments/site_count.py",  # counts alone
    },
    "manifest_of": {
        "clinic/correction.py",  # holds a corrected row against the rules
        "clinic/imported_data.py",
        "clinic/importing_records.py",  # holds a new list against the rules; no image is there yet
    },
    "SealedImages": {"clinic/correction.py", "clinic/imported_data.py"},
    "make_safe": {"clinic/importing_steps.py"},
    "open_picture": {"data/deidentify.py"},
    "open_manifest": {
        "experiments/audit_sides.py",
        "experiments/cohorts.py",
        "experiments/evaluate.py",
    },
    "inspect_images": {"clinic/check.py", "experiments/cohorts.py", "experiments/evaluate.py"},
    "decode_colour": {"data/tone_colour.py"},
    "decode_image": {"data/tone_table.py"},  # masks of lesions
    "prepare_image": {"experiments/evaluate.py", "training/features.py"},
    "compute_features": {
        "experiments/evaluate.py",
        "experiments/pace.py",
        "training/public_images.py",  # a public folder that the config names, no patient's
    },
    "extract_features": {"experiments/samples.py", "models/backbones.py"},  # timm's own of the name
    "FeatureStore": {
        "data/feature_store.py",  # keeps sealed rows as they are, for retention: none is opened
        "experiments/audit_replay.py",
        "experiments/samples.py",
    },
    "prepare_images": {"experiments/samples.py"},
}


@pytest.mark.parametrize("name", _CALLERS)
def test_only_the_modules_named_here_know_a_way_to_patients_data(name: str) -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if name in _called(ast.parse(path.read_text()))
    }
    assert found == _CALLERS[name]


def _called(tree: ast.AST) -> set[str]:
    """The names that a module calls, also as attributes, or hands on to others to call."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for each in (node.func, *node.args, *(word.value for word in node.keywords)):
                if isinstance(each, ast.Name):
                    names.add(each.id)
                elif isinstance(each, ast.Attribute):
                    names.add(each.attr)
    return names
