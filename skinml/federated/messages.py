"""The closed schema of what travels between coordinator and clinics.

A request names the run, the round, the attempt, the step and the participants, and carries the
public query and what the clinics post to each other. A reply carries one array a planned release,
or a signed message of a secure sum, or a problem in words. Nothing else may be in either; both
sides check.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from skinml.errors import IntegrityError
from skinml.federated.problems import Problem, require_problem
from skinml.federated.secure_session import unpacked
from skinml.federated.wire_arrays import pack_arrays, unpack_arrays
from skinml.records import Arrays

# What reading the records of a stranger may raise: missing, wrong type, no array, no memory.
_MALFORMED = (KeyError, TypeError, ValueError, EOFError, OverflowError, MemoryError)
_HEADER = {"run", "round", "attempt", "participants", "step"}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_LONGEST_NAME = 128

SUMS = "sums"
POSTS: Mapping[str, frozenset[str]] = {
    SUMS: frozenset(),
    "keys": frozenset(),
    "shares": frozenset({"adverts"}),
    "masked": frozenset({"adverts", "letters"}),
    "survivors": frozenset({"letters", "survivors"}),
    "unmask": frozenset({"adverts", "letters", "agreements"}),
    "paired": frozenset({"adverts"}),
}
"""What is posted with each step: "sums" is the plain one, the others make a secure sum."""

_WITH_QUERY = {SUMS, "masked", "paired"}


@dataclass(frozen=True)
class Request:
    """What the coordinator asks of a clinic.

    Attributes:
        run: The run's id.
        round: The round's number, from 1.
        attempt: The attempt at the round, from 1.
        participants: The clinics asked in this attempt.
        query: Public arrays such as the current weights.
        step: One of `POSTS`.
        post: What other clinics sent for this one, by the names that belong to the step.
    """

    run: str
    round: int
    attempt: int
    participants: tuple[str, ...]
    query: Arrays
    step: str = SUMS
    post: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What a clinic answers.

    Attributes:
        clinic: The clinic's name.
        round: The round that it answers.
        sums: One array for each release; empty where there is a problem.
        problem: Empty, or rule, got, do and code of what went wrong, free of private data.
        signed: A signed message of a secure sum; empty with the step "sums".
    """

    clinic: str
    round: int
    sums: Arrays
    problem: Problem
    signed: bytes = b""


def pack_requests(requests: Mapping[str, Request]) -> dict[str, RecordDict]:
    """Turn requests into Flower's records; what several share is packed once.

    Args:
        requests: By clinic.

    Returns:
        Three records a request: "request", "query" and "post".
    """
    queries = {id(each.query): each.query for each in requests.values()}
    packed = {number: pack_arrays(query) for number, query in queries.items()}
    headers: dict[tuple[object, ...], ConfigRecord] = {}
    contents = {}
    for name, each in requests.items():
        same = (each.run, each.round, each.attempt, each.participants, each.step)
        if same not in headers:
            headers[same] = _header(each)
        contents[name] = _packed(each, headers[same], packed[id(each.query)])
    return contents


def pack_request(request: Request) -> RecordDict:
    """Turn a request into Flower's records.

    Args:
        request: The request.

    Returns:
        Three records: "request", "query" and "post".
    """
    return _packed(request, _header(request), pack_arrays(request.query))


def _header(request: Request) -> ConfigRecord:
    return ConfigRecord(
        {
            "run": request.run,
            "round": request.round,
            "attempt": request.attempt,
            "participants": list(request.participants),
            "step": request.step,
        }
    )


def _packed(request: Request, header: ConfigRecord, query: ArrayRecord) -> RecordDict:
    post = ConfigRecord(dict(request.post))
    return RecordDict({"request": header, "query": query, "post": post})


def unpack_request(records: RecordDict) -> Request:
    """Read a request.

    Args:
        records: What arrived.

    Returns:
        The request.

    Raises:
        IntegrityError: If the records are not exactly those of a request.
    """
    try:
        return _request_of(records)
    except _MALFORMED as error:
        raise _foreign("a request whose values can be read") from error


def _request_of(records: RecordDict) -> Request:
    _require_keys(set(records), {"request", "query", "post"}, "a request")
    header, post = _values(records, "request"), _values(records, "post")
    _require_keys(set(header), _HEADER, "a request's header")
    participants, step = header["participants"], _word(header["step"])
    _require_keys(set(post), set(POSTS[step]), f"what is posted with step '{step}'")
    if not isinstance(participants, list):
        raise _foreign("a request's header with a list of clinics")
    query = _arrays(records, "query")
    if query and step not in _WITH_QUERY:
        raise _foreign(f"no arrays with step '{step}'")
    return Request(
        run=_word(header["run"]),
        round=_number(header["round"]),
        attempt=_number(header["attempt"]),
        participants=_names(tuple(participants)),
        query=query,
        step=step,
        post={name: _bytes(value) for name, value in post.items()},
    )


