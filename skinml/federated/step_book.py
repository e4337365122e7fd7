"""What a clinic has answered: so that a message is sent again, and never made again.

An attempt at a round is answered once. Asked the same again, in the same attempt, a clinic sends
what it sent before; asked anything else it refuses. Whatever is computed anew belongs to a new
attempt, with fresh noise, and is charged as such.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol

from skinml.federated.secure_session import broken, joined, parted

Place = tuple[int, int]
"""A round's number and the attempt at it."""

Answers = dict[str, tuple[str, bytes]]
"""By step: digest of the request, and the answer."""

_SECRET_BYTES = 32


class StepBook(Protocol):
    """Where a clinic keeps, through crashes, what it has answered in the latest attempt."""

    def load(self) -> bytes:
        """Read what was saved last; empty at first."""

    def save(self, content: bytes) -> None:
        """Save it before anything leaves.

        It outlives a kill; where an answer must never be made twice, a power cut too.
        """

    def locked(self) -> AbstractContextManager[None]:
        """Keep whoever else answers for this clinic out until the block ends."""


def answer_once(
    book: StepBook,
    clinic: str,
    place: Place,
    step: str,
    asked: str,
    make: Callable[[Answers], bytes],
    secret: bytes | None = None,
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
        secret: The book's secret from which what is made follows, read before; None: nothing does.

    Returns:
        The answer.

    Raises:
        IntegrityError: If the step was answered on another request, a later attempt was, or the
            book was lost since its secret was read.
        EnvironmentProblem: If the book cannot be written: then nothing may leave.

    Guarantees:
        For one attempt and step at most one answer is ever returned while the book is kept,
        through crashes too; with the book what follows from its secret is lost.
    """
    with book.locked():
        page = _page(book)
        if secret is not None and page.drawn != secret:
            raise broken(f"the book of answers that clinic {clinic} was asked with", "another one")
        answers = page.at(clinic, place)
        if step in answers:
            if answers[step][0] != asked:
                raise broken(
                    f"step '{step}' of an attempt to be asked once at clinic {clinic}",
                    "another request for the same attempt",
                )
            return answers[step][1]
        answer = make(answers)
        answers[step] = (asked, answer)
        book.save(replace(page, place=place, answers=answers).written())
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
    page = _page(book)
    if not page.drawn:
        with book.locked():
            page = _page(book)
            if not page.drawn:
                page = replace(page, drawn=os.urandom(_SECRET_BYTES))
                book.save(page.written())
    return page.drawn


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
    return _page(book).at(clinic, place)


@dataclass(frozen=True, repr=False)
class _Page:
    """What stands in a book: the answers of the latest attempt, and the secret."""

    place: Place = (0, 0)
    answers: Answers = field(default_factory=dict)
    drawn: bytes = b""

    def at(self, clinic: str, place: Place) -> Answers:
        """Find the answers of an attempt; a newer one has none yet."""
        if place < self.place:
            raise broken(
                f"an attempt not older than the latest one that clinic {clinic} answered",
                f"round {place[0]}, attempt {place[1]}",
            )
        return {} if place > self.place else dict(self.answers)

    def written(self) -> bytes:
        steps = [[step, digest] for step, (digest, _) in self.answers.items()]
        head = json.dumps({"place": self.place, "steps": steps}).encode()
        return joined([head, self.drawn, *(answer for _, answer in self.answers.values())])


def _page(book: StepBook) -> _Page:
    content = book.load()
    if not content:
        return _Page()
    head, drawn, *given = parted(content)
    told = json.loads(head)
    pairs = zip(told["steps"], given, strict=True)
    answers = {step: (digest, answer) for (step, digest), answer in pairs}
    return _Page((told["place"][0], told["place"][1]), answers, drawn)
