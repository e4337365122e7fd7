"""`skinml clinic policy ...`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from skinml.cli.options import AsJson, AtFolder, Experiment, Overrides
from skinml.cli.screen import narrow_console, print_next
from skinml.errors import EnvironmentProblem, InputError

if TYPE_CHECKING:
    from skinml.clinic.policies import Comparison, ShownPolicy

EXIT_REFUSED = 3
_MOST_BYTES = 64 * 1024

app = typer.Typer(no_args_is_help=True, help="Read, compare and change the clinic's policy.")


@app.callback()
def _group() -> None:
    """Read, compare and change the clinic's policy."""


@app.command()
def show(
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="Print the whole file, with comments, to be edited.")
    ] = False,
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Show what the policy allows.

    Example: skinml clinic policy show --folder north
    """
    from skinml.clinic.opening import open_at_screen
    from skinml.clinic.policies import show_policy

    shown = show_policy(open_at_screen(folder))
    if as_json:
        _print_json({"policy": shown.values, "digest": shown.digest})
    elif as_yaml:
        print(shown.yaml, end="", flush=True)
    else:
        print_policy(shown)


@app.command()
def compare(
    experiment: Experiment,
    overrides: Overrides = None,
    clinics: Annotated[
        int | None,
        typer.Option(min=1, help="Clinics in the run, where the experiment does not say."),
    ] = None,
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Say where an experiment stays within the policy; exit code 3 where it does not.

    Example: skinml clinic policy compare quickstart privacy.epsilon=1 --folder north
    """
    if not as_json:  # what it needs takes seconds to load
        print("Comparing; nothing is read of any patient.", file=sys.stderr, flush=True)
    from skinml.experiments.comparison import compare_experiment

    found = compare_experiment(folder, experiment, overrides or [], num_clinics=clinics)
    if as_json:
        terms = [asdict(term) for term in found.terms]
        _print_json({"within": not found.refused, "terms": terms})
    else:
        print_comparison(found)
    if found.refused:
        raise typer.Exit(EXIT_REFUSED)


@app.command()
def change(
    file: Annotated[Path, typer.Argument(help="The new policy, YAML; '-' reads it from a pipe.")],
    yes: Annotated[bool, typer.Option("--yes", help="Change without asking.")] = False,
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Show what a new policy changes, ask, and put it in force.

    Example: skinml clinic policy change new_policy.yaml --folder north
    """
    from skinml.clinic.opening import open_at_screen
    from skinml.clinic.policies import apply_change, plan_change

    if str(file) == "-" and not yes:
        raise InputError(
            rule="--yes where the new policy comes from a pipe",
            got="no --yes, and nobody to ask",
            do="Give --yes, or write the new policy into a file.",
        )
    opened = open_at_screen(folder)
    planned = plan_change(opened, _read(file))
    if not as_json:
        print_difference(planned.difference)
    agreed = bool(planned.difference) and (yes or _asked())
    if agreed:
        apply_change(opened, planned, now=datetime.now(UTC))
    if as_json:
        told = {"changed": agreed, "difference": list(planned.difference)}
        told |= {"originals_left": planned.originals_left}
        digest = planned.after if agreed else planned.before
        _print_json(told | {"digest": digest})
    elif planned.difference:
        print("The new policy holds." if agreed else "Nothing was changed.", flush=True)
    if agreed and planned.originals_left and not as_json:
        files = "file" if planned.originals_left == 1 else "files"
        print(f"{planned.originals_left:,} original {files} not to be kept remain here.")
        print_next(narrow_console(), "skinml clinic retention --apply --folder FOLDER", folder)


def print_policy(shown: ShownPolicy) -> None:
    """Print a policy, a line a value.

    Args:
        shown: The policy.
    """
    table = _table()
    for name, words in shown.lines:
        table.add_row(name, Text(words))
    console = narrow_console()
    console.print(Text(f"Policy of {shown.clinic}"), style="bold")
    console.print(table)


def print_difference(difference: Sequence[str]) -> None:
    """Print what a new policy changes, looser lines marked.

    Args:
        difference: A line a value.
    """
    console = narrow_console()
    if not difference:
        console.print("The new policy says what the old one says.")
    for line in difference:
        console.print(Text(line, style="bold" if line.endswith("looser)") else ""))


def print_comparison(comparison: Comparison) -> None:
    """Print how a proposed run compares with the policy, refused terms marked.

    Args:
        comparison: The comparison.
    """
    table = _table("term", "policy", "asked", "")
    for term in comparison.terms:
        style = "bold" if term.verdict == "refused" else ""
        row = (term.name.replace("_", " "), term.allowed, term.asked, term.verdict)
        table.add_row(*(Text(words, style=style) for words in row))
    console = narrow_console()
    console.print(table)
    names = ", ".join(name.replace("_", " ") for name in comparison.refused)
    allowed = "Within the policy, as far as can be told before patients are counted."
    console.print(Text(f"Refused by the policy: {names}." if names else allowed))


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, show_header=bool(headings))
    for heading in headings or ("", ""):
        table.add_column(heading, overflow="fold")
    return table


def _read(file: Path) -> bytes:
    """Read at most one byte more than a policy may have."""
    try:
        if str(file) == "-":
            return sys.stdin.buffer.read(_MOST_BYTES + 1)
        with file.open("rb") as opened:
            return opened.read(_MOST_BYTES + 1)
    except OSError as error:
        raise EnvironmentProblem(
            rule="a file with the new policy",
            got=f"{file} ({error.strerror})",
            do="Check the path. A policy to begin with: skinml clinic policy show --yaml "
            "--folder FOLDER",
        ) from error


def _asked() -> bool:
    """Ask on standard error; no answer is no."""
    try:
        return typer.confirm("Put this policy in force?", err=True)
    except typer.Abort:
        if sys.stdin.isatty():
            raise
        return False


def _print_json(values: dict[str, object]) -> None:
    print(json.dumps(values, allow_nan=False), flush=True)
