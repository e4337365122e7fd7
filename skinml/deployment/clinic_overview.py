"""How a clinic stands in its federation: served or not, last heard of, what waits for an answer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from skinml.clinic.folder import ClinicFolder
from skinml.deployment.joining import find_membership
from skinml.deployment.node import NODE, RUNNER, is_served
from skinml.deployment.proposals import Proposed, all_proposed
from skinml.experiments.workspace import TERMS
from skinml.stewardship.roles import allowed, os_user

Stage = Literal["pending", "approved", "ready", "round"]

_TAIL_BYTES = 1024 * 1024
_LET_IN = "SuperNode ID: "  # what Flower says when the coordinator has taken the key


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
class RunHere:
    """A run that is not over, as far as the clinic can know it.

    Attributes:
        run: The run's id.
        stage: pending (nobody here has answered), approved, ready (its data are), round (it has
            answered one).
        since: When that was.
        round: The last round that it answered; None before the first.
    """

    run: str
    stage: Stage
    since: datetime | None
    round: int | None = None


@dataclass(frozen=True)
class ClinicOverview:
    """A clinic's side of a federation.

    Attributes:
        federation: The federation's name.
        address: Where it connects to.
        served: Whether a process takes part now.
        connected: Since when the coordinator has let this clinic in; None where it has not, or
            where the log's end does not tell.
        heard: When the last message was answered; None where the log knows of none.
        trouble: Why a process ended last, in words, if nothing was answered since.
        waiting: Runs that wait for an answer.
        approved: Runs that may run now.
        runs: Runs that are not over, those that came first in front.
        last_round: The last round; None where there was none, or the user may not read the log.
    """

    federation: str
    address: str
    served: bool
    connected: datetime | None
    heard: datetime | None
    trouble: str
    waiting: tuple[str, ...]
    approved: tuple[str, ...]
    runs: tuple[RunHere, ...]
    last_round: LastRound | None


@dataclass
class _Told:
    """What the end of the processes' log tells."""

    connected: datetime | None = None
    heard: datetime | None = None
    trouble: str = ""
    ready: dict[str, datetime] = field(default_factory=dict)
    rounds: dict[str, tuple[int, datetime | None]] = field(default_factory=dict)
    over: set[str] = field(default_factory=set)


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
    runs, served = all_proposed(folder, now=now), is_served(folder)
    told, last = _told(folder.path / "federation" / "node.log"), _last_round(folder)
    return ClinicOverview(
        federation=member.federation,
        address=member.address,
        served=served,
        connected=told.connected if served else None,
        heard=told.heard,
        trouble=told.trouble,
        waiting=tuple(each.proposal.run for each in runs if each.state == "pending"),
        approved=tuple(each.proposal.run for each in runs if each.state == "approved"),
        runs=tuple(found for each in runs if (found := _here(folder, each, told, last))),
        last_round=last,
    )


def _here(
    folder: ClinicFolder, proposed: Proposed, told: _Told, last: LastRound | None
) -> RunHere | None:
    """Tell how far a run is here; None where it is over."""
    run = proposed.proposal.run
    if proposed.state == "pending":
        return RunHere(run, "pending", proposed.received)
    ready = (folder.run(run) / TERMS).exists()
    took_part = run in told.rounds or (last is not None and last.run == run)
    if proposed.state == "refused" or (not ready and (run in told.over or took_part)):
        return None
    if run in told.rounds:
        number, at = told.rounds[run]
        return RunHere(run, "round", at, number)
    if last is not None and last.run == run:
        return RunHere(run, "round", last.at, last.number)
    if ready:
        return RunHere(run, "ready", told.ready.get(run))
    return RunHere(run, "approved", proposed.answered)


def _told(log: Path) -> _Told:
    """Read the end of the log: who let this clinic in, what it answered, what went wrong since."""
    told = _Told()
    for line in _last_lines(log):
        part, event, at = line.get("part"), line.get("event"), _time(line.get("at"))
        if part == NODE and event in ("started", "ended", "stopped"):
            told.connected = None
        elif part == NODE and _LET_IN in str(line.get("line", "")):
            told.connected = at
        elif part in (NODE, RUNNER) and event == "why":
            told.trouble = str(line.get("words", ""))
        elif part == RUNNER and event in ("answered", "refused"):
            told.heard, told.trouble = at, ""
            if event == "answered":
                _note(told, line, at)
    return told


def _note(told: _Told, line: Mapping[str, object], at: datetime | None) -> None:
    run, kind, number = str(line.get("run", "")), line.get("kind"), line.get("round")
    if kind == "query.prepare" and at is not None:
        told.ready[run] = at
    elif kind == "query.finish":
        told.over.add(run)
    elif kind == "train" and isinstance(number, int) and number:
        told.rounds[run] = number, at


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
