"""`skinml federation status`: the clinics and the runs, once or live."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from skinml.attempts import attempt_words
from skinml.cli.edge import printable
from skinml.cli.options import AsJson
from skinml.errors import IncompleteRunError

if TYPE_CHECKING:
    from skinml.deployment.federation_folder import FederationFolder
    from skinml.deployment.open_runs import OpenRun
    from skinml.deployment.overview import Clinic, Overview
    from skinml.deployment.standing import Standing

_WIDTH = 100
_LOOK_S = 2.0
_STATES = {
    "not asked yet": "not reached yet",
    "pending": "waits for its yes or no",
    "approved": "said yes",
    "refused": "said no",
    "revoked": "its enrolment was revoked",
    "preparing": "makes its data ready",
    "ready": "data ready",
}


def status(
    folder: Annotated[Path, typer.Option("--folder", help="The federation's folder.")] = Path(),
    live: Annotated[
        bool, typer.Option("--live", help="Draw it anew every two seconds, until Ctrl-C.")
    ] = False,
    until_finished: Annotated[
        bool,
        typer.Option("--until-finished", help="Wait until no run goes on; exit 4 if one failed."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show who is there, how far each run is, when it may end, and when certificates end.

    Example: skinml federation status --live --folder network
    """
    from skinml.deployment.federation_folder import open_federation

    opened = open_federation(folder)
    console = Console()
    console = Console(width=min(console.width, _WIDTH), highlight=False)
    if until_finished or (live and console.is_terminal and not as_json):
        found = _watched(opened, console, drawn=not as_json, until_finished=until_finished)
    else:
        found = _look(opened)
    if as_json:
        print(json.dumps(found.values(), allow_nan=False), flush=True)
    elif not ((live or until_finished) and console.is_terminal):
        console.print(screen(found))


def _look(opened: FederationFolder, also: Iterable[str] = ()) -> Overview:
    from skinml.deployment.overview import overview

    return overview(opened, datetime.now(UTC), also)


def _watched(
    opened: FederationFolder, console: Console, *, drawn: bool, until_finished: bool
) -> Overview:
    """Look again and again until Ctrl-C, or until nothing goes on; gives the last look.

    Ctrl-C is how a live table ends, not how it fails; of --until-finished it breaks the wait off.
    """
    found = _look(opened)
    watched = {each.run for each in found.runs if not each.over}
    shown = drawn and console.is_terminal
    with Live(console=console, auto_refresh=False, transient=False) as table:
        try:
            while True:
                if shown:
                    table.update(screen(found), refresh=True)
                going = [each for each in found.runs if each.run in watched and not each.over]
                if until_finished and not going:
                    break
                time.sleep(_LOOK_S)
                found = _look(opened, watched)
        except KeyboardInterrupt:
            if until_finished:
                raise
    _require_finished(found, watched if until_finished else ())
    return found


def _require_finished(found: Overview, watched: Iterable[str]) -> None:
    """Say which runs did not come to their end.

    Raises:
        IncompleteRunError: If one of them failed or was broken off.
    """
    ends = {each.run: each for each in found.runs if each.run in watched}
    bad = {run: each for run, each in ends.items() if each.state != "finished"}
    if bad:
        raise IncompleteRunError(
            rule="every run to reach its report",
            got=", ".join(f"{run} {each.state}" for run, each in bad.items()),
            do="Mend what is named, then: skinml federation resume RUN",
            details=[each.standing.problem for each in bad.values() if each.standing.problem],
        )


def screen(found: Overview) -> RenderableType:
    """Draw how a federation stands.

    Args:
        found: How it stands.

    Returns:
        The screen, for 80 columns.
    """
    where = "not served"
    if found.served_since is not None:
        where = f"served since {datetime.fromisoformat(found.served_since):%Y-%m-%d %H:%M} UTC"
    ends = found.certificates
    parts: list[RenderableType] = [
        Text(f"{found.federation}    {found.address}    {where}", style="bold"),
        Text(
            f"certificate until {ends.server_ends:%Y-%m-%d}, authority until "
            f"{ends.authority_ends:%Y-%m-%d}"
        ),
    ]
    parts += [Text(remark, style="bold") for remark in found.remarks()]
    if found.clinics:
        parts.append(_clinics(found.clinics, found.at))
    else:
        parts.append(Text("No clinic yet: skinml federation enrol CLINIC"))
    for run in found.runs:
        parts += ["", *_run(run)]
    if found.clinics and not found.runs:
        parts += ["", Text("No run is open: skinml federation submit EXPERIMENT")]
    return Group(*parts)


