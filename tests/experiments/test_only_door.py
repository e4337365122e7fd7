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
    rows["licence"] = (number % 3 == 0).map({True: "CC0-1.0", False: ""})
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
    barred = (rows["licence"] == "") & ~number.map(agreed)
    rows = rows.assign(split=split, barred=barred)
    licensed = rows[(rows["licence"] != "") & (rows["split"] == "test")]
    return Mixed(root, rows, str(licensed["patient_id"].iloc[0]))


def _opened(mixed: Mixed, place: Path) -> list[tuple[int, set[str]]]:
    """Run, evaluate and check; give each command's exit code and the images that it opened."""
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
    return [(code, set(images)) for code, images in stages]


def test_no_image_of_a_patient_without_a_ground_is_ever_opened(
    mixed: Mixed, tmp_path: Path
) -> None:
    rows = mixed.rows
    assert (rows["barred"] & (rows["split"] == "test")).any()
    some = rows.groupby("patient_id")["barred"].agg(["any", "all"])
    assert (some["any"] & ~some["all"]).any()  # a patient with rows of both kinds
    gone = rows["patient_id"] == mixed.withdraws
    may = ~rows["barred"]
    (_, run), (_, evaluated), (_, checked) = _opened(mixed, tmp_path / "work")
    assert run == set(rows["image"][may])
    assert evaluated == set(rows["image"][may & ~gone & (rows["split"] == "test")])
    assert checked == set(rows["image"][may & ~gone])


# Who may ask the door, make a cohort, read a list of images, or open a picture. A new name here
# is a new way to patients' data: it must go through `admissible` before it reads anything.
_CALLERS = {
    "admissible": {"clinic/check.py", "data/cohort.py"},
    "assess": {"clinic/check_consents.py", "stewardship/admissibility.py"},
    "row_reasons": {"experiments/samples.py"},
    "build_cohort": {"experiments/cohorts.py", "experiments/evaluate.py"},
    "Cohort": {"data/cohort.py"},
    "read_manifest": {"clinic/check.py", "experiments/cohorts.py"},
    "open_manifest": {"experiments/cohorts.py", "experiments/evaluate.py"},
    "inspect_images": {"clinic/check.py", "experiments/cohorts.py", "experiments/evaluate.py"},
    "decode_image": {
        "experiments/evaluate.py",
        "experiments/pace.py",
        "training/features.py",
    },
    "FeatureStore": {"experiments/samples.py"},
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
