"""Child processes kept running: started again with back-off, logged, and ended for sure."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Unpack

import psutil

from skinml.deployment.log_lines import Line, heard
from skinml.durable import open_private, write_whole
from skinml.errors import EnvironmentProblem

_GRACE_S = 8.0
_POLL_S = 0.2
_SNAPSHOT_S = 2.0
_TAIL_LINES = 30
_LONGEST_LINE = 2000
_LARGEST_LOG = 8 * 2**20
_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37  # linux/prctl.h
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_MADE_WITHIN_S = 0.05  # a process's time of birth, in two readings of it


@dataclass(frozen=True)
class Part:
    """A process that is to be kept running.

    Attributes:
        name: What it is called, for logs and screens.
        command: The program and its arguments.
        folder: Its working folder.
        environment: Variables beside those of this process.
        noise: A pattern of lines that are not logged, such as one for every request.
    """

    name: str
    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    noise: str | None = None


@dataclass(frozen=True)
class Ended:
    """A part that ended by itself.

    Attributes:
        part: Its name.
        code: Its exit code; below zero the signal that ended it.
        lasted_s: Seconds for which it ran.
        tail: Its last lines.
        failures: How many times in a row it has ended soon after its start, this time included.
    """

    part: str
    code: int
    lasted_s: float
    tail: tuple[str, ...]
    failures: int


@dataclass(frozen=True)
class Backoff:
    """How long to wait before a part is started again: twice as long each time, up to a limit.

    Attributes:
        first_s: Seconds after the first failure.
        most_s: Seconds at most.
        calm_s: A part that ran for as long is taken to have worked: the count starts anew.
    """

    first_s: float = 1.0
    most_s: float = 60.0
    calm_s: float = 60.0

    def wait_s(self, ended: Ended) -> float:
        """Say how long to wait.

        Args:
            ended: What ended.

        Returns:
            Seconds.
        """
        return min(self.first_s * 2.0 ** min(ended.failures - 1, 30), self.most_s)


class JsonLog:
    """A log of JSON lines, one object a line, closed to others; the last 8 MiB and those before.

    Args:
        path: The file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def write(self, **values: Unpack[Line]) -> None:
        """Add a line, with the time in UTC before its values.

        Args:
            **values: What the line tells, by the closed list of keys.
        """
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"at": at, **values}, ensure_ascii=False).encode() + b"\n"
        # A log that cannot be written, such as on a full disk, must not end what it tells of.
        with self._lock, contextlib.suppress(OSError):
            self._turn_over()
            descriptor = open_private(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            with os.fdopen(descriptor, "wb") as file:
                file.write(line)

    def _turn_over(self) -> None:
        if self.path.exists() and self.path.stat().st_size > _LARGEST_LOG:
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))


Told = Callable[[str, str, str], None]  # part, event, words


