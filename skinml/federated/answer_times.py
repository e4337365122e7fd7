"""How long clinics took to answer, attempt by attempt: for whoever watches a run, not for the run.

The coordinator sees these times whether it writes them down or not. No guarantee covers them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a look at how a run stands loads neither Flower nor PyTorch
    from skinml.federated.messages import Reply, Request
    from skinml.federated.roll_call import Ask


@dataclass(frozen=True)
class AnswerTimes:
    """The answers to one attempt at a round, as far as they have come.

    Attributes:
        round: The round's number; 0 while keys are exchanged before the first one.
        attempt: The attempt's number.
        began: When the first request left, ISO 8601, UTC.
        answers: By clinic the seconds from each request to its answer, all steps added up.
        given_up: By clinic that was not waited for, the seconds between the moment when the others
            were done and its deadline; 0 where the whole deadline was waited for. Not in it are
            clinics that answered, with a refusal too.
    """

    round: int
    attempt: int
    began: str
    answers: Mapping[str, float] = field(default_factory=dict)
    given_up: Mapping[str, float] = field(default_factory=dict)


class Stopwatch:
    """Takes the time of answers, and changes nothing about them.

    Args:
        told: Called with the times whenever something was added to them.
        clock: Gives seconds that never go back.
    """

    def __init__(
        self,
        told: Callable[[AnswerTimes], None] = lambda times: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._told = told
        self._clock = clock
        self._times = AnswerTimes(0, 0, "")

    @property
    def times(self) -> AnswerTimes:
        """The latest attempt's."""
        return self._times

    def timed(self, ask: Ask, patience_s: float) -> Ask:
        """Take the time of whatever is asked.

        Args:
            ask: The way to the clinics.
            patience_s: Seconds that one request may take.

        Returns:
            The same way, watched.
        """

        def watched(requests: Mapping[str, Request]) -> Iterator[tuple[str, Reply | str]]:
            self._begin(next(iter(requests.values())))
            start, silent = self._clock(), list[str]()
            answered = ask(requests)
            for clinic, reply in answered.items() if isinstance(answered, Mapping) else answered:
                if isinstance(reply, str):
                    silent.append(clinic)
                else:
                    self._note(clinic, self._clock() - start)
                yield clinic, reply
            self._give_up(silent, max(patience_s - (self._clock() - start), 0.0))

        return watched

    def _begin(self, request: Request) -> None:
        if (request.round, request.attempt) != (self._times.round, self._times.attempt):
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._times = AnswerTimes(request.round, request.attempt, now)
            self._told(self._times)

    def _note(self, clinic: str, seconds: float) -> None:
        before = self._times
        took = round(before.answers.get(clinic, 0.0) + seconds, 3)
        left = {name: each for name, each in before.given_up.items() if name != clinic}
        self._times = replace(before, answers={**before.answers, clinic: took}, given_up=left)
        self._told(self._times)

    def _give_up(self, silent: list[str], seconds: float) -> None:
        if not silent:
            return
        before = self._times.given_up
        more = {name: round(before.get(name, 0.0) + seconds, 3) for name in silent}
        self._times = replace(self._times, given_up={**before, **more})
        self._told(self._times)
