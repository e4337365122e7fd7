"""Progress: bars on a terminal, a plain line every so often elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)


class Bars:
    """One bar a stage on standard error; where that is no terminal, such as a log, plain lines.

    Args:
        quiet: Draw and write nothing.
        every_s: Seconds between two plain lines; a stage that takes less has none.
    """

    def __init__(self, *, quiet: bool = False, every_s: float = 60.0) -> None:
        self._lines = not quiet and not sys.stderr.isatty()
        self._every_s = every_s
        self._told, self._what, self._total = time.monotonic(), "", 0
        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description:<32}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not sys.stderr.isatty(),
        )
        self._stage: TaskID | None = None

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._complete()
        self._bars.stop()

    def begin(self, stage: str, total: int) -> None:
        """Draw a new bar.

        Args:
            stage: What it shows.
            total: Steps until it is full.
        """
        self._complete()
        self._told, self._what, self._total = time.monotonic(), stage, total
        self._stage = self._bars.add_task(stage, total=total)

    def reached(self, done: int) -> None:
        """Move the bar.

        Args:
            done: Steps done so far.
        """
        if self._stage is not None:
            self._bars.update(self._stage, completed=done)
        if self._lines and time.monotonic() - self._told >= self._every_s:
            self._told = time.monotonic()
            print(f"{self._what}: {done:,} of {self._total:,}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Print a line above the bars.

        Args:
            text: The line.
        """
        if not self._bars.disable:
            self._console.print(text)

    def _complete(self) -> None:
        if self._stage is not None:
            task = self._bars.tasks[-1]
            self._bars.update(self._stage, completed=task.total)
