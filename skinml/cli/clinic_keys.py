"""`skinml clinic keys ...` and `skinml clinic anchor`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from skinml.cli.options import AsJson, AtFolder
from skinml.cli.screen import narrow_console, print_next

app = typer.Typer(no_args_is_help=True, help="What the clinic's folder is locked with.")


@app.callback()
def _group() -> None:
    """What the clinic's folder is locked with."""


@app.command()
def rotate(folder: AtFolder = Path(), as_json: AsJson = False) -> None:
    """Lock each patient's key anew; images and what was computed from them stay as they are.

    Example: skinml clinic keys rotate --folder north
    """
    from skinml.clinic.keys import rotate_patient_keys
    from skinml.clinic.opening import open_at_screen

    count = rotate_patient_keys(open_at_screen(folder), now=datetime.now(UTC))
    if as_json:
        print(json.dumps({"patients": count}), flush=True)
    else:
        print(f"The patients' keys are locked anew: {count:,}. Older backups still open.")


@app.command()
def lock(
    unlock: Annotated[
        str, typer.Argument(help="passphrase, keyring, or the whole path of a new key file.")
    ],
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Lock the folder with another passphrase, a new key file or the keyring.

    The old passphrase is asked for first, then the new one; SKINML_NEW_PASSPHRASE_FILE may name a
    private file that holds the new one.

    Example: skinml clinic keys lock passphrase --folder north
    """
    from skinml.clinic.keys import change_lock
    from skinml.clinic.opening import new_lock, new_secret, open_at_screen

    opened = open_at_screen(folder)
    change_lock(opened, new_lock(unlock, opened.name), new_secret(), now=datetime.now(UTC))
    if as_json:
        print(json.dumps({"unlock": unlock.partition("/")[0] or "key_file"}), flush=True)
    else:
        print("The folder is locked anew. Back up what unlocks it, apart from the folder.")


def anchor(
    into: Annotated[Path, typer.Argument(help="The folder of the new anchors; another disk.")],
    lost: Annotated[
        bool, typer.Option("--lost", help="The old anchors are gone: take the folder as it is.")
    ] = False,
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Move what remembers the folder's last state to another place, or make it anew.

    Example: skinml clinic anchor /media/stick/anchors --folder north
    """
    from skinml.clinic.anchoring import renew_anchors
    from skinml.clinic.opening import secret_source

    done = renew_anchors(folder, into, secret_source(), now=datetime.now(UTC), lost=lost)
    if as_json:
        marks = {name: mark.count for name, mark in done.marks.items()}
        told = {"anchors": str(done.anchors), "verified": done.verified, "lines": marks}
        print(json.dumps(told), flush=True)
        return
    console = narrow_console()
    console.print(Text(f"The folder's last state is remembered in {done.anchors}"))
    for name, mark in done.marks.items():
        console.print(f"  {name}: {mark.count} lines")
    if not done.verified:
        console.print(
            "Nobody could check whether the folder was set back before this. Compare the audit "
            "log with the copies and marks that others kept:"
        )
        print_next(console, "skinml clinic log verify --mark MARK --folder FOLDER", folder)
