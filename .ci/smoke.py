"""Runs the quickstarts as a user would, and looks at what they say and leave behind.

They run beside each other, each in a folder of its own: each is alone with one core for long.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from math import isfinite
from pathlib import Path
from typing import Any

import psutil

RUNS = (("quickstart", 3.0, 0.70), ("quickstart_end_to_end", 8.0, 0.58))
"""Experiment, the epsilon that it asks for, and an AUROC that only a broken run could miss."""
MARK = "SKINML_SMOKE"
LONGEST_S = 1200
SKINML = Path(sys.executable).parent / "skinml"


def left_behind(mark: str) -> list[str]:
    """Names of processes that inherited the mark and still live, after some seconds of grace."""
    until = time.monotonic() + 30
    while True:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == mark:
                    found.append(process.name())
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.5)


def require(holds: bool, what: str) -> None:
    """End with a message unless something holds."""
    if not holds:
        sys.exit(f"smoke run: {what}")


def check(result: dict[str, Any], folder: Path, asked: float, least_auroc: float) -> None:
    """Hold a run's JSON against what was asked and what lies in its folder."""
    privacy, artifacts = result["privacy"], result["artifacts"]
    require(privacy["private"] is True, "a private run says that it is not")
    require(0 < privacy["epsilon"] <= asked, f"epsilon {privacy['epsilon']}, asked for {asked}")
    require(len(privacy["clinics"]) > 1, "one clinic only")
    for name, spent in privacy["clinics"].items():
        require(0 < spent["epsilon"] <= asked, f"clinic {name} spent {spent['epsilon']}")
    require(result["complete"] is True, "the run is incomplete")
    auroc = result["metrics"]["auroc"]
    require(isfinite(auroc) and auroc >= least_auroc, f"AUROC {auroc}, at least {least_auroc}")
    require(bool(result["groups"]["skin_tone"]), "no figures by skin tone")
    require(artifacts["mlflow_run"] is not None, "nothing in MLflow")
    report = folder / artifacts["report"]
    require(report.stat().st_size > 10_000, "the report is all but empty")
    require((folder / artifacts["model"] / "bundle.json").is_file(), "no model")


def run(experiment: str, folder: str, mark: str) -> str:
    """Run an experiment to its end and return what it printed."""
    with subprocess.Popen(
        [str(SKINML), "run", experiment, "--json"],
        cwd=folder,
        env={**os.environ, MARK: mark},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            process.terminate()  # which skinml takes for Ctrl-C, so that its workers end too
            sys.exit(f"smoke run: {experiment} was not done after {LONGEST_S} s")
    require(process.returncode == 0, f"{experiment} left with {process.returncode}")
    return output


def smoke(experiment: str, asked: float, least_auroc: float) -> None:
    """Run one and end with a message at the first thing that is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        mark, began = secrets.token_hex(8), time.monotonic()
        result = json.loads(run(experiment, folder, mark).splitlines()[-1])
        check(result, Path(folder), asked, least_auroc)
        processes = left_behind(mark)
        require(not processes, f"{experiment} left {', '.join(processes)} running")
        auroc, epsilon = result["metrics"]["auroc"], result["privacy"]["epsilon"]
        took = time.monotonic() - began
        print(f"{experiment}: {took:.0f} s, AUROC {auroc:.3f}, epsilon {epsilon:.3f}", flush=True)


def main() -> None:
    """Run both and exit with 1 where something is wrong with one, after both have ended."""
    with ThreadPoolExecutor(len(RUNS)) as threads:
        for done in [threads.submit(smoke, *each) for each in RUNS]:
            done.result()


if __name__ == "__main__":
    main()
