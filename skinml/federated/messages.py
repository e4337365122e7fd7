"""The closed schema of what travels between coordinator and clinics.

A request names the run, the round, the attempt, the step and the participants, and carries the
public query and what the clinics post to each other. A reply carries one array a planned release,
or a signed message of a secure sum, or a problem in words. Nothing else may be in either; both
sides check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from skinml.errors import ConfigError, IntegrityError, RefusedError, SkinmlError
from skinml.records import Arrays

# What reading the records of a stranger may raise: missing, wrong type, no array, no memory.
_MALFORMED = (KeyError, TypeError, ValueError, EOFError, OverflowError, MemoryError)
_HEADER = {"run", "round", "attempt", "participants", "step"}

SUMS = "sums"
POSTS: Mapping[str, frozenset[str]] = {
    SUMS: frozenset(),
    "keys": frozenset(),
    "shares": frozenset({"adverts"}),
    "masked": frozenset({"adverts", "letters"}),
    "survivors": frozenset({"letters", "survivors"}),
    "unmask": frozenset({"adverts", "letters", "agreements"}),
}
"""What is posted with each step: "sums" is the plain one, the others make a secure sum."""


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
    problem: Mapping[str, str | int]
    signed: bytes = b""


def pack_requests(requests: Mapping[str, Request]) -> dict[str, RecordDict]:
    """Turn requests into Flower's records; a query that several share is packed once.

    Args:
        requests: By clinic.

    Returns:
        Three records a request: "request", "query" and "post".
    """
    queries = {id(each.query): each.query for each in requests.values()}
    packed = {number: _pack_arrays(query) for number, query in queries.items()}
    return {name: _packed(each, packed[id(each.query)]) for name, each in requests.items()}


def pack_request(request: Request) -> RecordDict:
    """Turn a request into Flower's records.

    Args:
        request: The request.

    Returns:
        Three records: "request", "query" and "post".
    """
    return _packed(request, _pack_arrays(request.query))


def _packed(request: Request, query: ArrayRecord) -> RecordDict:
    header = ConfigRecord(
        {
            "run": request.run,
            "round": request.round,
            "attempt": request.attempt,
            "participants": list(request.participants),
            "step": request.step,
        }
    )
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
    header = _values(records, "request")
    _require_keys(set(header), _HEADER, "a request's header")
    participants = header["participants"]
    typed = isinstance(header["round"], int) and isinstance(header["attempt"], int)
    step, post = str(header["step"]), _values(records, "post")
    _require_keys(set(post), set(POSTS[step]), f"what is posted with step '{step}'")
    if not (typed and isinstance(participants, list)):
        raise _foreign("a request's header with numbers and a list of clinics")
    return Request(
        run=str(header["run"]),
        round=int(str(header["round"])),
        attempt=int(str(header["attempt"])),
        participants=tuple(str(name) for name in participants),
        query=_unpack_arrays(records, "query"),
        step=step,
        post={name: _bytes(value) for name, value in post.items()},
    )


def pack_reply(reply: Reply) -> RecordDict:
    """Turn a reply into Flower's records.

    Args:
        reply: The reply.

    Returns:
        Three records: "reply", "sums" and "problem".
    """
    return RecordDict(
        {
            "reply": ConfigRecord(
                {"clinic": reply.clinic, "round": reply.round, "signed": reply.signed}
            ),
            "sums": _pack_arrays(reply.sums),
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
    problem = _values(records, "problem")
    if problem:
        _require_keys(set(problem), {"code", "rule", "got", "do"}, "a problem")
        problem["code"] = int(str(problem["code"]))
    return Reply(
        clinic=str(header["clinic"]),
        round=int(str(header["round"])),
        sums=_unpack_arrays(records, "sums"),
        problem={key: v if isinstance(v, int) else str(v) for key, v in problem.items()},
        signed=_bytes(header["signed"]),
    )


def problem_of(error: SkinmlError) -> dict[str, str | int]:
    """Describe a foreseen error for the coordinator.

    Args:
        error: The error.

    Returns:
        Code, rule, got and do.

    Guarantees:
        Refusals, broken integrity and a wrong config speak for themselves, for they are about
        public things. Of any other error only the class crosses: its words may count a clinic's
        own rows, and no count leaves without noise.
    """
    if isinstance(error, RefusedError | IntegrityError | ConfigError):
        return {"code": error.exit_code, "rule": error.rule, "got": error.got, "do": error.do}
    return {
        "code": error.exit_code,
        "rule": "the clinic's own data and machine to be fit for the round",
        "got": type(error).__name__,
        "do": "Read the log at the clinic.",
    }


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


def _pack_arrays(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(np.ascontiguousarray(a)) for name, a in arrays.items()})


# Flower's own views by type, such as `array_records`, form cycles with the records: what a message
# held would stay in memory until Python looks for cycles.
def _unpack_arrays(records: RecordDict, name: str) -> Arrays:
    record = records[name]
    if not isinstance(record, ArrayRecord):
        raise _foreign(f"arrays under '{name}'")
    return {key: array.numpy() for key, array in record.items()}


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
