"""What a run leaves in its clinics' ledgers and folders."""

from __future__ import annotations

import stat
from collections.abc import Callable
from math import sqrt
from pathlib import Path

import pytest

from skinml.clinic.folder import open_folder
from skinml.experiments.run import Finished
from skinml.privacy.ledger import Ledger

RunSmall = Callable[..., Finished]
CENTRALISED = "federation=centralised"
ROUNDS = "training.head.rounds=2"


def _ledger(place: Path) -> Ledger:
    return open_folder(place / "clinics" / "pooled").ledger


def test_each_release_is_one_event_and_runs_add_up(run_small: RunSmall, cached_place: Path) -> None:
    first = run_small(cached_place, CENTRALISED, ROUNDS, "privacy.epsilon=1")
    names = [entry.name for entry in _ledger(cached_place).entries()]
    # Label counts and feature sum, two gradients, validation scores.
    assert len(names) == len(first.record.participation) + 1 == 5
    assert names.count("gradient") == 2
    assert names[-1] == "validation_scores"
    second = run_small(cached_place, CENTRALISED, ROUNDS, "privacy.epsilon=1")
    entries = _ledger(cached_place).entries()
    assert len(entries) == 10
    assert {entry.binding.run for entry in entries} == {first.record.run, second.record.run}
    spent = second.record.guarantee
    assert spent.epsilon is not None
    assert spent.total_epsilon is not None
    assert spent.epsilon == pytest.approx(1, abs=1e-3)
    # Gaussian noise composes in squares: the total lies near sqrt(2), far below the sum of 2.
    assert spent.epsilon * sqrt(2) * 0.95 < spent.total_epsilon < spent.epsilon * 1.6


def test_a_run_without_privacy_leaves_an_unbounded_total(
    not_private: Finished,
) -> None:
    promised = not_private.record.guarantee
    assert not promised.private
    assert promised.epsilon is None
    assert promised.total_epsilon is None
    (spend,) = promised.clinics.values()
    assert spend.num_events > 0


def test_a_clinics_folder_is_closed_to_others(not_private: Finished) -> None:
    clinic = not_private.folder.parents[1] / "clinics" / "pooled"
    for path in (clinic, *clinic.rglob("*")):
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path.name
