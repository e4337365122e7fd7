"""The coordinator's side: asks the clinics, counts who answered, adds up, never averages silence.

It drives Flower's Grid itself instead of a stock strategy, because a strategy aggregates whoever
answered; here a missing clinic is named and ends the run unless the config allows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid as Grid  # others name the type through this door

from skinml.errors import (
    BudgetExceededError,
    IncompleteRunError,
    IntegrityError,
    PolicyError,
    SkinmlError,
)
from skinml.federated.messages import Reply, Request, pack_request, require_sums, unpack_reply
from skinml.privacy.mechanism import Mechanism
from skinml.records import Arrays, FloatArray, Participation
from skinml.training.fit import Exchanged
from skinml.training.learner import Round

_POLL_S = 0.01
_DIED = "the clinic's process died"
_REFUSALS: Mapping[int, type[SkinmlError]] = {3: PolicyError, 5: IntegrityError}


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
    """

    run: str
    clinics: tuple[str, ...]
    allowed_missing: int
    least_survivors: int
    deadline_s: float
    mechanism: Mechanism


@dataclass
class Record:
    """What has happened so far; grows by one entry a round.

    Attributes:
        participation: Who took part in each round.
    """

    participation: list[Participation] = field(default_factory=list)


Ask = Callable[[Request], Mapping[str, Reply | str]]


def exchange_with(
    ask: Ask, terms: RunTerms, record: Record, round_: Round, query: Arrays
) -> Exchanged:
    """Run one round: ask all clinics, check their answers, sum them in the order of their names.

    Args:
        ask: Sends a request to the clinics and brings back, for each clinic, its reply or in
            words why there is none.
        terms: What the run is held to.
        record: Where the round's participation is written, before anything is raised.
        round_: The round.
        query: What the clinics are sent.

    Returns:
        The sums with all their noise.

    Raises:
        BudgetExceededError, PolicyError, IntegrityError: If a clinic refused for that reason.
        IncompleteRunError: If more clinics are missing than allowed.
    """
    request = Request(terms.run, round_.number, 1, terms.clinics, query)
    replies = ask(request)
    sums: dict[str, Arrays] = {}
    missing: dict[str, str] = {}
    refused: list[Reply] = []
    for clinic in terms.clinics:
        reply = replies.get(clinic, "no answer")
        if isinstance(reply, str):
            missing[clinic] = reply
        elif reply.problem:
            missing[clinic] = f"expected {reply.problem['rule']}; got {reply.problem['got']}"
            refused.append(reply)
        elif problem := _defect(reply, round_, clinic):
            missing[clinic] = problem
        else:
            sums[clinic] = reply.sums
    record.participation.append(
        Participation(round_.number, terms.clinics, tuple(sums), dict(missing))
    )
    if len(missing) > terms.allowed_missing or len(sums) < max(terms.least_survivors, 1):
        raise _why_incomplete(round_, missing, refused)
    return Exchanged(_total(sums, round_, terms.mechanism), len(sums))


def _defect(reply: Reply, round_: Round, clinic: str) -> str:
    if reply.round != round_.number or reply.clinic != clinic:
        return "an answer to another question"
    try:
        require_sums(reply.sums, {r.name: r.shape for r in round_.releases}, clinic)
    except IntegrityError as error:
        return f"expected {error.rule}; got {error.got}"
    return ""


def _total(sums: Mapping[str, Arrays], round_: Round, mechanism: Mechanism) -> Arrays:
    total: dict[str, FloatArray] = {}
    for release in round_.releases:
        exact = np.sum([sums[clinic][release.name] for clinic in sorted(sums)], axis=0)
        total[release.name] = mechanism.privatize(release, exact)
    return total


