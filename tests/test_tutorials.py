"""The tutorials of the researcher and the reviewer, typed word for word in an empty folder.

After a block of commands a block of text may follow: each of its lines has to be on the screen,
whatever its numbers are. The clinic's tutorial has a test of its own, in tests/deployment, for it
needs several windows.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(console|python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d[\d.,]*\d|\d")
EXIT_CODE = re.compile(r"exit code \d+")
ENDS = {
    "tutorial-researcher": (
        "runs/quickstart-*/report.html",
        "runs/practice-*/report.html",
        "runs/practice-*/model/bundle.json",
        "comparisons/*/*.html",
        "audits/*/audit.html",
        "mlflow.db",
    ),
    "tutorial-reviewer": ("received/report.html", "forged/report.json", "theirs/report.html"),
}
"""What a page says that a reader has at its end."""


@dataclass(frozen=True)
class Step:
    """Something to type, and lines that are then on the screen."""

    kind: str
    text: str
    shown: tuple[str, ...]


def steps(page: str) -> Iterator[Step]:
    found = BLOCK.findall((ROOT / f"docs/{page}.md").read_text(encoding="utf-8"))
    for at, (kind, text) in enumerate(found):
        follows = found[at + 1] if at + 1 < len(found) else ("", "")
        if kind != "text":
            shown = follows[1].splitlines() if follows[0] == "text" else ()
            yield Step(kind, text, tuple(shown))


def typed(step: Step, folder: Path) -> str:
    command = ["bash", "-e", "-c"] if step.kind == "console" else [sys.executable, "-c"]
    done = subprocess.run(
        [*command, step.text],
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, f"{step.text}\n{done.stdout[-4000:]}"
    return done.stdout


def pattern(line: str) -> str:
    """A line of the page, with any space and any figures; an exit code is what it is."""
    words = " ".join(line.split())
    if EXIT_CODE.fullmatch(words):
        return words
    return r"[\d.,]+".join(re.escape(part) for part in NUMBER.split(words))


@pytest.mark.parametrize("page", ENDS)
def test_a_tutorial_has_steps_and_says_what_is_shown(page: str) -> None:
    found = list(steps(page))
    assert len(found) >= 5
    assert sum(bool(step.shown) for step in found) >= 3
    assert not [line for step in found for line in step.text.splitlines() if len(line) > 150]


def test_a_line_is_found_whatever_its_numbers_and_an_exit_code_is_not() -> None:
    assert re.search(pattern("3.000  for 6 clinics"), "  27.017 for 12 clinics")
    assert not re.search(pattern("3.000  for 6 clinics"), "none for 12 clinics")
    assert not re.search(pattern("exit code 5"), "exit code 3")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", ENDS)
def test_a_tutorial_followed_word_for_word_ends_where_it_says(page: str, tmp_path: Path) -> None:
    for step in steps(page):
        screen = " ".join(typed(step, tmp_path).split())
        for line in step.shown:
            assert re.search(pattern(line), screen), f"{step.text}\n{line}\n{screen[-3000:]}"
    for each in ENDS[page]:
        assert list(tmp_path.glob(each)), each
