"""How a patient's number comes in: typed or piped, never an argument, which others could see."""

from __future__ import annotations

import sys
from typing import Any

import click
import typer
from typer.core import TyperCommand

from skinml.errors import DataError, InputError

_MOST_LETTERS = 1024


class QuietCommand(TyperCommand):
    """A command that does not repeat a superfluous argument: it could be a patient's number."""

    allow_extra_args = True

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, or refuse what is left over."""
        if ctx.args:
            raise InputError(
                rule="no further argument: a patient's number is typed or piped in",
                got=f"{len(ctx.args)} more",
                do="Start the command without, and give the number when it asks.",
            )
        return super().invoke(ctx)


def ask_patient() -> str:
    """Ask for a patient's number, or read it from a pipe's first line.

    Returns:
        The number, as lists have it under patient_id: never log.

    Raises:
        DataError: If the pipe gives none.
    """
    if sys.stdin.isatty():
        answer: str = typer.prompt("Patient's number", err=True)
        return answer.strip()
    try:
        line = sys.stdin.readline(_MOST_LETTERS + 1).strip()
    except UnicodeDecodeError:
        raise _no_id("bytes that are no UTF-8") from None
    if not line or len(line) > _MOST_LETTERS:
        raise _no_id("none" if not line else "a longer line")
    return line


def _no_id(got: str) -> DataError:
    return DataError(
        rule="a patient's number on the first line of standard input",
        got=got,
        do="Pipe the number in, or start the command in a terminal and type it.",
    )
