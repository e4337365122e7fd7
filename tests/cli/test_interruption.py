"""Clinics that fail and commands that are stopped: named, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from skinml.clinic.folder import open_folder
from skinml.errors import IncompleteRunError
from skinml.experiments.run import run

CLINICS = ("alderbrook", "birchmoor")
MARK = "SKINML_TEST_MARK"
LONG = "training.head.rounds=3000"
SOME = "training.head.rounds=100"


def _marked(mark: str) -> list[psutil.Process]:
    """All processes that were started, however indirectly, with the mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def _releases(place: Path, clinic: str) -> int:
    ledger = place / "clinics" / clinic / "ledger.jsonl"
    return ledger.read_bytes().count(b"\n") if ledger.is_file() else 0


def _in_rounds(place: Path) -> bool:
    return all(_releases(place, clinic) > 4 for clinic in CLINICS)


def _in_extraction(place: Path) -> bool:
    return any(path.stat().st_size for path in place.glob("clinics/*/features/*.store"))


def _require_nothing_half_written(place: Path) -> None:
    """Of a run that was broken off, its config and its whole rounds are left, and nothing else."""
    for draft in place.glob("runs/*"):
        assert draft.name.startswith(".")
        assert {each.name for each in draft.iterdir()} == {
            ".lock",
            "checkpoint",
            "config.json",
            "lives.json",
        }
    assert not list(place.rglob("samples-*"))
    for path in place.glob("clinics/*/clinic.json"):
        open_folder(path.parent).ledger.entries()


def _interrupt(process: subprocess.Popen[str], how: str) -> None:
    if how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()


FAST = [("extraction", "Ctrl-C")]
SLOW = [("rounds", "Ctrl-C"), ("rounds", "SIGTERM"), ("extraction", "SIGTERM")]


@pytest.mark.parametrize(
    ("stage", "how"), [*FAST, *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW)]
)
def test_a_stopped_command_leaves_nothing_behind(
    clinics_place: Path,
    small: tuple[str, ...],
    start: Callable[..., subprocess.Popen[str]],
    skinml: Callable[..., Any],
    stage: str,
    how: str,
) -> None:
    mark = uuid4().hex
    if stage == "extraction":
        for store in clinics_place.glob("clinics/*/features/*.store"):
            store.unlink()
    words = ("run", "quickstart", *small, SOME, f"work_dir={clinics_place}", "--json")
    process = start(*words, **{MARK: mark})
    reached = _in_rounds if stage == "rounds" else _in_extraction
    assert _wait_until(lambda: reached(clinics_place) or process.poll() is not None, 120)
    assert process.poll() is None, process.communicate()
    _interrupt(process, how)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    first, *others = err.splitlines()
    assert first == "error: interrupted"
    assert out.startswith('{"error": {"code": 130')
    assert _wait_until(lambda: not _marked(mark), 30), _marked(mark)
    _require_nothing_half_written(clinics_place)
    if stage == "extraction":
        assert not others
        assert not list(clinics_place.glob("runs/*"))
        return
    (told,) = others
    words = told.partition("Go on: skinml ")[2].split()
    _require_resumed(skinml(*words, "--json"), clinics_place)


def _require_resumed(outcome: Any, place: Path) -> None:
    """Each clinic is charged once for every round, and once more for the one broken off."""
    assert outcome.code == 0, outcome.told
    assert outcome.json["complete"]
    assert outcome.json["resumes"] == 1
    (folder,) = place.glob("runs/*")
    assert folder.name == outcome.json["run"]
    assert {each["round"] for each in outcome.json["participation"]} == set(range(1, 103))
    planned = 103  # the first round makes two releases
    for clinic in CLINICS:
        assert planned <= _releases(place, clinic) <= planned + 2


def test_a_run_whose_process_was_killed_goes_on(
    clinics_place: Path,
    small: tuple[str, ...],
    start: Callable[..., subprocess.Popen[str]],
    skinml: Callable[..., Any],
) -> None:
    """As after a power cut: nobody had time to clear up, and MLflow thinks that it still runs."""
    mark = uuid4().hex
    tracked = ("tracking.enabled=true", f"work_dir={clinics_place}")
    process = start("run", "quickstart", *small, SOME, *tracked, **{MARK: mark})
    assert _wait_until(lambda: _in_rounds(clinics_place) or process.poll() is not None, 120)
    kept = lambda: list(clinics_place.glob("runs/.*.draft/checkpoint"))  # noqa: E731
    assert _wait_until(lambda: bool(kept()), 60)
    for each in _marked(mark):
        each.kill()
    process.communicate(timeout=60)
    assert _wait_until(lambda: not _marked(mark), 30), _marked(mark)
    run_id = kept()[0].parent.name.removeprefix(".").removesuffix(".draft")
    words = ("run", "--resume", run_id, f"work_dir={clinics_place}")
    refused = skinml(*words, "seed=3")
    assert refused.code == 2
    assert "--resume with the run alone" in refused.err
    _require_resumed(skinml(*words, "--json"), clinics_place)
    assert _mlflow_status(clinics_place) == ["FINISHED"] * 3  # the run and two clinics
    assert not list(clinics_place.rglob("samples-*"))
    again = skinml(*words)
    assert again.code == 2
    assert "which is finished" in again.err


