"""Who is let in to the review page: one browser of one person at this computer.

A name that resolves to this machine (DNS rebinding) fails at the Host header, another site's form
at the Origin header and the form's own token, another page's picture tag at what the browser says
of its origin, another user of the computer at the owner of the connection, where Linux tells it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from skinml.clinic.pages import screen_of, screen_style

LOOPBACK = "127.0.0.1"
_METHODS = ("GET", "POST")
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


@dataclass
class Door:
    """The secrets of one session; they are never written to a file.

    Attributes:
        port: The port on 127.0.0.1.
        entry: What the first address holds; good once.
        cookie: What the browser holds from then on.
        form: What each form holds.
        entered: Whether the first address was used.
        seen: When somebody who may be here asked last, by `time.monotonic`.
    """

    port: int
    entry: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    form: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    entered: bool = False
    seen: float = field(default_factory=time.monotonic)
    _once: Lock = field(default_factory=Lock, repr=False)

    @property
    def host(self) -> str:
        """What a browser says that it talks to."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def cookie_name(self) -> str:
        """The cookie's name; browsers do not tell cookies of ports apart."""
        return f"skinml_review_{self.port}"

    @property
    def address(self) -> str:
        """The first address, good once."""
        return f"http://{self.host}/enter?token={self.entry}"

    def enter(self, token: str) -> bool:
        """Let somebody in by the first address.

        Args:
            token: What the address holds.

        Returns:
            Whether it is right and was not used before.
        """
        with self._once:
            fits = same(token, self.entry) and not self.entered
            self.entered = self.entered or fits
            return fits

    def knows(self, request: Request) -> bool:
        """Tell whether a request comes from who was let in.

        Args:
            request: The request.

        Returns:
            Whether it has the cookie.
        """
        return same(request.cookies.get(self.cookie_name, ""), self.cookie)


class Guard:
    """Stands in front of the page: refuses what is not from its own window, and adds headers.

    Args:
        app: The page.
        door: The session's secrets.

    Guarantees:
        Whatever is refused does not reach the page. No answer may be kept by a browser, shown in
        another site's frame, or load anything from elsewhere.
    """

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # a WebSocket, which the server does not speak
            return

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _headers().items():
                    headers[name] = value
            await send(message)

        request = Request(scope)
        refusal = self._refusal(request)
        if refusal is not None:
            status, words = refusal
            page = screen_of("review_words", {"title": "Not let in", "words": words})
            await HTMLResponse(page, status)(scope, receive, headed)
            return
        if request.url.path != "/enter":
            self._door.seen = time.monotonic()
        await self._app(scope, receive, headed)

    def _refusal(self, request: Request) -> tuple[int, str] | None:
        """Say why a request is not answered; None where it is."""
        door, told = self._door, request.headers
        if told.getlist("host") != [door.host]:
            return 403, f"This page answers at http://{door.host} only."
        if request.method not in _METHODS:
            return 405, "This page knows GET and POST only."
        if not _is_own(owner_of(request.client.port if request.client else 0, door.port)):
            return (
                403,
                "This page answers the person who started it, no other user of the computer.",
            )
        if request.method == "POST" and told.getlist("origin") != [f"http://{door.host}"]:
            return 403, "This form was not sent from the page itself. Nothing was done."
        if request.url.path == "/enter":
            return None
        if told.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return 403, "Another page asked for this one. Open the address in a window of its own."
        if not door.knows(request):
            return 403, (
                "This window was not let in. Use the address that skinml clinic review printed; it "
                "is good once. If it was used, end the review with Ctrl-C and start it again."
            )
        return None


def same(one: str, other: str) -> bool:
    """Compare secrets in a time that does not tell where they differ.

    Args:
        one: What somebody sent.
        other: What it should be.

    Returns:
        Whether they are the same.
    """
    return hmac.compare_digest(one.encode(errors="replace"), other.encode())


def owner_of(port: int, listening: int) -> int | None:
    """Look up whose process holds the other end of a connection on this machine.

    Args:
        port: The other end's port on 127.0.0.1.
        listening: Our own.

    Returns:
        The number of the user; None where the system does not tell.
    """
    here = f"{int.from_bytes(socket.inet_aton(LOOPBACK), sys.byteorder):08X}"
    theirs, ours = f"{here}:{port:04X}", f"{here}:{listening:04X}"
    for table in _TABLES:
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for words in map(str.split, lines):
            if words[1].endswith(theirs) and words[2].endswith(ours):
                return int(words[7])
    return None


def _is_own(user: int | None) -> bool:
    """Whether it is this user, root, or who called this program by sudo."""
    caller = os.environ.get("SUDO_UID", "")
    own = {None, 0, os.getuid(), os.geteuid(), int(caller) if caller.isdigit() else None}
    return user in own


def _headers() -> dict[str, str]:
    style = base64.b64encode(hashlib.sha256(screen_style().encode()).digest()).decode()
    return {
        "Cache-Control": "no-store",
        "Content-Security-Policy": f"default-src 'none'; img-src 'self'; script-src 'self'; "
        f"style-src 'sha256-{style}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }
