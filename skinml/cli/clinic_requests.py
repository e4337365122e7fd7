"""`skinml clinic requests ...` and `skinml clinic restrict`: what patients ask for, and by when."""

from __future__ import annotations

import json
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from skinml.cli.options import AsJson, AtFolder
from skinml.cli.patient_input import QuietCommand, ask_patient
from skinml.cli.screen import narrow_console
from skinml.clinic.days import day_of
from skinml.clinic.hints import placed
from skinml.errors import ConfigError

if TYPE_CHECKING:
    from skinml.clinic.requests import Request

app = typer.Typer(
    no_args_is_help=True,
    help="What patients have asked for, and by when they are to be answered.",
)


@app.command(cls=QuietCommand)
def add(
    right: Annotated[
        str, typer.Option(help="access, correct, restrict, erase or object: what is asked for.")
    ],
    received: Annotated[
        str, typer.Option(help="The day that it came, such as 2026-03-01; today where left out.")
    ] = "",
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Write down that a patient has asked for something; the patient's number is typed or piped in.

    Example: skinml clinic requests add --right access --folder north
    """
    from skinml.clinic.opening import open_at_screen
    from skinml.clinic.requests import known_right, note_request

    opened, now = open_at_screen(folder), datetime.now().astimezone()
    known_right(right)  # a slip is told before the patient is asked for
    patient = ask_patient()
    request = note_request(opened, patient, right, now=now, received=_day(received))
    if as_json:
        print(json.dumps(_values(request, day_of(now))), flush=True)
        return
    words = f"Request {request.number}, {request.right}: to be answered by {request.due}."
    narrow_console().print(Text(words))


@app.command("list")
def list_(
    every: Annotated[bool, typer.Option("--all", help="Those that were answered, too.")] = False,
    named: Annotated[
        bool, typer.Option("--named", help="Say whose they are; the log notes who asked.")
    ] = False,
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """List requests, those that are due first in front.

    Example: skinml clinic requests list --folder north
    """
    from skinml.clinic.opening import open_at_screen
    from skinml.clinic.requests import log_requests, requests_of, whose

    opened, now = open_at_screen(folder), datetime.now().astimezone()
    found, today = requests_of(opened, also_closed=every), day_of(now)
    log_requests(opened, now=now)
    names = whose(opened, found, now=now) if named and found else {}
    if as_json:
        values = [
            _values(each, today) | ({"patient": names.get(each.number)} if named else {})
            for each in found
        ]
        print(json.dumps({"requests": values}), flush=True)
        return
    console = narrow_console()
    if not found:
        console.print("No request is open." if not every else "No request was ever written down.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("no.", "asked for", "came", "answer by", "stands", *(["patient"] * named)):
        table.add_column(heading, overflow="fold")
    for each in found:
        who = [names.get(each.number, "erased, or not known")] if named else []
        row = (
            str(each.number),
            each.right,
            str(each.received),
            str(each.due),
            _stands(each, today),
        )
        table.add_row(*map(Text, (*row, *who)))
    console.print(table)


@app.command()
def close(
    number: Annotated[int, typer.Argument(help="The request's number.")],
    refused: Annotated[
        bool, typer.Option("--refused", help="It was refused, and the patient was told why.")
    ] = False,
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Write down that a request was answered by other means than a command of skinml.

    Example: skinml clinic requests close 3 --folder north
    """
    from skinml.clinic.opening import open_at_screen
    from skinml.clinic.requests import close_request

    now = datetime.now().astimezone()
    opened = open_at_screen(folder)
    request = close_request(opened, number, "refused" if refused else "done", now=now)
    if as_json:
        print(json.dumps(_values(request, day_of(now))), flush=True)
    else:
        narrow_console().print(f"Request {request.number}, {request.right}: {request.outcome}.")


@app.callback()
def _group() -> None:
    """Keep the list of what patients ask for."""


def restrict(
    lift: Annotated[bool, typer.Option("--lift", help="Let the data be used again.")] = False,
    even_if_unknown: Annotated[
        bool, typer.Option("--even-if-unknown", help="Record it also of an unknown patient.")
    ] = False,
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Keep a patient's data and use them for nothing, until that is lifted.

    The patient's number is typed or piped in. Consents stay as they are; a run
    that is going on leaves the patient out from its next round.

    Example: skinml clinic restrict --folder north
    """
    from skinml.clinic.opening import open_at_screen
    from skinml.clinic.restriction import restrict_patient

    opened, patient = open_at_screen(folder), ask_patient()
    restrict_patient(
        opened,
        patient,
        restricted=not lift,
        now=datetime.now().astimezone(),
        even_if_unknown=even_if_unknown,
    )
    if as_json:
        print(json.dumps({"restricted": not lift}), flush=True)
        return
    console = narrow_console()
    if lift:
        console.print("The patient's data may be used again, as far as consents allow.")
        return
    console.print(
        "The patient's data are kept and used for nothing. Models that were trained before "
        "stay as they are. To lift it:"
    )
    lift_it = placed("   skinml clinic restrict --lift --folder FOLDER", folder)
    console.print(Text(lift_it), soft_wrap=True)


def _day(text: str) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            rule="a day such as 2026-03-01",
            got="another word",
            do="Correct --received, or leave it out for today.",
        ) from None


def _stands(request: Request, today: date) -> str:
    if request.closed is not None:
        return f"{request.outcome} on {request.closed}"
    left = request.days_left(today)
    if left < 0:
        return f"OVERDUE by {-left} day{'s' * (left != -1)}"
    return f"open, {left} day{'s' * (left != 1)} left"


def _values(request: Request, today: date) -> dict[str, object]:
    return {
        "number": request.number,
        "right": request.right,
        "received": request.received.isoformat(),
        "due": request.due.isoformat(),
        "days_left": None if request.closed else request.days_left(today),
        "closed": request.closed.isoformat() if request.closed else None,
        "outcome": request.outcome,
    }
