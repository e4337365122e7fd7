"""The benchmark of the gate runs and prints a line a task; how long they take is not asserted."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_benchmark_of_the_gate_times_every_task() -> None:
    ran = subprocess.run(
        [sys.executable, "scripts/bench_gate.py", "--patients", "40", "--repeats", "1"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("40 patients")
    assert len(re.findall(r"^\w.* \d+\.\d\d \(", ran.stdout, re.MULTILINE)) == 7
