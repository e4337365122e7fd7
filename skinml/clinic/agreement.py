"""Whether a clinic's ledger, audit log and records of contributions tell the same story."""

from __future__ import annotations

from collections import defaultdict

from skinml.clinic.folder import ClinicFolder
from skinml.clinic.releases import Contribution, read_contributions
from skinml.errors import IntegrityError
from skinml.journal import Mark
from skinml.stewardship.audit_log import AuditEntry


def require_agreement(folder: ClinicFolder) -> int:
    """Hold each release in the audit log against the ledger and the record of its run.

    The ledger comes first, then the record, then the log: a crash between two of them leaves the
    earlier ones ahead, and nothing was released.

    Args:
        folder: The clinic's folder.

    Returns:
        How many rounds with releases agree.

    Raises:
        EnvironmentProblem: If a file cannot be read.
        IntegrityError: If one of the three was changed, or they do not agree.
    """
    told: dict[str, list[AuditEntry]] = defaultdict(list)
    for entry in folder.audit.entries():
        if entry.event == "release":
            told[str(entry.fields["run"])].append(entry)
    # Read once: the log has a line a round.
    names, marks = [each.name for each in folder.ledger.entries()], set(folder.ledger.marks())
    for run, entries in told.items():
        # A run's folder may be removed as a whole; what is there must be whole.
        recorded = read_contributions(folder, run) if folder.run(run).is_dir() else None
        for entry in entries:
            count = int(entry.fields["entries"])
            released = names[:count][-len(entry.fields["releases"]) :]
            at_end = Mark(count, str(entry.fields["head"])) in marks
            if not at_end or released != entry.fields["releases"]:
                raise _disagree(folder, entry, "the ledger")
            if recorded is not None:
                _require_recorded(folder, entry, recorded)
    return sum(map(len, told.values()))


def _require_recorded(
    folder: ClinicFolder, entry: AuditEntry, recorded: tuple[Contribution, ...]
) -> None:
    wanted = tuple(entry.fields[name] for name in ("round", "attempt", "patients"))
    for each in recorded:
        if (each.round, each.attempt, sum(map(len, each.patients.values()))) == wanted:
            return
    raise _disagree(folder, entry, "the record of contributions")


def _disagree(folder: ClinicFolder, entry: AuditEntry, other: str) -> IntegrityError:
    return IntegrityError(
        rule=f"an audit log and {other} of clinic {folder.name} that agree",
        got=f"line {entry.number + 1} of the log, which the other does not bear out",
        do="Find out who changed what; restore the folder and its anchors from one backup.",
    )
