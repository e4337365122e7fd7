"""`kill -9` at any point of a run, and a ledger that is never below the truth.

A forked child plays one clinic through a small run and kills itself at a given point; what it hands
to the wire is appended to a file. Another child opens everything anew from the disk and goes on
with the first round that nobody received. The truth is what the wire holds, composed without
skinml.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from math import exp, sqrt
from pathlib import Path

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from skinml.federated.clinic import Clinic, ClinicSetup, schedule
from skinml.federated.messages import Request
from skinml.privacy.ledger import Ledger, spent
from skinml.stewardship.anchors import Anchors

DELTA, EPSILON, ROUNDS = 1e-5, 3.0, 4
KEY = bytes(range(32))
LAST = ROUNDS + 2  # the first round counts, the last one validates

# From the beginning of the third round on: what must be seen, one after the other, before the end.
ANSWER = ("call", "answer")
POINTS = {
    "before the request is looked at": [],
    "before the ledger is opened": [("call", "reserve")],
    "before the line is announced": [("call", "announce")],
    "before the line is written": [("return", "announce"), ("c_call", "write")],
    "before the line is synced": [("return", "announce"), ("c_call", "fsync")],
    "before the anchor moves": [("call", "move")],
    "when the reservation stands": [("return", "reserve")],
    "before the sum is computed": [("call", "contribute")],
    "before the noise is drawn": [("call", "privatize")],
    "when the answer is ready": [("return", "answer")],
    "before the answer is on the wire": [("return", "answer"), ("c_call", "write")],
    "when the answer is on the wire": [("return", "answer"), ("c_return", "write")],
}
DISK = {"write", "fsync", "replace", "rename", "truncate", "ftruncate"}


class Place:
    """One clinic on the disk: its ledger with an anchor, and the wire."""

    def __init__(self, folder: Path, setup: ClinicSetup) -> None:
        self.folder, self.setup, self.wire = folder, setup, folder / "wire"
        self._anchors().create()

    def _anchors(self) -> Anchors:
        return Anchors(self.folder / "anchors", "north", KEY)

    def ledger(self) -> Ledger:
        return Ledger(self.folder / "ledger", "north", KEY, self._anchors().journal("ledger"))

    def received(self) -> list[dict]:
        if not self.wire.exists():
            return []
        return [json.loads(line) for line in self.wire.read_text().splitlines()]

    def run(self, attempt: int) -> None:
        """Answer every round that nobody received yet."""
        clinic = Clinic(replace(self.setup, ledger=self.ledger()))
        learner = self.setup.learner
        rounds = schedule(learner, self.setup.validation)
        state = learner.start()
        wire = os.open(self.wire, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in range(len(self.received()) + 1, LAST + 1):
            round_ = rounds[number - 1]
            sent = learner.model(state) if number == LAST else learner.query(round_, state)
            setup = self.setup
            request = Request(setup.run, round_.number, attempt, setup.participants, sent)
            names = sorted(clinic.answer(request))
            os.write(wire, (json.dumps({"round": number, "names": names}) + "\n").encode())


def in_a_child(work: Callable[[], object], hook: Callable[[str], None] | None = None) -> bool:
    """Do something in a child; tell whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            if hook is not None:
                sys.setprofile(lambda frame, event, arg: hook(_named(frame, event, arg)))
            work()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def _named(frame, event, arg) -> tuple[str, str]:
    name = frame.f_code.co_name if event in ("call", "return") else getattr(arg, "__name__", "")
    return event, name


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killer(point: Iterable[tuple[str, str]]) -> Callable:
    """Dies once a third round has begun and the point's events were seen in their order."""
    left = [ANSWER] * 3 + list(point)

    def hook(seen):
        if seen == left[0]:
            left.pop(0)
            if not left:
                die()

    return hook


def truth(place: Place, lines: Iterable[dict]) -> float:
    """Epsilon of what left, by the closed form of the noise that it was sent with."""
    rounds = schedule(place.setup.learner, place.setup.validation)
    left = defaultdict(list)
    for line in lines:
        for release in rounds[line["round"] - 1].releases:
            assert release.name in line["names"]
            left[release.split].append(1 / release.noise_multiplier)
    return max((composed(mus) for mus in left.values()), default=0.0)


def composed(mus: list[float]) -> float:
    mu = sqrt(sum(each**2 for each in mus))

    def excess(eps):
        return norm.cdf(mu / 2 - eps / mu) - exp(eps) * norm.cdf(-mu / 2 - eps / mu) - DELTA

    return brentq(excess, 0, mu**2 / 2 + 10 * mu) if excess(0) > 0 else 0.0


@pytest.fixture
def place(make, tmp_path):
    def at(name="place"):
        world = make("local", epsilon=EPSILON)
        folder = tmp_path / name
        folder.mkdir()
        return Place(folder, world.setups["north"])

    return at


def held(place: Place) -> float:
    return spent(place.ledger().entries(), DELTA)


def test_where_nothing_crashed_the_ledger_is_the_truth(place):
    here = place()
    assert not in_a_child(lambda: here.run(attempt=1))
    assert [line["round"] for line in here.received()] == list(range(1, LAST + 1))
    assert held(here) == pytest.approx(truth(here, here.received()), abs=1e-3)
    assert held(here) == pytest.approx(EPSILON, abs=1e-3)


@pytest.mark.parametrize("point", POINTS)
def test_after_a_crash_and_a_resume_the_ledger_is_at_least_the_truth(place, point):
    here = place()
    assert in_a_child(lambda: here.run(attempt=1), killer(POINTS[point]))
    assert held(here) >= truth(here, here.received()) - 1e-9  # also before anybody mends anything
    assert not in_a_child(lambda: here.run(attempt=2))
    lines = here.received()
    assert [line["round"] for line in lines] == list(range(1, LAST + 1))
    # At most the one reservation that was cut short is paid for and was never received.
    third = [line for line in lines if line["round"] == 3]
    again = held(here) - truth(here, lines)
    assert -1e-9 <= again <= truth(here, [*lines, *third]) - truth(here, lines) + 1e-3
    reserved = [entry.binding.round for entry in here.ledger().entries()]
    paid_twice = reserved.count(3) == 2
    assert (again > 2e-3) == paid_twice == (point in PAID_TWICE)


# Where the reservation was on the disk and the answer was not on the wire.
PAID_TWICE = {
    "before the line is synced",  # the system had it already: only a power cut would lose it
    "before the anchor moves",
    "when the reservation stands",
    "before the sum is computed",
    "before the noise is drawn",
    "when the answer is ready",
    "before the answer is on the wire",
}


@pytest.mark.slow
def test_wherever_the_disk_was_about_to_change_the_ledger_is_at_least_the_truth(place):
    for number in range(1, 1000):
        here = place(f"place-{number}")
        seen = 0

        def count(event):
            nonlocal seen
            if event[0] == "c_call" and event[1] in DISK:
                seen += 1
                if seen == number:  # noqa: B023  # the child runs within this turn of the loop
                    die()

        died = in_a_child(lambda: here.run(attempt=1), count)  # noqa: B023  # likewise
        assert held(here) >= truth(here, here.received()) - 1e-9
        assert not in_a_child(lambda: here.run(attempt=2))  # noqa: B023  # likewise
        lines = here.received()
        assert [line["round"] for line in lines] == list(range(1, LAST + 1))
        assert truth(here, lines) - 1e-9 <= held(here)
        if not died:
            assert number > 20
            assert held(here) == pytest.approx(truth(here, lines), abs=1e-3)
            return
    pytest.fail("the run never came to its end")
