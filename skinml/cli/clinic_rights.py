"""`skinml clinic erase` and `skinml clinic contributions`: one patient's rights, told honestly."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from skinml.cli.clinic_retention import print_certificate
from skinml.cli.options import AsJson, AtFolder
from skinml.cli.patient_input import ask_patient
from skinml.cli.screen import narrow_console
from skinml.errors import ConfigError

if TYPE_CHECKING:
    from skinml.clinic.contributions import Contributions, RunContribution


def contributions(
    delta: Annotated[float | None, typer.Option(help="Read epsilon at this delta.")] = None,
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Tell which models a patient's data are in, and what bounds what these can tell.

    The patient's number is typed or piped in. It works after an erasure too.

    Example: skinml clinic contributions --folder north
    """
    from skinml.clinic.contributions import plain_values, show_contributions
    from skinml.clinic.opening import open_at_screen

    opened = open_at_screen(folder)
    found = show_contributions(opened, ask_patient(), now=datetime.now().astimezone(), delta=delta)
    if as_json:
        print(json.dumps(plain_values(found), allow_nan=False), flush=True)
    else:
        print_contributions(found)


def erase(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether to go on.")] = False,
    even_if_unknown: Annotated[
        bool,
        typer.Option("--even-if-unknown", help="Record the no also of an unknown patient."),
    ] = False,
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Erase a patient: withdraw consent, destroy the key, and tell which models were trained.

    The patient's number is typed or piped in. What was sealed under the key, in
    the vault, in caches and in files of runs, cannot be read any more. No
    model is changed. The clinic's own care records lie elsewhere and stay.

    Example: skinml clinic erase --folder north
    """
    from skinml.clinic.contributions import plain_values
    from skinml.clinic.erasure import erase_patient, require_known
    from skinml.clinic.opening import open_at_screen

    opened, patient = open_at_screen(folder), ask_patient()
    if not yes:
        require_known(opened, patient, even_if_unknown=even_if_unknown)
    if not (yes or _agreed()):
        print('{"key_destroyed": false}' if as_json else "Nothing was erased.", flush=True)
        return
    done = erase_patient(
        opened, patient, now=datetime.now().astimezone(), even_if_unknown=even_if_unknown
    )
    if as_json:
        told = plain_values(done.contributions)
        values: dict[str, Any] = {"key_destroyed": done.key, "objects": done.objects}
        values["own_heads"] = done.heads
        values["certificate"] = str(done.certificate)
        print(json.dumps(values | {"contributions": told}, allow_nan=False), flush=True)
        return
    console = narrow_console()
    gone = (
        "The patient's key is destroyed: what was sealed under it in this folder cannot be read "
        "any more"
        if done.key
        else "The patient has no key here, so that nothing is sealed under one"
    )
    console.print(
        f"{gone}. Consent is withdrawn for all but care; the audit log says so. Care records that "
        "the clinic keeps elsewhere, files that images were imported from, and backups are not "
        "touched."
    )
    if done.heads:
        console.print(
            f"Models' heads that the clinic kept to itself, fitted to this patient and removed: "
            f"{done.heads}."
        )
    print_contributions(done.contributions)
    print_certificate(console, done.certificate, folder)


def access(
    to: Annotated[Path, typer.Option("--to", help="A new folder for the copy.")],
    originals: Annotated[
        bool,
        typer.Option("--originals", help="Also the files as they were imported, where kept."),
    ] = False,
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Write a patient's own copy: a page to read, the same for machines, and the pictures.

    The patient's number is typed or piped in. The copy is not locked: hand it
    over and delete it.

    Example: skinml clinic access --to copy --folder north
    """
    from skinml.clinic.access import write_copy
    from skinml.clinic.opening import open_at_screen

    opened, patient = open_at_screen(folder), ask_patient()
    now = datetime.now().astimezone()
    done = write_copy(opened, patient, to, now=now, originals=originals)
    if as_json:
        values = {"folder": str(done.folder), "pictures": done.pictures, "runs": done.runs}
        values |= {"originals": done.originals, "requests_closed": done.closed}
        print(json.dumps(values), flush=True)
        return
    console = narrow_console()
    pictures = "1 picture" if done.pictures == 1 else f"{done.pictures} pictures"
    runs = "1 run" if done.runs == 1 else f"{done.runs} runs"
    console.print(Text(f"Written to {done.folder}: summary.html, data.json and {pictures};"))
    console.print(Text(f"{runs} read this patient's data."))
    if originals:
        files = "1 original file" if done.originals == 1 else f"{done.originals} original files"
        console.print(Text(f"{files}, as imported: they may show a name, a face or a place."))
    if done.closed:
        console.print(Text(f"Requests for access that this answers: {done.closed}."))
    console.print("The copy is not locked: hand it over, and delete it here.")


def print_contributions(found: Contributions) -> None:
    """Print a patient's part in runs within 80 columns, with words for the patient.

    Args:
        found: What the clinic can tell.
    """
    from skinml.clinic.contribution_words import sentences

    console = narrow_console()
    for run in found.runs:
        console.print(Text(run.run, style="bold"))
        for line in _lines(run):
            console.print(Text(f"   {line}"))
    for line in sentences(found):
        console.print(Text(line))


def _lines(run: RunContribution) -> tuple[str, str]:
    from skinml.clinic.contribution_words import epsilon_words

    days = run.first_day if run.first_day == run.last_day else f"{run.first_day} to {run.last_day}"
    outcome = "" if run.outcome in (None, "completed") else f" ({run.outcome})"
    rounds = "1 round" if run.rounds == 1 else f"{run.rounds} rounds"
    epsilon = epsilon_words(run.epsilon) if run.releases else "none"
    return (
        f"experiment {run.experiment or 'not told'}{outcome}; {days}, {rounds}",
        f"{', '.join(run.roles)}; epsilon {epsilon}",
    )


def _agreed() -> bool:
    """Ask whether to go on; Enter, or nothing more to read, is no."""
    if not sys.stdin.isatty():
        raise ConfigError(
            rule="--yes where nobody is at a terminal to be asked",
            got="no --yes; nothing was erased",
            do="Check the number, and give --yes.",
        )
    return typer.confirm(
        "This cannot be undone. Erase this patient from the clinic's folder?", err=True
    )
