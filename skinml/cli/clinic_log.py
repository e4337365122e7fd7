"""`skinml clinic log ...`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from skinml.cli.options import AsJson, AtFolder
from skinml.cli.screen import minute, narrow_console

if TYPE_CHECKING:
    from skinml.clinic.logs import ShownLog, Verified

_SHORT = 12
_NAMES = frozenset({"run", "experiment"})  # told as a command wants them, underscores and all
_KEYS = {
    "clinic": "this folder's own",
    "given": "the one that you gave",
    "export": "the export's own: compare it with the one that the clinic published",
}
_ENDS = {
    "nothing": "held against nothing: lines cut off the end would not show; give --mark",
    "anchor": "as the anchor remembers it",
    "anchor and mark": "as the anchor remembers it; goes on from the mark",
    "mark": "goes on from the mark that you gave",
    "statement": "as the export's signed statement says",
}

app = typer.Typer(no_args_is_help=True, help="Read, check and export the clinic's audit log.")


@app.callback()
def _group() -> None:
    """Read, check and export the clinic's audit log."""


@app.command()
def show(
    last: Annotated[int, typer.Option(min=0, help="How many; 0: all of them.")] = 20,
    event: Annotated[
        str | None, typer.Option(help="Only this event, such as 'consent withdrawn'.")
    ] = None,
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Show who did what to the clinic's data, and when.

    Example: skinml clinic log show --last 50 --event refusal --folder north
    """
    from skinml.clinic.logs import show_log
    from skinml.clinic.opening import open_at_screen

    shown = show_log(open_at_screen(folder), last=last or None, event=event)
    if as_json:
        _print_json(asdict(shown))
    else:
        print_log(shown)


@app.command()
def verify(
    file: Annotated[
        Path | None, typer.Argument(help="An exported folder or a log's file; else the clinic's.")
    ] = None,
    public_key: Annotated[
        str | None, typer.Option("--public-key", help="The clinic's, 64 hexadecimal digits.")
    ] = None,
    mark: Annotated[
        str | None, typer.Option(help="Where the log once ended, as an earlier check printed it.")
    ] = None,
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Check every line and signature of an audit log; exit code 5 where one does not hold.

    An exported log or a file is checked without the clinic's folder, its key or a network.

    Example: skinml clinic log verify --folder north
    """
    from skinml.clinic.logs import parse_mark, verify_copy, verify_own
    from skinml.clinic.opening import open_at_screen
    from skinml.errors import InputError

    kept = None if mark is None else parse_mark(mark)
    if file is not None:
        checked = verify_copy(file, public_key, kept)
    elif public_key is not None:
        raise InputError(
            rule="--public-key only with an exported folder or a log's file",
            got="no file",
            do="A clinic's own log is checked with its own key.",
        )
    else:
        checked = verify_own(open_at_screen(folder), kept)
    _print_checked(checked, "Every line is as the clinic wrote it.", as_json=as_json)


@app.command()
def export(
    into: Annotated[Path, typer.Argument(help="A folder to be made.")],
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Copy the log into a folder, signed, so that others can check it with the public key.

    Example: skinml clinic log export for-the-auditor --folder north
    """
    from skinml.clinic.logs import export_log
    from skinml.clinic.opening import open_at_screen

    checked = export_log(open_at_screen(folder), into, now=datetime.now(UTC))
    _print_checked(checked, f"Exported to {into}.", as_json=as_json)


def print_log(shown: ShownLog) -> None:
    """Print entries, a line or more each, and the flags.

    Args:
        shown: The entries.
    """
    console = narrow_console()
    number = f"{len(shown.entries):,} of {shown.num_entries:,} entries"
    title = f"Audit log of {shown.clinic}: {number}, times in UTC"
    console.print(Text(title), style="bold")
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(4):
        table.add_column(overflow="fold")
    for each in shown.entries:
        table.add_row(
            minute(each.at), each.actor, Text(each.event), Text(_said(each.event, each.fields))
        )
    console.print(table)
    for flag in shown.flags:
        line = f"FLAG {flag.rule}: {flag.actor}, {flag.count:,} since {minute(flag.since)} UTC"
        console.print(Text(line, style="bold"))


def _print_checked(checked: Verified, line: str, *, as_json: bool) -> None:
    if as_json:
        _print_json({"verified": True} | asdict(checked))
        return
    console = narrow_console()
    console.print(Text(line), style="bold")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(min_width=10)
    table.add_column(overflow="fold")
    entries = f"{checked.num_entries:,}, each signed, in one unbroken chain"
    table.add_row("Entries", entries)
    if checked.num_entries:
        times = f"{minute(str(checked.first))} to {minute(str(checked.last))} UTC"
        table.add_row("Times", times)
    if checked.num_backwards:
        text = f"{checked.num_backwards:,} entries are dated before the one in front of them"
        table.add_row("", Text(text, style="bold"))
    table.add_row("Key", Text(f"{checked.public_key}\n({_KEYS[checked.key_from]})"))
    table.add_row("End", _ENDS[checked.held_against])
    if checked.mark is not None:
        table.add_row("Mark", Text(f"{checked.mark}\n(keep it elsewhere, for --mark)"))
    console.print(table)


def _said(event: str, fields: Mapping[str, Any]) -> str:
    """Say what an entry holds: its fields, or a sentence where they would not tell what to do."""
    if event != "not finite":
        return ", ".join(
            f"{_plain(name)} {value if name in _NAMES else _words(value)}"
            for name, value in fields.items()
        )
    whose = "1 patient" if fields["patients"] == 1 else f"{fields['patients']:,} patients"
    return (
        f"the images of {whose} gave no finite numbers in round {fields['round']:,} of "
        f"{fields['run']}; they counted as zeros: look for damaged files"
    )


def _words(value: Any) -> str:
    """Write a field's value; of pseudonyms and digests the beginning."""
    if isinstance(value, dict):
        return " and ".join(f"{count:,} {name}" for name, count in value.items()) or "none"
    if isinstance(value, list):
        return " and ".join(_plain(str(each)) for each in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    long = len(text) in (32, 64) and set(text) <= set("0123456789abcdef")
    return text[:_SHORT] + "…" if long else _plain(text)


def _plain(text: str) -> str:
    return text.replace("_", " ")


def _print_json(values: dict[str, object]) -> None:
    print(json.dumps(values, allow_nan=False), flush=True)
