"""The one door to the outside: TLS, the nodes' paths and /enrol, and nothing else.

The SuperLink listens on loopback and serves an API without a login beside the one for nodes. The
proxy lets through what nodes of joined clinics send, by the keys of the federation's book.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import uvicorn
from google.protobuf.message import DecodeError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from skinml.deployment.certificates import client_context
from skinml.deployment.enrolment import Register, node_key_pem, redeem
from skinml.deployment.federation_folder import FederationFolder, open_federation
from skinml.deployment.invitations import parse_time, split_address
from skinml.deployment.superlink import FLOWER_QUIET, LOOPBACK, SPOKEN, control, register
from skinml.deployment.supervision import Part
from skinml.deployment.tied import tied
from skinml.deployment.traffic import MOST_ANSWER_BYTES, Pace, TooMuch, Traffic
from skinml.durable import read_whole
from skinml.errors import ConfigError, RefusedError, SkinmlError

CALLS = frozenset(
    {
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "get-fab",
        "push-object",
        "pull-object",
        "confirm-message-received",
    }
)
"""What a node says to a SuperLink. Registering is /enrol's, unregistering the coordinator's."""
_SENDING = frozenset({"push-messages", "push-object"})
KEY_HEADER = "flwr-public-key"
TIME_HEADER = "flwr-timestamp"
MOST_BYTES = 64 * 2**20  # Flower sends arrays in pieces of 5 MB
_MOST_ENROL_BYTES = 16 * 1024
_MOST_MESSAGE_BYTES = 4 * 2**20  # a message names its arrays; they travel beside it
_MOST_PULL_BYTES = 16 * 1024
_BEHIND_S, _AHEAD_S = 305.0, 5.0  # what Flower's node authentication lets clocks differ by
_NOT_ACTIVATED = 2004  # Flower's code, which makes a SuperNode print what comes with it
_TIMEOUT = httpx.Timeout(60.0, connect=5.0)
# RFC 9110 section 7.6.1: what belongs to one connection.
_OWN = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host"}
_OWN |= {"proxy-authenticate", "proxy-authorization", "proxy-connection"}

Handler = Callable[[Request], Awaitable[Response]]


class JoinedKeys:
    """The node keys of joined clinics, read again whenever the book was written.

    Args:
        folder: The federation's folder.
    """

    def __init__(self, folder: FederationFolder) -> None:
        self._folder = folder
        self._stamp: tuple[int, int] | None = None
        self._keys: dict[bytes, int] = {}

    def node_of(self, header: str) -> int | None:
        """Find the node that a request comes from.

        Args:
            header: The key that it carries, base64.

        Returns:
            The node's number; None where no joined clinic has the key.
        """
        try:
            key = base64.b64decode(header, validate=True)
        except (binascii.Error, ValueError):
            return None
        return self._now().get(key)

    def _now(self) -> dict[bytes, int]:
        status = (self._folder.path / "enrolments.json").stat()
        stamp = (status.st_ino, status.st_mtime_ns)
        if stamp != self._stamp:
            self._keys = {
                node_key_pem(each.node_key): each.node_id
                for each in self._folder.enrolments().values()
                if each.state == "joined" and each.node_key and each.node_id is not None
            }
            self._stamp = stamp
        return self._keys


def make_app(
    folder: FederationFolder,
    upstream: str,
    known: Register,
    pace: Pace | None = None,
    most: int = MOST_ANSWER_BYTES,
) -> Starlette:
    """Make the proxy's application.

    Args:
        folder: The federation's folder.
        upstream: The SuperLink, https://host:port, with the federation's own certificate.
        known: Makes an enrolled node's key known to the SuperLink.
        pace: How long a node that asks for messages in a run is kept waiting for one.
        most: Bytes that a node may send in all for each message that it was handed.

    Returns:
        The application: POST on the nodes' paths and on /enrol; 404 or 405 for all else.

    Raises:
        EnvironmentProblem: If the authority's certificate cannot be read.
        IntegrityError: If it is damaged.
    """
    context = client_context(read_whole(folder.ca_certificate, "authority's certificate"))
    client = httpx.AsyncClient(
        base_url=upstream, verify=context, timeout=_TIMEOUT, trust_env=False, http2=False
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        del app
        yield
        await client.aclose()

    passing = _passing(JoinedKeys(folder), client, Traffic(pace or Pace(), most=most))
    routes = [
        Route("/enrol", _enrolling(folder, known), methods=["POST"]),
        Route("/v1/fleet/{call}", passing, methods=["POST"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def proxy_part(folder: FederationFolder, port: int) -> Part:
    """Describe the proxy's process.

    Args:
        folder: The federation's folder.
        port: The SuperLink's port on 127.0.0.1.

    Returns:
        The part.
    """
    command = (sys.executable, "-m", __spec__.name, str(folder.path), str(port))
    return Part("proxy", tied(command), folder.empty, {**FLOWER_QUIET, "PYTHONUNBUFFERED": "1"})


def serve(folder: FederationFolder, port: int) -> None:
    """Serve until the process is told to end.

    Args:
        folder: The federation's folder.
        port: The SuperLink's port on 127.0.0.1.

    Raises:
        EnvironmentProblem: If a file cannot be read.
        IntegrityError: If a certificate is damaged.
    """

    def known(key: bytes, clinic: str) -> int:
        with control(folder, port) as client:
            return register(client, key, clinic)

    host, outside = split_address(folder.settings.listen)
    config = uvicorn.Config(
        make_app(folder, f"https://{LOOPBACK}:{port}", known),
        host=host,
        port=outside,
        ssl_certfile=str(folder.server_certificate),
        ssl_keyfile=str(folder.server_key),
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=3,
        limit_concurrency=1000,
    )
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    uvicorn.Server(config).run()


def _enrolling(folder: FederationFolder, known: Register) -> Handler:
    async def enrol(request: Request) -> Response:
        try:
            content = json.loads(await _whole(request, _MOST_ENROL_BYTES))
        except (TooMuch, ValueError, RecursionError, ClientDisconnect):
            return _words(
                400,
                ConfigError(
                    rule="one small JSON object",
                    got="something else",
                    do="Join with: skinml clinic join --invitation FILE --folder FOLDER",
                ),
            )
        try:
            answer = await run_in_threadpool(redeem, folder, content, known, datetime.now(UTC))
        except ConfigError as error:
            return _words(400, error)
        except RefusedError as error:
            print("enrolment refused", flush=True)  # noqa: T201 the supervisor's log reads it
            return _words(403, error)
        except SkinmlError as error:
            print(error, file=sys.stderr, flush=True)  # noqa: T201 the supervisor's log reads it
            return _words(503, error)
        return JSONResponse(answer)

    return enrol


def _passing(joined: JoinedKeys, client: httpx.AsyncClient, traffic: Traffic) -> Handler:
    async def fleet(request: Request) -> Response:
        call = request.path_params["call"]
        if call not in CALLS:
            return Response(status_code=404)
        node = joined.node_of(request.headers.get(KEY_HEADER, ""))
        if node is None or (call == "activate-node" and _about_clock(request)):
            return _turned_away(request, call, known=node is not None)
        try:
            return await _passed(request, call, node, joined, client, traffic)
        except TooMuch:
            return _too_much(traffic, node)
        except ClientDisconnect:
            return Response(status_code=400)
        except httpx.TimeoutException:
            return Response(status_code=504)
        except httpx.HTTPError:
            return Response(status_code=503)  # nodes try again, until the SuperLink is back

    return fleet


async def _passed(
    request: Request,
    call: str,
    node: int,
    joined: JoinedKeys,
    client: httpx.AsyncClient,
    traffic: Traffic,
) -> Response:
    """Pass on what a joined node says, and what it is answered."""
    content = await _content_of(request, call, node, traffic)
    if isinstance(content, Response):
        return content
    headers = [(k, v) for k, v in request.headers.items() if k not in _OWN]

    async def send() -> httpx.Response:
        outgoing = client.build_request(
            "POST", f"/v1/fleet/{call}", headers=headers, content=content
        )
        return await client.send(outgoing, stream=True)

    answer = await send()
    if call == "pull-messages":
        answer = await _held(request, joined, node, traffic, answer, send)
    elif call in _SENDING and answer.is_success:
        traffic.note(node)
        traffic.answered = time.monotonic()
    kept = {k: v for k, v in answer.headers.items() if k not in _OWN | {"server", "date"}}
    if answer.is_closed:
        return Response(answer.content, answer.status_code, kept)
    return StreamingResponse(_closing(answer), answer.status_code, kept)


async def _held(
    request: Request,
    joined: JoinedKeys,
    node: int,
    traffic: Traffic,
    answer: httpx.Response,
    send: Callable[[], Awaitable[httpx.Response]],
) -> httpx.Response:
    """Look for a message again and again, while the node waits that a run keeps busy.

    A message is asked for only while the node is there to take it, and its key is joined. A node
    that asks anew has given the question before up, whose line may be dead without a word.
    """
    until, mine = time.monotonic() + traffic.pace.hold_s, object()
    traffic.held[node] = mine
    try:
        while _is_empty(answer) and traffic.busy(node) and time.monotonic() < until:
            await answer.aread()  # whole: its connection is for others while this node waits
            await asyncio.sleep(traffic.wait_s())
            if await request.is_disconnected():
                raise ClientDisconnect
            if joined.node_of(request.headers.get(KEY_HEADER, "")) != node:
                break
            if traffic.held.get(node) is not mine:
                break
            answer = await send()
    finally:
        if traffic.held.get(node) is mine:
            del traffic.held[node]
    if answer.is_success and not _is_empty(answer):
        traffic.handed(node)
    return answer


def _is_empty(answer: httpx.Response) -> bool:
    """Tell whether a node is answered that there is no message: no byte, in protobuf."""
    return answer.is_success and answer.headers.get("content-length") == "0"


async def _content_of(
    request: Request, call: str, node: int, traffic: Traffic
) -> bytes | AsyncIterator[bytes] | Response:
    """Take what a node sends, or say why not; pieces of arrays pass without being kept."""
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > MOST_BYTES:
        return Response(status_code=413)
    if call == "push-object":
        traffic.took(node, 0)
        return _counted(_limited(request, MOST_BYTES), node, traffic)
    if call == "pull-messages":
        return await _whole(request, _MOST_PULL_BYTES)
    if call != "push-messages":
        return _limited(request, MOST_BYTES)
    content = await _whole(request, _MOST_MESSAGE_BYTES)
    if _speaks_for_itself(content, node):
        traffic.took(node, len(content))
        return content
    print("a message in another node's name was refused", flush=True)  # noqa: T201 goes to the log
    return JSONResponse({"detail": "Not this node's message"}, status_code=400)


def _speaks_for_itself(content: bytes, node: int) -> bool:
    """Tell whether a node's messages are its own: Flower asks that of the envelope alone."""
    from flwr.proto.fleet_pb2 import PushMessagesRequest

    request = PushMessagesRequest()
    try:
        request.ParseFromString(content)
    except DecodeError:
        return False
    named = {each.metadata.src_node_id for each in request.messages_list}
    return request.node.node_id == node and named <= {node}


