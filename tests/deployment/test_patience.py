"""Clinics that Flower gave up on are asked again as long as the round needs them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from skinml.deployment.patience import patient
from skinml.federated.coordinator import UNREACHED
from skinml.federated.messages import Reply, Request
from skinml.federated.roll_call import Ask, RunTerms
from skinml.privacy.mechanism import Mechanism

CLINICS = ("east", "north", "south")
AWAY = min(UNREACHED)


def terms(*, allowed: int = 0, deadline_s: float = 5.0) -> RunTerms:
    return RunTerms("run", CLINICS, allowed, 1, deadline_s, Mechanism(0.0))


def requests(*names: str, step: str = "sums") -> dict[str, Request]:
    return dict.fromkeys(names or CLINICS, Request("run", 1, 1, CLINICS, {}, step))


class Line:
    """Clinics, some of whom are away for a number of questions."""

    def __init__(self, **away: int) -> None:
        self.away = dict(away)
        self.asked: list[tuple[str, ...]] = []

    def ask(self, requests: Mapping[str, Request]) -> dict[str, Reply | str]:
        self.asked.append(tuple(requests))
        found: dict[str, Reply | str] = {}
        for name in requests:
            self.away[name] = self.away.get(name, 0) - 1
            found[name] = AWAY if self.away[name] >= 0 else Reply(name, 1, {}, {})
        return found

    def expected(self) -> dict[str, bool]:
        return dict.fromkeys(CLINICS, True)


def answers(ask: Ask, asked: Mapping[str, Request]) -> dict[str, Reply | str]:
    found = ask(asked)
    pairs = list(found.items() if isinstance(found, Mapping) else found)
    assert len(dict(pairs)) == len(pairs)  # nobody is handed out twice
    return dict(pairs)


def test_a_clinic_that_comes_back_is_asked_the_same_again_and_the_others_are_not() -> None:
    line = Line(north=2)
    found = answers(patient(line.ask, terms(), line.expected, poll_s=0.01), requests())
    assert {name for name, reply in found.items() if isinstance(reply, Reply)} == set(CLINICS)
    assert line.asked == [CLINICS, ("north",), ("north",)]


def test_a_clinic_that_the_round_may_go_on_without_is_not_waited_for() -> None:
    line = Line(north=99)
    found = answers(patient(line.ask, terms(allowed=1), line.expected, poll_s=0.01), requests())
    assert found["north"] == AWAY
    assert line.asked == [CLINICS]


def test_those_that_fell_out_before_count_and_keys_are_needed_of_everybody() -> None:
    for asked in (requests("north", "south"), requests(step="keys")):
        line = Line(north=1)
        found = answers(patient(line.ask, terms(allowed=1), line.expected, poll_s=0.01), asked)
        assert isinstance(found["north"], Reply)


@pytest.mark.parametrize("connected", [False, True])
def test_waiting_ends_with_the_deadline(connected: bool) -> None:
    line = Line(north=10**9)
    there = dict.fromkeys(CLINICS, connected)
    found = answers(
        patient(line.ask, terms(deadline_s=0.2), lambda: there, poll_s=0.02), requests()
    )
    assert found["north"] == AWAY
    assert (len(line.asked) == 1) == (not connected)


def test_a_clinic_whose_enrolment_ends_is_not_waited_for() -> None:
    line, looks = Line(north=10**9), list[str]()

    def expected() -> dict[str, bool]:
        looks.append("look")
        return {"east": True, "south": True}

    found = answers(patient(line.ask, terms(deadline_s=1e6), expected, poll_s=0.01), requests())
    assert found["north"] == AWAY
    assert looks == ["look"]


def test_what_a_clinic_itself_said_is_not_asked_again() -> None:
    said = {"north": "expected whole sums; got others"}
    asked = patient(lambda _: said, terms(), lambda: dict.fromkeys(CLINICS, True))
    found = answers(asked, requests("north"))
    assert found == said
