"""The closed schema of what travels before the first round and after the last one.

propose   the coordinator's proposal; the clinic says where it stands
prepare   the terms of the run; the clinic says ready
finish    how the run ended; the clinic says gone

Terms carry no config: a clinic runs the one that it approved.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

from flwr.app import ConfigRecord, Message, RecordDict

from skinml.errors import IntegrityError, RefusedError, SkinmlError
from skinml.experiments.sites import Terms
from skinml.federated.coordinator import words_of_flower
from skinml.federated.problems import Problem, problem_of, require_problem, told_of
from skinml.records import Labels

STATES: Mapping[str, frozenset[str]] = {
    "query.propose": frozenset({"pending", "approved", "refused"}),
    "query.prepare": frozenset({"ready"}),
    "query.finish": frozenset({"gone"}),
}
"""What a clinic may answer to each kind of message, where nothing went wrong."""

OUTCOMES = frozenset({"completed", "failed"})

NOT_READY = "a run that this clinic made ready for"
"""The rule by which a clinic says in a round that it must be asked to make ready once more."""

_LONGEST = 1 << 20
_log = logging.getLogger("skinml.runner")
_KEYS = {"clinic", "state"}


@dataclass(frozen=True)
class Heard:
    """What a clinic answered to a message of the setup.

    Attributes:
        state: Where it stands; empty where something went wrong.
        why: What went wrong, in words; empty where nothing did.
        refused: Whether its policy or its budget said no.
    """

    state: str
    why: str = ""
    refused: bool = False


def pack_content(content: bytes) -> RecordDict:
    """Put what a clinic is sent into Flower's records.

    Args:
        content: JSON.

    Returns:
        One record, "setup".
    """
    return RecordDict({"setup": ConfigRecord({"content": content})})


def unpack_content(records: RecordDict) -> bytes:
    """Read what a clinic was sent.

    Args:
        records: What arrived.

    Returns:
        JSON, of at most 1 MiB.

    Raises:
        IntegrityError: If the records are others.
    """
    try:
        content = dict(records.config_records["setup"])["content"]
        only = set(records) == {"setup"} and set(records.config_records["setup"]) == {"content"}
    except KeyError:
        raise _foreign() from None
    if not (only and isinstance(content, bytes) and len(content) <= _LONGEST):
        raise _foreign()
    return content


def write_terms(terms: Terms) -> bytes:
    """Write a run's terms without its config.

    Args:
        terms: The terms.

    Returns:
        JSON.
    """
    return json.dumps(asdict(replace(terms, config="", clinics_root=""))).encode()


def read_terms(content: bytes, config: str) -> Terms:
    """Read a run's terms.

    Args:
        content: What `write_terms` wrote, from another machine.
        config: The config that the clinic approved.

    Returns:
        The terms, of a run that is not simulated.

    Raises:
        IntegrityError: If it is of another form.

    Guarantees:
        Nothing else is in it: written down again, the terms are the same bytes.
    """
    try:
        values = json.loads(content)
        classes = values["classes"]
        terms = Terms(
            run=str(values["run"]),
            config=config,
            clinics=tuple(str(name) for name in values["clinics"]),
            clinics_root="",
            classes=Labels(
                tuple(str(name) for name in classes["names"]),
                tuple(bool(each) for each in classes["malignant"]),
            ),
            num_features=int(values["num_features"]),
            registered=tuple((str(name), str(key)) for name, key in values["registered"]),
            coordinator=str(values["coordinator"]),
            simulated=False,
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _foreign() from error
    if write_terms(terms) != content:
        raise _foreign()
    return terms


def write_end(run: str, outcome: str) -> bytes:
    """Write how a run ended.

    Args:
        run: The run's id.
        outcome: One of `OUTCOMES`.

    Returns:
        JSON.
    """
    return json.dumps({"run": run, "outcome": outcome}).encode()


def read_end(content: bytes) -> tuple[str, str]:
    """Read how a run ended.

    Args:
        content: What `write_end` wrote, from another machine.

    Returns:
        The run's id and one of `OUTCOMES`.

    Raises:
        IntegrityError: If it is of another form.
    """
    try:
        told = json.loads(content)
        run, outcome = str(told["run"]), str(told["outcome"])
    except (KeyError, TypeError, ValueError, RecursionError):
        raise _foreign() from None
    if outcome not in OUTCOMES or write_end(run, outcome) != content:
        raise _foreign()
    return run, outcome


def answer_setup(message: Message, clinic: str, answer: Callable[[bytes], str]) -> Message:
    """Answer a message of the setup, whatever happens.

    Args:
        message: The message.
        clinic: The clinic's name.
        answer: From its content to a state.

    Returns:
        The reply: a state, or a problem in words.

    Guarantees:
        Of what went wrong at the clinic leaves what `problem_of` says, and no more; the log of the
        node holds no other words either, for many people may read it.
    """
    kind = message.metadata.message_type
    try:
        records = pack_standing(clinic, kind, answer(unpack_content(message.content)))
    except SkinmlError as error:
        problem = problem_of(error)
        _log.warning("%s ended with: %s", kind, told_of(problem))
        records = pack_standing(clinic, kind, "", problem)
    # The process edge of a clinic: whatever it is, only its class may cross.
    except Exception as error:  # noqa: BLE001
        _log.exception("%s failed at this clinic", kind)
        records = pack_standing(clinic, kind, "", problem_of(error))
    return Message(records, reply_to=message)


def pack_standing(clinic: str, kind: str, state: str, problem: Problem | None = None) -> RecordDict:
    """Put a clinic's answer into Flower's records: the last look at it before it leaves.

    Args:
        clinic: The clinic's name.
        kind: What it answers, a word of `STATES`.
        state: Where it stands; empty where there is a problem.
        problem: What went wrong.

    Returns:
        Two records, "standing" and "problem".

    Raises:
        IntegrityError: If there is something in it that no answer may hold.
    """
    _require_standing({"clinic": clinic, "state": state}, problem or {}, clinic, kind)
    standing = ConfigRecord({"clinic": clinic, "state": state})
    return RecordDict({"standing": standing, "problem": ConfigRecord(dict(problem or {}))})


def read_standing(message: Message | None, clinic: str) -> tuple[str, str]:
    """Read a clinic's answer.

    Args:
        message: The reply; None where none came.
        clinic: Whose it is.

    Returns:
        The state, and what went wrong in words; one of them is empty.
    """
    heard = heard_of(message, clinic)
    return heard.state, heard.why


def heard_of(message: Message | None, clinic: str) -> Heard:
    """Read a clinic's answer.

    Args:
        message: The reply; None where none came.
        clinic: Whose it is.

    Returns:
        What it says.
    """
    if message is None:
        return Heard("", "no answer")
    if message.has_error():
        return Heard("", words_of_flower(message.error.code))
    records = message.content
    try:
        told = dict(records.config_records["standing"])
        if set(records) != {"standing", "problem"}:
            raise _foreign()
        problem = dict(records.config_records["problem"])
        _require_standing(told, problem, clinic, message.metadata.message_type)
    except (KeyError, IntegrityError):
        return Heard("", "an answer of another form")
    if problem:
        words = {key: str(word) for key, word in problem.items()}
        why = f"expected {words['rule']}; got {words['got']}. {words['do']}"
        return Heard("", why, problem["code"] == RefusedError.exit_code)
    return Heard(str(told["state"]))


def _require_standing(
    told: Mapping[str, object], problem: Mapping[str, object], clinic: str, kind: str
) -> None:
    state = told.get("state")
    fits = set(told) == _KEYS and told["clinic"] == clinic and isinstance(state, str)
    if problem:
        require_problem(problem)
    if not fits or state not in ({""} if problem else STATES.get(kind, ())):
        raise _foreign()


def _foreign() -> IntegrityError:
    return IntegrityError(
        rule="a message of the setup as this release of skinml writes it",
        got="one of another form",
        do="Use the same release of skinml at the coordinator and at the clinics.",
    )
