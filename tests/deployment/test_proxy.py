"""The proxy: what passes, what does not, and that bytes arrive as they were sent."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE
from flwr.common.constant import TIMESTAMP_HEADER as FLWR_TIME_HEADER
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.supercore.error import ApiErrorCode, FlowerError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from skinml.deployment.enrolment import invite, node_key_pem, redeem, revoke
from skinml.deployment.federation_folder import FederationFolder, make_federation
from skinml.deployment.node import explained
from skinml.deployment.proxy import (
    CALLS,
    KEY_HEADER,
    MOST_BYTES,
    TIME_HEADER,
    make_app,
)
from skinml.deployment.superlink import SPOKEN, free_port
from skinml.deployment.supervision import Ended

NOW = datetime.now(UTC)
LINE = (
    ec.generate_private_key(ec.SECP384R1())
    .public_key()
    .public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    .decode()
)
OWN_KEY = {KEY_HEADER: base64.b64encode(node_key_pem(LINE)).decode()}


def register(key: bytes, clinic: str) -> int:
    return 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> FederationFolder:
    place = tmp_path_factory.mktemp("federation")
    return make_federation(place / "net", "network", "127.0.0.1:8443", NOW)


@pytest.fixture(scope="module")
def upstream(folder: FederationFolder) -> Iterator[str]:
    """A server with the federation's certificate that says what it was sent."""

    async def echo(request: Request) -> Response:
        body = await request.body()
        headers = {"x-path": request.url.path, "x-own": request.headers.get("x-own", "")}
        return Response(body[::-1], status_code=202, headers=headers)

    port = free_port()
    config = uvicorn.Config(
        Starlette(routes=[Route("/{rest:path}", echo, methods=["GET", "POST"])]),
        port=port,
        ssl_certfile=str(folder.server_certificate),
        ssl_keyfile=str(folder.server_key),
        log_level="error",
        ws="none",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    until = time.monotonic() + 20
    while not server.started and time.monotonic() < until:
        time.sleep(0.01)
    yield f"https://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(timeout=10)


@pytest.fixture
def node(folder: FederationFolder) -> dict[str, str]:
    """A joined clinic's header."""
    book = folder.enrolments()
    if book.get("north") is None or book["north"].state != "joined":
        invitation = invite(folder, "north", NOW)
        asked = {"clinic": "north", "code": invitation.code, "node_key": LINE}
        redeem(folder, asked | {"signing_key": "0" * 64}, register, NOW)
    return OWN_KEY


@asynccontextmanager
async def proxied(folder: FederationFolder, upstream: str) -> AsyncIterator[httpx.AsyncClient]:
    app = make_app(folder, upstream, register)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="https://proxy") as client,
    ):
        yield client


def ask(
    folder: FederationFolder,
    upstream: str,
    path: str,
    *,
    method: str = "POST",
    headers: dict[str, str] | None = None,
    content: bytes | AsyncIterator[bytes] = b"",
) -> httpx.Response:
    async def call() -> httpx.Response:
        async with proxied(folder, upstream) as client:
            return await client.request(method, path, headers=headers, content=content)

    return asyncio.run(call())


@pytest.mark.parametrize("call", sorted(CALLS - {"push-messages"}))
def test_a_nodes_bytes_pass_both_ways(
    folder: FederationFolder, upstream: str, node: dict[str, str], call: str
) -> None:
    body = bytes(range(256)) * 40
    answer = ask(
        folder, upstream, f"/v1/fleet/{call}", headers=node | {"x-own": "kept"}, content=body
    )
    assert (answer.status_code, answer.content) == (202, body[::-1])
    assert (answer.headers["x-path"], answer.headers["x-own"]) == (f"/v1/fleet/{call}", "kept")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/health",
        "/docs",
        "/openapi.json",
        "/v1/control/list-nodes",
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/v1/fleet/",
        "/v1/fleet",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/../control/list-nodes",
        "/v1/fleet/%2e%2e/control/list-nodes",
        "/v1/fleet/..%2fcontrol%2flist-nodes",
        "/v1/fleet/pull-messages/../../control/list-nodes",
        "//v1/control/list-nodes",
        "/V1/FLEET/pull-messages",
        "/enrol/",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nothing_else_passes(
    folder: FederationFolder, upstream: str, node: dict[str, str], path: str, method: str
) -> None:
    answer = ask(folder, upstream, path, method=method, headers=node)
    assert answer.status_code in {307, 404, 405}
    assert "x-path" not in answer.headers


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_a_nodes_paths_are_posted_to(
    folder: FederationFolder, upstream: str, node: dict[str, str], method: str
) -> None:
    path = "/v1/fleet/pull-messages"
    assert ask(folder, upstream, path, method=method, headers=node).status_code == 405


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {KEY_HEADER: ""},
        {KEY_HEADER: "not base64!"},
        {KEY_HEADER: base64.b64encode(b"another key").decode()},
        {KEY_HEADER: base64.b64encode(LINE.encode()).decode()},
    ],
)
def test_a_strangers_key_does_not_pass(
    folder: FederationFolder, upstream: str, node: dict[str, str], headers: dict[str, str]
) -> None:
    answer = ask(folder, upstream, "/v1/fleet/pull-messages", headers=headers)
    assert answer.status_code == 401
    assert "x-path" not in answer.headers


