"""What a clinic's own files say of how it handles data, without a word on any patient."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from skinml.clinic.folder import ClinicFolder
from skinml.clinic.statements import usual_delta
from skinml.privacy.ledger import entries_of_year, spent
from skinml.privacy.readings import advantage
from skinml.stewardship.audit_log import AuditEntry
from skinml.stewardship.days import day_of
from skinml.stewardship.policy import Policy


@dataclass(frozen=True)
class Processing:
    """One run that this clinic took part in, or refused.

    Attributes:
        day: When it was decided on, YYYY-MM-DD.
        run: Its id.
        coordinator: Who asked; None where the log does not name it.
        experiment: Its experiment; None where the log does not name it.
        purpose: What for; None where the log does not say.
        trust: Who added the noise; None where the log does not say.
        epsilon: What it was to cost; None where the log does not say.
        outcome: How it ended, "refused", or "not ended".
    """

    day: str
    run: str
    coordinator: str | None
    experiment: str | None
    purpose: str | None
    trust: str | None
    epsilon: float | str | None
    outcome: str


@dataclass(frozen=True)
class Facts:
    """What the documents are written from. No counts of patients.

    Attributes:
        clinic: The clinic's name.
        virtual: Whether it exists only in simulations.
        day: The day that this is as of, YYYY-MM-DD.
        since: The day of the first entry of its log.
        policy: The policy that holds.
        lock: What the clinic's key is locked with: passphrase, key_file, keyring, or "nothing".
        has_consents: Whether any consent is on record.
        delta: Delta that epsilon is read at.
        epsilon_year: What the ledger of the last 365 days adds up to.
        epsilon_life: What all of it adds up to.
        advantage: By how much all of it lets a guess about one patient beat a coin, 0 to 1.
        processing: Runs, the latest first.
        federations: Coordinators that the clinic has joined.
        num_entries: Entries of the audit log, all of them verified.
        log_mark: Where the log ends.
        erasures: Whether any patient was ever erased.
        num_originals: Original files of pictures that lie here, whatever the policy says by now.
    """

    clinic: str
    virtual: bool
    day: str
    since: str
    policy: Policy
    lock: str
    has_consents: bool
    delta: float
    epsilon_year: float
    epsilon_life: float
    advantage: float
    processing: tuple[Processing, ...]
    federations: tuple[str, ...]
    num_entries: int
    log_mark: str
    erasures: bool
    num_originals: int


def facts_of(folder: ClinicFolder, now: datetime) -> Facts:
    """Read them.

    Args:
        folder: The clinic's folder, for a caller that has asked for a role.
        now: The time, with its zone.

    Returns:
        The facts.

    Raises:
        EnvironmentProblem: If a file cannot be read.
        IntegrityError: If something was changed.
    """
    policy, entries, log = folder.policy, folder.ledger.entries(), folder.audit.entries()
    delta = usual_delta(folder)
    joined = [str(e.fields["coordinator"]) for e in log if e.event == "federation joined"]
    lock, mark = folder.lock, folder.audit.mark()
    return Facts(
        clinic=folder.name,
        virtual=folder.identity.virtual,
        day=day_of(now).isoformat(),
        since=log[0].at[:10] if log else day_of(now).isoformat(),
        policy=policy,
        lock=lock.method if lock is not None else "nothing",
        has_consents=folder.consents.book().num_patients > 0,
        delta=delta,
        epsilon_year=spent(entries_of_year(entries, now), delta),
        epsilon_life=spent(entries, delta),
        advantage=advantage(entries),
        processing=_processing(log),
        federations=tuple(dict.fromkeys(joined)),
        num_entries=len(log),
        log_mark=f"{mark.count}:{mark.head}" if mark.count else "",
        erasures=any(each.event == "erasure" for each in log),
        num_originals=len(folder.pictures.originals()),
    )


def _processing(log: tuple[AuditEntry, ...]) -> tuple[Processing, ...]:
    found: dict[str, Processing] = {}
    for entry in log:
        run = entry.fields.get("run")
        if entry.event in ("run approved", "run refused") and run is not None:
            said = entry.fields
            found[str(run)] = Processing(
                day=entry.at[:10],
                run=str(run),
                coordinator=said.get("coordinator"),
                experiment=said.get("experiment"),
                purpose=said.get("purpose"),
                trust=said.get("trust"),
                epsilon=said.get("epsilon"),
                outcome="refused" if entry.event == "run refused" else "not ended",
            )
        elif entry.event == "run ended" and run in found:
            known = found[str(run)]
            found[str(run)] = Processing(
                **{**known.__dict__, "outcome": str(entry.fields["outcome"])}
            )
    return tuple(reversed(found.values()))