def _too_much(traffic: Traffic, node: int) -> Response:
    if traffic.left(node) >= 0:
        return Response(status_code=413)
    told = f"At most {traffic.most / 2**20:,.0f} MB for each message that this node was handed"
    print("a node that sent more than an answer was refused", flush=True)  # noqa: T201 goes to the log
    return JSONResponse({"detail": told}, status_code=413)


def _turned_away(request: Request, call: str, *, known: bool) -> Response:
    """Answer a node that is not let in, with the reason where it will print it."""
    if call != "activate-node":
        return JSONResponse({"detail": "Not a node of a joined clinic"}, status_code=401)
    if known:
        return _not_activated(_about_clock(request))
    return _not_activated(
        "The coordinator does not know this key, or has revoked it. Ask the coordinator; to join "
        "again, a new invitation is needed."
    )


def _about_clock(request: Request) -> str:
    """Say how a node's clock differs, where Flower would refuse it for that without a word."""
    now = datetime.now(UTC)
    try:
        ahead = (parse_time(request.headers.get(TIME_HEADER, "")) - now).total_seconds()
    except ValueError:
        return ""
    if -_BEHIND_S < ahead < _AHEAD_S:
        return ""
    side = "ahead of" if ahead > 0 else "behind"
    return (
        f"The clock of this computer is {abs(ahead):,.0f} s {side} the coordinator's. Set it, by "
        "NTP best; then the node is let in."
    )