def pushed(node: int, *sources: int) -> bytes:
    messages = [Message(metadata=Metadata(src_node_id=each)) for each in sources]
    request = PushMessagesRequest(node=Node(node_id=node), messages_list=messages)
    return request.SerializeToString()


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (pushed(7, 7), 202),
        (pushed(7), 202),
        (pushed(7, 8), 400),
        (pushed(7, 7, 8), 400),
        (pushed(8, 8), 400),
        (pushed(8, 7), 400),
        (b"\xff" * 9, 400),
        (b"", 400),
        (bytes(4 * 2**20 + 1), 413),
    ],
)
def test_a_node_speaks_for_itself_alone(
    folder: FederationFolder, upstream: str, node: dict[str, str], content: bytes, status: int
) -> None:
    answer = ask(folder, upstream, "/v1/fleet/push-messages", headers=node, content=content)
    assert answer.status_code == status
    assert status != 202 or answer.content == content[::-1]


def test_a_node_that_is_not_let_in_is_told_why_in_flowers_form(
    folder: FederationFolder, upstream: str, node: dict[str, str]
) -> None:
    stranger = {KEY_HEADER: base64.b64encode(b"another key").decode()}
    answer = ask(folder, upstream, "/v1/fleet/activate-node", headers=stranger)
    error = FlowerError.from_json(answer.text)
    assert answer.status_code == 412
    assert error is not None
    assert error.code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED
    assert str(error.public_details).startswith(SPOKEN)
    assert "revoked" in str(error.public_details)


@pytest.mark.parametrize(
    ("ahead_s", "said"),
    [(0, ""), (-200, ""), (86400, "86,400 s ahead"), (60, "60 s ahead"), (-400, "400 s behind")],
)
def test_a_clock_that_flower_would_refuse_is_named(
    folder: FederationFolder, upstream: str, node: dict[str, str], ahead_s: int, said: str
) -> None:
    at = (datetime.now(UTC) + timedelta(seconds=ahead_s)).isoformat()
    answer = ask(folder, upstream, "/v1/fleet/activate-node", headers=node | {TIME_HEADER: at})
    assert answer.status_code == (412 if said else 202)
    assert not said or said in answer.json()["extra"]


def test_the_doors_words_reach_the_clinics_desk() -> None:
    tail = ("[code: 2004] Failed to activate SuperNode.", f"{SPOKEN}The clock is late.", "more")
    wait, words = explained(Ended("node", 1, 2.0, tail, 1))
    assert wait == 60
    assert "does not let this clinic in. The clock is late." in words


def test_the_limits_of_clocks_are_flowers() -> None:
    assert (TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE, SYSTEM_TIME_TOLERANCE) == (305, 5)
    assert FLWR_TIME_HEADER == TIME_HEADER
    assert FLEET_HTTP_PUBLIC_KEY_HEADER == KEY_HEADER


def test_a_revoked_key_passes_no_more_in_the_same_process(
    folder: FederationFolder, upstream: str, node: dict[str, str]
) -> None:
    async def call() -> list[int]:
        found = []
        async with proxied(folder, upstream) as client:
            for revoking in (False, True):
                if revoking:
                    revoke(folder, "north", NOW)
                answer = await client.post("/v1/fleet/pull-messages", headers=node)
                found.append(answer.status_code)
        return found

    assert asyncio.run(call()) == [202, 401]


def test_too_much_is_refused_announced_or_not(
    folder: FederationFolder, upstream: str, node: dict[str, str]
) -> None:
    announced = node | {"content-length": str(MOST_BYTES + 1)}
    answer = ask(folder, upstream, "/v1/fleet/push-object", headers=announced)
    assert answer.status_code == 413

    async def pieces() -> AsyncIterator[bytes]:
        piece = bytes(2**20)
        for _ in range(MOST_BYTES // len(piece) + 1):
            yield piece

    answer = ask(folder, upstream, "/v1/fleet/push-object", headers=node, content=pieces())
    assert answer.status_code == 413


def test_a_superlink_that_is_down_is_a_reason_to_try_again(
    folder: FederationFolder, node: dict[str, str]
) -> None:
    nobody = f"https://127.0.0.1:{free_port()}"
    assert ask(folder, nobody, "/v1/fleet/pull-messages", headers=node).status_code == 503


def test_a_superlink_with_another_certificate_gets_no_message(
    tmp_path: Path, folder: FederationFolder, upstream: str, node: dict[str, str]
) -> None:
    other = make_federation(tmp_path / "net", "network", "127.0.0.1:8443", NOW)
    (other.path / "enrolments.json").write_bytes((folder.path / "enrolments.json").read_bytes())
    answer = ask(other, upstream, "/v1/fleet/pull-messages", headers=node)
    assert answer.status_code == 503
    assert "x-path" not in answer.headers


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[" * 9000, 400),
        (b"\xff\xfe", 400),
        (b"{}", 400),
        (b" " * 20000, 400),
        (b'{"clinic":"x","code":"y","node_key":"z","signing_key":"' + b"0" * 64 + b'"}', 400),
    ],
)
def test_a_bad_enrolment_is_answered_in_words(
    folder: FederationFolder, upstream: str, content: bytes, status: int
) -> None:
    answer = ask(folder, upstream, "/enrol", content=content)
    assert answer.status_code == status
    assert set(answer.json()) == {"rule", "got", "do"}


def test_a_wrong_code_is_refused_in_words(folder: FederationFolder, upstream: str) -> None:
    asked = f'{{"clinic":"x","code":"y","node_key":"{LINE}","signing_key":"{"0" * 64}"}}'
    answer = ask(folder, upstream, "/enrol", content=asked.encode())
    assert answer.status_code == 403
    assert "coordinator" in answer.json()["do"]
