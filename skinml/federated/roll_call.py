"""Who answered in a round, who did not and why: the same for plain and for secure sums."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import sqrt

from skinml.errors import (
    BudgetExceededError,
    IncompleteRunError,
    IntegrityError,
    PolicyError,
    SkinmlError,
)
from skinml.federated.messages import Reply, Request
from skinml.federated.secure_session import Session
from skinml.federated.strategies import Combine, add_up
from skinml.privacy.mechanism import Mechanism
from skinml.records import Participation
from skinml.training.learner import Round

DIED = "the clinic's process died"
_REFUSALS: Mapping[int, type[SkinmlError]] = {3: PolicyError, 5: IntegrityError}

Answered = Mapping[str, Reply | str] | Iterable[tuple[str, Reply | str]]
"""By clinic its reply, or in words why there is none: all at once, or one by one as they come."""

Ask = Callable[[Mapping[str, Request]], Answered]
"""Sends each clinic its request, and brings back what came of it."""

_SILENT = "no answer"


@dataclass(frozen=True)
class RunTerms:
    """What the coordinator holds a run to.

    Attributes:
        run: The run's id.
        clinics: The clinics expected, in order.
        allowed_missing: Clinics that a round may go on without.
        least_survivors: Clinics whose shares of the noise a sum needs, whatever is allowed.
        deadline_s: Seconds to wait for an answer.
        mechanism: The coordinator's part of the noise; none but under central trust.
        clinic_share: Each clinic's part, in multiples of the noise that the ledgers count on.
        session: The terms of secure sums; None where clinics' sums come as they are.
        resends: How often a clinic that stays silent is asked the same again, within the deadline;
            what it has answered before it sends again, at no cost.
        attempts: Attempts at a round; from the second on each is charged as a round of its own.
        first_attempt: The number of the first; a resumed run counts on where it cannot collide.
        combine: How plain sums become a total, see `skinml.federated.strategies.combiner`.
        max_update_norm: Greatest L2 norm of a clinic's plain sum in a round of training; None: no
            bound.
    """

    run: str
    clinics: tuple[str, ...]
    allowed_missing: int
    least_survivors: int
    deadline_s: float
    mechanism: Mechanism
    clinic_share: float = 0.0
    session: Session | None = None
    resends: int = 0
    attempts: int = 1
    first_attempt: int = 1
    combine: Combine = add_up
    max_update_norm: float | None = None

    def noise(self, took_part: int) -> float | None:
        """Tell how much noise is in a sum.

        Args:
            took_part: Clinics in the sum.

        Returns:
            Its standard deviation over the one that the ledgers count on; None where a robust
            strategy makes the total, whose noise is not the sum's.
        """
        if self.combine is not add_up:
            return None
        return sqrt(took_part * self.clinic_share**2 + self.mechanism.share**2)


@dataclass
class Record:
    """What has happened so far; grows by one entry an attempt.

    Attributes:
        participation: Who took part in each attempt at each round.
    """

    participation: list[Participation] = field(default_factory=list)


@dataclass
class RollCall:
    """Which clinics are still in an attempt at a round, step by step.

    Attributes:
        terms: What the run is held to.
        round: The round.
        attempt: The attempt's number.
        missing: Clinics that fell out, each with the reason.
        refused: The replies of those among them that refused, by clinic.
    """

    terms: RunTerms
    round: Round
    attempt: int = 1
    missing: dict[str, str] = field(default_factory=dict)
    refused: dict[str, Reply] = field(default_factory=dict)

    def call(
        self, ask: Ask, requests: Mapping[str, Request], defect: Callable[[Reply, str], str]
    ) -> dict[str, Reply]:
        """Ask some clinics and keep the sound replies.

        Args:
            ask: Sends the requests.
            requests: One for each clinic asked.
            defect: Says in words what is wrong with a clinic's reply; empty where nothing is.

        Returns:
            The sound replies by clinic, in the order of the requests.
        """
        sound = dict(self.arrive(ask, requests, defect))
        return {clinic: sound[clinic] for clinic in requests if clinic in sound}

    def arrive(
        self, ask: Ask, requests: Mapping[str, Request], defect: Callable[[Reply, str], str]
    ) -> Iterator[tuple[str, Reply]]:
        """Ask some clinics and hand out the sound replies one by one, without keeping them.

        Clinics that stay silent are asked the same again where the terms allow it. Who is missing
        is known once all replies were handed out.

        Args:
            ask: Sends the requests.
            requests: One for each clinic asked.
            defect: Says in words what is wrong with a clinic's reply; empty where nothing is.

        Yields:
            Clinics and their sound replies, each clinic once, in the order in which they come.
        """
        silent = dict.fromkeys(requests, _SILENT)
        for _ in range(self.terms.resends + 1):
            asked = {name: requests[name] for name in silent}
            # Where a process died in a simulation, to ask again is to wait for nothing.
            if not asked or DIED in silent.values():
                break
            answered = ask(asked)
            for clinic, reply in answered.items() if isinstance(answered, Mapping) else answered:
                if clinic not in asked or clinic not in silent:
                    continue  # nobody asked it, or it has answered: no sum may be added twice
                if isinstance(reply, str):
                    silent[clinic] = reply
                    continue
                del silent[clinic]
                if not self._fell_out(reply, clinic, defect):
                    yield clinic, reply
        self.missing |= silent

    def _fell_out(self, reply: Reply, clinic: str, defect: Callable[[Reply, str], str]) -> bool:
        """Note a clinic whose reply is of no use."""
        if reply.problem:
            self.refused[clinic] = reply
            words = f"expected {reply.problem['rule']}; got {reply.problem['got']}"
        else:
            words = self._stray(reply, clinic) or defect(reply, clinic)
        if words:
            self.missing[clinic] = words
        return bool(words)

    def _stray(self, reply: Reply, clinic: str) -> str:
        same = reply.round == self.round.number and reply.clinic == clinic
        return "" if same else "an answer to another question"

    def require_enough(self, took_part: tuple[str, ...]) -> None:
        """Go on only where enough clinics are left.

        Args:
            took_part: The clinics in the sum.

        Raises:
            BudgetExceededError, PolicyError, IntegrityError: If a clinic refused for that reason.
            IncompleteRunError: If more clinics are missing than allowed.
        """
        least = max(self.terms.least_survivors, 1)
        if len(self._away(took_part)) > self.terms.allowed_missing or len(took_part) < least:
            raise self.why()

    def close(self, record: Record, took_part: tuple[str, ...]) -> None:
        """Put an attempt on record whose sum is there.

        Args:
            record: Where the participation is written.
            took_part: The clinics in the sum.
        """
        self._write(record, took_part, self.terms.noise(len(took_part)))

    def give_up(self, record: Record, answered: tuple[str, ...]) -> None:
        """Put an attempt on record that ended without a sum.

        Args:
            record: Where the participation is written.
            answered: The clinics that did their part.
        """
        self._write(record, answered, None)

    def _away(self, took_part: tuple[str, ...]) -> dict[str, str]:
        """Tell who is missing from a sum, in the clinics' order: replies come in any."""
        return {
            name: self.missing[name]
            for name in self.terms.clinics
            if name in self.missing and name not in took_part
        }

    def _write(self, record: Record, took_part: tuple[str, ...], noise: float | None) -> None:
        number, expected, away = self.round.number, self.terms.clinics, self._away(took_part)
        record.participation.append(
            Participation(number, expected, took_part, away, self.attempt, noise)
        )

    def why(self) -> SkinmlError:
        """Say why the round cannot go on: a clinic's refusal before all else."""
        for name in self.terms.clinics:
            if (reply := self.refused.get(name)) is None:
                continue
            code = int(reply.problem["code"])
            if code in _REFUSALS:
                words = {key: str(reply.problem[key]) for key in ("rule", "got", "do")}
                budget = code == 3 and "epsilon" in words["rule"]
                kind = BudgetExceededError if budget else _REFUSALS[code]
                return kind(**words, details=(f"clinic {name} said so",))
        away = self._away(())
        return IncompleteRunError(
            rule="every clinic to take part, or federation.allowed_missing to allow for it",
            got=f"in round {self.round.number} without {', '.join(away)}",
            do="Mend the clinics named, or allow for missing ones in the config.",
            details=[f"{clinic}: {reason}" for clinic, reason in away.items()],
        )
