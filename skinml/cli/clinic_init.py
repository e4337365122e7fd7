"""`skinml clinic init`: ten questions, and a clinic's folder."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from skinml.cli.options import AsJson
from skinml.cli.screen import asked, narrow_console, print_next
from skinml.clinic.hints import placed
from skinml.errors import EnvironmentProblem

if TYPE_CHECKING:
    from skinml.clinic.answers import Answers
    from skinml.clinic.new_clinic import NewClinic

_MOST_BYTES = 64 * 1024
_STEPS = (
    ("Record who agreed to what", "consent import LIST.csv"),
    ("Bring pictures and their list into the vault", "import PICTURES --records LIST.csv"),
    ("Look at what was brought in", "check"),
    ("Or look at pictures that stay where they are", "check --data PICTURES"),
    ("See how the clinic stands", "status"),
)


def init(
    folder: Annotated[
        Path, typer.Option("--folder", help="The folder to be made; new or empty.")
    ] = Path("clinic"),
    answers: Annotated[
        Path | None,
        typer.Option("--answers", help="Answers in a YAML file; what it leaves out is usual."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a clinic's folder: ten questions, each with a usual answer, or a file of answers.

    Example: skinml clinic init --folder north
    """
    from skinml.clinic.answers import parse_answers, usual_answers
    from skinml.clinic.new_clinic import make_clinic, new_passphrase, require_new

    whole = require_new(folder)
    usual = usual_answers(whole, os.environ)
    console = narrow_console(Console(stderr=True))
    chosen = parse_answers(_read(answers), usual) if answers else _asked(usual, console)
    source = new_passphrase(os.environ, lambda told: console.print(Text(told), style="bold"))
    made = make_clinic(whole, chosen, source)
    if as_json:
        print(json.dumps(_values(made)), flush=True)
    else:
        print_next_steps(made, folder, Console())


def print_next_steps(made: NewClinic, folder: Path, console: Console) -> None:
    """Say what was made and what comes next.

    Args:
        made: The new clinic.
        folder: Its folder as the user named it.
        console: Where to.
    """
    console = narrow_console(console)
    console.print(Text(f"The clinic {made.folder.name} is ready in {folder}"), style="bold")
    console.print(Text(f"Its last state is remembered in {made.anchors}"))
    if made.beside:
        console.print(
            "That is on the same disk: whoever sets back the whole disk goes unseen. To move it "
            "to another disk:"
        )
        move = placed("   skinml clinic anchor PLACE --folder FOLDER", folder)
        console.print(Text(move), soft_wrap=True)
    if made.strangers:
        console.print(
            Text(
                f"This computer knows no user {' and no '.join(made.strangers)}. A role of such a "
            )
            + Text("name is nobody's until there is one; without a steward no rule can change."),
            style="bold",
        )
    console.print("Its audit log is checked with this public key; keep a copy elsewhere:")
    console.print(f"   {made.folder.identity.public_key}")
    if made.folder.lock is not None:
        console.print(
            "Back up the folder, the anchor and what unlocks the key, the last one elsewhere: "
            "without it nobody can open the folder again."
        )
    for what, command in _STEPS:
        console.print(f"\n{what}:")
        print_next(console, f"skinml clinic {command} --folder FOLDER", folder)


def _asked(usual: Answers, console: Console) -> Answers:
    """Ask on standard error, so that standard output holds the result alone."""
    from skinml.clinic.answers import QUESTIONS, answered, typed

    console.print("Press Enter for what stands in brackets. The rules can be changed later.")
    answers = usual
    for number, question in enumerate(QUESTIONS, start=1):
        answers = asked(
            f"{number} of {len(QUESTIONS)}  {question.ask}",
            question.reason,
            typed(answers, question.name),
            partial(answered, answers, question.name),
            console,
        )
    return answers


def _read(file: Path) -> bytes:
    """Read at most one byte more than an answers file may have."""
    try:
        with file.open("rb") as opened:
            return opened.read(_MOST_BYTES + 1)
    except OSError as error:
        raise EnvironmentProblem(
            rule="a file of answers",
            got=f"{file} ({error.strerror})",
            do="Check the path, or leave --answers out and be asked.",
        ) from error


def _values(made: NewClinic) -> dict[str, object]:
    identity = made.folder.identity
    return {
        "clinic": identity.name,
        "id": identity.id,
        "folder": str(made.folder.path),
        "anchors": str(made.anchors),
        "anchors_on_the_same_disk": made.beside,
        "public_key": identity.public_key,
    }
