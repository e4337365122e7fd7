"""`skinml clinic retention`: what has come to its end, and its removal."""

from __future__ import annotations

import json
import shlex
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from skinml.cli.options import AsJson, AtFolder
from skinml.cli.screen import narrow_console, print_next
from skinml.errors import ConfigError

if TYPE_CHECKING:
    from skinml.clinic.retention import Due


def retention(
    apply: Annotated[
        bool, typer.Option("--apply/--dry-run", help="Remove it, or only say what would go.")
    ] = False,
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Say what the policy's days have ended, and remove it with a certificate.

    What has come to its end is used by no run from its day on, removed or not.

    Example: skinml clinic retention --apply --folder north
    """
    from skinml.clinic.opening import open_at_screen
    from skinml.clinic.retention import apply_retention, retention_due

    opened, now = open_at_screen(folder), datetime.now().astimezone()
    if not apply:
        due, certificate = retention_due(opened, now=now), None
    else:
        done = apply_retention(opened, now=now)
        due, certificate = done.due, done.certificate
    if as_json:
        values = _values(due) | {
            "removed": certificate is not None,
            "certificate": str(certificate.path) if certificate else None,
        }
        print(json.dumps(values), flush=True)
        return
    console = narrow_console()
    if due.restricted:
        held = "1 picture" if due.restricted == 1 else f"{due.restricted:,} pictures"
        console.print(
            f"{held} held: restricted. What is over of it stays until that is lifted."
            if due.restricted == 1
            else f"{held} held: restricted. What is over of them stays until that is lifted."
        )
    if due.nothing:
        console.print(f"Nothing is to be removed by {due.day}.")
        return
    for line in _lines(due):
        console.print(Text(line))
    if certificate is None:
        console.print("Nothing was removed yet.")
        print_next(console, "skinml clinic retention --apply --folder FOLDER", folder)
    else:
        console.print("Removed. Files outside this folder and backups were not touched.")
        print_certificate(console, certificate.path, folder)


def certificate(
    file: Annotated[Path, typer.Argument(help="The certificate.")],
    key: Annotated[
        str, typer.Option(help="The clinic's public key, 64 digits; that of --folder if left out.")
    ] = "",
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Check that a certificate of a removal is as the clinic signed it; exit 5 if not.

    Example: skinml clinic certificate retention.json --folder north
    """
    from skinml.clinic.certificates import verify_certificate
    from skinml.clinic.identity import read_identity

    if key and (len(key) != 64 or not all(digit in "0123456789abcdef" for digit in key)):
        raise ConfigError(
            rule="a public key of 64 hexadecimal digits",
            got=f"{len(key)} characters",
            do="The clinic has it: skinml clinic log verify --folder FOLDER",
        )
    found = verify_certificate(file, key or read_identity(folder).public_key)
    if as_json:
        print(json.dumps(found), flush=True)
        return
    console = narrow_console()
    console.print(Text(f"Signed by {found['clinic']}, {found['day']}: {found['kind']}."))
    for name, value in found["says"].items():
        console.print(Text(f"{name.replace('_', ' ')}: {_said(value)}"))


def print_certificate(console: Console, certificate: Path, folder: Path) -> None:
    """Say where a certificate is, and how to check it.

    Args:
        console: Where to.
        certificate: Its file, in the clinic's folder.
        folder: The folder as the user typed it.
    """
    whole = folder / certificate.parent.name / certificate.name
    console.print(Text(f"Certificate: {whole}"), soft_wrap=True)
    command = f"skinml clinic certificate {shlex.quote(str(whole))} --folder FOLDER"
    print_next(console, command, folder)


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_said(each)}" for name, each in value.items()) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'s' * (number != 1)}"


def _lines(due: Due) -> list[str]:
    lines = []
    if due.pictures:
        lines.append(f"{_counted(due.pictures, 'picture')} of {_counted(due.patients, 'patient')}")
    lines += [
        f"{_counted(count, 'value')} of {name.replace('_', ' ')}"
        for name, count in due.fields.items()
    ]
    other = (
        (due.originals, "original file", " of pictures that stay"),
        (due.features, "file", " of computed features and of what was seen in images"),
        (due.predictions, "file", " of predictions"),
        (due.own_heads, "model's head", " that the clinic kept to itself"),
        (due.keys, "key", ", of patients of whom no picture is left"),
        (due.orphans, "file", " that an interrupted import or review left"),
    )
    lines += [_counted(number, word) + more for number, word, more in other if number]
    return [f"Come to its end by {due.day}:", *(f"  {line}" for line in lines)]


def _values(due: Due) -> dict[str, Any]:
    return {
        "day": due.day.isoformat(),
        "pictures": due.pictures,
        "patients": due.patients,
        "fields": dict(due.fields),
        "features": due.features,
        "predictions": due.predictions,
        "originals": due.originals,
        "own_heads": due.own_heads,
        "keys": due.keys,
        "orphans": due.orphans,
        "restricted": due.restricted,
    }
