"""The coordinator's side: asks the clinics, counts who answered, adds up, never averages silence.

It drives Flower's Grid itself instead of a stock strategy, because a strategy aggregates whoever
answered; here a missing clinic is named and ends the run unless the config allows it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from threading import Event

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid as Grid  # others name the type through this door

from skinml.errors import IncompleteRunError, IntegrityError, SkinmlError
from skinml.federated.messages import Reply, Request, pack_request, require_sums, unpack_reply
from skinml.federated.roll_call import DIED, Ask, Record, RollCall, RunTerms
from skinml.federated.secure_rounds import SecureRounds
from skinml.federated.strategies import require_short
from skinml.records import Arrays
from skinml.training.fit import Exchange, Exchanged
from skinml.training.learner import Round

_POLL_S = 0.01


def exchange_with(
    ask: Ask, terms: RunTerms, record: Record, round_: Round, query: Arrays, attempt: int = 1
) -> Exchanged:
    """Run one attempt at a round of plain sums: ask all clinics, check the answers, add them up.

    Args:
        ask: Sends requests to the clinics and brings back their replies.
        terms: What the run is held to.
        record: Where the participation is written, before anything is raised.
        round_: The round.
        query: What the clinics are sent.
        attempt: The attempt's number.

    Returns:
        The total with all its noise, by the strategy of the terms.

    Raises:
        BudgetExceededError, PolicyError, IntegrityError: If a clinic refused for that reason.
        IncompleteRunError: If more clinics are missing than allowed.
    """
    roll = RollCall(terms, round_, attempt)
    request = Request(terms.run, round_.number, attempt, terms.clinics, query)

    def defect(reply: Reply, clinic: str) -> str:
        try:
            require_sums(reply.sums, {r.name: r.shape for r in round_.releases}, clinic)
            require_short(reply.sums, round_, query, terms.max_update_norm, clinic)
        except IntegrityError as error:
            return f"expected {error.rule}; got {error.got}"
        return ""

    replies = roll.call(ask, dict.fromkeys(terms.clinics, request), defect)
    took_part = tuple(replies)
    try:
        roll.require_enough(took_part)
    except SkinmlError:
        roll.give_up(record, took_part)
        raise
    roll.close(record, took_part)
    sums = {clinic: reply.sums for clinic, reply in replies.items()}
    return Exchanged(terms.combine(sums, round_, terms.mechanism), len(sums))


def exchanger(ask: Ask, terms: RunTerms, record: Record) -> Exchange:
    """Choose how the rounds of a run are summed.

    Args:
        ask: Sends requests to the clinics and brings back their replies.
        terms: What the run is held to.
        record: Where each round's participation is written.

    Returns:
        Secure sums where the terms have a session, plain ones otherwise; an attempt that too few
        clinics took part in is followed by another where the terms allow it.

    Guarantees:
        Attempts of one round have different numbers, so that no clinic answers one with what it
        computed for another.
    """
    secure = SecureRounds(ask, terms, terms.session, record) if terms.session else None

    def attempted(round_: Round, query: Arrays, number: int) -> Exchanged:
        if secure is not None:
            return secure.exchange(round_, query, number)
        return exchange_with(ask, terms, record, round_, query, number)

    def exchange(round_: Round, query: Arrays) -> Exchanged:
        last = terms.first_attempt + terms.attempts - 1
        for number in range(terms.first_attempt, last):
            with suppress(IncompleteRunError):  # on record; the next attempt is charged anew
                return attempted(round_, query, number)
        return attempted(round_, query, last)

    return exchange


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

    def ask(requests: Mapping[str, Request]) -> Mapping[str, Reply | str]:
        contents = {
            places[clinic]: pack_request(request)
            for clinic, request in requests.items()
            if clinic in places
        }
        patience = terms.deadline_s / (terms.resends + 1)
        answers = _send(grid, contents, "train", patience, stop)
        why = "; ".join(faults.values()) or "no node of this clinic"
        return {clinic: answers[places[clinic]] if clinic in places else why for clinic in requests}

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
        if DIED in answers.values():
            break  # a dead worker goes back into Flower's pool and takes healthy clinics with it
        if not arrived:
            time.sleep(_POLL_S)
    return {node: answers.get(node, "no answer before the deadline") for node in contents}


def _read(message: Message) -> Reply | str:
    if message.has_error():
        # Flower puts the traceback of the clinic into the reason: it goes no further than here.
        died = "ActorDied" in str(message.error.reason) or message.error.code == 0
        return DIED if died else f"Flower error {message.error.code}"
    try:
        return unpack_reply(message.content)
    except IntegrityError as error:
        return f"expected {error.rule}; got {error.got}"
