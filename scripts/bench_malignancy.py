"""Part of `scripts/bench`: `derm_malignancy` at four clinics on cached features, all rounds.

Ours: the shipped recipe in Flower's simulation, each clinic in a folder with ledger, record, log
and book, epsilon 3 for a patient. Peer: `bench_flower_opacus.py`, epsilon 3 for an image. There
each clinic adds all the noise itself; ours stands beside it as shipped, with secure sums
(distributed), and with the peer's own trust (local). Both sides begin with the same file of
features and end with a model; each turn is a process of its own. AUROC is that of the test images,
of which the training sees none.

Without the images beside the project, features are drawn, and the rows say so.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from bench_flower_opacus import opened, without_start
from bench_head import RUN, make_bench_folder, open_bench_clinic
from bench_rows import TURNS, Row, Size, row
from flwr.serverapp import Grid
from sklearn.metrics import roc_auc_score

from skinml.config import RunConfig, load_config
from skinml.experiments.learners import build_learner
from skinml.federated.client_app import client_app, close_clinics
from skinml.federated.clinic import Clinic
from skinml.federated.coordinator import exchanger, grid_asker
from skinml.federated.roll_call import Record, RunTerms
from skinml.federated.secure_rounds import session_for
from skinml.federated.secure_session import Session
from skinml.federated.simulation import simulate
from skinml.models.linear_head import LinearHead
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.settings import Trust
from skinml.records import Labels, Samples
from skinml.stewardship.audit_log import public_key_hex
from skinml.training.fit import Fitted, fit

CLASSES = Labels(("benign", "malignant"), (False, True))
DATA, WORK = Path("../shared/derm"), Path("runs/bench")
ROUNDS, PEER_ROUNDS = 100, 20
ENOUGH = {"local": 4, "distributed": 3}
"""Rounds that reach the peer's AUROC."""
_DEADLINE_S = 600.0


def rows(size: Size) -> list[Row]:
    """Time whole trainings in turn.

    Args:
        size: "smoke" or "full".

    Returns:
        A row for as many rounds as reach the peer's AUROC, and one for the shipped number.
    """
    WORK.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        place = Path(folder)
        features, told = place / "features.npz", "features drawn, no images of patients"
        if size == "full" and (DATA / "manifest.csv").is_file():
            save_features(features)
            told = "HAM10000 and MILK10k"
        else:
            save_drawn(features, 120 if size == "smoke" else 7000)
        small = size == "smoke"
        found: dict[str, list[dict[str, float]]] = {"local": [], "distributed": [], "peer": []}
        found |= {} if small else {"all": []}
        for _ in range(TURNS[size]):
            for side, times in found.items():
                times.append(_turn(side, features, place, 2 if small else None))
    made = [
        _row("malignancy: to the peer's AUROC, noise at each clinic", found, "local", size, told),
        _row("malignancy: to the peer's AUROC, secure sums", found, "distributed", size, told),
    ]
    if not small:
        made.append(_row(f"malignancy: the shipped {ROUNDS} rounds", found, "all", size, told))
        early, late = ([each[when] for each in found["all"]] for when in ("early_s", "late_s"))
        name = f"malignancy: one of the last twenty of {ROUNDS} rounds, beside rounds 11 to 30"
        made.append(row(name, late, early, size=size, note="both sides are ours: how rounds grow"))
    return made


def _turn(side: str, features: Path, place: Path, rounds: int | None) -> dict[str, float]:
    """Take one side's turn; with its own number of rounds where none is given."""
    if side == "peer":
        return run("bench_flower_opacus.py", features, place, rounds or PEER_ROUNDS)
    trust = "local" if side == "local" else "distributed"
    own = ROUNDS if side == "all" else ENOUGH[trust]
    return run("bench_malignancy.py", features, place, rounds or own, "--trust", trust)