class Supervision:
    """Parts that run until they are told to end.

    Each part is a process group of its own, with no terminal and no input. What it prints goes
    into the log, a line at a time. A part that ends is started again after a wait.

    Args:
        parts: What to keep running, in the order of starting.
        log: Where events and output go.
        book: A file that remembers which processes run, so that the next supervision ends what
            an earlier one that was killed has left behind.
        told: Called with a part, an event (`started`, `ended`, `waiting`, `stopped`) and words.
        backoff: How long to wait before a new start.
        wait_s: A reader of endings that knows better: seconds to wait, or None for the back-off.
        grace_s: Seconds that a process has to end when asked, before it is killed.

    Guarantees:
        When the block of `running` is left, by whatever way but the death of this process, every
        process that the parts started has ended, those that have detached themselves too (Linux;
        elsewhere those that still have a living parent).
    """

    def __init__(
        self,
        parts: Sequence[Part],
        log: JsonLog,
        book: Path,
        *,
        told: Told = lambda part, event, words: None,
        backoff: Backoff | None = None,
        wait_s: Callable[[Ended], float | None] = lambda ended: None,
        grace_s: float = _GRACE_S,
    ) -> None:
        self.parts = tuple(parts)
        self.log = log
        self.book = book
        self._told = told
        self._backoff = backoff or Backoff()
        self._wait_s = wait_s
        self._grace_s = grace_s
        self._stop = threading.Event()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._sessions: set[int] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[Supervision]:
        """Keep the parts running for as long as the block lasts.

        Yields:
            This supervision.

        Raises:
            EnvironmentProblem: If the book cannot be written.
        """
        end_leftovers(self.book)
        write_whole(self.book, b"[]\n", "list of processes")
        keeper = threading.Thread(target=self._remember, name="book", daemon=True)
        self._threads.append(keeper)
        with _hung_up(), _adopting():
            try:
                keeper.start()
                for part in self.parts:
                    self._start(part)
                yield self
            finally:
                with _uninterrupted():
                    self._end()

    def add(self, part: Part) -> None:
        """Keep a further part running, in the block of `running`.

        Args:
            part: The part.
        """
        self.parts = (*self.parts, part)
        self._start(part)

    def restart(self, name: str) -> None:
        """Ask a part to end, so that it is started again, with a new certificate say.

        Args:
            name: The part's name; nothing is done for one that is not running.
        """
        with self._lock:
            child = self._children.get(name)
        if child is not None:
            child.terminate()

    def wait(self, until: Callable[[], bool] = lambda: False) -> None:
        """Wait, in the block, until a condition holds or the process is asked to end.

        Args:
            until: The condition; by default one that never holds.
        """
        while not until() and not self._stop.is_set():
            time.sleep(_POLL_S)

    def pids(self) -> dict[str, int]:
        """Tell which process each part has at the moment.

        Returns:
            The process ids by the parts' names, without parts that are waiting.
        """
        with self._lock:
            return {name: each.pid for name, each in self._children.items() if each.poll() is None}

    def _start(self, part: Part) -> None:
        thread = threading.Thread(target=self._keep, args=(part,), name=part.name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _keep(self, part: Part) -> None:
        failures = 0
        while not self._stop.is_set():
            began = time.monotonic()
            code, tail = self._run_once(part)
            if self._stop.is_set():
                return
            lasted = time.monotonic() - began
            failures = 1 if lasted >= self._backoff.calm_s else failures + 1
            ended = Ended(part.name, code, lasted, tail, failures)
            known = self._asked_wait_s(ended)
            wait = self._backoff.wait_s(ended) if known is None else known
            self._say(part.name, "ended", f"exit code {code} after {lasted:.0f} s")
            self._say(part.name, "waiting", f"starts again in {wait:g} s")
            self._stop.wait(wait)

    def _asked_wait_s(self, ended: Ended) -> float | None:
        """Ask how long to wait; where whoever knows fails, the usual back-off does."""
        try:
            return self._wait_s(ended)
        except Exception as error:  # noqa: BLE001 a part that nobody starts again is worse
            self._say(ended.part, "why", type(error).__name__)
            return None

    def _run_once(self, part: Part) -> tuple[int, tuple[str, ...]]:
        with self._lock:
            if self._stop.is_set():
                return 0, ()
            try:
                child = subprocess.Popen(  # noqa: S603 the parts' commands are skinml's own
                    list(part.command),
                    cwd=part.folder,
                    env={**os.environ, **part.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                return 127, (error.strerror or type(error).__name__,)
            self._children[part.name] = child
            self._sessions.add(child.pid)
        self._say(part.name, "started", f"process {child.pid}")
        tail: deque[str] = deque(maxlen=_TAIL_LINES)
        reader = threading.Thread(target=self._read, args=(part, child.stdout, tail))
        reader.daemon = True
        reader.start()
        code = child.wait()
        # Grandchildren may hold the pipe open; what the part itself said is there by then.
        reader.join(timeout=0.5)
        return code, tuple(tail)

    def _read(self, part: Part, output: IO[bytes] | None, tail: deque[str]) -> None:
        if output is None:
            return
        with output:
            for line in output:
                text = _COLOURS.sub("", line[:_LONGEST_LINE].decode("utf-8", "replace")).rstrip()
                if (spoken := heard(text)) is not None:
                    tail.append(spoken.get("words", ""))
                    named: Line = {"part": part.name}
                    self.log.write(**(named | spoken))
                elif text and not (part.noise and re.search(part.noise, text)):
                    tail.append(text)
                    self.log.write(part=part.name, event="output", line=text)

    def _say(self, part: str, event: str, words: str) -> None:
        self.log.write(part=part, event=event, words=words)
        with contextlib.suppress(OSError):  # nobody may read any more; the part runs on
            self._told(part, event, words)

    def _remember(self) -> None:
        """Keep the book, and bury adopted children that have ended."""
        written: list[tuple[int, float]] | None = None
        while not self._stop.wait(_POLL_S if written is None else _SNAPSHOT_S):
            found = []
            for process in self._mine():
                with contextlib.suppress(psutil.Error):
                    found.append((process.pid, process.create_time()))
                    self._bury(process)
            if found and sorted(found) != written:
                written = sorted(found)
                with contextlib.suppress(EnvironmentProblem):  # a full disk; the next look writes
                    write_whole(self.book, json.dumps(written).encode() + b"\n", "process list")

    def _bury(self, process: psutil.Process) -> None:
        with self._lock:
            own = {child.pid for child in self._children.values()}
        adopted = process.pid not in own and process.ppid() == os.getpid()
        if adopted and process.status() == psutil.STATUS_ZOMBIE:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)

    def _mine(self) -> list[psutil.Process]:
        """Find every living process that a part has started, adopted orphans included."""
        with self._lock:
            sessions = set(self._sessions)
        found: dict[int, psutil.Process] = {}
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) in sessions:
                    found[process.pid] = process
                    found |= {each.pid: each for each in process.children(recursive=True)}
        return list(found.values())

    def _end(self) -> None:
        with self._lock:
            self._stop.set()
        end_processes(self._mine(), self._grace_s)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout=self._grace_s)
        end_processes(self._mine(), self._grace_s)  # what was being started meanwhile
        self.book.unlink(missing_ok=True)
        for part in self.parts:
            self._say(part.name, "stopped", "")


