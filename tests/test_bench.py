"""`scripts/bench`: how rows are made, and that a part runs at smoke size. No time is asserted."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
FIELDS = {"name", "ours", "peer", "ratio", "low", "high", "goal", "met", "unit", "note"}


def _module(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


rows = _module("bench_rows")


@pytest.mark.parametrize(
    ("goal", "ratio", "met"),
    [("at least 3", 4.0, True), ("at least 5", 4.0, False), ("at most 0.3", 0.25, True)],
)
def test_a_ratio_and_whether_it_is_met_follow_the_goal(goal, ratio, met):
    made = rows.row("x", [1.0, 2.0, 3.0], [4.0, 8.0, 6.0], goal=goal)
    assert made.ratio == ratio
    assert made.met is met
    assert (made.ours, made.peer) == (2.0, 6.0)
    assert made.low <= made.ratio <= made.high


def test_a_row_without_a_peer_holds_its_own_figure_against_the_goal():
    assert rows.row("x", [2.9], goal="at most 3").met
    assert not rows.row("x", [3.1], goal="at most 3").met
    assert rows.row("x", [3.1]).ratio is None


def test_no_goal_is_judged_at_smoke_size():
    assert rows.row("x", [9.0], [1.0], goal="at most 1.2", size="smoke").met is None


def test_a_goal_put_otherwise_is_refused():
    with pytest.raises(ValueError, match="at most NUMBER"):
        rows.row("x", [1.0], [1.0], goal="less than 2")


@pytest.mark.parametrize("ours", [[1.0, 2.1], [1.0, np.nan], [1.0]])
def test_sides_that_computed_different_things_end_a_benchmark(ours):
    with pytest.raises(rows.DifferentError):
        rows.require_same("sums", ours, [1.0, 2.0], tolerance=0.01)
    rows.require_same("sums", [1.0, 2.01], [1.0, 2.0], tolerance=0.01)


def test_sides_take_turns_and_the_first_turn_is_not_timed():
    heard = []
    mine, other = rows.in_turn(lambda: heard.append("a"), lambda: heard.append("b"), 2)
    assert "".join(heard) == "abab" + "ba"
    assert len(mine) == len(other) == 2


# CI runs all parts by scripts/bench --smoke.
@pytest.mark.parametrize(
    ("part", "num_rows"), [("fairness", 1), pytest.param("head", 4, marks=pytest.mark.slow)]
)
def test_a_part_is_measured_and_computes_what_its_peers_do(tmp_path, part, num_rows):
    place = tmp_path / "rows.json"
    ran = subprocess.run(
        [sys.executable, "scripts/bench_run.py", "--smoke", "--only", part, "--json", place],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(place.read_text())
    assert found["size"] == "smoke"
    assert {"processor", "cores", "packages"} <= set(found["machine"])
    assert len(found["rows"]) == num_rows
    for each in found["rows"]:
        assert set(each) == FIELDS | {"part"}
        assert each["met"] is None
        assert each["ours"] > 0
        assert each["name"] in ran.stdout
