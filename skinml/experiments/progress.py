"""What a long run tells whoever is watching."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Watches a run; the command line draws bars, tests and notebooks may stay silent."""

    def begin(self, stage: str, total: int) -> None:
        """Hear that a stage begins.

        Args:
            stage: What it is, such as "images".
            total: How many steps it has.
        """

    def reached(self, done: int) -> None:
        """Hear how far the stage is.

        Args:
            done: Steps done so far.
        """

    def say(self, text: str) -> None:
        """Hear something worth a line.

        Args:
            text: One line without private data.
        """


class Silence:
    """Watches and says nothing."""

    def begin(self, stage: str, total: int) -> None:
        """Ignore a stage."""

    def reached(self, done: int) -> None:
        """Ignore how far it is."""

    def say(self, text: str) -> None:
        """Ignore a line."""
