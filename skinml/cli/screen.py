"""What commands print alike: the width of the screen, tables, times, and what comes next."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skinml.cli.edge import lines_of
from skinml.clinic.hints import placed
from skinml.errors import ConfigError

_WIDTH = 80
_Answer = TypeVar("_Answer")


def narrow_console(console: Console | None = None) -> Console:
    """Open the terminal, at most 80 columns wide.

    Args:
        console: Where to print; by default standard output.

    Returns:
        The console. It colours nothing by itself.
    """
    console = console or Console()
    return Console(file=console.file, width=min(console.width, _WIDTH), highlight=False)


def work_dir_option(work_dir: Path) -> str:
    """Write the option that names a working folder behind a command.

    Args:
        work_dir: The folder.

    Returns:
        The option with a space before it; empty for the folder where the user is.

    Example:
        >>> work_dir_option(Path("my work")), work_dir_option(Path())
        (" --work-dir 'my work'", '')
    """
    return "" if work_dir == Path() else f" --work-dir {shlex.quote(str(work_dir))}"


def plain_table(*columns: str, words: Iterable[str] = ()) -> Table:
    """Make a table without lines, numbers to the right.

    Args:
        columns: The headings.
        words: Those of them that stand above words.

    Returns:
        The table.
    """
    table = Table(box=None, pad_edge=False)
    for column in columns:
        is_words = column in words
        table.add_column(
            column, justify="left" if is_words else "right", overflow="fold", no_wrap=not is_words
        )
    return table


def minute(at: str) -> str:
    """Write a time as everywhere on the screen; whoever prints it says that it is UTC.

    Args:
        at: ISO 8601, in UTC.

    Returns:
        The day and the minute.

    >>> minute("2026-03-01T09:30:12.5+00:00")
    '2026-03-01 09:30'
    """
    return at[:16].replace("T", " ")


def asked(
    heading: str, reason: str, usual: str | None, accept: Callable[[str], _Answer], console: Console
) -> _Answer:
    """Ask one question until the answer does.

    Args:
        heading: The question, with its number.
        reason: Why it is asked, or what may be answered; a line.
        usual: What Enter alone answers; None: nothing.
        accept: Reads an answer; a ConfigError says what is wrong with it.
        console: Standard error, so that standard output holds the result alone.

    Returns:
        What `accept` made of the answer.
    """
    console.print(Text(f"\n{heading}"), style="bold")
    console.print(Text(f"   {reason}"))
    while True:
        try:
            return accept(str(typer.prompt("  ", default=usual, err=True)).strip())
        except ConfigError as error:
            lines = lines_of(f"That does not do: {error.got}. {error.do}", console.width, "   ")
            console.print(Text("\n".join(lines)), style="bold")


def print_next(console: Console, command: str, folder: Path) -> None:
    """Print the command that comes next, whole on one line, to be copied.

    Args:
        console: Where to.
        command: It, with " --folder FOLDER" for the clinic's folder.
        folder: The folder as the user typed it.
    """
    console.print(Text(f"next: {placed(command, folder)}"), soft_wrap=True)
