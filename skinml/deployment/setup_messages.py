"""The closed schema of what travels before the first round and after the last one.

propose   the coordinator's proposal; the clinic says where it stands
prepare   the terms of the run; the clinic says ready
finish    how the run ended; the clinic says gone

Terms carry no config: a clinic runs the one that it approved.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, replace

from flwr.app import ConfigRecord, Message, RecordDict

from skinml.errors import IntegrityError, SkinmlError
from skinml.experiments.sites import Terms
from skinml.federated.messages import problem_of
from skinml.records import Labels

STATES = frozenset({"pending", "approved", "refused", "ready", "gone"})
_LONGEST = 1 << 20
_log = logging.getLogger("skinml.runner")
_KEYS = {"clinic", "state"}


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
    return terms


def answer_setup(message: Message, clinic: str, answer: Callable[[bytes], str]) -> Message:
    """Answer a message of the setup, whatever happens.

    Args:
        message: The message.
        clinic: The clinic's name.
        answer: From its content to a state.

    Returns:
        The reply: a state, or a problem in words.

    Guarantees:
        Of what went wrong at the clinic leaves what `problem_of` says, and no more.
    """
    state, problem = "", {}
    try:
        state = answer(unpack_content(message.content))
    except SkinmlError as error:
        _log.warning("%s ended with: %s", message.metadata.message_type, error)  # stays here
        problem = problem_of(error)
    records = RecordDict({"standing": ConfigRecord({"clinic": clinic, "state": state})})
    records["problem"] = ConfigRecord(dict(problem))
    return Message(records, reply_to=message)


def read_standing(message: Message | None, clinic: str) -> tuple[str, str]:
    """Read a clinic's answer.

    Args:
        message: The reply; None where none came.
        clinic: Whose it is.

    Returns:
        The state, and what went wrong in words; one of them is empty.
    """
    if message is None:
        return "", "no answer"
    if message.has_error():
        return "", f"its node answered with Flower's error {message.error.code}"
    records = message.content
    try:
        told = dict(records.config_records["standing"])
        problem = dict(records.config_records["problem"])
        if set(records) != {"standing", "problem"} or set(told) != _KEYS:
            raise KeyError
        if problem:
            rule, got, do = (str(problem[key]) for key in ("rule", "got", "do"))
            return "", f"expected {rule}; got {got}. {do}"
    except KeyError:
        return "", "an answer of another form"
    if told["clinic"] != clinic or told["state"] not in STATES:
        return "", "an answer of another form"
    return str(told["state"]), ""


def _foreign() -> IntegrityError:
    return IntegrityError(
        rule="a message of the setup as this release of skinml writes it",
        got="one of another form",
        do="Use the same release of skinml at the coordinator and at the clinics.",
    )
