"""Whose turn it is at a run, and how long a clinic waits for its own earlier answer."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from skinml.attempts import MOST_ATTEMPTS
from skinml.errors import IntegrityError
from skinml.experiments.resuming import resumable, turn
from skinml.experiments.sealed_book import PATIENCE_S
from skinml.federated.settings import FederationSettings


def test_each_turn_begins_behind_all_attempts_of_the_one_before(tmp_path: Path) -> None:
    firsts = []
    for _ in range(3):
        with turn(tmp_path) as life:
            firsts.append(life.first_attempt)
    assert firsts == [1, 1 + MOST_ATTEMPTS, 1 + 2 * MOST_ATTEMPTS]


def test_the_time_of_a_run_is_that_of_all_its_processes(tmp_path: Path) -> None:
    """One was stopped after 100 s, one was killed 30 s after its start, at its last checkpoint."""
    start = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
    notes = {"lives": 1, "began": start.isoformat(), "turn": start.isoformat(), "before_s": 0.0}
    stopped = notes | {"until": (start + timedelta(seconds=100)).isoformat()}
    (tmp_path / "lives.json").write_text(json.dumps(stopped))
    with turn(tmp_path) as life:
        assert (life.number, life.began, life.before_s) == (2, start, 100.0)
        told = json.loads((tmp_path / "lives.json").read_text())
        assert (told["before_s"], told["until"]) == (100.0, None)
    assert json.loads((tmp_path / "lives.json").read_text())["until"] is not None
    (tmp_path / "checkpoint").write_bytes(b"")
    at = (start + timedelta(seconds=30)).timestamp()
    os.utime(tmp_path / "checkpoint", (at, at))
    killed = notes | {"lives": 2, "before_s": 100.0, "until": None}
    (tmp_path / "lives.json").write_text(json.dumps(killed))
    with turn(tmp_path) as life:
        assert (life.number, life.before_s) == (3, 130.0)


@pytest.mark.parametrize("notes", ['{"lives":', "{}", "[]", '{"lives": 1, "began": 3}', "\x00"])
def test_damaged_notes_are_refused_by_name(tmp_path: Path, notes: str) -> None:
    (tmp_path / "lives.json").write_text(notes)
    with pytest.raises(IntegrityError, match="how many processes worked"), turn(tmp_path):
        pass


def test_a_checkpoint_whose_notes_are_gone_is_refused(tmp_path: Path) -> None:
    """Its first attempt would have the number of one that the clinics have answered."""
    (tmp_path / "checkpoint").write_bytes(b"")
    assert resumable(tmp_path)
    with pytest.raises(IntegrityError, match="a checkpoint without them"), turn(tmp_path):
        pass


def test_a_clinic_asked_again_waits_for_its_answer_as_long_as_a_round_may_take() -> None:
    """Two workers may be asked the same; the second finds the first one's answer or nothing."""
    assert FederationSettings().round_deadline_s < PATIENCE_S