def _why_incomplete(
    round_: Round, missing: Mapping[str, str], refused: Sequence[Reply]
) -> SkinmlError:
    for reply in refused:
        code = int(reply.problem["code"])
        if code in _REFUSALS:
            words = {key: str(reply.problem[key]) for key in ("rule", "got", "do")}
            budget = code == 3 and "epsilon" in words["rule"]
            kind = BudgetExceededError if budget else _REFUSALS[code]
            return kind(**words)
    return IncompleteRunError(
        rule="every clinic to take part, or federation.allowed_missing to allow for it",
        got=f"in round {round_.number} without {', '.join(missing)}",
        do="Mend the clinics named, or allow for missing ones in the config.",
        details=[f"{clinic}: {reason}" for clinic, reason in missing.items()],
    )


def grid_asker(grid: Grid, terms: RunTerms, stop: Event) -> Ask:
    """Reach the clinics through a Flower grid.

    Waits for all nodes first, for Flower begins with however many are there, and learns which
    node is which clinic.

    Args:
        grid: Flower's grid.
        terms: What the run is held to.
        stop: Set by whoever wants the run to end now.

    Returns:
        The function that `exchange_with` asks through.

    Raises:
        IncompleteRunError: If nodes stay away until the deadline.
    """
    nodes = _wait_for_nodes(grid, len(terms.clinics), terms.deadline_s, stop)
    described = _send(
        grid, {node: RecordDict({}) for node in nodes}, "query.describe", terms.deadline_s, stop
    )
    places: dict[str, int] = {}
    faults: dict[str, str] = {}
    for node, reply in described.items():
        if isinstance(reply, Reply) and reply.clinic:
            places[reply.clinic] = node
        else:
            words = reply if isinstance(reply, str) else str(reply.problem.get("got", ""))
            faults[f"a node ({len(faults) + 1})"] = words

    def ask(request: Request) -> Mapping[str, Reply | str]:
        contents = {
            places[clinic]: pack_request(request)
            for clinic in request.participants
            if clinic in places
        }
        answers = _send(grid, contents, "train", terms.deadline_s, stop)
        why = "; ".join(faults.values()) or "no node of this clinic"
        return {
            clinic: answers[places[clinic]] if clinic in places else why
            for clinic in request.participants
        }

    return ask


def _wait_for_nodes(grid: Grid, count: int, deadline_s: float, stop: Event) -> list[int]:
    until = time.monotonic() + deadline_s
    while len(nodes := list(grid.get_node_ids())) < count:
        if time.monotonic() > until or stop.is_set():
            raise IncompleteRunError(
                rule=f"{count} nodes before the first round",
                got=f"{len(nodes)} after {deadline_s:g} s",
                do="Start the missing clinics' nodes.",
            )
        time.sleep(_POLL_S)
    return sorted(nodes)


def _send(
    grid: Grid, contents: Mapping[int, RecordDict], kind: str, deadline_s: float, stop: Event
) -> dict[int, Reply | str]:
    """Send a message to each node; bring back its reply, or in words why there is none."""
    messages = [Message(content, node, kind) for node, content in contents.items()]
    ids = dict(zip(grid.push_messages(messages), contents, strict=True))
    answers: dict[int, Reply | str] = {}
    until = time.monotonic() + deadline_s
    waiting = set(ids)
    while waiting and time.monotonic() < until and not stop.is_set():
        arrived = list(grid.pull_messages(list(waiting)))
        for message in arrived:
            node = ids[message.metadata.reply_to_message_id]
            waiting.discard(message.metadata.reply_to_message_id)
            answers[node] = _read(message)
        if _DIED in answers.values():
            break  # a dead worker goes back into Flower's pool and takes healthy clinics with it
        if not arrived:
            time.sleep(_POLL_S)
    return {node: answers.get(node, "no answer before the deadline") for node in contents}


def _read(message: Message) -> Reply | str:
    if message.has_error():
        # Flower puts the traceback of the clinic into the reason: it goes no further than here.
        died = "ActorDied" in str(message.error.reason) or message.error.code == 0
        return _DIED if died else f"Flower error {message.error.code}"
    try:
        return unpack_reply(message.content)
    except IntegrityError as error:
        return f"expected {error.rule}; got {error.got}"