def _row(
    name: str, found: Mapping[str, list[dict[str, float]]], side: str, size: Size, told: str
) -> Row:
    areas = {
        each: float(np.median([one["auroc"] for one in found[each]])) for each in (side, "peer")
    }
    reached = areas[side] >= areas["peer"]
    goal = "at least 3" if side in ENOUGH and reached else None
    rounds = ROUNDS if side == "all" else ENOUGH[side]
    return row(
        name,
        [one["rounds_s"] for one in found[side]],
        [one["rounds_s"] for one in found["peer"]],
        goal=goal,
        size=size,
        note=f"{told}: AUROC {areas[side]:.3f} in {rounds} rounds, epsilon 3 a patient; Flower "
        f"and Opacus {areas['peer']:.3f} in {PEER_ROUNDS} rounds, epsilon 3 an image; seconds of "
        f"all rounds without the workers' start ({_started(found, side)} s ours, "
        f"{_started(found, 'peer')} s the peer's)",
    )


def _started(found: Mapping[str, list[dict[str, float]]], side: str) -> str:
    return f"{np.median([each['whole_s'] - each['rounds_s'] for each in found[side]]):.0f}"


def run(script: str, features: Path, place: Path, rounds: int, *more: str) -> dict[str, float]:
    """Train once, in a process of its own, and read what it wrote down."""
    result = place / "result.json"
    result.unlink(missing_ok=True)
    path = str(Path(__file__).with_name(script))
    words = [sys.executable, path, str(features), str(result), "--rounds", str(rounds), *more]
    ran = subprocess.run(words, check=False, capture_output=True, text=True)  # noqa: S603  # ours
    if ran.returncode or not result.exists():
        raise RuntimeError(f"{script} ended with {ran.returncode}: {ran.stderr[-2000:]}")
    return dict(json.loads(result.read_text()))


def save_features(path: Path) -> None:
    """Write the experiment's items down with their features, which are kept in `runs/bench`."""
    from bench_privacy import clinics_of

    from skinml.data.cohort import build_cohort
    from skinml.experiments.cohorts import open_manifest
    from skinml.experiments.progress import Silence
    from skinml.experiments.workspace import Workspace
    from skinml.seeding import Seeds

    config = load_config("derm_malignancy", [f"data.root={DATA}", f"work_dir={WORK}"])
    cohort = build_cohort(
        open_manifest(config.data, Workspace(WORK), Silence()),
        config.data,
        Seeds(config.data.seed),
        purpose=config.purpose,
        day=datetime.datetime.now(tz=datetime.UTC).date(),
    )
    parts: dict[str, list[Any]] = {
        name: [] for name in ("inputs", "labels", "patients", "clinic", "split")
    }
    for clinic, splits in clinics_of(cohort, config, WORK).items():
        for split, held in splits.items():
            parts["inputs"].append(held.inputs)
            parts["labels"].append(held.labels)
            parts["patients"].append(held.patients)
            parts["clinic"].append(np.full(len(held.labels), clinic))
            parts["split"].append(np.full(len(held.labels), split))
    np.savez(path, **{name: np.concatenate(each) for name, each in parts.items()})


def save_drawn(path: Path, count: int) -> None:
    """Write drawn items down that look like the experiment's."""
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=count)
    inputs = np.abs(rng.normal(size=(count, 1280)) + 0.2 * np.outer(labels, rng.random(1280)))
    inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
    np.savez(
        path,
        inputs=inputs.astype(np.float32),
        labels=labels,
        patients=np.array([f"patient-{number:06d}" for number in range(count)]),
        clinic=np.array([f"clinic-{number % 4}" for number in range(count)]),
        split=np.where(np.arange(count) % 10 < 7, "train", "test"),
    )


