"""A round whose sums leave the clinics under masks: the coordinator drives the steps.

Where every clinic is needed a round is one message of each, its sum under pairwise masks. Where
some may drop out there are four: shares, masked sums, the signed list of survivors, unmasking. The
keys were advertised before the first round. Whoever falls out before its masked sum arrived is
missing; whoever falls out later has taken part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Protocol

from skinml.errors import IncompleteRunError, SkinmlError
from skinml.federated.messages import Reply, Request
from skinml.federated.roll_call import Ask, Record, RollCall, RunTerms
from skinml.federated.secure_aggregation import PairedSum, Posted, SecureSum, posted
from skinml.federated.secure_clinic import list_of, roster_of
from skinml.federated.secure_keys import SECRET_BYTES, share_lengths
from skinml.federated.secure_masks import Words, from_ring, require_unmasked
from skinml.federated.secure_session import Attempt, Session, Signed, parted, unpacked, verified
from skinml.federated.secure_steps import query_digest, write_letters, write_messages
from skinml.records import Arrays, FloatArray
from skinml.training.fit import Exchanged
from skinml.training.learner import Round

_RUN_START = Round(0, "keys", ())

_Whole = Callable[[bytes], bool]
"""Tells of a verified payload whether it has the form of its step: else its sender is missing."""


class KeptAdverts(Protocol):
    """Where what clinics advertised outlives the coordinator's process."""

    def load(self) -> Mapping[str, Signed]:
        """Give what was saved, by clinic; none where nothing was."""

    def save(self, adverts: Mapping[str, Signed]) -> None:
        """Keep what every clinic advertised."""


@dataclass
class SecureRounds:
    """Runs the rounds of one run.

    Attributes:
        ask: Sends requests to the clinics and brings back their replies.
        terms: What the run is held to.
        session: The terms of its secure sums.
        record: Where each round's participation is written, before anything is raised.
        kept: Where advertised keys are kept; None: nowhere, so that all clinics must be there.
    """

    ask: Ask
    terms: RunTerms
    session: Session
    record: Record
    kept: KeptAdverts | None = None
    _adverts: list[Signed] = field(default_factory=list)

    def exchange(self, round_: Round, query: Arrays, number: int = 1) -> Exchanged:
        """Run one attempt at a round.

        Args:
            round_: The round; each of its releases has a grid.
            query: What the clinics are sent to compute their sums from.
            number: The attempt's number; no two attempts at a round of a run may share one.

        Returns:
            The sums of the clinics that took part, with all their noise.

        Raises:
            BudgetExceededError, PolicyError, IntegrityError: If a clinic refused for that reason,
                a message was changed, or masks do not cancel out.
            IncompleteRunError: If fewer clinics than the threshold stayed, or more are missing
                than allowed. Nothing was opened then.

        Guarantees:
            What is opened is the sum over the clinics of the record, all of it or none.
        """
        attempt = Attempt(self.session, round_.number, number)
        roll = RollCall(self.terms, round_, number)
        steps = _Steps(self, attempt, roll, query)
        sum_up = steps.of_all if self.session.all_needed else steps.of_survivors
        try:
            took_part, words = sum_up(sum(prod(r.shape) for r in round_.releases))
            require_unmasked(words, len(took_part))
        except SkinmlError as error:
            if self.session.all_needed:
                # Before another attempt all are asked for their keys again: who is away then is
                # known before anybody else's sum is charged.
                self._adverts = []
            present = (n for n in self.session.participants if n not in roll.missing)
            roll.give_up(self.record, tuple(present))
            raise (roll.why() if isinstance(error, IncompleteRunError) else error) from None
        roll.close(self.record, took_part)
        return Exchanged(_sums(words, round_), len(took_part))

    def adverts(self, roll: RollCall) -> list[Signed]:
        """Fetch everybody's public keys, where they are not known.

        Where some may drop out, the keys that a clinic advertised in this run before stand for one
        that is away: it sends no shares, and so is in no sum.

        Args:
            roll: Hears who did not send them.

        Raises:
            IncompleteRunError, PolicyError, IntegrityError: If a clinic's keys are missing.
        """
        if not self._adverts:
            start = RollCall(self.terms, _RUN_START, 1, roll.missing, roll.refused)
            request = Request(self.terms.run, 0, 1, self.terms.clinics, {}, "keys")
            requests = dict.fromkeys(self.session.participants, request)
            replies = start.call(self.ask, requests, _no_sums)
            before = dict(self.kept.load()) if self.kept is not None and replies else {}
            fresh = {name: unpacked(reply.signed) for name, reply in replies.items()}
            found = {name: (before | fresh)[name] for name in requests if name in before | fresh}
            if len(found) < len(requests) or len(start.missing) > self.terms.allowed_missing:
                raise roll.why()
            self._adverts = [*found.values()]
            roster_of(self.session, self._adverts)
            if self.kept is not None and not start.missing:
                self.kept.save(found)
        return self._adverts


