"""One finished run in a real SQLite store, and the record behind it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from skinml.records import (
    ClinicSpend,
    Estimate,
    GroupResult,
    Guarantee,
    Labels,
    Participation,
    RunRecord,
    Yardstick,
)
from skinml.tracking.mlflow_tracker import MlflowTracker
from skinml.tracking.settings import TrackingSettings
from skinml.tracking.tracker import DatasetRef

SERVED = """
from skinml.tracking.serving import serve


def load_scorer(folder):
    import json

    names = json.loads((folder / "labels.json").read_text())

    def score(images, groups):
        return [
            {names[0]: 1 - len(image) / 100, names[1]: len(image) / 100, "decision": names[0]}
            for image in images
        ]

    return score


serve(load_scorer)
"""

CONFIG: dict[str, Any] = {
    "name": "toy",
    "seed": 3,
    "work_dir": ".",
    "data": {"groups": ["skin_tone", "sex"], "bins": {"skin_tone": {"0-2": ["0", "1", "2"]}}},
    "privacy": {"trust": "distributed", "epsilon": 3.0},
    "training": {"notes": "x" * 9000},
    "tracking": {"uri": "postgresql://user:hunter2@host/db"},
}

BOTH = ("harbour", "hillside")
DATASETS = (
    DatasetRef("toy/harbour", "hmac-sha256:" + "ab" * 32, "harbour's own images", 41),
    DatasetRef("toy/hillside", "hmac-sha256:" + "cd" * 32, "hillside's own images"),
)


def build_record(**changes: Any) -> RunRecord:
    figures = {
        "auroc": Estimate(0.9, 0.85, 0.94),
        "sensitivity": Estimate(None, reason="no malignant images"),
        "brier": Estimate(0.0, None, None),
    }
    record = RunRecord(
        run="20261121-101502-toy-3",
        experiment="toy",
        seed=3,
        started="2026-11-21T10:15:02Z",
        wall_s=12.5,
        evaluation_source="exact",
        classes=Labels(("benign", "malignant"), (False, True)),
        threshold=0.3,
        threshold_source="validation",
        overall=GroupResult("overall", "overall", 60, 41, 20, 40, figures),
        groups=(
            GroupResult("skin_tone", "0-2", 10, 8, 4, 6, figures),
            GroupResult("skin_tone", "<5", 3, 3, 1, 2, figures),
            GroupResult("skin_tone", ">5", 7, 5, 2, 5, figures),
            GroupResult("anatomical_site", "head/neck", 6, 6, 3, 3, figures),
        ),
        yardsticks=(Yardstick("harbour alone", False, figures),),
        guarantee=Guarantee(
            private=True,
            trust="distributed",
            unit="patient_within_clinic",
            epsilon=2.9,
            total_epsilon=4.1,
            epsilon_across_clinics=6.0,
            max_clinics=2,
            delta=1e-5,
            simulated=True,
            clinics={"harbour": ClinicSpend(2.9, 4.1, 8), "hillside": ClinicSpend(2.8, 2.8, 7)},
            num_clinics=2,
            tolerated_dropouts=1,
        ),
        participation=(
            Participation(1, BOTH, ("hillside",), {"harbour": "no answer"}, 1, None),
            Participation(1, BOTH, BOTH, {}, 2, 1.5),
            Participation(2, BOTH, ("harbour",), {"hillside": "no answer"}, 1, 1.25),
        ),
        cohort_flow=(),
        cohort_table=(),
        data={"name": "toy"},
        config=CONFIG,
        versions={"skinml": "0.1.0"},
        history=(),
        complete=False,
        resumes=1,
    )
    return replace(record, **changes)


@dataclass(frozen=True)
class Finished:
    """A finished run, where its store is, and what its process wrote to the terminal."""

    folder: Path
    uri: str
    run_id: str
    words: str
    errors: str


def write_run(folder: Path) -> str:
    """Take a run through the tracker; returns MLflow's id of it."""
    output = folder / "output"
    bundle = output / "bundle"
    bundle.mkdir(parents=True)
    (bundle / "labels.json").write_text(json.dumps(["benign", "malignant"]))
    (output / "report.html").write_text("<p>report</p>")
    (output / "report.json").write_text("{}")
    (folder / "served.py").write_text(SERVED)
    tracker = MlflowTracker(TrackingSettings(), folder / "work", folder / "served.py")
    tracker.start("20261121-101502-toy-3", "toy", CONFIG, DATASETS)
    for number in (1, 2, 3):
        tracker.log_round(number, {"update_norm": 1 / number, "noise_std": float("nan")})
    run_id = tracker.finish(build_record(), output / "report.html", output / "report.json", bundle)
    assert run_id
    return run_id


ROOT = Path(__file__).resolve().parents[2]

IN_A_PROCESS = """
import os, sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
spec = spec_from_file_location("conftest_of_tracking", sys.argv[1])
module = module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
run_id = module.write_run(Path(sys.argv[2]))
import mlflow
print(run_id, mlflow.active_run(), "MLFLOW_TRACKING_URI" in os.environ)
"""


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run in a process of its own, which works in a folder named after a patient."""
    folder = tmp_path_factory.mktemp("tracking")
    private = folder / "clinic" / "Zebedee-Quill" / "lesion_zq_77.jpg"
    private.parent.mkdir(parents=True)
    private.write_text("HAM_0099123")
    keep = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", IN_A_PROCESS, __file__, str(folder)],
        cwd=private.parent,
        env={**keep, "PYTHONPATH": str(ROOT), "PATIENT": "Zebedee-Quill"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run_id, _, words = done.stdout.strip().partition(" ")
    uri = f"sqlite:///{folder / 'work' / 'mlflow.db'}"
    return Finished(folder, uri, run_id, words, done.stderr)


@pytest.fixture(scope="session")
def make_record() -> Callable[..., RunRecord]:
    """Builds the record; keywords replace its fields."""
    return build_record
