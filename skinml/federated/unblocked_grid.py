"""A Flower grid on which no node's reply can hold the coordinator.

Flower's own grid takes a reply that is announced for one that is on its way, and waits for its
parts in the call: three minutes where they never come, two hours where a liar keeps announcing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from queue import SimpleQueue

from flwr.app import Message
from flwr.serverapp import Grid

from skinml.federated.outer_grid import OuterGrid

MOST_SLOW = 3
PATIENCE_S = 1.0
_KEEP_S = 900.0
_log = logging.getLogger("skinml.coordinator")


class UnblockedGrid(OuterGrid):
    """Hands on to another grid and fetches replies in a thread of its own.

    Args:
        grid: The grid.
        patience_s: Seconds that a caller waits for one reply to arrive; it goes on arriving while
            others are asked for, and is handed out at a later call.
        most_slow: Replies of one node that may be on their way for longer than that. Of a node
            that has more no reply is fetched until one of them is there or given up by Flower.

    Guarantees:
        A call for one reply takes little longer than the patience. There are never more threads
        than one and `most_slow` for each node, and none of them keeps the process from ending.
    """

    def __init__(
        self, grid: Grid, *, patience_s: float = PATIENCE_S, most_slow: int = MOST_SLOW
    ) -> None:
        super().__init__(grid)
        self._patience_s, self._most_slow = patience_s, most_slow
        self._nodes: dict[str, int] = {}
        self._slow: dict[str, _Fetch] = {}
        self._worker = _Worker()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages.

        Args:
            messages: What to send.

        Returns:
            An id for each message.
        """
        sent = list(messages)
        ids = list(self.nodes.push_messages(sent))
        self._nodes |= {
            key: each.metadata.dst_node_id for key, each in zip(ids, sent, strict=True) if key
        }
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Fetch the replies that are there.

        Args:
            message_ids: The ids of the messages sent; each is asked for by itself.

        Returns:
            The replies that have arrived as a whole.

        Raises:
            Exception: Whatever the other grid raises of a reply.
        """
        self._forget()
        found: list[Message] = []
        for key in message_ids:
            fetch = self._slow.get(key) or self._begun(key)
            if fetch is not None and fetch.done.is_set():
                self._slow.pop(key, None)
                found += fetch.outcome()
        return found

    def close(self) -> None:
        """End the thread; what is still on its way is given up."""
        self._worker.end()

    def _begun(self, key: str) -> _Fetch | None:
        """Begin to fetch a reply, and give it a moment to arrive."""
        node = self._nodes.get(key)
        mine = [each for each in self._slow.values() if each.node == node]
        if sum(not each.done.is_set() for each in mine) >= self._most_slow:
            return None
        fetch = _Fetch(node, lambda: list(self.nodes.pull_messages([key])))
        self._worker.give(fetch)
        if not fetch.done.wait(self._patience_s):
            _log.warning("an answer was announced and is not there yet; the others are asked on")
            self._slow[key] = fetch
            self._worker.end()  # after this one
            self._worker = _Worker()
        return fetch

    def _forget(self) -> None:
        """Drop what arrived and nobody asked for in a long time."""
        for key, each in list(self._slow.items()):
            if each.done.is_set() and time.monotonic() - each.ended > _KEEP_S:
                del self._slow[key]


class _Fetch:
    """One reply on its way."""

    def __init__(self, node: int | None, pull: Callable[[], list[Message]]) -> None:
        self.node, self.done, self.ended = node, threading.Event(), 0.0
        self._pull = pull
        self._found: list[Message] = []
        self._error: BaseException | None = None

    def do(self) -> None:
        try:
            self._found = self._pull()
        # Nothing is lost: it is raised where the reply is asked for.
        except BaseException as error:  # noqa: BLE001
            self._error = error
        self.ended = time.monotonic()
        self.done.set()

    def outcome(self) -> list[Message]:
        if self._error is not None:
            raise self._error
        return self._found


class _Worker:
    """A thread that fetches one reply after the other."""

    def __init__(self) -> None:
        self._fetches: SimpleQueue[_Fetch | None] = SimpleQueue()
        threading.Thread(target=self._work, daemon=True, name="replies").start()

    def give(self, fetch: _Fetch) -> None:
        self._fetches.put(fetch)

    def end(self) -> None:
        self._fetches.put(None)

    def _work(self) -> None:
        while (fetch := self._fetches.get()) is not None:
            fetch.do()
