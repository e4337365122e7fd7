"""How a clinic stands in its federation: served or not, last heard of, what waits for an answer."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from skinml.clinic.folder import ClinicFolder
from skinml.deployment.joining import find_membership
from skinml.deployment.node import NODE, RUNNER, is_served
from skinml.deployment.proposals import all_proposed
from skinml.stewardship.roles import allowed, os_user

_TAIL_BYTES = 256 * 1024


@dataclass(frozen=True)
class LastRound:
    """The last round that something was released in.

    Attributes:
        run: The run's id.
        number: The round.
        at: When.
        minutes: Minutes since the round before it in the same run; None for the first.
    """

    run: str
    number: int
    at: datetime
    minutes: float | None


@dataclass(frozen=True)
class ClinicOverview:
    """A clinic's side of a federation.

    Attributes:
        federation: The federation's name.
        address: Where it connects to.
        served: Whether a process takes part now.
        heard: When the last message was answered; None where the log knows of none.
        trouble: Why a process ended last, in words, if nothing was answered since.
        waiting: Runs that wait for an answer.
        approved: Runs that may run now.
        last_round: The last round; None where there was none, or the user may not read the log.
    """

    federation: str
    address: str
    served: bool
    heard: datetime | None
    trouble: str
    waiting: tuple[str, ...]
    approved: tuple[str, ...]
    last_round: LastRound | None


def clinic_overview(folder: ClinicFolder, now: datetime) -> ClinicOverview | None:
    """Look at a clinic's own files for how it stands in its federation.

    Args:
        folder: The clinic's folder.
        now: The time, with its zone.

    Returns:
        How it stands; None where it has joined none.

    Raises:
        IntegrityError: If a file was changed.
    """
    member = find_membership(folder)
    if member is None:
        return None
    runs = all_proposed(folder, now=now)
    heard, trouble = _heard(folder.path / "federation" / "node.log")
    return ClinicOverview(
        federation=member.federation,
        address=member.address,
        served=is_served(folder),
        heard=heard,
        trouble=trouble,
        waiting=tuple(each.proposal.run for each in runs if each.state == "pending"),
        approved=tuple(each.proposal.run for each in runs if each.state == "approved"),
        last_round=_last_round(folder),
    )


def _heard(log: Path) -> tuple[datetime | None, str]:
    """Read the end of the log for the last answer, and for what went wrong since."""
    heard, trouble = None, ""
    for line in _last_lines(log):
        said = str(line.get("line", ""))
        if line.get("part") == RUNNER and said.startswith(("answered ", "refused ")):
            heard, trouble = _time(line.get("at")), ""
        elif line.get("part") in (NODE, RUNNER) and line.get("event") == "why":
            trouble = str(line.get("words", ""))
    return heard, trouble


def _last_lines(log: Path) -> list[dict[str, object]]:
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:  # the first may be cut
            continue
        if isinstance(values, dict):
            found.append(values)
    return found


def _last_round(folder: ClinicFolder) -> LastRound | None:
    if not allowed(folder.policy.roles, os_user(), "log.read"):
        return None
    first: dict[tuple[str, int], datetime] = {}
    for entry in folder.audit.entries():
        if entry.event == "release" and "round" in entry.fields:
            key = str(entry.fields["run"]), int(entry.fields["round"])
            first.setdefault(key, datetime.fromisoformat(entry.at))
    if not first:
        return None
    (run, number), at = list(first.items())[-1]
    before = first.get((run, number - 1))
    minutes = None if before is None else (at - before).total_seconds() / 60
    return LastRound(run, number, at, minutes)


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC)
    except ValueError:
        return None
