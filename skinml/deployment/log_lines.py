"""The form of the logs on both sides: JSON, an object a line, with keys of one closed list.

Every line is written by `supervision.JsonLog`. A process of skinml that is supervised says its
lines on its output, marked, so that the supervisor writes them as they were meant; all else that
a process prints is a line of the event `output`.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TypedDict

from skinml.errors import DataError, SkinmlError

MARK = "skinml-line "
_LONGEST_WORDS = 1000


class Line(TypedDict, total=False):
    """What a line may hold.

    Attributes:
        at: When, ISO 8601, UTC.
        part: Which process or which side of a run said it.
        event: What happened, one word.
        words: The same for people.
        line: What a process printed that is not skinml's own.
        run: The run's id.
        round: The round's number; 0 while keys are exchanged.
        attempt: The number of the attempt at it.
        life: Which process of the coordinator is at the run.
        clinic: A clinic's name.
        kind: The kind of message, such as "query.prepare" or "train".
        seconds: How long it took.
    """

    at: str
    part: str
    event: str
    words: str
    line: str
    run: str
    round: int
    attempt: int
    life: int
    clinic: str
    kind: str
    seconds: float


_TYPES: dict[str, tuple[type, ...]] = {
    "event": (str,),
    "words": (str,),
    "run": (str,),
    "round": (int,),
    "attempt": (int,),
    "kind": (str,),
    "seconds": (int, float),
}
"""What a supervised process may say of itself; time and part are the supervisor's to say."""


class Spoken(logging.Formatter):
    """Formats a process's log records as marked lines.

    A record's own event and values come with `extra={"told": {...}}`. Of a traceback the class and
    the places are told: its last line can name a patient.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Write one record.

        Args:
            record: The record.

        Returns:
            One line, whatever its words are.
        """
        error = record.exc_info[1] if record.exc_info else None
        words = record.getMessage() + (f": {said_of(error)}" if error else "")
        event = {"event": "said", "words": words[:_LONGEST_WORDS]}
        told = event | getattr(record, "told", {})
        return MARK + json.dumps(told)


def said_of(error: BaseException | None) -> str:
    """Say what went wrong in no words but skinml's own: others' may tell of a patient.

    Args:
        error: What was raised.

    Returns:
        The words of an error of skinml, but not of one about data, which may quote a list; of any
        other its class and where it came from.
    """
    spoken = isinstance(error, SkinmlError) and not isinstance(error, DataError)
    if error is None or spoken:
        return str(error)
    places, trace = [], error.__traceback__
    while trace is not None:
        places.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__} at {' < '.join(reversed(places[-6:]))}"


def heard(text: str) -> Line | None:
    """Read a line that a supervised process printed.

    Args:
        text: The line.

    Returns:
        Its values; None where it is not a marked one, or is of another form.

    >>> heard('skinml-line {"event": "answered", "round": 3}')
    {'event': 'answered', 'round': 3}
    >>> heard('skinml-line {"event": "answered", "patient": "p1"}') is None
    True
    """
    if not text.startswith(MARK):
        return None
    try:
        values = json.loads(text.removeprefix(MARK))
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or "event" not in values:
        return None
    fits = all(
        isinstance(value, _TYPES.get(key, ())) and not isinstance(value, bool)
        for key, value in values.items()
    )
    found: Line = values  # type: ignore[assignment]  # keys and types were just held to the list
    return found if fits else None
