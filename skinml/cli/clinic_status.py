"""`skinml clinic status`: one screen."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from math import isinf
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from skinml.cli.edge import printable
from skinml.cli.options import AsJson, AtFolder
from skinml.cli.screen import minute, narrow_console, print_next
from skinml.clinic.hints import placed

if TYPE_CHECKING:
    from skinml.clinic.folder import ClinicFolder
    from skinml.clinic.status import Status
    from skinml.deployment.clinic_overview import ClinicOverview, RunHere

_LABELS = 10  # columns for a topic; without it long lines would take its room
_MOST_EVENTS = 3
_MOST_FLAGS = 3
_MOST_RUNS = 3
_HIDDEN = "for stewards and auditors"


def status(
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Show on one screen how the clinic stands today, from its own files alone.

    Example: skinml clinic status --folder north
    """
    from skinml.clinic.opening import open_at_screen
    from skinml.clinic.status import status_of

    opened, now = open_at_screen(folder), datetime.now(UTC)
    found, federation = status_of(opened, now), _federation(opened, now)
    if as_json:
        told = _values(found) | {"federation": _overview_values(federation)}
        told["next"] = placed(_next(found, federation), folder) or None
        print(json.dumps(told, allow_nan=False), flush=True)
    else:
        print_status(found, Console(), federation, folder=folder)


def print_status(
    found: Status,
    console: Console,
    federation: ClinicOverview | None = None,
    *,
    folder: Path = Path(),
) -> None:
    """Print the screen.

    Args:
        found: How the clinic stands.
        console: Where to.
        federation: How it stands in its federation; None where it has joined none.
        folder: The clinic's folder as the user typed it, for the commands that are named.
    """
    console = narrow_console(console)
    kind = ", a virtual clinic" if found.virtual else ""
    roles = ", ".join(found.roles)
    console.print(Text(f"{found.clinic}{kind}    you: {found.user} ({roles})"), style="bold")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(width=_LABELS)
    table.add_column(width=console.width - _LABELS - 1, no_wrap=True, overflow="ellipsis")
    sections = _sections(found, federation)
    if federation is not None:
        sections.insert(0, ("Federation", _taking_part(federation, datetime.now(UTC))))
    for topic, lines in sections:
        table.add_row(topic, Text("\n".join(lines)))
    console.print(table)
    command = _next(found, federation)
    if command:
        print_next(console, command, folder)


def _sections(found: Status, federation: ClinicOverview | None) -> list[tuple[str, list[str]]]:
    policy = found.policy
    least = f"{policy.least_patients:,} patients here and {policy.least_clinics:,} clinics"
    asked = ", ".join(policy.coordinators) or "nobody"
    return [
        (
            "Policy",
            [
                f"use for {_plain(', '.join(policy.purposes))}",
                f"at least {least} in a sum",
                f"asked by {asked}: {_experiments(found)}",
            ],
        ),
        ("Consents", _consents(found)),
        ("Waiting", _waiting(found, federation)),
        ("Privacy", _privacy(found)),
        ("Log", _log(found)),
        ("Flags", _flags(found)),
        ("Disk", [f"{found.free_bytes / 2**30:.1f} GB free"]),
    ]


def _federation(opened: ClinicFolder, now: datetime) -> ClinicOverview | None:
    from skinml.deployment.clinic_overview import clinic_overview

    return clinic_overview(opened, now)


def _taking_part(found: ClinicOverview, now: datetime) -> list[str]:
    """Where it belongs and whether it takes part, and how its runs go."""
    part = "takes part in" if found.served else "DOES NOT TAKE PART in"
    lines, signs = [f"{part} {found.federation}"], []
    if found.connected is not None:
        signs.append(f"connected for {_ago(now - found.connected)}")
    elif found.served and found.heard is None:
        signs.append("not let in yet")
    if found.heard is not None:
        signs.append(f"last answer {_ago(now - found.heard)} ago")
    lines += [", ".join(signs)] if signs else []
    lines += [_run_line(each, now) for each in found.runs[:_MOST_RUNS]]
    if len(found.runs) > _MOST_RUNS:
        lines.append(f"and {len(found.runs) - _MOST_RUNS} more")
    last = found.last_round
    if last is not None and not any(each.run == last.run for each in found.runs):
        lines.append(f"last run: {last.run}, over; {_ago(now - last.at)} ago")
    if found.trouble:
        lines.append(printable(found.trouble))
    return lines


def _run_line(here: RunHere, now: datetime) -> str:
    words = {
        "pending": "waits for your yes or no",
        "approved": "approved; the coordinator goes on",
        "ready": "data ready; the rounds come next",
        "round": f"answered round {here.round}",
    }[here.stage]
    since = "" if here.since is None else f", {_ago(now - here.since)} ago"
    return f"{here.run}: {words}{since}"


