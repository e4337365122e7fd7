"""What a clinic keeps for runs that are over for it, and removes: samples, terms, answers.

The end of a run may never be heard: it expired, its coordinator is gone for good, or somebody at
the clinic took a yes back. What is removed is made anew where such a run should go on after all.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from skinml.clinic.folder import ClinicFolder
from skinml.deployment import proposals
from skinml.experiments.site_run import close_site, holds_samples, last_used

IDLE = timedelta(days=1)
"""A run of which nothing was heard for so long makes room for one that begins."""


def tidy(
    folder: ClinicFolder, *, beginning: str | None = None, now: datetime | None = None
) -> tuple[str, ...]:
    """Remove what is kept for runs that may not go on here.

    Args:
        folder: The clinic's folder.
        beginning: A run that makes its data ready at this moment; None: no run does.
        now: The time, with its zone; by default the clock's.

    Returns:
        The runs of which something was removed.

    Raises:
        EnvironmentProblem: If the audit log cannot be written.
        IntegrityError: If the folder was changed.

    Guarantees:
        Nothing of an approved run is removed that was asked for something within a day: two runs
        at a time do not take each other's samples away. The ledger stays as it is.
    """
    at, removed = now or datetime.now(UTC), []
    for run, state in proposals.states(folder, now=at).items():
        if run == beginning or not holds_samples(folder, run):
            continue
        idle = at - datetime.fromtimestamp(last_used(folder, run), UTC) > IDLE
        if state != "approved" or (beginning is not None and idle):
            close_site(folder, run, "refused" if state != "approved" else "incomplete")
            removed.append(run)
    return tuple(removed)
