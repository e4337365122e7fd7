"""Writing the audit log's own flags into it, so that each is on record once."""

from __future__ import annotations

from datetime import datetime

from skinml.clinic.folder import ClinicFolder
from skinml.stewardship.alerts import Flag, flags


def note_flags(folder: ClinicFolder, actor: str, *, now: datetime) -> tuple[Flag, ...]:
    """Hold the audit log against the policy's rules, and write down what is new.

    Args:
        folder: The clinic's folder.
        actor: Whose action made somebody look.
        now: The time, with its zone.

    Returns:
        The flags that were not on record before, the latest first.

    Raises:
        EnvironmentProblem: If the log cannot be written.
        IntegrityError: If the policy or the log was changed.
    """
    entries, rules = folder.audit.entries(), folder.policy.alerts
    known = {
        (each.fields["rule"], each.fields["who"], each.fields["since"])
        for each in entries
        if each.event == "alert"
    }
    found = flags(entries, rules)
    fresh = tuple(each for each in found if (each.rule, each.actor, each.since) not in known)
    for each in fresh:
        folder.audit.write(
            "alert",
            actor,
            now=now,
            rule=each.rule,
            who=each.actor,
            count=each.count,
            since=datetime.fromisoformat(each.since),
            within_hours=rules.within_hours,
        )
    return fresh
