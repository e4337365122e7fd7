"""`skinml federation ...`: the coordinator's desk."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from skinml.cli import federation_runs, federation_statistics, federation_status
from skinml.cli.options import AsJson, AtFederation
from skinml.errors import InputError

if TYPE_CHECKING:
    from skinml.deployment.federation_folder import FederationFolder

app = typer.Typer(
    no_args_is_help=True,
    help="The coordinator's desk: a federation's folder, its clinics, its server.",
)

_SET_UP, _SERVER, _RUNS = "Set up", "Server", "Runs"
_WIDTH = 100


@app.callback()
def _group() -> None:
    """Make a federation, invite clinics, serve it, and see how it stands."""


@app.command(rich_help_panel=_SET_UP)
def init(
    name: Annotated[
        str, typer.Option("--name", help="The federation's name; clinics' policies name it.")
    ],
    address: Annotated[str, typer.Option("--address", help="HOST:PORT that clinics connect to.")],
    place: Annotated[
        Path | None,
        typer.Argument(metavar="FOLDER", help="The folder to be made; new or empty."),
    ] = None,
    named: Annotated[
        Path | None,
        typer.Option("--folder", help="The same, named as every other command names it."),
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option("--host", help="A further name of the server; may be repeated."),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option("--listen", help="HOST:PORT to listen on, where it is another."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a federation's folder, with an authority and a server certificate of its own.

    Example: skinml federation init network --name skin-network --address fl.example.org:8443
    """
    from skinml.deployment.federation_folder import make_federation
    from skinml.deployment.overview import certificates_of

    folder = place or named
    if folder is None or (place and named):
        raise InputError(
            rule="one folder to be made",
            got="two" if folder else "none",
            do="Name it once: skinml federation init FOLDER --name NAME --address HOST:PORT",
        )
    made = make_federation(
        folder, name, address, datetime.now(UTC), hosts=host or (), listen=listen
    )
    found = certificates_of(made)
    if as_json:
        told = {
            "federation": made.name,
            "folder": str(made.path),
            "address": made.settings.address,
            "listen": made.settings.listen,
            **found.values(),
        }
        print(json.dumps(told), flush=True)
        return
    console = _console()
    console.print(Text(f"The federation {made.name} is ready in {folder}"), style="bold")
    console.print(Text(f"Clinics connect to {made.settings.address}; the authority's digest is"))
    console.print(Text(f"   {found.authority_digest}"), soft_wrap=True)
    console.print(
        "Back the folder up where nobody else can read it: ca.key and server.key are its secrets. "
        "Next:"
    )
    console.print(Text(f"   skinml federation enrol CLINIC --folder {folder}"), soft_wrap=True)
    console.print(Text(f"   skinml federation serve --folder {folder}"), soft_wrap=True)


