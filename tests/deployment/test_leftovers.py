"""What a clinic keeps for a run goes where the run may not go on there."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from skinml.clinic.folder import ClinicFolder
from skinml.deployment import proposals
from skinml.deployment.leftovers import tidy
from skinml.deployment.run_proposal import RunProposal
from skinml.deployment.turns import LONGEST_S, QUICK, Turns
from tests.deployment.clinic_place import NOW, RUN, make_folder, proposal

OTHER = "quickstart-20260302-093000-3f4e"


@pytest.fixture
def folder(tmp_path: Path) -> ClinicFolder:
    return make_folder(tmp_path)


def approved(folder: ClinicFolder, run: str = RUN) -> list[Path]:
    """Say yes to a run, and keep something for it."""
    asked = RunProposal(**(proposal().model_dump() | {"run": run}))
    proposals.receive(folder, asked, now=NOW)
    proposals.decide(folder, run, True, "ada", now=NOW)
    place = folder.run(run)
    place.mkdir(parents=True)
    names = ("samples-train.sealed", "secure-sum.sealed", "predictions-test.sealed")
    for name in names:
        (place / name).write_bytes(b"sealed")
    return [place / name for name in names]


def kept(files: list[Path]) -> list[bool]:
    return [file.exists() for file in files]


def test_a_no_removes_samples_and_answers_and_leaves_predictions(folder: ClinicFolder) -> None:
    files = approved(folder)
    proposals.decide(folder, RUN, False, "ada", now=NOW)
    assert kept(files) == [False, False, True]


def test_what_has_expired_is_removed_and_what_has_not_stays(folder: ClinicFolder) -> None:
    files = approved(folder)
    assert tidy(folder, now=NOW + timedelta(days=6)) == ()
    assert kept(files) == [True, True, True]
    assert tidy(folder, now=NOW + timedelta(days=8)) == (RUN,)
    assert kept(files) == [False, False, True]
    assert tidy(folder, now=NOW + timedelta(days=8)) == ()


def test_a_run_that_begins_takes_the_place_of_idle_ones_alone(folder: ClinicFolder) -> None:
    idle, lively = approved(folder), approved(folder, OTHER)
    now = datetime.now(UTC)
    long_ago = (now - timedelta(days=2)).timestamp()
    for file in idle:
        os.utime(file, (long_ago, long_ago))
    at = NOW + timedelta(days=1)  # the files are dated by the real clock
    shift = (now - at).total_seconds()
    for file in [*idle, *lively]:
        stamp = file.stat().st_mtime - shift
        os.utime(file, (stamp, stamp))
    assert tidy(folder, now=at) == ()
    assert tidy(folder, beginning=RUN, now=at) == ()
    assert tidy(folder, beginning="a-third", now=at) == (RUN,)
    assert (kept(idle), kept(lively)) == ([False, False, True], [True, True, True])


def test_a_clinic_that_keeps_failing_is_asked_a_dozen_times_an_hour() -> None:
    turns, asked = Turns(), []
    for second in range(3600):
        if turns.may("north", float(second)):
            asked.append(second)
            turns.failed("north", float(second))
    assert asked[:QUICK] == list(range(QUICK))
    assert len(asked) < 25
    assert max(b - a for a, b in pairwise(asked)) == LONGEST_S


def test_a_refusal_is_for_good_and_a_success_begins_anew() -> None:
    turns = Turns()
    turns.failed("north", 0.0, for_good=True)
    assert not turns.may("north", 1e9)
    for _ in range(20):
        turns.failed("south", 0.0)
    assert not turns.may("south", 1.0)
    turns.forget("south")
    assert turns.may("south", 1.0)
