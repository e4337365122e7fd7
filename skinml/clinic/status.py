"""`skinml clinic status`: how a clinic stands today, from its own folder alone."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from skinml.clinic.erased import erased_names
from skinml.clinic.folder import ClinicFolder
from skinml.clinic.gate import require_role
from skinml.clinic.requests import requests_of
from skinml.clinic.statements import usual_delta
from skinml.privacy.ledger import Entry, entries_of_year, spent
from skinml.stewardship.alerts import Flag, flags
from skinml.stewardship.audit_log import AuditEntry
from skinml.stewardship.days import day_of
from skinml.stewardship.policy import Policy
from skinml.stewardship.retention import ended
from skinml.stewardship.roles import Role, allowed, roles_of

_LAST_EVENTS = 4


@dataclass(frozen=True)
class Spent:
    """What a clinic's ledger adds up to, and what it may reach.

    Attributes:
        num_runs: Runs that released something.
        num_releases: Entries in the ledger.
        delta: Delta that epsilon is read at.
        run: Epsilon of the latest run; infinite where something was released without noise.
        year: Epsilon of the last 365 days.
        life: Epsilon of everything.
    """

    num_runs: int
    num_releases: int
    delta: float
    run: float
    year: float
    life: float


@dataclass(frozen=True)
class DueHere:
    """What waits for somebody. Exact counts: they stay at the clinic.

    Attributes:
        requests: Open requests of patients.
        overdue: Those of them whose last day is over.
        next_due: The last day of the next one, YYYY-MM-DD; None where none is open.
        waiting: Imported pictures that a person has to look at.
        over: Pictures whose days are over and which are not removed yet.
    """

    requests: int
    overdue: int
    next_due: str | None
    waiting: int
    over: int


@dataclass(frozen=True)
class Status:
    """One screen. Exact counts: they stay at the clinic.

    Attributes:
        clinic: The clinic's name.
        virtual: Whether it exists only in simulations.
        user: Who asks.
        roles: What they are here.
        policy: The policy that holds.
        consents: Patients covered today by purpose, and None where the user may not count them.
        num_patients: Patients with a consent or a withdrawal on record.
        num_restricted: Those of them whose data are used for nothing, as they asked.
        num_erased: Patients who were erased here; they count for no purpose.
        spent: What the ledger says; None where the user may not read it.
        num_entries: Entries in the audit log; None where the user may not read it.
        events: Its last entries, the newest first; none where the user may not read them.
        due: Requests of patients and what was kept for its days; None where the user may not
            count consents.
        flags: What the stated rules point out, as far as the user may read the log.
        free_bytes: Space on the folder's disk.
    """

    clinic: str
    virtual: bool
    user: str
    roles: tuple[Role, ...]
    policy: Policy
    consents: Mapping[str, int] | None
    num_patients: int | None
    num_restricted: int | None
    num_erased: int | None
    spent: Spent | None
    num_entries: int | None
    events: tuple[AuditEntry, ...]
    due: DueHere | None
    flags: tuple[Flag, ...]
    free_bytes: int


def status_of(folder: ClinicFolder, now: datetime) -> Status:
    """Look at a clinic's own files.

    Args:
        folder: The opened folder.
        now: The time, with its zone.

    Returns:
        How it stands, as far as the user may know.

    Raises:
        IntegrityError: If a file was changed.
        PolicyError: If the user has no role here; the audit log says so.
    """
    user = require_role(folder, "policy.read")
    policy = folder.policy
    counts = allowed(policy.roles, user, "consent.count")
    reads = allowed(policy.roles, user, "log.read")
    entries = folder.audit.entries() if reads else ()
    erased = erased_names(folder) if counts else set()
    tally = folder.consents.book().tally(day_of(now), erased) if counts else {}
    return Status(
        clinic=folder.name,
        virtual=folder.identity.virtual,
        user=user,
        roles=roles_of(policy.roles, user),
        policy=policy,
        consents={str(name): told.get("", 0) for name, told in tally.items()} if counts else None,
        num_patients=folder.consents.book().num_patients if counts else None,
        num_restricted=max((t.get("restricted", 0) for t in tally.values()), default=0)
        if counts
        else None,
        num_erased=len(erased) if counts else None,
        spent=_spent(folder.ledger.entries(), usual_delta(folder), now) if reads else None,
        num_entries=len(entries) if reads else None,
        due=_due(folder, policy, now) if counts else None,
        events=tuple(reversed(entries[-_LAST_EVENTS:])),
        flags=flags(entries, policy.alerts),
        free_bytes=shutil.disk_usage(folder.path).free,
    )


def _due(folder: ClinicFolder, policy: Policy, now: datetime) -> DueHere:
    today, requests = day_of(now), requests_of(folder)
    pictures = folder.pictures.pictures().values()
    return DueHere(
        requests=len(requests),
        overdue=sum(each.days_left(today) < 0 for each in requests),
        next_due=requests[0].due.isoformat() if requests else None,
        waiting=sum(each.state == "to_review" for each in pictures),
        over=len(ended(pictures, policy, today).pictures),
    )


def _spent(entries: tuple[Entry, ...], delta: float, now: datetime) -> Spent:
    last = [each for each in entries if each.binding.run == entries[-1].binding.run]
    return Spent(
        num_runs=len({each.binding.run for each in entries}),
        num_releases=len(entries),
        delta=delta,
        run=spent(last, delta),
        year=spent(entries_of_year(entries, now), delta),
        life=spent(entries, delta),
    )