@pytest.mark.parametrize("words", [(), ("--resume", "nobody")])
def test_a_run_needs_an_experiment_or_a_run_that_was_broken_off(
    skinml: Callable[..., Any], tmp_path: Path, words: tuple[str, ...]
) -> None:
    place = (f"work_dir={tmp_path}",) if words else ()
    outcome = skinml("run", *words, *place)
    assert outcome.code == 2
    assert outcome.err.startswith("error: expected ")


def _mlflow_status(place: Path) -> list[str]:
    with sqlite3.connect(place / "mlflow.db") as store:
        found = [row[0] for row in store.execute("select status from runs")]
    store.close()
    return found


def _attendance(place: Path) -> dict[str, list[tuple[int, float]]]:
    """In which rounds MLflow says that each clinic was there."""
    query = (
        "select t.value, m.step, m.value from metrics m join tags t using (run_uuid) "
        "where t.key = 'skinml.clinic' and m.key = 'took_part' order by m.step"
    )
    found: dict[str, list[tuple[int, float]]] = {}
    with sqlite3.connect(place / "mlflow.db") as store:
        for clinic, step, value in store.execute(query):
            found.setdefault(clinic, []).append((step, value))
    store.close()
    return found


def test_a_clinic_whose_process_is_killed_ends_the_run_as_incomplete(
    skinml: Callable[..., Any],
    clinics_place: Path,
    small: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its process computed in one thread, for there is one a core, whatever the user has set."""
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    me = psutil.Process()
    before = {child.pid for child in me.children(recursive=True)}
    threads = []

    def kill() -> None:
        _wait_until(lambda: _in_rounds(clinics_place), 120)
        for child in me.children(recursive=True):
            if child.pid not in before and child.name().startswith("ray::"):
                if "ClientApp" in child.name():  # Ray has helpers beside the workers
                    threads.append(child.environ().get("OMP_NUM_THREADS"))
                child.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    outcome = skinml("run", "quickstart", *small, LONG, f"work_dir={clinics_place}")
    killer.join()
    assert (set(threads), os.environ["OMP_NUM_THREADS"]) == ({"1"}, "7")
    assert outcome.code == 4, outcome.told
    first, *details = outcome.err.splitlines()
    assert first.startswith("error: expected every clinic to take part")
    assert any(clinic in first for clinic in CLINICS)
    assert "the clinic's process died" in "".join(details)
    left = lambda: {c.pid for c in me.children(recursive=True)} - before  # noqa: E731
    assert _wait_until(lambda: not left(), 30), left()
    _require_nothing_half_written(clinics_place)


class LosesItsLedger:
    """Puts a folder in the place of a clinic's ledger after the third round."""

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger
        self._stage = ""

    def begin(self, stage: str, total: int) -> None:
        self._stage = stage

    def reached(self, done: int) -> None:
        if self._stage == "rounds" and done == 3:
            self._ledger.rename(self._ledger.with_name("aside"))
            self._ledger.mkdir()

    def say(self, text: str) -> None:
        pass


def test_a_clinic_that_cannot_answer_is_named_and_the_run_is_marked_as_failed(
    clinics_place: Path, small: tuple[str, ...]
) -> None:
    watcher = LosesItsLedger(clinics_place / "clinics" / CLINICS[1] / "ledger.jsonl")
    words = (*small, f"work_dir={clinics_place}", "tracking.enabled=true")
    with pytest.raises(IncompleteRunError) as caught:
        run("quickstart", words, progress=watcher)
    assert caught.value.exit_code == 4
    assert f"in round 4 without {CLINICS[1]}" in caught.value.got
    assert CLINICS[0] not in caught.value.got
    (note,) = caught.value.__notes__
    assert "skinml run --resume" in note
    assert not list(clinics_place.glob("runs/[!.]*"))
    assert not list(clinics_place.rglob("samples-*"))
    assert _mlflow_status(clinics_place) == ["FAILED"] * 3  # the run and two clinics
    assert _attendance(clinics_place) == dict.fromkeys(CLINICS, [(1, 1.0), (2, 1.0), (3, 1.0)])  # noqa: RUF024 read alone