def _clinics(clinics: Iterable[Clinic], now: datetime) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("clinic", "state", "node", "last seen", "purposes"):
        table.add_column(title)
    for each in clinics:
        node = each.node.status if each.node else "-"
        seen = each.node.last_seen if each.node else None
        purposes = ", ".join(each.enrolment.purposes).replace("_", " ")
        words = (each.name, each.state, node, f"{_span(now - seen)} ago" if seen else "-")
        table.add_row(*(Text(word) for word in (*words, purposes)))
    return table


def _run(run: OpenRun) -> list[RenderableType]:
    standing = run.standing
    lines = [Text(f"{run.run}    {_stage(run)}", style="bold")]
    lines += [Text(line) for line in (*_pace(run), *_what_now(run))]
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for name in sorted(standing.clinics):
        table.add_row(Text(f"  {name}"), Text(printable(in_run(run, name))))
    return [*lines, table]


def _stage(run: OpenRun) -> str:
    standing, attempt = run.standing, _attempt(run)
    if run.state in ("failed", "finished"):
        return run.state
    words = {
        "proposed": "asks the clinics",
        "preparing": "the clinics make their data ready",
        "round": f"round {standing.round + 1} of {standing.rounds}{attempt}",
        "evaluating": f"round {standing.rounds} of {standing.rounds}, the evaluation{attempt}",
    }
    return words.get(standing.stage, standing.stage)


def _attempt(run: OpenRun) -> str:
    asked = run.standing.course.asked
    if asked is None or asked.attempt < 2 or asked.round <= run.standing.round:
        return ""
    words = attempt_words(asked.attempt)
    return f", attempt {words}" if words.isdigit() else f", {words}"


def _pace(run: OpenRun) -> list[str]:
    pace, end = run.pace, run.pace.end(run.at)
    lines = []
    if pace.round_s is not None:
        lines.append(f"{_long(pace.round_s)} a round (median of the last five)")
    if run.state == "going" and end is not None and pace.left_s is not None:
        left = _span(timedelta(seconds=pace.left_s))
        lines[-1] += f"; ends about {end:%H:%M} UTC, in {left}"
    elif run.state == "going":
        lines.append("when it ends nobody can tell before the first round")
    if run.standing.course.rounds:
        unknown = "" if not pace.unknown else f"; not to be known of {pace.unknown} rounds"
        lines.append(f"saved by waiting for nobody: {_long(pace.saved_s)}{unknown}")
    return lines


def _what_now(run: OpenRun) -> list[str]:
    if run.state == "failed":
        return [printable(run.standing.problem), way_on(run.run, run.standing)]
    if run.state == "broken off":
        return ["broken off", way_on(run.run, run.standing)]
    return ["its process starts"] if run.state == "starting" else []


def way_on(run: str, standing: Standing) -> str:
    """Say what is kept of a run that ended before its report, and how it goes on.

    Args:
        run: The run's id.
        standing: How far it was.

    Returns:
        One line.
    """
    rounds = "1 whole round is" if standing.round == 1 else f"{standing.round:,} whole rounds are"
    kept = f"{rounds} kept. " if standing.round else ""
    mended = "Once that is mended" if standing.stage == "failed" else "Go on"
    return f"{kept}{mended}: skinml federation resume {run}"


def stands(standing: Standing, clinic: str) -> str:
    """Say where a clinic stands in a run, by what was last written down.

    Args:
        standing: How far the run is.
        clinic: The clinic's name.

    Returns:
        A few words; of a run that failed where the clinic stood.
    """
    state = standing.clinics[clinic]
    if standing.stage == "failed" and state == "taking part":
        return "took part"
    return _STATES.get(state, state)


def in_run(run: OpenRun, clinic: str) -> str:
    """Say where a clinic stands in a run.

    Args:
        run: The run.
        clinic: The clinic's name.

    Returns:
        One line.
    """
    standing, asked = run.standing, run.standing.course.asked
    if standing.stage not in ("round", "evaluating") or asked is None:
        return stands(standing, clinic)
    number = asked.round or 1  # keys are exchanged for the first one
    if clinic in standing.course.missing and asked.round <= standing.round:
        return f"not in round {number}: {standing.course.missing[clinic]}"
    if clinic in asked.answers:
        return f"answered round {number} in {asked.answers[clinic]:.0f} s"
    if clinic in asked.given_up:
        return f"no answer in round {number}"
    since = run.at - datetime.fromisoformat(asked.began)
    waits = f"asked for round {number}, {_span(since)} ago"
    was = standing.course.missing.get(clinic)
    return f"{waits}; not in round {standing.round}: {was}" if was else waits


def _long(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _span(span: timedelta) -> str:
    seconds = max(span.total_seconds(), 0)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
