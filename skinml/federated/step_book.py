"""What a clinic has answered: so that a message is sent again, and never made again.

An attempt at a round is answered once. Asked the same again, in the same attempt, a clinic sends
what it sent before; asked anything else it refuses. Whatever is computed anew belongs to a new
attempt, with fresh noise, and is charged as such.
"""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from skinml.federated.secure_session import broken

Place = tuple[int, int]
"""A round's number and the attempt at it."""

Answers = dict[str, tuple[str, bytes]]
"""By step: digest of the request, and the answer."""

_DRAWN = "drawn"
_SECRET_BYTES = 32


class StepBook(Protocol):
    """Where a clinic keeps, through crashes, what it has answered in the latest attempt."""

    def load(self) -> bytes:
        """Read what was saved last; empty at first."""

    def save(self, content: bytes) -> None:
        """Save it, durably, before anything leaves."""

    def locked(self) -> AbstractContextManager[None]:
        """Keep whoever else answers for this clinic out until the block ends."""


def answer_once(
    book: StepBook,
    clinic: str,
    place: Place,
    step: str,
    asked: str,
    make: Callable[[Answers], bytes],
) -> bytes:
    """Answer a step for the first time, or find the identical answer again.

    Two processes that both saw no answer would give two, such as two sums under one mask: so one
    process at a time.

    Args:
        book: What the clinic has answered.
        clinic: Its name, for the message.
        place: The attempt.
        step: The step.
        asked: Digest of the request.
        make: Makes the answer; may add to what is kept beside it.

    Returns:
        The answer.

    Raises:
        IntegrityError: If the step was answered on another request, or a later attempt was.
        EnvironmentProblem: If the book cannot be written: then nothing may leave.

    Guarantees:
        For one attempt and step at most one answer is ever returned, through crashes too.
    """
    with book.locked():
        values = _values(book)
        answers = _answers(values, clinic, place)
        if step in answers:
            if answers[step][0] != asked:
                raise broken(
                    f"step '{step}' of an attempt to be asked once at clinic {clinic}",
                    "another request for the same attempt",
                )
            return answers[step][1]
        answer = make(answers)
        answers[step] = (asked, answer)
        book.save(_written(values, place, answers))
    return answer


def book_secret(book: StepBook) -> bytes:
    """Read the secret of a book, which whoever loses the book loses with it.

    Args:
        book: What the clinic has answered.

    Returns:
        32 bytes from the system's entropy, drawn when they are first asked for; the same for as
        long as the book is kept, whatever attempts it sees.

    Raises:
        EnvironmentProblem: If the book cannot be read, or a new secret not be written.
    """
    values = _values(book)
    if _DRAWN not in values:
        with book.locked():
            values = _values(book)
            if _DRAWN not in values:
                values[_DRAWN] = b64encode(os.urandom(_SECRET_BYTES)).decode()
                book.save(json.dumps(values).encode())
    return b64decode(values[_DRAWN])


def answers_of(book: StepBook, clinic: str, place: Place) -> Answers:
    """Read what was answered in an attempt.

    Args:
        book: What the clinic has answered.
        clinic: Its name, for the message.
        place: The attempt.

    Returns:
        The answers by step; none where the attempt is new.

    Raises:
        IntegrityError: If a later attempt was answered: this one is over.
    """
    return _answers(_values(book), clinic, place)


def _values(book: StepBook) -> dict[str, Any]:
    content = book.load()
    empty = {"round": 0, "number": 0, "answers": {}}
    return dict(json.loads(content)) if content else empty


def _answers(values: dict[str, Any], clinic: str, place: Place) -> Answers:
    latest = (values["round"], values["number"])
    if place < latest:
        raise broken(
            f"an attempt not older than the latest one that clinic {clinic} answered",
            f"round {place[0]}, attempt {place[1]}",
        )
    if place > latest:
        return {}
    return {step: (d, b64decode(p)) for step, (d, p) in values["answers"].items()}


def _written(values: dict[str, Any], place: Place, answers: Answers) -> bytes:
    rows = {step: [digest, b64encode(p).decode()] for step, (digest, p) in answers.items()}
    latest = {"round": place[0], "number": place[1], "answers": rows}
    return json.dumps(values | latest).encode()
