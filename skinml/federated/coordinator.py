"""The coordinator's side: asks the clinics, counts who answered, adds up, never averages silence.

It drives Flower's Grid itself instead of a stock strategy, because a strategy aggregates whoever
answered; here a missing clinic is named and ends the run unless the config allows it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from threading import Event

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid as Grid  # others name the type through this door
from google.protobuf.message import DecodeError

from skinml.errors import IncompleteRunError, IntegrityError, SkinmlError
from skinml.federated.grid_check import require_on_grid
from skinml.federated.messages import Reply, Request, pack_requests, require_sums, unpack_reply
from skinml.federated.plain_sums import PlainSum
from skinml.federated.roll_call import DIED, Ask, Record, RollCall, RunTerms
from skinml.federated.secure_rounds import KeptAdverts, SecureRounds
from skinml.federated.strategies import add_up, require_short
from skinml.records import Arrays
from skinml.training.fit import Exchange, Exchanged
from skinml.training.learner import Round

_POLL_S = 0.01
_LATER, _RAREST_S = 0.05, 1.0  # a look after a twentieth of the time so far, or after a second
# What Flower's own errors mean, where it makes them (flwr.common.constant.ErrorCode).
_CODES = {
    2: "the clinic's app failed",
    3: "no answer before the message expired",
    5: "the clinic's node is not connected",
    7: "the clinic's node does not run this app",
    8: "the clinic's app stopped responding",
}
UNREACHED = frozenset({_CODES[5], _CODES[8]})
"""What is said of a clinic that Flower itself gave up on: nothing that the clinic answered."""
_AT_ONCE = 16  # replies in memory before they are added
# What Flower raises where a sender's objects are no message.
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, DecodeError)
_log = logging.getLogger("skinml.coordinator")


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
            require_on_grid(reply.sums, round_.releases, clinic)
            require_short(reply.sums, round_, query, terms.max_update_norm, clinic)
        except IntegrityError as error:
            return f"expected {error.rule}; got {error.got}"
        return ""

    total, kept, arrived = PlainSum(round_), dict[str, Arrays](), set[str]()
    for clinic, reply in roll.arrive(ask, dict.fromkeys(terms.clinics, request), defect):
        arrived.add(clinic)
        if terms.combine is add_up:
            total.add(reply.sums)  # and the reply goes: what is held does not grow
        else:
            kept[clinic] = reply.sums  # a robust total compares the clinics' arrays
    took_part = tuple(clinic for clinic in terms.clinics if clinic in arrived)
    try:
        roll.require_enough(took_part)
    except SkinmlError:
        roll.give_up(record, took_part)
        raise
    roll.close(record, took_part)
    noise = terms.mechanism
    summed = terms.combine(kept, round_, noise) if kept else total.total(noise)
    return Exchanged(summed, len(took_part))


def exchanger(
    ask: Ask, terms: RunTerms, record: Record, kept: KeptAdverts | None = None
) -> Exchange:
    """Choose how the rounds of a run are summed.

    Args:
        ask: Sends requests to the clinics and brings back their replies.
        terms: What the run is held to.
        record: Where each round's participation is written.
        kept: Where clinics' public keys outlive this process.

    Returns:
        Secure sums where the terms have a session, plain ones otherwise; an attempt that too few
        clinics took part in is followed by another where the terms allow it.

    Guarantees:
        Attempts of one round have different numbers, so that no clinic answers one with what it
        computed for another.
    """
    secure = SecureRounds(ask, terms, terms.session, record, kept) if terms.session else None

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
        The function that `exchange_with` asks through; it hands replies out as they arrive.

    Raises:
        IncompleteRunError: If nodes stay away until the deadline.
    """
    nodes = _wait_for_nodes(grid, len(terms.clinics), terms.deadline_s, stop)
    described = _send(
        grid, {node: RecordDict({}) for node in nodes}, "query.describe", terms.deadline_s, stop
    )
    places: dict[str, int] = {}
    faults: dict[str, str] = {}
    for node, reply in described:
        if isinstance(reply, Reply) and reply.clinic:
            places[reply.clinic] = node
        else:
            words = reply if isinstance(reply, str) else str(reply.problem.get("got", ""))
            faults[f"a node ({len(faults) + 1})"] = words

    why = "; ".join(faults.values()) or "no node of this clinic"
    return places_asker(grid, terms, stop, places, absent=lambda clinic: why)


