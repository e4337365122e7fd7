"""The tables of docs/performance.md are those of the rows beside it."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"


def _module(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look themselves up, and the page its rows
    spec.loader.exec_module(module)
    return module


_module("bench_rows")
page = _module("bench_page")
profile = _module("bench_profile")
ROW = {
    "part": "head",
    "name": "head: x",
    "ours": 2.0,
    "peer": 6.0,
    "ratio": 3.0,
    "low": 2.9,
    "high": 3.1,
    "goal": "at least 2.5",
    "met": True,
    "unit": "ms",
    "note": "a note",
}
MACHINE = {
    "processor": "p",
    "cores": 2,
    "memory_gib": 8.0,
    "system": "s",
    "python": "3.11",
    "threads": "1",
    "packages": {"numpy": "2"},
}
FOUND = {"size": "full", "time": "2026-01-02T00:00+00:00", "machine": MACHINE, "rows": [ROW]}


def test_the_page_shows_the_rows_beside_it():
    found = json.loads(page.ROWS.read_text(encoding="utf-8"))
    written = page.PAGE.read_text(encoding="utf-8")
    assert page.filled(written, found) == written


def test_every_row_is_in_a_table_of_the_page():
    found = json.loads(page.ROWS.read_text(encoding="utf-8"))
    written = page.PAGE.read_text(encoding="utf-8")
    assert all(f"| {each['name']} |" in written for each in found["rows"])


def test_words_around_a_table_stay_and_its_rows_are_replaced():
    before = "Words.\n<!-- rows: head -->\nold\n<!-- end -->\nMore.\n"
    after = page.filled(before, FOUND)
    assert after.startswith("Words.\n")
    assert after.endswith("More.\n")
    assert "old" not in after
    assert "| head: x | 2.00 ms | 6.00 ms | 3.00 | 2.90 to 3.10 | at least 2.5: met |" in after
    assert page.filled(after, FOUND) == after


def test_machine_and_notes_are_filled_in_too():
    marks = "<!-- machine -->\n<!-- end -->\n<!-- notes: head -->\n<!-- end -->\n"
    after = page.filled(marks, FOUND)
    assert "Measured 2026-01-02, full size: p; 2 cores" in after
    assert "- head: x: a note." in after


def test_every_profile_that_is_kept_is_on_the_page():
    written = page.PAGE.read_text(encoding="utf-8")
    kept = sorted(page.PROFILES.glob("*.txt"))
    assert [each.stem for each in kept] == sorted(profile.RUNS)
    assert all(each.read_text(encoding="utf-8") in written for each in kept)


def test_a_profile_adds_up_by_own_function_and_by_the_last_one():
    stacks = ["run (m.py);fit (skinml/a.py);matmul (np.py) 3", "fit (skinml/a.py) 1", "x (y.py) 4"]
    stacks += ["process 12:/somebody/python;fit (skinml/a.py);load (<importlib._bootstrap>:1) 9"]
    told = profile.text_of(stacks)
    own, last = told.split("function at the end")
    assert told.startswith("8 samples")
    assert "50.0%  fit (skinml/a.py)" in own
    assert "50.0%  outside skinml" in own
    assert "37.5%  matmul (np.py)" in last
    assert "somebody" not in told


def test_a_profile_of_a_repeated_step_leaves_out_what_comes_before():
    stacks = ["main (bench_profile.py:1);plan (skinml/a.py) 3", "work (skinml/b.py) 1"]
    stacks += ["main (bench_profile.py:1);_again (bench_profile.py:9);step (skinml/a.py) 1"]
    told = profile.text_of(stacks)
    assert told.startswith("2 samples")
    assert "plan" not in told


def test_a_goal_that_is_not_met_shows():
    missed = FOUND | {"rows": [ROW | {"met": False}]}
    assert "**not met**" in page.filled("<!-- rows: head -->\n<!-- end -->\n", missed)


def test_what_is_measured_anew_replaces_its_parts_and_the_others_keep_their_machine():
    """Both ways in which rows are kept: as a benchmark wrote them, and put together before."""
    older = {**FOUND, "machine": {**FOUND["machine"], "processor": "an older one"}}
    other = [{**FOUND["rows"][0], "part": "rounds", "name": "a round"}]
    kept = {**older, "rows": [*older["rows"], *other]}
    once = page.merged(kept, FOUND)
    assert page.merged(once, FOUND)["rows"] == once["rows"]
    assert [each["part"] for each in once["rows"]].count("rounds") == 1
    words = page.machine_words(once)
    assert words.count("Measured") == 2
    assert "*rounds*: Measured" in words
    assert words.index(FOUND["machine"]["processor"]) < words.index("an older one")
    assert page.merged(None, FOUND)["rows"] == FOUND["rows"]
