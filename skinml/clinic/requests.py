"""What patients have asked for and by when they are to be answered: a short sealed list.

A request is written down when it comes. `clinic access`, `correct`, `restrict` and `erase` close
the patient's open requests of their kind by themselves; the others are closed by a person.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta
from typing import Literal

from skinml.clinic.folder import ClinicFolder
from skinml.clinic.gate import require_role
from skinml.durable import locked
from skinml.errors import ConfigError, DataError
from skinml.stewardship.audit_events import RIGHTS
from skinml.stewardship.encryption import derive_key, seal, unseal
from skinml.stewardship.pseudonyms import pseudonym
from skinml.stewardship.roles import os_user

Outcome = Literal["done", "refused"]

_FILE = "requests.sealed"
_WHAT = "list of patients' requests"
_CONTEXT = b"skinml requests 1"


@dataclass(frozen=True)
class Request:
    """One request. Per patient: never log.

    Attributes:
        number: Its number, from 1.
        right: What is asked for.
        patient: The patient's pseudonym.
        received: The day that it came.
        due: The last day to answer it.
        closed: The day that it was answered; None while it is open.
        outcome: How it was answered; None while it is open.
    """

    number: int
    right: str
    patient: str
    received: date
    due: date
    closed: date | None = None
    outcome: Outcome | None = None

    def days_left(self, today: date) -> int:
        """Tell how many days are left; negative where it is overdue.

        Args:
            today: The day.

        Returns:
            Days from today to the last day.
        """
        return (self.due - today).days


def note_request(
    folder: ClinicFolder,
    patient: str,
    right: str,
    *,
    now: datetime,
    received: date | None = None,
) -> Request:
    """Write down that a patient has asked for something.

    Args:
        folder: The clinic's folder.
        patient: The patient's id.
        right: What is asked for.
        now: The time, with its zone.
        received: The day that it came, today or before; None: today.

    Returns:
        The request with its last day, which the policy's `requests.answer_days` sets.

    Raises:
        ConfigError: If the word is no right, or the day lies ahead.
        EnvironmentProblem: If it cannot be written.
        IntegrityError: If the list was changed.
        PolicyError: If the user may not.
    """
    actor = require_role(folder, "consent.change")
    today, came = now.date(), received or now.date()
    if right not in RIGHTS or came > today:
        raise ConfigError(
            rule=f"one of {', '.join(RIGHTS)}, received today or before",
            got=f"received={came}" if right in RIGHTS else "another word",
            do="Correct it; nothing was written.",
        )
    name = pseudonym(folder.key, patient)
    due = came + timedelta(days=folder.policy.requests.answer_days)

    def add(known: Sequence[Request]) -> list[Request]:
        return [*known, Request(len(known) + 1, right, name, came, due)]

    request = _change(folder, add)[-1]
    folder.audit.write(
        "request received", actor, now=now, patient=name, right=right, count=request.number, day=due
    )
    return request


def requests_of(folder: ClinicFolder, *, also_closed: bool = False) -> tuple[Request, ...]:
    """List requests, those that are due first in front.

    Args:
        folder: The clinic's folder.
        also_closed: Whether to list those that were answered, too.

    Returns:
        The requests.

    Raises:
        EnvironmentProblem: If the list cannot be read.
        IntegrityError: If it was changed.
        PolicyError: If the user may not count consents.
    """
    require_role(folder, "consent.count")
    found = [each for each in _read(folder) if also_closed or each.closed is None]
    return tuple(sorted(found, key=lambda each: (each.closed is not None, each.due, each.number)))


def whose(folder: ClinicFolder, requests: Sequence[Request], *, now: datetime) -> dict[int, str]:
    """Tell whose requests are; the audit log says that somebody asked.

    Args:
        folder: The clinic's folder.
        requests: Some of the list.
        now: The time, with its zone.

    Returns:
        The clinic's own id by the request's number, for those that the vault knows: never log.

    Raises:
        EnvironmentProblem: If a file cannot be read or the log not be written.
        IntegrityError: If something was changed.
        PolicyError: If the user may not read single patients' records.
    """
    actor = require_role(folder, "consent.read")
    people = {each.patient for each in requests}
    folder.audit.write("access", actor, now=now, kind="requests", patients=len(people))
    names = {name: folder.vault.identify(name) for name in people}
    return {each.number: known for each in requests if (known := names[each.patient]) is not None}


def close_request(folder: ClinicFolder, number: int, outcome: Outcome, *, now: datetime) -> Request:
    """Write down how a request was answered.

    Args:
        folder: The clinic's folder.
        number: The request's number.
        outcome: "done", or "refused" with the reason told to the patient.
        now: The time, with its zone.

    Returns:
        The request.

    Raises:
        DataError: If there is no open request of this number.
        EnvironmentProblem: If it cannot be written.
        IntegrityError: If the list was changed.
        PolicyError: If the user may not.
    """
    actor = require_role(folder, "consent.change")

    def close(known: Sequence[Request]) -> list[Request]:
        if not any(each.number == number and each.closed is None for each in known):
            raise DataError(
                rule="the number of an open request",
                got=f"number={number}",
                do="Look it up with: skinml clinic requests list",
            )
        return [
            replace(each, closed=now.date(), outcome=outcome) if each.number == number else each
            for each in known
        ]

    request = _change(folder, close)[number - 1]
    _log_answer(folder, request, actor, now)
    return request


def answered(folder: ClinicFolder, patient: str, right: str, *, now: datetime) -> int:
    """Close a patient's open requests of a kind that has just been done.

    Args:
        folder: The clinic's folder, for a caller that has asked for a role.
        patient: The patient's id.
        right: What was done.
        now: The time, with its zone.

    Returns:
        How many were closed.

    Raises:
        EnvironmentProblem: If the list cannot be written.
        IntegrityError: If it was changed.
    """
    name = pseudonym(folder.key, patient)

    def fits(each: Request) -> bool:
        return each.patient == name and each.right == right and each.closed is None

    numbers = {each.number for each in _read(folder) if fits(each)}
    if not numbers or (right == "correct" and len(numbers) > 1):
        return 0  # one correction does not answer two questions: a person closes them

    def close(known: Sequence[Request]) -> list[Request]:
        return [replace(e, closed=now.date(), outcome="done") if fits(e) else e for e in known]

    for each in _change(folder, close):
        if each.number in numbers:
            _log_answer(folder, each, os_user(), now)
    return len(numbers)


def _log_answer(folder: ClinicFolder, request: Request, actor: str, now: datetime) -> None:
    folder.audit.write(
        "request answered",
        actor,
        now=now,
        patient=request.patient,
        right=request.right,
        count=request.number,
        answer="yes" if request.outcome == "done" else "no",
    )


def _change(
    folder: ClinicFolder, change: Callable[[Sequence[Request]], list[Request]]
) -> list[Request]:
    with locked(folder.path / ".requests.lock", _WHAT):
        after = change(_read(folder))
        content = json.dumps([asdict(each) for each in after], default=date.isoformat).encode()
        sealed = seal(derive_key(folder.key, "requests"), content, context=_CONTEXT)
        folder.anchors.replace(folder.path / _FILE, sealed, _WHAT)
    return after


def _read(folder: ClinicFolder) -> list[Request]:
    sealed = folder.anchors.find(folder.path / _FILE, _WHAT)
    if sealed is None:
        return []
    content = json.loads(unseal(derive_key(folder.key, "requests"), sealed, context=_CONTEXT))
    return [
        Request(
            **{
                **each,
                "received": date.fromisoformat(each["received"]),
                "due": date.fromisoformat(each["due"]),
                "closed": date.fromisoformat(each["closed"]) if each["closed"] else None,
            }
        )
        for each in content
    ]