@dataclass(frozen=True)
class Clinics:
    """The clinics of one run, as plain values that travel to worker processes.

    Attributes:
        place: Folder of the clinics' folders.
        features: The file of features.
        names: The clinics, in the order of the nodes.
        rounds: Gradient rounds.
        trust: "distributed": secure sums, as shipped; "local": each clinic adds all the noise.
        registered: Each clinic with its public signing key; empty while folders are made.
    """

    place: str
    features: str
    names: tuple[str, ...]
    rounds: int
    trust: Trust
    registered: tuple[tuple[str, str], ...] = ()

    @property
    def config(self) -> RunConfig:
        """The shipped experiment with so many rounds."""
        return _config(self.rounds, self.trust)

    @property
    def session(self) -> Session | None:
        """The terms of the secure sums: all clinics are needed, as shipped."""
        return session_for(RUN, self.registered, 0, 0) if self.trust == "distributed" else None

    def __call__(self, node: Mapping[str, object]) -> Clinic:
        """Open the clinic of one node."""
        name = self.names[int(str(node["partition-id"]))]
        held = opened(self.features)
        rows = (held["clinic"] == name) & (held["split"] == "train")
        samples = Samples(held["inputs"][rows], held["labels"][rows], held["patients"][rows])
        config = self.config
        learner = build_learner(config, CLASSES, samples.inputs.shape[1], len(self.names))
        return open_bench_clinic(
            Path(self.place) / name, samples, learner, config.privacy, self.names, self.session
        )


@cache
def _config(rounds: int, trust: Trust) -> RunConfig:
    """Read the configuration once a process, as a run does."""
    words = [f"training.head.rounds={rounds}", f"privacy.trust={trust}"]
    return load_config("derm_malignancy", words)


def main() -> None:
    """Train once by skinml, and write down how long it took and what came of it."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("features", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--trust", choices=("distributed", "local"), default="distributed")
    asked = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    values = opened(str(asked.features.resolve()))
    names = tuple(sorted(set(values["clinic"].tolist())))
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        folder, features = Path(place), str(asked.features.resolve())
        clinics = Clinics(str(folder), features, names, asked.rounds, asked.trust)
        found = trained(folder, clinics, values)
    asked.result.write_text(json.dumps(found))


def trained(
    place: Path, clinics: Clinics, values: Mapping[str, np.ndarray[Any, Any]]
) -> dict[str, float]:
    """Carry all rounds through Flower's simulation."""
    names = clinics.names
    keys = tuple(
        (name, public_key_hex(make_bench_folder(place / name).signing_key)) for name in names
    )
    clinics = replace(clinics, registered=keys)
    config = clinics.config
    learner = build_learner(config, CLASSES, values["inputs"].shape[1], len(names))
    terms = RunTerms(
        run=RUN,
        clinics=names,
        allowed_missing=0,
        least_survivors=len(names),
        deadline_s=_DEADLINE_S,
        mechanism=Mechanism(0.0),
        session=clinics.session,
    )
    ends: list[float] = []

    def drive(grid: Grid, stop: Event) -> Fitted:
        ends.append(time.perf_counter())
        ask = exchanger(grid_asker(grid, terms, stop), terms, Record())
        return fit(learner, ask, lambda number, told: ends.append(time.perf_counter()))

    began = time.perf_counter()
    fitted = simulate(client_app(clinics), len(names), drive)
    whole = time.perf_counter() - began
    close_clinics()
    head = LinearHead(**fitted.arrays, bias_input=config.training.head.bias_input)
    test = values["split"] == "test"
    scores = head.probabilities(values["inputs"][test])[:, 1]
    auroc = float(roc_auc_score(values["labels"][test], scores))
    each = np.diff(ends)
    return {
        "whole_s": whole,
        "rounds_s": without_start(each.tolist()),
        "early_s": float(np.median(each[10:30])) if len(each) > 30 else float("nan"),
        "late_s": float(np.median(each[-20:])),
        "auroc": auroc,
    }


if __name__ == "__main__":
    # Worker processes import this module by its name instead of unpickling it.
    import bench_malignancy

    bench_malignancy.main()
