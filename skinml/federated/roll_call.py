"""Who answered in a round, who did not and why: the same for plain and for secure sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from skinml.errors import (
    BudgetExceededError,
    IncompleteRunError,
    IntegrityError,
    PolicyError,
    SkinmlError,
)
from skinml.federated.messages import Reply, Request
from skinml.federated.secure_session import Session
from skinml.privacy.mechanism import Mechanism
from skinml.records import Participation
from skinml.training.learner import Round

_REFUSALS: Mapping[int, type[SkinmlError]] = {3: PolicyError, 5: IntegrityError}

Ask = Callable[[Mapping[str, Request]], Mapping[str, Reply | str]]
"""Sends each clinic its request; brings back its reply, or in words why there is none."""


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
        session: The terms of secure sums; None where clinics' sums come as they are.
    """

    run: str
    clinics: tuple[str, ...]
    allowed_missing: int
    least_survivors: int
    deadline_s: float
    mechanism: Mechanism
    session: Session | None = None


@dataclass
class Record:
    """What has happened so far; grows by one entry a round.

    Attributes:
        participation: Who took part in each round.
    """

    participation: list[Participation] = field(default_factory=list)


@dataclass
class RollCall:
    """Which clinics are still in a round, step by step.

    Attributes:
        terms: What the run is held to.
        round: The round.
        missing: Clinics that fell out, each with the reason.
        refused: The replies of those among them that refused.
    """

    terms: RunTerms
    round: Round
    missing: dict[str, str] = field(default_factory=dict)
    refused: list[Reply] = field(default_factory=list)

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
        replies, sound = ask(requests), {}
        for clinic in requests:
            reply = replies.get(clinic, "no answer")
            if isinstance(reply, str):
                self.missing[clinic] = reply
            elif reply.problem:
                self.missing[clinic] = (
                    f"expected {reply.problem['rule']}; got {reply.problem['got']}"
                )
                self.refused.append(reply)
            elif problem := self._stray(reply, clinic) or defect(reply, clinic):
                self.missing[clinic] = problem
            else:
                sound[clinic] = reply
        return sound

    def _stray(self, reply: Reply, clinic: str) -> str:
        same = reply.round == self.round.number and reply.clinic == clinic
        return "" if same else "an answer to another question"

    def close(self, record: Record, took_part: tuple[str, ...]) -> None:
        """Put the round on record, and end the run where too few took part.

        Args:
            record: Where the participation is written, before anything is raised.
            took_part: The clinics in the sum.

        Raises:
            BudgetExceededError, PolicyError, IntegrityError: If a clinic refused for that reason.
            IncompleteRunError: If more clinics are missing than allowed.
        """
        terms = self.terms
        away = {name: why for name, why in self.missing.items() if name not in took_part}
        record.participation.append(
            Participation(self.round.number, terms.clinics, took_part, away)
        )
        if len(away) > terms.allowed_missing or len(took_part) < max(terms.least_survivors, 1):
            raise self.why()

    def why(self) -> SkinmlError:
        """Say why the round cannot go on: a clinic's refusal before all else."""
        for reply in self.refused:
            code = int(reply.problem["code"])
            if code in _REFUSALS:
                words = {key: str(reply.problem[key]) for key in ("rule", "got", "do")}
                budget = code == 3 and "epsilon" in words["rule"]
                kind = BudgetExceededError if budget else _REFUSALS[code]
                return kind(**words)
        return IncompleteRunError(
            rule="every clinic to take part, or federation.allowed_missing to allow for it",
            got=f"in round {self.round.number} without {', '.join(self.missing)}",
            do="Mend the clinics named, or allow for missing ones in the config.",
            details=[f"{clinic}: {reason}" for clinic, reason in self.missing.items()],
        )
