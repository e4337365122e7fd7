"""`skinml clinic join` and `skinml clinic serve`: a clinic's side of a federation."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from skinml.cli.edge import printable
from skinml.cli.options import AsJson, AtFolder, Manifest, Taxonomy
from skinml.cli.screen import narrow_console, print_next
from skinml.clinic.hints import placed

if TYPE_CHECKING:
    from skinml.clinic.folder import ClinicFolder
    from skinml.deployment.joining import Joined

_WORDS = {
    "started": "started",
    "ended": "has ended",
    "waiting": "waits",
    "stopped": "stopped",
    "why": "",
}

Data = Annotated[
    Path | None, typer.Option("--data", help="The folder of the list and its images, or --folder.")
]


def join(
    invitation: Annotated[
        Path, typer.Option("--invitation", help="The file that the coordinator sent.")
    ],
    data: Data = None,
    manifest: Manifest = "manifest.csv",
    taxonomy: Taxonomy = None,
    again: Annotated[
        bool, typer.Option("--again", help="Leave the federation that the clinic belongs to.")
    ] = False,
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Join a federation: make a key that never leaves, and have its public half enrolled.

    Example: skinml clinic join --invitation north.json --data images --folder north
    """
    from skinml.clinic.opening import open_at_screen
    from skinml.deployment.certificates import fingerprint
    from skinml.deployment.invitations import read_invitation
    from skinml.deployment.joining import join as enter

    invited = read_invitation(invitation)
    authority = fingerprint(invited.ca.encode())
    opened = open_at_screen(folder)
    joined = enter(opened, invited, data=data, manifest=manifest, taxonomy=taxonomy, again=again)
    member = joined.membership
    if as_json:
        told = {
            "clinic": member.clinic,
            "federation": member.federation,
            "address": member.address,
            "node_id": member.node_id,
            "public_key": member.public_key,
            "authority_digest": authority,
            "data": member.data,
            "new": joined.new,
            "to_do": [asdict(each) for each in joined.to_do],
        }
        print(json.dumps(told), flush=True)
        return
    console = narrow_console()
    console.print(Text(printable(_joined(joined))), style="bold")
    if joined.new:
        console.print("Its key was made here and stays here; the code has been used up.")
    console.print("Compare the authority's digest with the coordinator, by telephone say:")
    console.print(f"   {authority}", soft_wrap=True)
    for each in joined.to_do:
        console.print(Text(printable(each.words)))
        for step in each.steps:
            console.print(Text(printable(f"   {step}")), soft_wrap=True)
    if member.data is not None:
        console.print("Leave this running for as long as the clinic takes part:")
        print_next(console, "skinml clinic serve --folder FOLDER", folder)
    console.print("Nothing runs before somebody here has looked at it and said yes:")
    console.print(Text(placed("   skinml clinic approve --folder FOLDER", folder)), soft_wrap=True)


def serve(
    data: Data = None,
    manifest: Manifest = "manifest.csv",
    taxonomy: Taxonomy = None,
    limit: Annotated[
        float, typer.Option("--limit", min=1, help="Minutes that one round may take here.")
    ] = 60.0,
    unit: Annotated[
        Path | None, typer.Option("--unit", help="Write a systemd unit instead, and end.")
    ] = None,
    folder: AtFolder = Path(),
) -> None:
    """Take part: dial out to the coordinator, and answer approved runs until Ctrl-C.

    Example: skinml clinic serve --data images --folder north
    """
    from skinml.clinic.opening import open_at_screen, secret_source
    from skinml.deployment.joining import point_to_data, require_membership
    from skinml.deployment.node import handed_on, prepare
    from skinml.deployment.node import serve as keep_serving

    source = secret_source()
    opened = open_at_screen(folder, source)
    if data is not None:
        point_to_data(opened, data, manifest=manifest, taxonomy=taxonomy)
    if unit is not None:
        _write_unit(opened, unit)
        return
    member = require_membership(opened)
    with handed_on(opened, source) as environment:
        serving = prepare(opened, limit_s=60 * limit, environment=environment)
        _say(f"{member.clinic} takes part in {member.federation} at {member.address}")
        _say(f"What happens is in {serving.place / 'node.log'}; Ctrl-C ends it.")
        try:
            keep_serving(serving, told=_tell)
        except KeyboardInterrupt:  # the way in which serving ends
            _say("Ended. Nothing of it runs any more.")


def _joined(joined: Joined) -> str:
    member = joined.membership
    if joined.new:
        return f"{member.clinic} belongs to {member.federation} now, at {member.address}"
    return f"{member.clinic} belongs to {member.federation} already; its key is as it was"


def _tell(part: str, event: str, words: str) -> None:
    """Say what happens to the two processes; what they print goes into the log alone."""
    if event == "why":
        _say(words)
    elif event == "ended" or (event == "waiting" and words):
        _say(f"{part} {_WORDS[event]}: {words}")
    elif event in ("started", "stopped"):
        _say(f"{part} {_WORDS[event]}")


def _say(words: str) -> None:
    print(printable(words), file=sys.stderr, flush=True)


def _write_unit(opened: ClinicFolder, file: Path) -> None:
    from skinml.deployment.joining import require_membership
    from skinml.deployment.units import clinic_unit, next_steps, write_unit

    text = clinic_unit(opened, require_membership(opened))
    write_unit(file, text)
    for line in next_steps(file, text):
        print(line)
