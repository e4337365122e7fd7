"""docs/tutorial-federation.md, typed word for word from its first command to its report.

Two things differ from the page: the port, which another program may have, and RUN, for which the
page itself says to put the run's name.
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from skinml.deployment.superlink import free_port

PAGE = Path(__file__).parents[2] / "docs/tutorial-federation.md"
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
AGAIN = re.compile(r"again until it says `(\w+)`( four times)?")
ON_SCREEN = re.compile(r"^Go on when it says `([^`]+)`", re.MULTILINE)
TYPED = re.compile(r"^Type `(\w+)`", re.MULTILINE)
PATIENCE_S = 2400.0  # a machine that others use, too
CLINICS = ("north", "south", "east", "west")


@dataclass(frozen=True)
class Step:
    """A block of commands, with the words before it and after it."""

    before: str
    commands: str
    after: str

    @property
    def stays(self) -> bool:
        return bool(re.search(r"In (another terminal|four more terminals)", self.before))


def steps(page: str) -> list[Step]:
    parts = BLOCK.split(page)
    return [Step(*parts[at : at + 3]) for at in range(0, len(parts) - 2, 2)]


@dataclass
class Reader:
    """Somebody who follows the page."""

    place: Path
    port: int
    run: str = "RUN"
    open_windows: list[subprocess.Popen[bytes]] = field(default_factory=list)
    spent: list[tuple[float, str]] = field(default_factory=list)

    def follow(self, step: Step) -> None:
        began = time.monotonic()
        text = step.commands.replace("8443", str(self.port)).replace("RUN", self.run)
        if step.stays:
            self.leave_running(text, ON_SCREEN.search(step.after))
        elif typed := TYPED.search(step.after):
            self.type_an_answer(text, typed[1])
        else:
            again = AGAIN.search(step.before)
            self.type_until(text, again[1] if again else "", 4 if again and again[2] else 1)
        self.spent.append((time.monotonic() - began, step.commands.splitlines()[-1]))

    def leave_running(self, text: str, ready: re.Match[str] | None) -> None:
        for line in text.splitlines():
            out = self.place / f"window-{len(self.open_windows)}.txt"
            with out.open("wb") as screen:
                window = subprocess.Popen(
                    ["bash", "-c", f"exec {line}"],
                    cwd=self.place,
                    env=environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=screen,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_heeding_ctrl_c,
                )
            self.open_windows.append(window)
            until = time.monotonic() + 120
            while ready and not re.search(r"\s+".join(ready[1].split()), out.read_text()):
                assert window.poll() is None, out.read_text()
                assert time.monotonic() < until, out.read_text()
                time.sleep(0.2)

    def type_an_answer(self, text: str, answer: str) -> None:
        """At a terminal of its own: the command asks nobody else."""
        ours, theirs = pty.openpty()
        try:
            with subprocess.Popen(
                ["bash", "-e", "-c", text],
                cwd=self.place,
                env=environment(),
                stdin=theirs,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            ) as asking:
                os.write(ours, f"{answer}\n".encode())
                said, _ = asking.communicate(timeout=120)
            assert asking.returncode == 0, said.decode()
            assert b"The run is approved" in said, said.decode()
        finally:
            os.close(ours)
            os.close(theirs)

    def type_until(self, text: str, word: str, times: int) -> None:
        until = time.monotonic() + PATIENCE_S
        while True:
            done = subprocess.run(
                ["bash", "-e", "-c", text],
                cwd=self.place,
                env=environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
            assert "failed" not in done.stdout, done.stdout
            assert not [line for line in done.stdout.splitlines() if len(line) > 100], done.stdout
            if submitted := re.search(r"^Submitted: (\S+)", done.stdout, re.MULTILINE):
                self.run = submitted[1]
            if not word or done.stdout.count(word) >= times:
                return
            assert time.monotonic() < until, done.stdout
            time.sleep(5.0)

    def close_windows(self) -> None:
        for window in self.open_windows:
            window.send_signal(signal.SIGINT)
        for window in self.open_windows:
            window.wait(timeout=60)


def _heeding_ctrl_c() -> None:
    """Also where whoever started the tests lets them ignore it, as a shell's `&` does."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def environment() -> dict[str, str]:
    programs = Path(sys.executable).parent
    return {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}


def left_in(place: Path) -> list[psutil.Process]:
    """Processes whose command names the folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(place) in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    found = Reader(tmp_path, free_port())
    yield found
    for window in found.open_windows:
        if window.poll() is None:
            window.kill()
            window.wait()
    for process in left_in(tmp_path):
        process.kill()


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_the_tutorial_leads_from_an_empty_folder_to_a_report(reader: Reader) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for step in steps(page):
        reader.follow(step)
    for seconds, command in reader.spent:
        print(f"{seconds:7.1f} s  {command}")  # noqa: T201 read with pytest -s
    print(f"{sum(seconds for seconds, _ in reader.spent):7.1f} s in all")  # noqa: T201
    (named,) = re.findall(r"Open `([^`]+)`", page)
    report = reader.place / named.replace("RUN", reader.run)
    assert "<!DOCTYPE html>" in report.read_text(encoding="utf-8")
    require_a_finished_run(reader.place, report.parent)
    reader.close_windows()
    assert [window.returncode for window in reader.open_windows] == [0] * 5
    assert left_in(reader.place) == []


def require_a_finished_run(place: Path, folder: Path) -> None:
    result = json.loads((folder / "result.json").read_text())
    assert (result["complete"], result["resumes"]) == (True, 0)
    assert result["evaluation"]["source"] == "dp_counts"
    privacy = result["privacy"]
    assert (privacy["trust"], privacy["simulated"]) == ("distributed", False)
    assert all(set(each["took_part"]) == set(CLINICS) for each in result["participation"])
    assert result["secure_sums"]["clinics"] == len(CLINICS)
    assert privacy["epsilon"] <= 3.0
    for name in CLINICS:
        assert (place / name / "ledger.jsonl").read_bytes().count(b"\n") >= 10


def words(kind: str, found: Sequence[Step]) -> list[str]:
    return [line for step in found for line in step.commands.splitlines() if kind in line]


def test_the_page_says_how_to_read_each_of_its_commands() -> None:
    found = steps(PAGE.read_text(encoding="utf-8"))
    assert [len(step.commands.splitlines()) for step in found if step.stays] == [1, 4]
    assert len(words(" serve ", found)) == 5
    assert sum(1 for step in found if AGAIN.search(step.before)) == 2
    assert sum(1 for step in found if TYPED.search(step.after)) == 1
    assert len(words("RUN", found)) == 4
