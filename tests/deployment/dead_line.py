"""A line between clinics and their coordinator that a test lets go dead without a word."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress

_PIECE = 1 << 16


class DeadLine:
    """Carries bytes between a port and another one, both on this machine.

    While it is dead nothing arrives and nobody is told: no end, no reset. Connections that were
    there when it died stay dead for ever, as behind a router that has forgotten them; those that
    are opened afterwards work once it is alive.

    Attributes:
        port: Where clinics connect to.
        target: Where the coordinator listens.
        dropped: Connections that have died.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.dropped = 0
        self._dead = False
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ, None)
        self._ends: dict[socket.socket, socket.socket] = {}
        self._kept: list[socket.socket] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def die(self) -> None:
        """Let all connections go dead, and new ones wait."""
        with self._lock:
            self._dead = True
            self._selector.unregister(self._server)
            for end in self._ends:
                self._selector.unregister(end)
            self._kept += self._ends
            self.dropped += len(self._ends) // 2
            self._ends.clear()

    def live(self) -> None:
        """Carry new connections again."""
        with self._lock:
            self._dead = False
            self._selector.register(self._server, selectors.EVENT_READ, None)

    def close(self) -> None:
        """End it, and all connections."""
        self._over.set()
        self._thread.join(timeout=10)
        for each in (self._server, *self._ends, *self._kept):
            each.close()

    def _carry(self) -> None:
        while not self._over.is_set():
            ready = self._selector.select(timeout=0.1) if not self._dead else []
            if self._dead:
                self._over.wait(0.1)
            with self._lock:
                for key, _ in ready:
                    if not self._dead:
                        self._step(key.fileobj)  # type: ignore[arg-type]  # only sockets are watched

    def _step(self, end: socket.socket) -> None:
        if end is self._server:
            near, _ = self._server.accept()
            try:
                far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
            except OSError:  # nobody serves at this moment
                near.close()
                return
            self._ends |= {near: far, far: near}
            for each in (near, far):
                self._selector.register(each, selectors.EVENT_READ, None)
            return
        other = self._ends.get(end)
        if other is None:
            return
        piece = b""
        with suppress(OSError):
            piece = end.recv(_PIECE)
            other.sendall(piece)
        if not piece:
            for each in (end, other):
                self._selector.unregister(each)
                del self._ends[each]
                each.close()