def _next(found: Status, federation: ClinicOverview | None) -> str:
    """Name the command for what waits longest to be done here; empty where nothing does."""
    due = found.due
    waits = (
        ("serve", federation is not None and not federation.served),
        (f"approve {federation.waiting[0]}" if federation and federation.waiting else "", True),
        ("requests list", due is not None and due.requests),
        ("review", due is not None and due.waiting),
        ("retention", due is not None and due.over),
        ("consent import LIST.csv", found.num_patients == 0 and not found.virtual),
    )
    words = next((words for words, holds in waits if words and holds), "")
    return f"skinml clinic {words} --folder FOLDER" if words else ""


def _ago(span: timedelta) -> str:
    seconds = max(span.total_seconds(), 0)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _overview_values(found: ClinicOverview | None) -> dict[str, object] | None:
    """Write a clinic's side of its federation as JSON; times in ISO 8601, UTC."""
    if found is None:
        return None
    values: dict[str, object] = json.loads(json.dumps(asdict(found), default=_iso))
    return values


def _iso(at: object) -> str:
    return at.isoformat() if isinstance(at, datetime) else str(at)


def _consents(found: Status) -> list[str]:
    if found.consents is None:
        return [_HIDDEN]
    covered = [
        f"{_plain(purpose)} {number:,}"
        for purpose, number in found.consents.items()
        if number or purpose in found.policy.purposes
    ]
    people = "1 patient" if found.num_patients == 1 else f"{found.num_patients:,} patients"
    apart = [f"{found.num_restricted:,} restricted"] * bool(found.num_restricted)
    apart += [f"{found.num_erased:,} erased"] * bool(found.num_erased)
    whole = ", ".join([f"{people} on record", *apart])
    lines = [f"{whole}; today by consent:"]
    return lines + [", ".join(covered[at : at + 3]) for at in range(0, len(covered), 3)]


def _waiting(found: Status, federation: ClinicOverview | None) -> list[str]:
    runs = len(federation.waiting) if federation is not None else 0
    lines = [f"runs: {runs:,} to be answered"] * bool(runs)
    due = found.due
    if due is None:
        return [*lines, "for those who may count consents"]
    if due.requests:
        late = f", {due.overdue:,} OVERDUE" if due.overdue else f", the next by {due.next_due}"
        lines.append(f"patients' requests: {due.requests:,} open{late}")
    pictures = [f"{due.waiting:,} to be looked at"] * bool(due.waiting)
    pictures += [f"{due.over:,} kept too long"] * bool(due.over)
    lines += [f"pictures: {', '.join(pictures)}"] * bool(pictures)
    return lines or ["nothing"]


def _privacy(found: Status) -> list[str]:
    spent, limits = found.spent, found.policy.privacy
    if spent is None:
        return [_HIDDEN]
    spans = (
        ("latest run", spent.run, limits.max_epsilon_per_run),
        ("this year", spent.year, limits.max_epsilon_per_year),
        ("ever", spent.life, limits.max_epsilon_for_life),
    )
    told = [f"{name} {_epsilon(value)} of {_ceiling(most)}" for name, value, most in spans]
    runs = "1 run" if spent.num_runs == 1 else f"{spent.num_runs:,} runs"
    return [
        f"spent by {runs} (epsilon at delta {spent.delta:g}):",
        ", ".join(told[:2]),
        told[2],
    ]


def _log(found: Status) -> list[str]:
    if found.num_entries is None:
        return [_HIDDEN]
    entries = "1 entry" if found.num_entries == 1 else f"{found.num_entries:,} entries"
    lines = [f"{entries}, none changed or cut off; the latest, in UTC:"]
    return lines + [
        f"{minute(each.at)}  {each.actor}  {each.event}" for each in found.events[:_MOST_EVENTS]
    ]


def _flags(found: Status) -> list[str]:
    if found.num_entries is None:
        return [_HIDDEN]
    lines = [
        f"{each.rule}: {each.actor}, {each.count:,} since {minute(each.since)} UTC"
        for each in found.flags[:_MOST_FLAGS]
    ]
    if len(found.flags) > _MOST_FLAGS:
        lines.append(f"and {len(found.flags) - _MOST_FLAGS} more, in the log")
    return lines or ["none"]


def _experiments(found: Status) -> str:
    if "*" in found.policy.experiments:
        return "any experiment"
    return ", ".join(found.policy.experiments) or "no experiment"


def _plain(words: str) -> str:
    return words.replace("_", " ")


def _epsilon(value: float) -> str:
    return "unbounded" if isinf(value) else f"{value:.2f}"


def _ceiling(value: float | None) -> str:
    return "no ceiling" if value is None else f"{value:g}"


def _values(found: Status) -> dict[str, object]:
    """Write a status as JSON; an epsilon without a bound is null, as everywhere."""
    values = asdict(found) | {"policy": found.policy.model_dump(mode="json")}
    if found.spent is not None:
        values["spent"] = {
            name: None if isinstance(value, float) and isinf(value) else value
            for name, value in asdict(found.spent).items()
        }
    return values