def pack_reply(reply: Reply) -> RecordDict:
    """Turn a reply into Flower's records: the last look at it before it leaves a clinic.

    Args:
        reply: The reply.

    Returns:
        Three records: "reply", "sums" and "problem".

    Raises:
        IntegrityError: If there is something in it that no reply may hold.
    """
    _require_reply(reply)
    return RecordDict(
        {
            "reply": ConfigRecord(
                {"clinic": reply.clinic, "round": reply.round, "signed": reply.signed}
            ),
            "sums": pack_arrays(reply.sums),
            "problem": ConfigRecord(dict(reply.problem)),
        }
    )


def unpack_reply(records: RecordDict) -> Reply:
    """Read a reply.

    Args:
        records: What arrived.

    Returns:
        The reply.

    Raises:
        IntegrityError: If the records are not exactly those of a reply.
    """
    try:
        return _reply_of(records)
    except _MALFORMED as error:
        raise _foreign("a reply whose values can be read") from error


def _reply_of(records: RecordDict) -> Reply:
    _require_keys(set(records), {"reply", "sums", "problem"}, "a reply")
    header = _values(records, "reply")
    _require_keys(set(header), {"clinic", "round", "signed"}, "a reply's header")
    reply = Reply(
        clinic=header["clinic"],
        round=header["round"],
        sums=_arrays(records, "sums"),
        problem=_values(records, "problem"),
        signed=header["signed"],
    )
    _require_reply(reply)
    return reply


def _require_reply(reply: Reply) -> None:
    """Hold a reply against the closed schema: sums, or a signed message, or a problem alone."""
    _word(reply.clinic)
    _number(reply.round)
    _bytes(reply.signed)
    if reply.problem:
        require_problem(reply.problem)
        if reply.clinic or reply.round or reply.sums or reply.signed:
            raise _foreign("a problem and nothing beside it")
    if reply.signed and (reply.sums or unpacked(reply.signed).sender != reply.clinic):
        raise _foreign("the clinic's own signed message and nothing beside it")
    for name, values in reply.sums.items():
        sound = values.dtype == np.float64 and bool(np.isfinite(values).all())
        if not (_NAME.fullmatch(name) and sound):
            raise _foreign("sums of finite float64 under the names of releases")


def require_sums(sums: Arrays, shapes: Mapping[str, tuple[int, ...]], clinic: str) -> None:
    """Check a clinic's arrays, on both sides of the wire.

    Args:
        sums: The arrays by name.
        shapes: The shape of each planned release.
        clinic: Whose they are, for the message.

    Raises:
        IntegrityError: If names or shapes differ, a type is not float64, or a value not finite.
    """
    _require_keys(set(sums), set(shapes), f"the sums of clinic {clinic}")
    for name, shape in shapes.items():
        array = sums[name]
        if array.dtype != np.float64 or array.shape != shape or not np.isfinite(array).all():
            raise _foreign(f"a finite float64 '{name}' of shape {shape} from clinic {clinic}")


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise _foreign("bytes where a clinic's message stands")
    return value


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**31:  # a truth value is none
        raise _foreign("a number that counts rounds or attempts")
    return value


@lru_cache(maxsize=16)
def _names(values: tuple[object, ...]) -> tuple[str, ...]:
    """Check names; the same ones come with each request of a run."""
    return tuple(map(_word, values))


def _word(value: object) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_NAME or not value.isprintable():
        raise _foreign("a name on one line")
    return value


# Flower's own views by type, such as `array_records`, form cycles with the records: what a message
# held would stay in memory until Python looks for cycles.
def _arrays(records: RecordDict, name: str) -> Arrays:
    record = records[name]
    if not isinstance(record, ArrayRecord):
        raise _foreign(f"arrays under '{name}'")
    return unpack_arrays(record)


def _values(records: RecordDict, name: str) -> dict[str, Any]:
    record = records[name]
    if not isinstance(record, ConfigRecord):
        raise _foreign(f"values under '{name}'")
    return dict(record)


def _require_keys(found: set[str], expected: set[str], what: str) -> None:
    if found != expected:
        raise _foreign(f"{what} of exactly {sorted(expected)}")


def _foreign(rule: str) -> IntegrityError:
    return IntegrityError(
        rule=rule,
        got="a message of another form",
        do="Run the same release of skinml at the coordinator and at every clinic.",
    )
