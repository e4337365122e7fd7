"""`kill -9` of the coordinator at any point of a round: what the clinics released stays charged.

A forked child drives a run over the local grid and kills itself at a given point of its third
round. Another opens checkpoint, ledgers and books of answers anew from the disk and goes on. The
schedule is that of a run without noise, so that the model must be that of an unbroken run, bit for
bit.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from skinml.errors import DataError, EnvironmentProblem
from skinml.experiments.resuming import Checkpoints, find_interrupted, turn
from skinml.experiments.workspace import Workspace, in_work
from skinml.federated.coordinator import exchanger, grid_asker
from skinml.models.linear_head import LinearHead
from skinml.privacy.mechanism import Mechanism
from skinml.training.fit import fit
from tests.federated.conftest import NAMES, ROUNDS, RUN
from tests.federated.test_ledger_killed import die, in_a_child

KILLED = 3
# What a clinic has charged of the third round when the coordinator dies there.
POINTS = {
    ("distributed", 1, "before its shares are asked for"): ("shares", False, 0),
    ("distributed", 1, "when all have shared"): ("shares", True, 0),
    ("distributed", 1, "when the masked sums are there"): ("masked", True, 1),
    ("distributed", 1, "when the survivors have signed"): ("survivors", True, 1),
    ("distributed", 1, "when the shares are there and nothing is opened"): ("unmask", True, 1),
    ("distributed", 0, "before the paired sums are asked for"): ("paired", False, 0),
    ("distributed", 0, "when the paired sums are there"): ("paired", True, 1),
    ("local", 0, "before the sums are asked for"): ("sums", False, 0),
    ("local", 0, "when the sums are there"): ("sums", True, 1),
}
KEPT = {"when the round is whole and not kept": False, "when the round is kept": True}


@pytest.fixture
def world(make):
    def build(trust, dropouts=0):
        bare = make("none")
        world = make(trust, books=trust, tolerated_dropouts=dropouts)
        for name in NAMES:
            world.change(name, learner=bare.learner, mechanism=Mechanism(0.0))
        return replace(world, learner=bare.learner)

    return build


@pytest.fixture
def draft(tmp_path) -> Path:
    folder = Workspace(tmp_path).draft(RUN)
    folder.mkdir(parents=True)
    return folder


def go(world, draft, *, at=None, after_keeping=None):
    """One process's turn at the run; gives the model."""
    with turn(draft) as life:
        checkpoints = Checkpoints(draft, RUN, world.learner.rounds, world.record)
        done = checkpoints.load()
        terms = world.terms(first_attempt=life.first_attempt)
        honest = grid_asker(world.grid(), terms, Event())

        def ask(requests):
            first = next(iter(requests.values()))
            here = at is not None and (first.round, first.step) == (KILLED, at[0])
            if here and not at[1]:
                die()
            replies = list(honest(requests))
            if here:
                die()
            return replies

        def keep(progress):
            last = progress.rounds_done == KILLED
            if last and after_keeping is False:
                die()
            checkpoints.keep(progress)
            if last and after_keeping:
                die()

        exchange = exchanger(ask, terms, world.record)
        arrays = fit(world.learner, exchange, resume=done, keep=keep).arrays
    np.savez(draft.parent / "model", **arrays)
    return LinearHead(arrays["centre"], arrays["weight"], arrays["offset"])


def model(draft):
    with np.load(draft.parent / "model.npz") as held:
        return {name: held[name] for name in held.files}


def require_same_model(world, draft, make_draft):
    go(world("none"), make_draft)
    first, second = model(draft), model(make_draft)
    for name, values in first.items():
        assert np.array_equal(values, second[name])


@pytest.mark.parametrize(("trust", "dropouts", "point"), POINTS)
def test_killed_at_a_step_the_run_goes_on_and_every_release_is_charged(
    world, draft, tmp_path, trust, dropouts, point
):
    def here():
        return world(trust, dropouts)

    step, after, charged = POINTS[trust, dropouts, point]
    assert in_a_child(lambda: go(here(), draft, at=(step, after)))
    for name in NAMES:
        assert rounds_of(here(), name).count(KILLED) == charged
    assert not in_a_child(lambda: go(here(), draft))
    for name in NAMES:
        entries = here().ledger(name)
        assert [e.binding.round for e in entries].count(KILLED) == charged + 1
        assert [e.binding.attempt for e in entries if e.binding.round > KILLED] == [11] * (
            ROUNDS + 1 - KILLED
        )
    whole = Workspace(tmp_path / "whole").draft(RUN)
    whole.mkdir(parents=True)
    require_same_model(world, draft, whole)


@pytest.mark.parametrize("kept", KEPT)
def test_killed_around_the_checkpoint_a_round_is_asked_again_only_where_it_was_not_kept(
    world, draft, kept
):
    assert in_a_child(lambda: go(world("distributed"), draft, after_keeping=KEPT[kept]))
    assert not in_a_child(lambda: go(world("distributed"), draft))
    for name in NAMES:
        assert rounds_of(world("distributed"), name).count(KILLED) == (1 if KEPT[kept] else 2)


def rounds_of(world, name):
    return [entry.binding.round for entry in world.ledger(name)]


@pytest.mark.parametrize(
    ("dropouts", "steps"), [(0, ("paired", "paired")), (1, ("masked", "unmask"))]
)
def test_killed_twice_no_two_attempts_share_a_number(world, draft, dropouts, steps):
    def here():
        return world("distributed", dropouts)

    for step in steps:
        assert in_a_child(lambda step=step: go(here(), draft, at=(step, True)))
    assert not in_a_child(lambda: go(here(), draft))
    tried = [e.binding.attempt for e in here().ledger("north") if e.binding.round == KILLED]
    assert tried == [1, 11, 21]


def test_the_participation_of_all_rounds_outlives_the_coordinator(world, draft):
    assert in_a_child(lambda: go(world("distributed"), draft, at=("paired", True)))
    here = world("distributed")
    go(here, draft)
    told = [(each.round, each.attempt, each.took_part) for each in here.record.participation]
    attempts = [1] * (KILLED - 1) + [11] * (ROUNDS + 2 - KILLED)
    assert told == [(n, a, NAMES) for n, a in enumerate(attempts, start=1)]


def test_before_its_first_whole_round_a_run_cannot_be_resumed(draft, tmp_path):

    with turn(draft), pytest.raises(DataError, match="none"):
        find_interrupted(Workspace(tmp_path), RUN)


def test_two_processes_do_not_take_their_turn_at_one_time(draft):

    with turn(draft), pytest.raises(EnvironmentProblem), turn(draft):
        pass
    assert not in_work(draft)
    with turn(draft):
        assert in_work(draft)
