"""How long a clinic's desk takes with many patients: medians, in turn, of a temporary folder.

    python scripts/bench_gate.py [--patients 100000] [--repeats 3]

Times depend on the machine: read them beside each other, not against another day's.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from skinml.clinic.consents import count_consents
from skinml.clinic.folder import create_folder, open_folder
from skinml.clinic.status import status_of
from skinml.config import load_config
from skinml.stewardship.admissibility import admissible
from skinml.stewardship.consent_import import read_consents

NOW = datetime.datetime.now(datetime.UTC)


def main() -> None:
    """Make the folder, fill it, and time what the desk asks of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        measure(Path(place), options.patients, options.repeats)


def measure(place: Path, num_patients: int, repeats: int) -> None:
    """Print a line a task.

    Args:
        place: An empty folder.
        num_patients: Patients on record.
        repeats: How often each task is timed.
    """
    policy = load_config("quickstart").clinic.policy.model_copy(update={"clinic": "north"})
    path = place / "north"
    folder = create_folder(path, name="north", policy=policy, anchors=place / "anchors")
    patients = [f"P{number}" for number in range(num_patients)]
    rows = [f"{each},care;federated_training,2026-01-01,2.1,paper,patient" for each in patients]
    table = "patient_id,purposes,valid_from,form_version,how,given_by\n" + "\n".join(rows)
    records = read_consents(table.encode(), "forms.csv", today=NOW.date())
    digest = hashlib.sha256(table.encode()).hexdigest()
    folder.vault.remember(patients)
    folder.consents.import_records(records, source_digest=digest, now=NOW, actor="bench")
    frame = pd.DataFrame({"patient_id": patients})

    def admit() -> int:
        register = open_folder(path).consents
        return len(admissible(frame, "federated_training", NOW.date(), register).frame)

    tasks: dict[str, Callable[[], object]] = {
        "open the folder": lambda: open_folder(path),
        "status": lambda: status_of(open_folder(path), NOW),
        "consent show, counts": lambda: count_consents(open_folder(path), NOW.date()),
        "consent show, one patient": lambda: open_folder(path).consents.state_of("P1"),
        "admissible, all patients": admit,
        "withdraw one": lambda: open_folder(path).consents.withdraw("P2", now=NOW, actor="bench"),
        "rotate all keys": lambda: open_folder(path).patient_keys.rotate(),
    }
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            began = time.perf_counter()
            task()
            times[name].append(time.perf_counter() - began)
    sys.stdout.write(
        f"{num_patients} patients, {repeats} repeats, seconds: median (least to most)\n"
    )
    for name, found in times.items():
        low, high = min(found), max(found)
        sys.stdout.write(f"{name:<28}{statistics.median(found):7.2f} ({low:.2f} to {high:.2f})\n")


if __name__ == "__main__":
    main()