def places_asker(
    grid: Grid,
    terms: RunTerms,
    stop: Event,
    places: Mapping[str, int],
    *,
    absent: Callable[[str], str],
    poll_s: float = _POLL_S,
    apart: bool = False,
) -> Ask:
    """Reach clinics whose nodes are known.

    Args:
        grid: Flower's grid.
        terms: What the run is held to.
        stop: Set by whoever wants the run to end now.
        places: Each clinic's node.
        absent: Says in words why a clinic has none.
        poll_s: Least seconds between two looks for replies.
        apart: As for `replies_of`.

    Returns:
        The function that `exchange_with` asks through; it hands replies out as they arrive.
    """

    def ask(requests: Mapping[str, Request]) -> Iterator[tuple[str, Reply | str]]:
        reached = {name: request for name, request in requests.items() if name in places}
        clinics = {places[name]: name for name in reached}
        contents = {places[name]: packed for name, packed in pack_requests(reached).items()}
        patience = terms.deadline_s / (terms.resends + 1)
        for node, reply in _send(
            grid, contents, "train", patience, stop, poll_s=poll_s, apart=apart
        ):
            yield clinics[node], reply
        yield from ((name, absent(name)) for name in requests if name not in reached)

    return ask


def words_of_flower(code: int) -> str:
    """Say what one of Flower's own errors means.

    Args:
        code: Its number, of `flwr.common.constant.ErrorCode`.

    Returns:
        A few words; those of `UNREACHED` where no word of the clinic itself came back.
    """
    return _CODES.get(code, f"Flower error {code}")


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
    grid: Grid,
    contents: Mapping[int, RecordDict],
    kind: str,
    deadline_s: float,
    stop: Event,
    *,
    poll_s: float = _POLL_S,
    apart: bool = False,
) -> Iterator[tuple[int, Reply | str]]:
    """Send a message to each node; hand out its reply, or in words why there is none."""
    left = dict.fromkeys(contents, "no answer before the deadline")
    for node, message in replies_of(
        grid, contents, kind, deadline_s, stop, poll_s=poll_s, apart=apart
    ):
        reply = left.pop(node) if message is None else _read(message)
        left.pop(node, None)
        yield node, reply
        if reply == DIED:
            break  # a dead worker goes back into Flower's pool and takes healthy clinics with it
    yield from left.items()


def replies_of(
    grid: Grid,
    contents: Mapping[int, RecordDict],
    kind: str,
    deadline_s: float,
    stop: Event,
    *,
    poll_s: float = _POLL_S,
    apart: bool = False,
) -> Iterator[tuple[int, Message | None]]:
    """Send a message to each node and hand out what comes back, as it comes.

    Args:
        grid: Flower's grid.
        contents: What each node is sent.
        kind: The message's type.
        deadline_s: Seconds to wait.
        stop: Set by whoever wants the run to end now.
        poll_s: Least seconds between two looks for replies; they become rarer in long rounds.
        apart: Whether nodes are strangers' machines; see `arrived`.

    Yields:
        Each node with its reply; at the end those that stayed silent, with None.
    """
    messages = [Message(content, node, kind) for node, content in contents.items()]
    waiting = dict(zip(grid.push_messages(messages), contents, strict=True))
    began = time.monotonic()
    while waiting:
        for asked, message in arrived(grid, list(waiting), apart=apart):
            if asked in waiting:
                yield waiting.pop(asked), message
        gone = time.monotonic() - began
        # A look costs processor time for each reply that is out, and keeps simulated clinics from
        # working: so the longer they take, the rarer it is, and a round at most so much longer.
        pause = max(poll_s, min(gone * _LATER, _RAREST_S))
        if not waiting or gone > deadline_s or stop.wait(min(pause, deadline_s - gone)):
            break
    yield from ((node, None) for node in waiting.values())


def arrived(grid: Grid, ids: Sequence[str], *, apart: bool) -> Iterator[tuple[str, Message | None]]:
    """Fetch the replies that are there.

    Args:
        grid: Flower's grid.
        ids: The messages that were sent.
        apart: Whether each reply is asked for by itself. What a reply says it is a reply to is its
            sender's word: the SuperLink and the proxy look at the envelope alone.

    Yields:
        The id of a message with its reply; None for one that cannot be read.
    """
    size = 1 if apart else _AT_ONCE
    for start in range(0, len(ids), size):
        some = ids[start : start + size]
        try:
            for message in grid.pull_messages(some):
                yield some[0] if apart else message.metadata.reply_to_message_id, message
        except _UNREADABLE as error:
            if not apart:
                raise
            _log.warning("an answer of another form: %s", type(error).__name__)
            yield some[0], None


def _read(message: Message) -> Reply | str:
    if message.has_error():
        # Flower puts the traceback of the clinic into the reason: it goes no further than here.
        code = message.error.code
        died = "ActorDied" in str(message.error.reason) or code == 0
        return DIED if died else words_of_flower(code)
    try:
        return unpack_reply(message.content)
    except IntegrityError as error:
        return f"expected {error.rule}; got {error.got}"
