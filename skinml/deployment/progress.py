"""How far a run is and how fast: times of its stages and rounds, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from statistics import median

from skinml.federated.answer_times import AnswerTimes
from skinml.records import Participation

_PACE_ROUNDS = 5


@dataclass(frozen=True)
class StageTimes:
    """When a stage of a run began and ended.

    Attributes:
        stage: Its name, see `submission.Standing`.
        life: Which process of the coordinator was at it, from 1; 0 before the first one.
        began: ISO 8601, UTC.
        ended: The same; of a process that was killed the last time that it wrote; None while
            the stage lasts.
    """

    stage: str
    life: int
    began: str
    ended: str | None = None


@dataclass(frozen=True)
class RoundTimes:
    """A whole round.

    Attributes:
        round: Its number.
        life: Which process of the coordinator ended it, from 1.
        attempt: The number of the attempt that has the sum.
        began: When its first attempt in that process began, ISO 8601, UTC.
        ended: When its sum was written down, ISO 8601, UTC.
        seconds: From the one to the other.
        missing: Clinics that are not in the sum.
        saved_s: Seconds that it would have lasted longer, see `saved_by`; None where that cannot
            be known.
    """

    round: int
    life: int
    attempt: int
    began: str
    ended: str
    seconds: float
    missing: tuple[str, ...] = ()
    saved_s: float | None = 0.0


@dataclass(frozen=True)
class Course:
    """The times of a run so far, as they are written down.

    Attributes:
        proposed: When it was submitted, ISO 8601, UTC.
        life: Which process of the coordinator is at it, from 1; 0 before the first one.
        stages: Its stages, in order; after a restart they begin anew.
        rounds: Its whole rounds.
        asked: The latest attempt at a round: who has answered, and how long that took.
        missing: Who is missing from the last whole round, and why.
    """

    proposed: str = ""
    life: int = 0
    stages: tuple[StageTimes, ...] = ()
    rounds: tuple[RoundTimes, ...] = ()
    asked: AnswerTimes | None = None
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pace:
    """What a run's times tell about its end.

    Attributes:
        round_s: Median seconds of the last five whole rounds; None before the first.
        left_s: Seconds until the last round ends, if the rounds to come take as long; None where
            nothing tells.
        saved_s: Seconds saved by waiting for nobody: the sum of `RoundTimes.saved_s`.
        unknown: Rounds for which that cannot be known.
    """

    round_s: float | None
    left_s: float | None
    saved_s: float
    unknown: int

    def end(self, now: datetime) -> datetime | None:
        """Estimate by the clock when the last round ends.

        Args:
            now: The time, with its zone.

        Returns:
            The time in UTC, to the minute above; None where nothing tells.
        """
        if self.left_s is None:
            return None
        at = (now + timedelta(seconds=self.left_s)).astimezone(UTC)
        return at.replace(second=0, microsecond=0) + timedelta(minutes=bool(at.second))


def entered(course: Course, stage: str, now: datetime) -> Course:
    """Write down that a run is in a stage.

    Args:
        course: Its times so far.
        stage: The stage; the one that it is in changes nothing.
        now: The time.

    Returns:
        The times with it.
    """
    at = _text(now)
    proposed = course.proposed or at
    last = course.stages[-1] if course.stages else None
    if last is not None and last.ended is None:
        if last.stage == stage:
            return replace(course, proposed=proposed)
        ended = replace(last, ended=at)
        return replace(
            course,
            proposed=proposed,
            stages=(*course.stages[:-1], ended, _stage(course, stage, at)),
        )
    return replace(course, proposed=proposed, stages=(*course.stages, _stage(course, stage, at)))


def taken_up(course: Course, life: int, last_sign: str) -> Course:
    """Write down that a process takes its turn at a run.

    Args:
        course: The run's times so far.
        life: Which process it is, from 1.
        last_sign: When the one before it wrote last, ISO 8601.

    Returns:
        The times; what the process before it had not ended, ended with its last sign.
    """
    stages = course.stages
    if life > 1 and stages and stages[-1].ended is None:
        stages = (*stages[:-1], replace(stages[-1], ended=last_sign))
    return replace(course, life=life, stages=stages, asked=None)


def round_done(
    course: Course, entry: Participation, times: AnswerTimes, began: str, seconds: float
) -> Course:
    """Write down that a round is whole.

    Args:
        course: The run's times so far.
        entry: Who took part.
        times: How long the clinics took.
        began: When the round's first attempt began, ISO 8601.
        seconds: How long the round lasted.

    Returns:
        The times with it.
    """
    done = RoundTimes(
        round=entry.round,
        life=course.life,
        attempt=entry.attempt,
        began=began,
        ended=_text(datetime.now(UTC)),
        seconds=round(seconds, 3),
        missing=tuple(entry.missing),
        saved_s=saved_by(times, tuple(entry.missing)),
    )
    earlier = tuple(each for each in course.rounds if each.round < done.round)
    return replace(course, rounds=(*earlier, done), asked=times, missing=dict(entry.missing))


def saved_by(times: AnswerTimes, missing: Sequence[str]) -> float | None:
    """Tell how much longer a whole round would have lasted, had it waited for everybody.

    A round goes on without a clinic whose node is gone, whose program has failed, or that is not
    ready yet. Had it waited for that clinic, it would have waited until the deadline of the
    request: the seconds between the end of the waiting and that deadline are saved; of several
    clinics the most, for they would have been waited for together.

    Args:
        times: The answers to the attempt that has the sum.
        missing: The clinics that are not in the sum.

    Returns:
        Seconds. 0 where nobody is missing, or only clinics that answered with a refusal. None
        where a whole deadline went by in silence: when that clinic would have answered, nobody
        knows, and so nothing is counted.
    """
    known = {name: times.given_up[name] for name in missing if name in times.given_up}
    if not known:
        return 0.0
    return max(known.values()) or None


def pace_of(course: Course, done: int, rounds: int, now: datetime) -> Pace:
    """Work out how fast a run is.

    Args:
        course: Its times so far.
        done: Its last whole round.
        rounds: Rounds in all; 0 where that is not known.
        now: The time, with its zone.

    Returns:
        The pace. What a round in work has taken already is taken off, at most a round's time.
    """
    usual = (
        median(each.seconds for each in course.rounds[-_PACE_ROUNDS:]) if course.rounds else None
    )
    left = None
    if usual is not None and rounds:
        left = usual * max(rounds - done, 0)
        if course.asked is not None and course.asked.round > done:
            gone = (now - datetime.fromisoformat(course.asked.began)).total_seconds()
            left -= min(max(gone, 0.0), usual)
    told = [each.saved_s for each in course.rounds]
    return Pace(
        round_s=usual,
        left_s=left,
        saved_s=sum(each for each in told if each is not None),
        unknown=sum(each is None for each in told),
    )


def _stage(course: Course, stage: str, at: str) -> StageTimes:
    return StageTimes(stage, course.life, at, at if stage in ENDS else None)


ENDS = frozenset({"finished", "failed"})
"""Stages in which nothing goes on any more."""


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds")
