"""What the proxy remembers of the nodes: who is in a run, who waits, how much each has sent."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from math import inf

MOST_ANSWER_BYTES = 2**29
"""What a node may send in all for one message that it was handed: 64 million numbers."""
NODES_OWN_S = 3.0
"""What a SuperNode sleeps when it heard of no message."""
_SAVED = 2  # a node that was handed more messages at once still has room for so many answers


class TooMuch(Exception):
    """A body over the limit."""


@dataclass(frozen=True)
class Pace:
    """How long a node that asks for messages in the middle of a run is kept waiting for one.

    A SuperNode that hears that there is none sleeps for three seconds, whatever it is told, and a
    secure sum has up to four messages: most of a round would be such sleep.

    Attributes:
        hold_s: Seconds at most; a SuperNode gives a request up after 30.
        busy_s: For how long after its last message a node is taken to be in a run; at other
            times it is answered at once.
        poll_s: Seconds between two looks at the SuperLink soon after some node has answered: the
            next message is near.
        slow_s: Seconds between two looks at other times.
        soon_s: How long that is soon.
        most_per_s: Looks a second for all nodes together: with many each waits longer.
    """

    hold_s: float = 20.0
    busy_s: float = 120.0
    poll_s: float = 0.25
    slow_s: float = 1.0
    soon_s: float = 3.0
    most_per_s: float = 25.0


@dataclass
class Traffic:
    """Which nodes have lately had a message, who is waiting for one, and how much each may send.

    Attributes:
        pace: How long a node is kept waiting.
        most: Bytes that a node may send in all for each message that it was handed.
        answered: When some node sent something last.
        held: By node, whose question waits for a message.
    """

    pace: Pace
    most: int = MOST_ANSWER_BYTES
    answered: float = -inf
    held: dict[int, object] = field(default_factory=dict)
    _last: dict[int, float] = field(default_factory=dict)
    _room: dict[int, int] = field(default_factory=dict)

    def note(self, node: int) -> None:
        """Note that a node takes part in a run.

        Args:
            node: Its number.
        """
        self._last[node] = time.monotonic()

    def handed(self, node: int) -> None:
        """Note that a node was handed a message, which it may answer.

        Args:
            node: Its number.
        """
        self.note(node)
        self._room[node] = min(self.left(node) + self.most, _SAVED * self.most)

    def left(self, node: int) -> int:
        """Tell how many bytes a node may still send.

        Args:
            node: Its number.

        Returns:
            Bytes; of a node that was handed nothing yet, as many as one answer may have.
        """
        return self._room.get(node, self.most)

    def took(self, node: int, size: int) -> None:
        """Count what a node has sent.

        Args:
            node: Its number.
            size: Bytes.

        Raises:
            TooMuch: If that is more than it may.
        """
        self._room[node] = self.left(node) - size
        if self._room[node] < 0:
            raise TooMuch

    def busy(self, node: int) -> bool:
        """Tell whether a node is taken to be in a run.

        Args:
            node: Its number.

        Returns:
            Whether it is.
        """
        return time.monotonic() - self._last.get(node, -inf) < self.pace.busy_s

    def wait_s(self) -> float:
        """Say how long to wait before the next look.

        Returns:
            Seconds.
        """
        soon = time.monotonic() - self.answered < self.pace.soon_s
        alone = self.pace.poll_s if soon else self.pace.slow_s
        return min(max(alone, len(self.held) / self.pace.most_per_s), NODES_OWN_S)