def _not_activated(words: str) -> JSONResponse:
    print(f"a node was not let in: {words}", flush=True)  # noqa: T201 the supervisor's log reads it
    told = {"code": _NOT_ACTIVATED, "detail": "Failed to activate SuperNode."}
    return JSONResponse(told | {"extra": SPOKEN + words}, status_code=412)


async def _closing(answer: httpx.Response) -> AsyncIterator[bytes]:
    """Pass an answer on, and close it also where the node has gone meanwhile."""
    try:
        async for piece in answer.aiter_raw():
            yield piece
    finally:
        await answer.aclose()


async def _limited(request: Request, most: int) -> AsyncIterator[bytes]:
    seen = 0
    async for piece in request.stream():
        seen += len(piece)
        if seen > most:
            raise TooMuch
        yield piece


async def _counted(
    pieces: AsyncIterator[bytes], node: int, traffic: Traffic
) -> AsyncIterator[bytes]:
    async for piece in pieces:
        traffic.took(node, len(piece))
        yield piece


async def _whole(request: Request, most: int) -> bytes:
    return b"".join([piece async for piece in _limited(request, most)])


def _words(status: int, error: SkinmlError) -> JSONResponse:
    told = {"rule": error.rule, "got": error.got, "do": error.do}
    return JSONResponse(told, status_code=status)


if __name__ == "__main__":
    serve(open_federation(Path(sys.argv[1])), int(sys.argv[2]))
