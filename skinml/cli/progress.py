"""Progress bars on a terminal, silence elsewhere."""

from __future__ import annotations

import sys
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
    """One bar a stage, drawn on standard error while it is a terminal.

    Args:
        quiet: Draw nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
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
        self._stage = self._bars.add_task(stage, total=total)

    def reached(self, done: int) -> None:
        """Move the bar.

        Args:
            done: Steps done so far.
        """
        if self._stage is not None:
            self._bars.update(self._stage, completed=done)

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
