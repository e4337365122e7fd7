"""The benchmark of rounds runs and prints a row a phase; how large they are is not asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_benchmark_of_rounds_measures_every_phase_of_plain_and_secure_sums(tmp_path):
    place = tmp_path / "rows.json"
    ran = subprocess.run(
        [sys.executable, "scripts/bench_rounds.py", "--smoke", "--json", str(place)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    rows = {row["name"]: row for row in json.loads(place.read_text())}
    assert all(
        set(row) == {"name", "ours", "peer", "ratio", "low", "high"} for row in rows.values()
    )
    cases = ("central, 4 clinics", "distributed, 4 clinics")
    cases = (*cases, f"{cases[1]} of whom 1 may drop out")
    starts = [f"{case}, in process: " for case in cases]
    assert len(rows) == 6 * len(starts)
    for start in starts:
        assert rows[start + "bytes down"]["ratio"] > 1  # counted: a header beside the same arrays
        assert rows[start + "clinics' computation, s"]["ours"] > 0
    plain, paired, shared = (rows[start + "bytes down"]["ours"] for start in starts)
    assert shared > 2 * paired > 2 * plain  # everybody's keys, and letters and shares
    assert all(name in ran.stdout for name in rows)
