"""What is told on a terminal fits its width and explains its words; a file's lines stay whole."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from dataclasses import replace

import pytest

from skinml.cli.edge import lines_of
from skinml.cli.main import main
from skinml.cli.runs import noise_note
from skinml.records import GroupResult

WIDE = (
    "error: expected a federation's folder, as skinml federation init makes it; got "
    "folder=/srv/practices/north-and-south/federation. See what there is: "
    "skinml federation status --folder /srv/practices/north-and-south/federation"
)
SKINML = (sys.executable, "-c", "import sys; from skinml.cli.main import main; sys.exit(main())")


@pytest.mark.parametrize("width", [60, 72, 80, 100])
def test_no_line_but_a_command_is_wider_than_the_terminal(width: int) -> None:
    *lines, command = lines_of(WIDE, width)
    assert max(map(len, lines)) <= width
    assert command.strip() == WIDE.rpartition(": ")[2]
    assert " ".join(" ".join([*lines, command]).split()) == WIDE


def test_a_line_that_fits_and_one_for_a_file_stay_whole() -> None:
    assert lines_of(WIDE, None) == [WIDE]
    assert lines_of("error: no", 80) == ["error: no"]
    assert lines_of("x" * 100, 80, "  ") == ["  " + "x" * 100]  # a word is never cut


@pytest.mark.parametrize("columns", [60, 80])
def test_an_error_on_a_terminal_has_its_width(columns: int) -> None:
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    words = ("federation", "status", "--folder", "no-such-folder", "--json")
    done = subprocess.run([*SKINML, *words], stdout=subprocess.PIPE, stderr=there, check=False)
    os.close(there)
    told = os.read(here, 1 << 16).decode().splitlines()
    os.close(here)
    assert done.returncode == 2
    assert len(told) > 1
    assert max(map(len, told)) <= columns
    assert done.stdout.count(b"\n") == 1  # the object is one line, whatever the terminal


def test_noise_in_counts_is_explained_where_there_is_some() -> None:
    exact = GroupResult("overall", "overall", None, 60, 19, 41, {})
    noised = replace(exact, count_std=5.0)
    assert noise_note([exact]) == ""
    assert "19 in 20 are within 14 of the truth" in noise_note([exact, noised])


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (("run", "--nope"), "skinml run --help"),
        (("clinic", "status", "--nope"), "skinml clinic status --help"),
        (("nope",), "skinml --help"),
        (("clinic", "init", "north"), "skinml clinic init --help"),
    ],
)
def test_a_word_that_no_command_knows_points_at_the_help_of_the_command_that_was_asked(
    words: tuple[str, ...], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    told = capsys.readouterr().err
    assert f"See `{command}`." in told
    assert "got Got" not in told
