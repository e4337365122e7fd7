"""The process edge: errors become one line, one JSON object and an exit code."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import textwrap
import traceback
from pathlib import Path
from typing import Any, TextIO

from skinml.clinic.hints import placed
from skinml.errors import EnvironmentProblem, InputError, SkinmlError

EXIT_INTERRUPTED = 130
EXIT_DEFECT = 1
EXIT_USAGE = 2
# Of a command that does several runs, which it finds again by itself.
SAME_COMMAND = "What was done is kept. The same command goes on where it stood."
_NARROWEST = 20
_COMMAND = re.compile(r": (skinml (?:(?!\. )[^:])*?)\.?$")  # at the end, without the full stop
# What the operating system says when the machine, not the user, is at fault.
_MACHINE = {
    errno.ENOSPC,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EMFILE,
    errno.ENFILE,
    errno.EIO,
}


class Interrupted(Exception):
    """Ctrl-C in a command that has something to say about it, which Typer would swallow.

    Args:
        stopped: What was raised, with its notes.
        go_on: How the command goes on; it stands in the place of the notes, which tell it of one
            run. Empty: the notes stay.
    """

    def __init__(self, stopped: KeyboardInterrupt, go_on: str = "") -> None:
        super().__init__("interrupted")
        self.__notes__ = [go_on] if go_on else list(_notes(stopped))


def translated(error: BaseException) -> SkinmlError | None:
    """Find the foreseen error behind an exception.

    Args:
        error: Whatever ended the command.

    Returns:
        The error itself, or an EnvironmentProblem for a failure of the machine; None for a
        defect of ours.
    """
    if isinstance(error, SkinmlError):
        return error
    if isinstance(error, OSError) and error.errno in _MACHINE:
        return EnvironmentProblem(
            rule="a disk that can be written",
            got=error.strerror or type(error).__name__,
            do="Check the space on the disk and the permissions of the working folder.",
        )
    if isinstance(error, MemoryError):
        return EnvironmentProblem(
            rule="enough memory", got="none left", do="Close other programs or use less data."
        )
    return None


def report_error(error: BaseException, *, as_json: bool, folder: Path | None = None) -> int:
    """Say what went wrong and choose the exit code.

    Args:
        error: Whatever ended the command.
        as_json: Whether the last line of standard output is to be a JSON object.
        folder: The clinic's folder that the command was given, which its hints then name.

    Returns:
        The exit code.
    """
    if isinstance(error, KeyboardInterrupt | Interrupted):
        _say("interrupted", "", "", EXIT_INTERRUPTED, _notes(error), as_json=as_json)
        return EXIT_INTERRUPTED
    known = translated(error)
    if known is None:
        traceback.print_exception(error, file=sys.stderr)
        got, do = type(error).__name__, "Report this defect with the traceback above."
        _say("a run without a defect of skinml", got, do, EXIT_DEFECT, (), as_json=as_json)
        return EXIT_DEFECT
    do, *details = (
        text if folder is None else placed(text, folder)
        for text in (known.do, *known.details, *_notes(error))
    )
    _say(known.rule, known.got, do, known.exit_code, tuple(details), as_json=as_json)
    return known.exit_code


def _notes(error: BaseException) -> tuple[str, ...]:
    return tuple(getattr(error, "__notes__", ()))


def usage_error(message: str, command: str = "skinml") -> InputError:
    """Turn a complaint about arguments into an error of ours.

    Args:
        message: What the argument parser said.
        command: The command whose arguments they are.

    Returns:
        The error, exit code 2.
    """
    # Typer and Click may each add the same hint.
    told = " ".join(message.split()).removeprefix("Got ")  # the line says "got" itself
    got, *hints = told.rstrip(".").split(" Did you mean ")
    hint = f"Did you mean {hints[0].rstrip('.')} " if hints else ""
    return InputError(
        rule="valid arguments", got=got.rstrip("."), do=f"{hint}See `{command} --help`."
    )


def printable(text: str) -> str:
    """Keep words from strangers' files from moving the cursor or starting a line.

    Args:
        text: Words, of which some may come from a file.

    Returns:
        The same with every letter that a terminal might obey replaced.
    """
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def lines_of(text: str, width: int | None, indent: str = "") -> list[str]:
    """Break a text into lines for a terminal.

    Args:
        text: One line.
        width: The terminal's columns; None: leave the line whole, as a file wants it.
        indent: What each line begins with.

    Returns:
        The lines. A command at the end stands whole on a line of its own, to be copied; no word
        is cut.

    Example:
        >>> lines_of("Its whole rounds are kept. Go on: skinml run --resume RUN", 40)
        ['Its whole rounds are kept. Go on:', '   skinml run --resume RUN']
    """
    if width is None or len(indent + text) <= width:
        return [indent + text]
    words, command = text, _COMMAND.search(text)
    if command:
        words = text[: command.start()] + ":"
    lines = textwrap.wrap(
        words,
        max(width, _NARROWEST),
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [*lines, f"{indent}   {command[1]}"] if command else lines


def _width(stream: TextIO) -> int | None:
    """Columns of the terminal that a stream is; None where it is none."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):  # a file, a pipe, or no real stream at all
        return None


def _say(
    rule: str, got: str, do: str, code: int, details: tuple[str, ...], *, as_json: bool
) -> None:
    line = f"error: expected {rule}; got {got}. {do}" if got else f"error: {rule}"
    width = _width(sys.stderr)
    for text, indent in ((line, ""), *((text, "  ") for text in details)):
        print("\n".join(lines_of(printable(text), width, indent)), file=sys.stderr)
    if as_json:
        told: dict[str, Any] = {"code": code, "rule": rule, "got": got, "do": do}
        if details:
            told["details"] = list(details)
        print(json.dumps({"error": told}), flush=True)
