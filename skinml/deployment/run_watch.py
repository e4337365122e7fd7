"""Watching the rounds of a run at the coordinator: its standing on the disk, and its log.

Neither decides anything: a run goes on the same way with nobody watching.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from skinml.deployment.log_lines import Line
from skinml.deployment.progress import round_done
from skinml.deployment.standing import Standing, read_standing, write_standing
from skinml.deployment.supervision import JsonLog
from skinml.errors import EnvironmentProblem
from skinml.federated.answer_times import AnswerTimes, Stopwatch
from skinml.records import Participation

LOG = "log.jsonl"
_PART = "run"
_MANY = 20
_MANY_S = 1.0  # of so many clinics not each answer is written at once


def run_log(draft: Path) -> JsonLog:
    """Open the log of a run, which stays with it.

    Args:
        draft: The run's draft folder.

    Returns:
        The log.
    """
    return JsonLog(draft / LOG)


def log_event(draft: Path, run: str, event: str, life: int, words: str = "") -> None:
    """Write into a run's log what became of it.

    Args:
        draft: The run's draft folder.
        run: The run's id.
        event: taken up, finished or failed.
        life: Which process of the coordinator is at it.
        words: What a person shall read.
    """
    told: Line = {"part": _PART, "event": event, "run": run, "life": life}
    run_log(draft).write(**(told | {"words": words} if words else told))


class RunWatch:
    """Writes down who has answered and how long each round took, while a run goes on.

    Attributes:
        stopwatch: What takes the time of the clinics' answers.
        standing: The run's standing as it was written last.
    """

    def __init__(
        self, draft: Path, run: str, states: Mapping[str, str], done: int, rounds: int
    ) -> None:
        """Begin with the first round that is still to be done.

        Args:
            draft: The run's draft folder.
            run: The run's id.
            states: Each clinic, and where it stands, in words.
            done: The last whole round.
            rounds: Rounds in all.

        Raises:
            EnvironmentProblem: If the standing cannot be written.
        """
        self.stopwatch = Stopwatch(self._heard)
        course = read_standing(draft).course
        self.standing = Standing(_stage(done, rounds), dict(states), done, rounds, course=course)
        self._draft, self._run, self._log = draft, run, run_log(draft)
        self._began: tuple[int, str, float] = (0, "", 0.0)  # round, clock, seconds
        self._logged: AnswerTimes = self.stopwatch.times
        self._written = 0.0
        self._write()

    def round_done(self, entry: Participation) -> None:
        """Write down that a round is whole.

        Args:
            entry: Who took part in it.

        Raises:
            EnvironmentProblem: If it cannot be written.
        """
        before, times = self.standing, self.stopwatch.times
        number, began, start = self._began
        if number != entry.round:  # nobody was asked
            began, start = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
        seconds = time.monotonic() - start
        states = dict.fromkeys(before.clinics, "taking part")
        states |= {name: f"missing: {why}" for name, why in entry.missing.items()}
        self.standing = replace(
            before,
            stage=_stage(entry.round, before.rounds),
            clinics=states,
            round=entry.round,
            course=round_done(before.course, entry, times, began, seconds),
        )
        for name in entry.missing:
            self._say("missing", entry.round, entry.attempt, clinic=name)
        self._say("round done", entry.round, entry.attempt, seconds=round(seconds, 3))
        self._write()

    def _heard(self, times: AnswerTimes) -> None:
        before, self._logged = self._logged, times
        fresh = (times.round, times.attempt) != (before.round, before.attempt)
        if fresh:
            if times.round != self._began[0] or not self._began[1]:
                self._began = times.round, times.began, time.monotonic()
            self._say("asked", times.round, times.attempt)
        earlier: Mapping[str, float] = {} if fresh else before.answers
        for name, seconds in times.answers.items():
            if name not in earlier:
                self._say("answered", times.round, times.attempt, clinic=name, seconds=seconds)
        self.standing = replace(self.standing, course=replace(self.standing.course, asked=times))
        whole = len(times.answers) in (len(earlier), len(self.standing.clinics))
        calm = time.monotonic() - self._written >= _MANY_S
        if fresh or whole or calm or len(self.standing.clinics) <= _MANY:
            with suppress(EnvironmentProblem):  # the round goes on; its end is written again
                self._write()

    def _say(
        self,
        event: str,
        number: int,
        attempt: int,
        *,
        clinic: str | None = None,
        seconds: float | None = None,
    ) -> None:
        told: Line = {
            "part": _PART,
            "event": event,
            "run": self._run,
            "life": self.standing.course.life,
            "round": number,
            "attempt": attempt,
        }
        if clinic is not None:
            told["clinic"] = clinic
        if seconds is not None:
            told["seconds"] = seconds
        self._log.write(**told)

    def _write(self) -> None:
        self._written = time.monotonic()
        self.standing = write_standing(self._draft, self.standing, course=self.standing.course)


def _stage(done: int, rounds: int) -> str:
    return "round" if done < rounds - 1 else "evaluating"
