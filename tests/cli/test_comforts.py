"""Completion, the version with its environment, colour where it is wanted, a doctor that helps."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import pty
import re
import struct
import subprocess
import sys
import termios
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from skinml.cli.edge import report_error
from skinml.errors import (
    EnvironmentProblem,
    IncompleteRunError,
    InputError,
    IntegrityError,
    RefusedError,
    SkinmlError,
)
from skinml.experiments.doctor import examine, needed, optional

ROOT = Path(__file__).parents[2]
SKINML = (sys.executable, "-c", "import sys; from skinml.cli.main import main; sys.exit(main())")
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7])m")
PLAIN = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}


def said(*words: str, cwd: Path | None = None, **environment: str) -> str:
    done = subprocess.run(
        [*SKINML, *words],
        env=PLAIN | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.stdout


def on_terminal(*words: str, **environment: str) -> str:
    """What a command writes on a terminal of 80 columns."""
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 80, 0, 0))
    with subprocess.Popen(
        [*SKINML, *words],
        env=PLAIN | {"TERM": "xterm-256color"} | environment,
        stdin=subprocess.DEVNULL,
        stdout=there,
        stderr=there,
    ) as process:
        os.close(there)
        parts = []
        while True:
            try:
                parts.append(os.read(here, 1 << 16))
            except OSError:  # Linux's way to say that the other side is closed
                break
            if not parts[-1]:
                break
        process.wait(timeout=60)
    os.close(here)
    return b"".join(parts).decode()


def offered(shell: str, line: str, cwd: Path | None = None) -> set[str]:
    """What a shell would show behind a line."""
    words = line.split(" ")
    shown = said(
        cwd=cwd,
        _SKINML_COMPLETE=f"complete_{shell}",
        COMP_WORDS=line,
        COMP_CWORD=str(len(words) - 1),
        _TYPER_COMPLETE_ARGS=line,
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )
    return set(re.findall(r"(?m)^\s*\(?'?\"?([\w./-]+)", shown))


@pytest.mark.parametrize(
    ("shell", "line", "words"),
    [
        ("fish", "skinml clinic policy ", {"show", "change", "compare"}),
        ("bash", "skinml run q", {"quickstart", "quickstart_end_to_end"}),
        ("bash", "skinml doctor --", {"--work-dir", "--json", "--help"}),
    ],
)
def test_a_shell_is_offered_commands_experiments_and_options(
    shell: str, line: str, words: set[str]
) -> None:
    assert offered(shell, line) == words


def test_a_shell_is_offered_the_runs_of_this_folder(tmp_path: Path) -> None:
    finished, broken_off = "quickstart-20260102-030405-aaaa", "quickstart-20260102-030405-bbbb"
    (tmp_path / "runs" / finished).mkdir(parents=True)
    (tmp_path / "runs" / finished / "record.json").touch()
    (tmp_path / "runs" / f".{broken_off}.draft").mkdir()
    for command in ("evaluate", "predict", "bundle make", "report verify", "mlflow"):
        assert offered("bash", f"skinml {command} ", tmp_path) == {finished}
    assert offered("bash", "skinml bundle ", tmp_path) == {"make", "verify", finished}
    assert offered("bash", "skinml compare quickstart", tmp_path) >= {"quickstart", finished}
    assert offered("bash", "skinml run --resume ", tmp_path) == {broken_off}


def test_completion_is_shown_for_installation() -> None:
    # Typed in a shell: which one it is, is looked up among the processes above.
    typed = ["bash", "-c", '"$@"; exit $?', "bash", *SKINML, "--show-completion"]
    done = subprocess.run(typed, env=PLAIN, capture_output=True, text=True, check=True)
    assert "_SKINML_COMPLETE" in done.stdout


def test_the_version_names_the_environment() -> None:
    first, python, packages, machine = said("--version").splitlines()
    assert first == f"skinml {version('skinml')}"
    assert python == f"Python {platform.python_version()} in {sys.prefix}"
    named = dict(each.split(" ") for each in packages.split(", "))
    assert named == {name: version(name) for name in ("torch", "flwr", "opacus", "mlflow")}
    assert machine == platform.platform()


def test_colour_is_for_terminals_that_want_it() -> None:
    assert COLOUR.search(on_terminal("doctor"))
    assert COLOUR.search(on_terminal("--help"))
    assert not COLOUR.search(on_terminal("doctor", NO_COLOR="1"))
    assert "\x1b" not in on_terminal("doctor", TERM="dumb")
    assert "\x1b" not in said("doctor")


def test_the_doctor_names_what_is_missing_or_of_another_version_and_what_to_type() -> None:
    here = version("numpy")
    asked = ["numpy>=1", "numpy<1", "no-such-package-of-anybody>=3"]
    fits, older, missing = (needed([Requirement(each)])[:-1] for each in asked)
    assert fits == ()  # counted with the others
    assert (older[0].ok, older[0].found) == (False, f"{here}, not <1")
    assert older[0].do == "pip install 'numpy<1'"
    assert (missing[0].ok, missing[0].found) == (False, "missing")
    assert missing[0].do == "pip install 'no-such-package-of-anybody>=3'"
    assert needed([Requirement("numpy>=1"), Requirement("scipy")])[-1].found.startswith("2,")


def test_an_extra_that_is_not_there_is_no_fault_and_half_of_one_is() -> None:
    there, missing = Requirement("numpy"), Requirement("no-such-package-of-anybody")
    assert optional("x", "pictures", [there]).do == ""
    absent = optional("x", "pictures", [missing])
    assert (absent.ok, absent.do) == (True, "pip install 'skinml[x]'")
    assert "for pictures" in absent.found
    half = optional("x", "pictures", [there, missing])
    assert (half.ok, half.found) == (False, "no-such-package-of-anybody missing")


def test_the_doctor_tells_of_a_run_that_was_broken_off(tmp_path: Path) -> None:
    (tmp_path / "runs" / ".quickstart-1.draft").mkdir(parents=True)
    assert "skinml run --resume quickstart-1" in [each.do for each in examine(tmp_path)]


ENDS: dict[str, type[SkinmlError] | BaseException] = {
    "the input is at fault": InputError,
    "refused by policy or budget": RefusedError,
    "incomplete, clinics missing": IncompleteRunError,
    "integrity, something was changed": IntegrityError,
    "the machine: disk, network, a missing extra": EnvironmentProblem,
    "interrupted": KeyboardInterrupt(),
    "a defect of skinml": ValueError("something that nobody foresaw"),
}


@pytest.mark.parametrize("words", ENDS)
def test_a_command_ends_with_the_exit_code_that_the_readme_gives(words: str) -> None:
    readme = (ROOT / "README.md").read_text().split("## Exit codes")[1].split("##")[0]
    told = {
        text: int(code) for code, text in re.findall(r"(\d+) ([^·.(]+)", readme.replace("\n", " "))
    }
    ends = ENDS[words]
    error = ends if isinstance(ends, BaseException) else ends(rule="x", got="y=1", do="Mend it.")
    assert (
        report_error(error, as_json=False) == {key.strip(): at for key, at in told.items()}[words]
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_closed_disk_is_the_machines_fault(number: int) -> None:
    assert report_error(OSError(number, "no"), as_json=False) == EnvironmentProblem.exit_code