@dataclass
class _Steps:
    """The steps of one attempt, each with who is still there."""

    rounds: SecureRounds
    attempt: Attempt
    roll: RollCall
    query: Arrays

    def of_all(self, size: int) -> tuple[tuple[str, ...], Words]:
        """Sum up what every clinic sends in one step; gives them and the total."""
        post = {"adverts": write_messages(self.rounds.adverts(self.roll))}
        total = PairedSum(self.attempt, size)
        posts = dict.fromkeys(self.rounds.session.participants, post)
        self._add_up(total, "paired", posts, size)
        self.roll.require_enough(total.survivors)
        return total.survivors, total.open()

    def of_survivors(self, size: int) -> tuple[tuple[str, ...], Words]:
        """Sum up in four steps what some clinics send; gives them and the total."""
        shared = self.share()
        total = self.mask(shared, size)
        self.roll.require_enough(total.survivors)
        return total.survivors, self.open(shared, total)

    def share(self) -> Posted:
        names = self.rounds.session.participants
        post = {"adverts": write_messages(self.rounds.adverts(self.roll))}
        whole = partial(_of_parts, share_lengths(len(names)))
        return posted(self.attempt, self._call("shares", dict.fromkeys(names, post), whole))

    def mask(self, shared: Posted, size: int) -> SecureSum:
        adverts = write_messages(self.rounds.adverts(self.roll))
        posts = {
            name: {"adverts": adverts, "letters": write_letters(shared.letters[name])}
            for name in shared.senders
        }
        total = SecureSum(self.attempt, shared, size, query_digest(self.query))
        self._add_up(total, "masked", posts, size)
        total.require_enough()
        return total

    def _add_up(
        self,
        total: PairedSum | SecureSum,
        step: str,
        posts: Mapping[str, Mapping[str, bytes]],
        size: int,
    ) -> None:
        for _, message in self._arrive(step, posts, self.query, partial(_of_length, 8 * size)):
            total.add(message)  # and the message goes: what is held does not grow

    def open(self, shared: Posted, total: SecureSum) -> Words:
        letters = {name: write_letters(shared.letters[name]) for name in total.survivors}
        survivors = list_of(total.survivors)
        posts = {n: {"letters": each, "survivors": survivors} for n, each in letters.items()}
        agreed = self._call("survivors", posts, partial(_same, survivors))
        adverts = write_messages(self.rounds.adverts(self.roll))
        signatures = write_messages(agreed.values())
        last = {
            name: {"adverts": adverts, "letters": letters[name], "agreements": signatures}
            for name in agreed
        }
        self._require_enough(agreed)
        lengths = [SECRET_BYTES] * len(shared.senders)
        unmasked = self._call("unmask", last, partial(_of_parts, lengths))
        self._require_enough(unmasked)
        return total.open(unmasked)

    def _require_enough(self, found: Mapping[str, Signed]) -> None:
        if len(found) < self.rounds.session.threshold:
            raise self.roll.why()

    def _call(
        self, step: str, posts: Mapping[str, Mapping[str, bytes]], whole: _Whole
    ) -> dict[str, Signed]:
        """Take a step with some clinics; gives the verified messages of those who answered."""
        found = dict(self._arrive(step, posts, {}, whole))
        return {name: found[name] for name in posts if name in found}

    def _arrive(
        self, step: str, posts: Mapping[str, Mapping[str, bytes]], query: Arrays, whole: _Whole
    ) -> Iterator[tuple[str, Signed]]:
        """Take a step with some clinics; hands out verified messages as they come."""
        terms, attempt = self.rounds.terms, self.attempt
        requests = {
            name: Request(
                terms.run, attempt.round, attempt.number, terms.clinics, query, step, post
            )
            for name, post in posts.items()
        }

        def defect(reply: Reply, clinic: str) -> str:
            try:
                message = unpacked(reply.signed)
                fits = whole(verified(message, attempt, step))
            except SkinmlError as error:
                return f"expected {error.rule}; got {error.got}"
            if message.sender != clinic or reply.sums:
                return "another clinic's message"
            return "" if fits else f"a message of step '{step}' of another form"

        for name, reply in self.roll.arrive(self.rounds.ask, requests, defect):
            yield name, unpacked(reply.signed)


def _of_length(length: int, payload: bytes) -> bool:
    return len(payload) == length


def _same(survivors: bytes, payload: bytes) -> bool:
    return payload == survivors


def _of_parts(lengths: Sequence[int], payload: bytes) -> bool:
    return [len(part) for part in parted(payload)] == lengths


def _no_sums(reply: Reply, clinic: str) -> str:
    del clinic
    return "sums in the clear" if reply.sums else ""


def _sums(words: Words, round_: Round) -> dict[str, FloatArray]:
    """Cut the opened words into the round's releases."""
    sums, start = {}, 0
    for release in round_.releases:
        size = prod(release.shape)
        sums[release.name] = from_ring(words[start : start + size], release.grid).reshape(
            release.shape
        )
        start += size
    return sums


def session_for(
    run: str, registered: Sequence[tuple[str, str]], dropouts: int, colluding: int
) -> Session:
    """Write down the terms of a run's secure sums.

    Args:
        run: The run's id.
        registered: Each clinic with its public signing key in hexadecimal digits.
        dropouts: Clinics that may drop out of a sum: t = k - dropouts.
        colluding: Clinics c that may collude.

    Returns:
        The terms.

    Raises:
        ConfigError: If k, t and c do not fit together.
    """
    keys = {name: bytes.fromhex(key) for name, key in registered}
    return Session(run, keys, len(keys) - dropouts, colluding)
