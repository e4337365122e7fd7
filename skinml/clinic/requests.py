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
from skinml.stewardship.days import day_of, first_day_of
from skinml.stewardship.encryption import derive_key, seal, unseal
from skinml.stewardship.pseudonyms import pseudonym
from skinml.stewardship.roles import os_user

Outcome = Literal["done", "refused"]

FILE = "requests.sealed"
"""Where the list lies in the clinic's folder."""

_OTHER_WORDS = {
    "copy": "access",
    "portability": "access",
    "correction": "correct",
    "rectification": "correct",
    "restriction": "restrict",
    "erasure": "erase",
    "deletion": "erase",
    "objection": "object",
}
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
        noted_by: Who wrote it down; "" in lists of older builds.
        closed_by: Who wrote down how it was answered.
    """

    number: int
    right: str
    patient: str
    received: date
    due: date
    closed: date | None = None
    outcome: Outcome | None = None
    noted_by: str = ""
    closed_by: str = ""

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
        right: What is asked for: one of `RIGHTS`, or a law's word for it, such as rectification.
        now: The time, with its zone.
        received: The day that it came, today or before; None: today, and where that is another
            day in UTC the earlier one.

    Returns:
        The request with its last day, which the policy's `requests.answer_days` sets.

    Raises:
        ConfigError: If the word is no right, or the day lies ahead.
        EnvironmentProblem: If it cannot be written.
        IntegrityError: If the list was changed.
        PolicyError: If the user may not.
    """
    actor = require_role(folder, "consent.change")
    today, came = day_of(now), received or first_day_of(now)
    right = known_right(right)
    if came > today:
        raise ConfigError(
            rule="a request that came today or before",
            got=f"received={came}",
            do="Correct the day; nothing was written.",
        )
    name = pseudonym(folder.key, patient)
    due = came + timedelta(days=folder.policy.requests.answer_days)

    def add(known: Sequence[Request]) -> list[Request]:
        return [*known, Request(len(known) + 1, right, name, came, due, noted_by=actor)]

    request = _change(folder, add)[-1]
    log_requests(folder, now=now)
    return request


def known_right(word: str) -> str:
    """Read what a patient asks for.

    Args:
        word: One of `RIGHTS`, or a law's word for it, such as rectification.

    Returns:
        One of `RIGHTS`.

    Raises:
        ConfigError: If it is neither.
    """
    plain = word.strip().casefold()
    right = _OTHER_WORDS.get(plain, plain)
    if right not in RIGHTS:
        shown = word if word.isascii() and word.isalpha() and len(word) <= 20 else "another word"
        raise ConfigError(
            rule=f"a right: {', '.join(RIGHTS)}",
            got=f"right={shown}",
            do="Correct the word; nothing was written.",
        )
    return right


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
    found = [each for each in read_requests(folder) if also_closed or each.closed is None]
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
                do="Look it up with: skinml clinic requests list --folder FOLDER",
            )
        return [
            replace(each, closed=day_of(now), outcome=outcome, closed_by=actor)
            if each.number == number
            else each
            for each in known
        ]

    request = _change(folder, close)[number - 1]
    log_requests(folder, now=now)
    return request


def answered(folder: ClinicFolder, patient: str, right: str, *, now: datetime, actor: str) -> int:
    """Close a patient's open requests of a kind that has just been done.

    Args:
        folder: The clinic's folder, for a caller that has asked for a role.
        patient: The patient's id.
        right: What was done.
        now: The time, with its zone.
        actor: Who did it.

    Returns:
        How many were closed.

    Raises:
        EnvironmentProblem: If the list cannot be written.
        IntegrityError: If it was changed.
    """
    name = pseudonym(folder.key, patient)

    def fits(each: Request) -> bool:
        return each.patient == name and each.right == right and each.closed is None

    numbers = {each.number for each in read_requests(folder) if fits(each)}
    if right == "correct" and len(numbers) > 1:
        numbers = set()  # one correction does not answer two questions: a person closes them

    def close(known: Sequence[Request]) -> list[Request]:
        return [
            replace(each, closed=day_of(now), outcome="done", closed_by=actor)
            if fits(each)
            else each
            for each in known
        ]

    if numbers:
        _change(folder, close)
    log_requests(folder, now=now)
    return len(numbers)


def log_requests(folder: ClinicFolder, *, now: datetime) -> int:
    """Write what the list says and the audit log does not say yet into the audit log.

    Args:
        folder: The clinic's folder.
        now: The time, with its zone.

    Returns:
        Entries written.

    Raises:
        EnvironmentProblem: If the log cannot be written.
        IntegrityError: If the list or the audit log was changed.

    Guarantees:
        Each request, and each answer, has one entry, however often processes were killed between
        the list and the log: the next call writes what is missing.
    """
    with locked(folder.path / ".requests.lock", _WHAT):
        known = read_requests(folder)
        told = {
            (entry.event, entry.fields.get("count"))
            for entry in (folder.audit.entries() if known else ())
            if entry.event in ("request received", "request answered")
        }
        new = [each for each in known if ("request received", each.number) not in told]
        done = [
            each
            for each in known
            if each.closed is not None and ("request answered", each.number) not in told
        ]
        for each in new:
            about = {"patient": each.patient, "right": each.right, "count": each.number}
            by = each.noted_by or os_user()
            folder.audit.write("request received", by, now=now, **about, day=each.due)
        for each in done:
            about = {"patient": each.patient, "right": each.right, "count": each.number}
            answer, by = "yes" if each.outcome == "done" else "no", each.closed_by or os_user()
            folder.audit.write("request answered", by, now=now, **about, answer=answer)
    return len(new) + len(done)


def _change(
    folder: ClinicFolder, change: Callable[[Sequence[Request]], list[Request]]
) -> list[Request]:
    with locked(folder.path / ".requests.lock", _WHAT):
        after = change(read_requests(folder))
        content = json.dumps([asdict(each) for each in after], default=date.isoformat).encode()
        sealed = seal(derive_key(folder.key, "requests"), content, context=_CONTEXT)
        folder.anchors.replace(folder.path / FILE, sealed, _WHAT)
    return after


def read_requests(folder: ClinicFolder) -> list[Request]:
    """Read the whole list, for a caller that has asked for a role.

    Args:
        folder: The clinic's folder.

    Returns:
        The requests by number.

    Raises:
        EnvironmentProblem: If the list cannot be read.
        IntegrityError: If it was changed.
    """
    sealed = folder.anchors.find(folder.path / FILE, _WHAT)
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