@app.command(rich_help_panel=_SET_UP)
def enrol(
    clinic: Annotated[str, typer.Argument(help="The clinic's name, as it names itself.")],
    folder: AtFederation = Path(),
    purpose: Annotated[
        list[str] | None,
        typer.Option(
            "--purpose", help="What runs may be for; may be repeated. Default: federated_training."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The file to be written. Default: CLINIC.invitation.json."),
    ] = None,
    days: Annotated[int, typer.Option("--days", help="Days for which the code works.")] = 14,
    as_json: AsJson = False,
) -> None:
    """Invite a clinic: write the file that it joins with, which holds a one-time code.

    Example: skinml federation enrol north --folder network --out north.json
    """
    from skinml.deployment.enrolment import invite, require_new_file
    from skinml.deployment.federation_folder import open_federation
    from skinml.deployment.invitations import write_invitation

    opened = open_federation(folder)
    file = out or Path(f"{clinic.replace(' ', '-')}.invitation.json")
    require_new_file(file)
    purposes = tuple(purpose or ("federated_training",))
    made = invite(opened, clinic, datetime.now(UTC), purposes=purposes, valid_days=days)
    write_invitation(file, made)
    if as_json:
        told = {
            "clinic": made.clinic,
            "invitation": str(file),
            "purposes": list(made.purposes),
            "expires": made.expires,
        }
        print(json.dumps(told), flush=True)
        return
    console = _console()
    console.print(
        Text(f"{made.clinic} is invited until {_day(made.expires)}: {file}"), style="bold"
    )
    console.print(
        "The file holds a code that works once. Hand it to the clinic in a way that only its "
        "people can read, and compare the authority's digest by telephone. There:"
    )
    words = f"skinml clinic join --invitation {file.name} --folder CLINIC --data IMAGES"
    console.print(Text(f"   {words}"), soft_wrap=True)
    console.print(
        "CLINIC is the clinic's folder there, IMAGES the folder of its list and pictures."
    )


@app.command(rich_help_panel=_SERVER)
def serve(
    folder: AtFederation = Path(),
    unit: Annotated[
        Path | None, typer.Option("--unit", help="Write a systemd unit instead, and end.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve the federation until Ctrl-C: SuperLink and executor on this machine, one TLS door.

    Example: skinml federation serve --folder network
    """
    from skinml.deployment.federation_folder import open_federation
    from skinml.deployment.serving import serve as serve_federation

    opened = open_federation(folder)
    if unit is not None:
        _write_unit(opened, unit, as_json=as_json)
        return

    def told(part: str, event: str, words: str) -> None:
        if as_json:
            line = json.dumps({"part": part, "event": event, "words": words})
        elif event == "started":
            return  # the line that says where it listens follows
        else:
            line = f"{part:<12}{event:<11}{words}".rstrip()
        print(line, file=sys.stdout, flush=True)

    try:
        serve_federation(opened, told)
    except KeyboardInterrupt:  # the way in which serving ends
        told("all", "ended", "")


@app.command(rich_help_panel=_SERVER)
def stop(folder: AtFederation = Path(), as_json: AsJson = False) -> None:
    """End the serving of the federation, and whatever a killed one has left running.

    Example: skinml federation stop --folder network
    """
    from skinml.deployment.federation_folder import open_federation
    from skinml.deployment.serving import stop as stop_serving

    ended = stop_serving(open_federation(folder))
    if as_json:
        print(json.dumps({"ended": ended}), flush=True)
    else:
        print("Everything has ended." if ended else "Nothing was running.")


@app.command(rich_help_panel=_SET_UP)
def revoke(
    clinic: Annotated[str, typer.Argument(help="The clinic's name.")],
    folder: AtFederation = Path(),
    as_json: AsJson = False,
) -> None:
    """Take a clinic's key, or its invitation, back; it needs a new invitation to join again.

    Example: skinml federation revoke north --folder network
    """
    from skinml.deployment.enrolment import revoke as take_back
    from skinml.deployment.federation_folder import open_federation
    from skinml.deployment.serving import take_back_revoked

    opened = open_federation(folder)
    before = take_back(opened, clinic, datetime.now(UTC))
    if opened.served() is not None:
        take_back_revoked(opened)
    if as_json:
        print(json.dumps({"clinic": clinic, "before": before.state}), flush=True)
    else:
        print(f"{clinic} was {before.state} and is revoked; its node is let in no more.")


def _write_unit(opened: FederationFolder, file: Path, *, as_json: bool) -> None:
    from skinml.deployment.units import coordinator_unit, next_steps, write_unit

    text = coordinator_unit(opened)
    write_unit(file, text)
    if as_json:
        print(json.dumps({"unit": str(file)}), flush=True)
        return
    for line in next_steps(file, text):
        print(line)


def _day(time: str) -> str:
    return f"{datetime.fromisoformat(time):%d %B %Y, %H:%M} UTC"


def _console() -> Console:
    return Console(width=min(Console().width, _WIDTH), highlight=False)


app.command(rich_help_panel=_SERVER)(federation_status.status)
for _what in (
    federation_runs.submit,
    federation_statistics.statistics,
    federation_runs.runs,
    federation_runs.resume,
):
    app.command(rich_help_panel=_RUNS)(_what)