def end_leftovers(book: Path) -> int:
    """End what an earlier supervision that was killed has left running.

    Args:
        book: Its book.

    Returns:
        How many processes there were.
    """
    try:
        remembered = [(int(pid), float(born)) for pid, born in json.loads(book.read_bytes())]
    except (OSError, ValueError, TypeError):
        return 0
    found: dict[int, psutil.Process] = {}
    for pid, born in remembered:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if abs(process.create_time() - born) < _MADE_WITHIN_S:  # not another with its number
                found[pid] = process
                found |= {each.pid: each for each in process.children(recursive=True)}
    end_processes(list(found.values()))
    book.unlink(missing_ok=True)
    return len(found)


def end_processes(processes: Sequence[psutil.Process], grace_s: float = _GRACE_S) -> None:
    """Ask processes to end, and end those that do not.

    Args:
        processes: The processes.
        grace_s: Seconds that they have.
    """
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=grace_s)


@contextmanager
def _adopting() -> Iterator[None]:
    """Be the parent of whoever loses its parent below this process, for the block (Linux)."""
    if sys.platform != "linux":
        yield
        return
    library, before = ctypes.CDLL(None, use_errno=True), ctypes.c_int(0)
    library.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    library.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        library.prctl(_PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


@contextmanager
def _hung_up() -> Iterator[None]:
    """End as with Ctrl-C when the terminal goes, which would else end this process alone."""
    if threading.current_thread() is not threading.main_thread() or (
        signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL  # nohup: it is to run on
    ):
        yield
        return
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let nobody interrupt the ending: a second Ctrl-C would leave processes behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ways = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {each: signal.signal(each, signal.SIG_IGN) for each in ways}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
