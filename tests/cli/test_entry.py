"""Ctrl-C before the command line has been read: nothing is printed, and the exit code is 130."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A library that takes long to read, in which Ctrl-C is typed.
SLOW_LIBRARY = """
import os, signal, time
os.kill(os.getpid(), signal.SIGINT)
time.sleep(60)
"""


def installed() -> str:
    """What the installed command does, as pip writes it."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["skinml"]
    module, name = told.split(":")
    return f"import sys; from {module} import {name}; sys.exit({name}())"


def said(*words: str, path: str = "") -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", installed(), *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [path, str(ROOT)]))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("library", ["typer", "click"])
def test_ctrl_c_while_libraries_are_read_is_quiet(tmp_path: Path, library: str) -> None:
    (tmp_path / f"{library}.py").write_text(SLOW_LIBRARY)
    assert said("--version", path=str(tmp_path)) == (130, "")


def test_the_installed_command_runs() -> None:
    code, words = said("--version")
    assert (code, words[:7]) == (0, "skinml ")
    code, words = said("doctr")
    assert code == 2
    assert words.count("Did you mean 'doctor'? See `skinml --help`.") == 1
    assert words.count("Did you mean") == 1
