"""Supervision: parts start again, are logged, and leave nobody behind."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from skinml.deployment.supervision import (
    Backoff,
    Ended,
    JsonLog,
    Part,
    Supervision,
    end_leftovers,
)

FAST = Backoff(first_s=0.05, most_s=0.2, calm_s=30)
PATIENCE_S = 20.0


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def part(name: str, script: str, folder: Path) -> Part:
    return Part(name, ("/bin/sh", "-c", script), folder, {"WORD": "secretless"})


def supervision(folder: Path, *parts: Part, **more: object) -> Supervision:
    return Supervision(
        parts,
        JsonLog(folder / "log.jsonl"),
        folder / "book.json",
        backoff=FAST,
        grace_s=1.0,
        **more,  # type: ignore[arg-type] # the tests' own keywords
    )


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_part_that_ends_is_started_again_and_its_words_are_logged(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    script = f'echo once >> {runs}; echo "hello $WORD"; exit 3'
    with supervision(tmp_path, part("brief", script, tmp_path)).running():
        wait_for(lambda: runs.exists() and len(runs.read_text().splitlines()) >= 3)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert "hello secretless" in [line.get("line") for line in lines]
    assert any("exit code 3" in line.get("words", "") for line in lines)
    assert (tmp_path / "log.jsonl").stat().st_mode & 0o077 == 0


def test_the_wait_grows_to_its_limit_and_starts_anew_after_a_calm_run() -> None:
    waits = [FAST.wait_s(Ended("a", 1, 0, (), failures)) for failures in (1, 2, 3, 4, 99)]
    assert waits == [0.05, 0.1, 0.2, 0.2, 0.2]


def test_whoever_knows_better_sets_the_wait(tmp_path: Path) -> None:
    asked: list[Ended] = []

    def know(ended: Ended) -> float:
        asked.append(ended)
        return 60.0

    with supervision(tmp_path, part("a", "echo why; exit 7", tmp_path), wait_s=know).running():
        wait_for(lambda: bool(asked))
        time.sleep(0.3)
    assert [(each.code, each.tail, each.failures) for each in asked] == [(7, ("why",), 1)]


def test_detached_and_deaf_grandchildren_end_with_the_block(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    deaf = f"trap '' TERM; echo $$ >> {pids}; while :; do sleep 0.2; done"
    script = f"setsid sh -c \"{deaf.replace('$', chr(92) + '$')}\" & sh -c 'exec sleep 600' & wait"
    supervised = supervision(tmp_path, part("family", script, tmp_path))
    with supervised.running():
        wait_for(lambda: pids.exists() and bool(pids.read_text().strip()))
        below = [each.pid for each in psutil.Process(supervised.pids()["family"]).children(True)]
        assert len(below) >= 2
    assert not [pid for pid in below if alive(pid)]
    assert not (tmp_path / "book.json").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux alone")
def test_an_orphan_of_a_killed_part_ends_with_the_block(tmp_path: Path) -> None:
    supervised = supervision(tmp_path, part("parent", "sleep 601 & wait", tmp_path))
    with supervised.running():
        wait_for(lambda: bool(supervised.pids()))
        first = supervised.pids()["parent"]
        wait_for(lambda: bool(psutil.Process(first).children()))
        orphan = psutil.Process(first).children()[0].pid
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: supervised.pids().get("parent", first) != first)
        assert alive(orphan)
    assert not alive(orphan)


SUPERVISOR = """
import sys
from pathlib import Path
from skinml.deployment.supervision import JsonLog, Part, Supervision
folder = Path(sys.argv[1])
part = Part("sleeper", ("/bin/sh", "-c", "sleep 602 & wait"), folder)
with Supervision([part], JsonLog(folder / "log"), folder / "book.json").running() as running:
    running.wait()
"""


def test_a_killed_supervisors_leftovers_are_ended_by_the_next(tmp_path: Path) -> None:
    book = tmp_path / "book.json"
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(tmp_path)])
    try:
        wait_for(lambda: book.exists() and len(json.loads(book.read_bytes())) >= 2)
        pids = [pid for pid, _ in json.loads(book.read_bytes())]
    finally:
        supervisor.kill()
        supervisor.wait()
    assert [pid for pid in pids if alive(pid)] == pids
    assert end_leftovers(book) == len(pids)
    assert not [pid for pid in pids if alive(pid)]


def test_another_process_with_a_remembered_number_is_left_alone(tmp_path: Path) -> None:
    book = tmp_path / "book.json"
    sleeper = subprocess.Popen(["sleep", "603"])
    try:
        book.write_text(json.dumps([[sleeper.pid, 12345.0]]))
        assert end_leftovers(book) == 0
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


def test_colours_and_noise_stay_out_of_the_log(tmp_path: Path) -> None:
    script = r"printf '\033[92mINFO\033[0m good\nchatter 200\n'; echo end"
    loud = Part("loud", ("/bin/sh", "-c", script), tmp_path, noise=r"chatter \d+$")
    log = tmp_path / "log.jsonl"
    with supervision(tmp_path, loud).running():
        wait_for(lambda: log.exists() and "end" in log.read_text())
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    said = {line["line"] for line in lines if line["event"] == "output"}
    assert said == {"INFO good", "end"}


def test_a_program_that_is_not_there_is_an_ending_like_others(tmp_path: Path) -> None:
    told: list[str] = []
    missing = Part("missing", ("/no/such/program",), tmp_path)
    with supervision(
        tmp_path, missing, told=lambda part, event, words: told.append(f"{part} {event} {words}")
    ).running():
        wait_for(lambda: any("127" in each for each in told))


def test_a_long_log_is_turned_over(tmp_path: Path) -> None:
    log = JsonLog(tmp_path / "log.jsonl")
    for _ in range(10):
        log.write(line="x" * 2**20)
    assert (tmp_path / "log.jsonl.1").exists()
    assert (tmp_path / "log.jsonl").stat().st_size < 9 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux alone")
def test_nobodys_orphans_are_adopted_after_the_block(tmp_path: Path) -> None:
    def adopts() -> int:
        found = ctypes.c_int(-1)
        ctypes.CDLL(None).prctl(37, ctypes.byref(found), 0, 0, 0)  # PR_GET_CHILD_SUBREAPER
        return found.value

    with supervision(tmp_path, part("brief", "sleep 605", tmp_path)).running():
        assert adopts() == 1
    assert adopts() == 0


def test_a_part_is_started_again_even_where_whoever_knows_the_wait_fails(tmp_path: Path) -> None:
    runs = tmp_path / "runs"

    def fails(ended: Ended) -> float | None:
        raise ValueError(ended.part)

    script = f"echo once >> {runs}"
    with supervision(tmp_path, part("brief", script, tmp_path), wait_s=fails).running():
        wait_for(lambda: runs.exists() and len(runs.read_text().splitlines()) >= 3)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert "ValueError" in [line.get("words") for line in lines]
