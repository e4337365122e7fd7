"""The stopwatch: it tells how long answers took, and changes nothing about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from skinml.federated.answer_times import AnswerTimes, Stopwatch
from skinml.federated.messages import Reply, Request
from skinml.records import Participation
from skinml.tracking.content import clinic_rounds

CLINICS = ("a", "b", "c")


class World:
    """Clinics that answer after so many seconds of a clock of their own; text: no answer."""

    def __init__(self) -> None:
        self.now = 0.0
        self.told: list[AnswerTimes] = []
        self.watch = Stopwatch(self.told.append, lambda: self.now)

    def ask(
        self, takes: Mapping[str, float | str], lasts: float
    ) -> Iterator[tuple[str, Reply | str]]:
        start = self.now
        for name, each in takes.items():
            if isinstance(each, float):
                self.now = start + each
                yield name, Reply(name, 1, {}, {})
        self.now = start + lasts
        yield from ((name, each) for name, each in takes.items() if isinstance(each, str))

    def round(
        self,
        takes: Mapping[str, float | str],
        lasts: float,
        *,
        number: int = 1,
        attempt: int = 1,
        patience_s: float = 100.0,
    ) -> dict[str, Reply | str]:
        timed = self.watch.timed(lambda requests: self.ask(takes, lasts), patience_s)
        request = Request("r", number, attempt, CLINICS, {})
        answered = timed(dict.fromkeys(takes, request))
        assert not isinstance(answered, Mapping)
        return dict(answered)


def test_each_answer_has_its_time_and_arrives_unchanged() -> None:
    world = World()
    found = world.round({"a": 1.5, "b": 4.0, "c": "no answer"}, 100.0)
    assert found == {"a": Reply("a", 1, {}, {}), "b": Reply("b", 1, {}, {}), "c": "no answer"}
    assert world.watch.times.answers == {"a": 1.5, "b": 4.0}
    assert world.watch.times.given_up == {"c": 0.0}, "its whole deadline went by"


def test_the_steps_of_an_attempt_are_added_up_and_another_begins_anew() -> None:
    world = World()
    world.round({"a": 1.0, "b": 2.0}, 2.0)
    world.round({"a": 3.0, "b": 1.0}, 3.0)
    assert world.watch.times.answers == {"a": 4.0, "b": 3.0}
    world.round({"a": 1.0}, 1.0, attempt=2)
    assert (world.watch.times.attempt, world.watch.times.answers) == (2, {"a": 1.0})
    world.round({"a": 2.0}, 2.0, number=2)
    assert (world.watch.times.round, world.watch.times.answers) == (2, {"a": 2.0})


def test_what_was_left_of_a_deadline_is_told_of_those_that_were_given_up() -> None:
    world = World()
    world.round({"a": 10.0, "b": "the clinic's node is not connected"}, 10.0)
    assert world.watch.times.given_up == {"b": 90.0}
    world.round({"b": "the clinic's node is not connected"}, 5.0)
    assert world.watch.times.given_up == {"b": 185.0}, "asked again, and given up again"


def test_a_clinic_that_answers_when_asked_again_was_not_given_up() -> None:
    world = World()
    world.round({"a": 10.0, "b": "no answer"}, 10.0)
    world.round({"b": 7.0}, 7.0)
    assert (world.watch.times.given_up, world.watch.times.answers["b"]) == ({}, 7.0)


def test_whoever_listens_hears_each_answer_as_it_comes() -> None:
    world = World()
    world.round({"a": 1.0, "b": 2.0}, 2.0)
    assert [sorted(each.answers) for each in world.told] == [[], ["a"], ["a", "b"]]


@pytest.mark.parametrize("given", [{"a": 1.0}, {}])
def test_answers_may_come_all_at_once(given: dict[str, float]) -> None:
    watch = Stopwatch()
    replies = {name: Reply(name, 1, {}, {}) for name in given}
    timed = watch.timed(lambda requests: replies, 10.0)
    found = timed({"a": Request("r", 1, 1, CLINICS, {})})
    assert dict(found.items() if isinstance(found, Mapping) else found) == replies
    assert set(watch.times.answers) == set(given)


def test_a_round_tells_of_clinics_their_attendance_and_nothing_that_their_data_decide() -> None:
    entries = [
        Participation(1, CLINICS, ("a",), {"b": "x", "c": "x"}, 1),  # ended without a sum
        Participation(1, CLINICS, ("a", "b"), {"c": "x"}, 2),
        Participation(2, CLINICS, ("a",), {"b": "x", "c": "x"}, 1),
    ]
    assert clinic_rounds(entries, {"a": 0.26}) == {
        "a": {"took_part": 1.0, "rounds_share": 1.0, "answer_s": 0.3},
        "b": {"took_part": 0.0, "rounds_share": 0.5},
        "c": {"took_part": 0.0, "rounds_share": 0.0},
    }
