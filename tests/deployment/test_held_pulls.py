"""A node that a run keeps busy waits at the proxy for its next message instead of sleeping."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.protobuf.client import ProtobufClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from skinml.deployment.enrolment import invite, node_key_pem, redeem, revoke
from skinml.deployment.federation_folder import FederationFolder, make_federation
from skinml.deployment.proxy import KEY_HEADER, make_app
from skinml.deployment.superlink import free_port
from skinml.deployment.traffic import Pace, Traffic

NOW = datetime.now(UTC)
NODE = 7
LINE = (
    ec.generate_private_key(ec.SECP384R1())
    .public_key()
    .public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    .decode()
)
OWN_KEY = {KEY_HEADER: base64.b64encode(node_key_pem(LINE)).decode()}
PUSHED = PushMessagesRequest(node=Node(node_id=NODE)).SerializeToString()
PULL, PUSH = "/v1/fleet/pull-messages", "/v1/fleet/push-messages"
QUICK = Pace(hold_s=1.0, poll_s=0.02, slow_s=0.02)


@dataclass
class SuperLink:
    """Messages for one node, which are handed out once."""

    messages: list[bytes] = field(default_factory=list)
    pulls: int = 0
    ready_at: int = 0
    lines: set[int] = field(default_factory=set)
    broken: bool = False

    async def answer(self, request: Request) -> Response:
        await request.body()
        assert request.client is not None
        self.lines.add(request.client.port)
        if request.url.path != PULL:
            return Response(b"taken", status_code=503 if self.broken else 200)
        self.pulls += 1
        return Response(
            self.messages.pop() if self.messages and self.pulls > self.ready_at else b""
        )


@contextmanager
def listening(app: Starlette, **tls: str) -> Iterator[int]:
    port = free_port()
    config = uvicorn.Config(app, port=port, log_level="error", ws="none", **tls)  # type: ignore[arg-type]  # names of files
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    until = time.monotonic() + 20
    while not server.started and time.monotonic() < until:
        time.sleep(0.01)
    yield port
    server.should_exit = True
    thread.join(timeout=10)


@pytest.fixture
def folder(tmp_path: Path) -> FederationFolder:
    made = make_federation(tmp_path / "net", "network", "127.0.0.1:8443", NOW)
    asked = {"clinic": "north", "code": invite(made, "north", NOW).code, "node_key": LINE}
    redeem(made, asked | {"signing_key": "0" * 64}, lambda key, clinic: NODE, NOW)
    return made


@contextmanager
def proxied(
    folder: FederationFolder, superlink: SuperLink, pace: Pace, most: int = 10**6
) -> Iterator[httpx.Client]:
    """A node's client of a proxy before a SuperLink, all over sockets: a node can hang up."""
    tls = {
        "ssl_certfile": str(folder.server_certificate),
        "ssl_keyfile": str(folder.server_key),
    }
    behind = Starlette(routes=[Route("/{rest:path}", superlink.answer, methods=["POST"])])
    with (
        listening(behind, **tls) as inside,
        listening(
            make_app(folder, f"https://127.0.0.1:{inside}", lambda *_: NODE, pace, most)
        ) as port,
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers=OWN_KEY, trust_env=False, timeout=20
        ) as client,
    ):
        yield client


def test_outside_of_a_run_a_node_is_answered_at_once(folder: FederationFolder) -> None:
    superlink = SuperLink()
    with proxied(folder, superlink, QUICK) as node:
        answer = node.post(PULL)
    assert (answer.status_code, answer.content, superlink.pulls) == (200, b"", 1)


@pytest.mark.parametrize("first", ["an answer", "a message"])
def test_in_a_run_a_node_waits_for_its_message(first: str, folder: FederationFolder) -> None:
    superlink = SuperLink(messages=[b"first"] if first == "a message" else [])
    with proxied(folder, superlink, QUICK) as node:
        opened = node.post(PULL) if first == "a message" else node.post(PUSH, content=PUSHED)
        assert opened.content in (b"first", b"taken")
        superlink.pulls, superlink.ready_at, superlink.messages = 0, 3, [b"the next"]
        assert node.post(PULL).content == b"the next"
    assert superlink.pulls == 4


def test_it_waits_no_longer_than_it_may(folder: FederationFolder) -> None:
    superlink = SuperLink()
    with proxied(folder, superlink, Pace(hold_s=0.2, poll_s=0.05, slow_s=0.05)) as node:
        node.post(PUSH, content=PUSHED)
        assert node.post(PULL).content == b""
    assert 2 <= superlink.pulls <= 6


def test_looks_are_quick_after_somebodys_answer_and_never_too_many_together() -> None:
    traffic = Traffic(Pace(poll_s=0.25, slow_s=1.0, most_per_s=25.0))
    assert traffic.wait_s() == 1.0
    traffic.answered = time.monotonic()
    assert traffic.wait_s() == 0.25
    traffic.held = dict.fromkeys(range(20), object())
    assert traffic.wait_s() == 0.8  # 20 nodes, 25 looks a second
    traffic.held = dict.fromkeys(range(1000), object())
    assert traffic.wait_s() == 3.0  # never later than the node would have asked by itself


def test_flower_waits_longer_than_it_is_held() -> None:
    client = ProtobufClient("http://127.0.0.1:1")
    assert Pace().hold_s + 5 <= client._client.timeout.read  # type: ignore[operator]  # 30 s
    assert Pace().hold_s < Pace().busy_s


def test_for_a_node_that_has_gone_no_message_is_taken(folder: FederationFolder) -> None:
    superlink = SuperLink()
    with proxied(folder, superlink, Pace(hold_s=15.0, poll_s=0.02, slow_s=0.02)) as node:
        node.post(PUSH, content=PUSHED)
        with pytest.raises(httpx.ReadTimeout):
            node.post(PULL, timeout=0.3)
        time.sleep(0.3)  # the node's hanging up travels
        superlink.messages.append(b"for the node that comes back")
        seen = superlink.pulls
        time.sleep(0.3)
        assert superlink.pulls == seen
        assert node.post(PULL).content == b"for the node that comes back"


def test_a_key_that_is_revoked_meanwhile_gets_no_message(folder: FederationFolder) -> None:
    superlink = SuperLink(ready_at=10**6)
    with proxied(folder, superlink, Pace(hold_s=15.0, poll_s=0.02, slow_s=0.02)) as node:
        node.post(PUSH, content=PUSHED)
        superlink.messages.append(b"secret of the run")

        def revoking() -> None:
            revoke(folder, "north", NOW)
            superlink.ready_at = 0

        timer = threading.Timer(0.3, revoking)
        timer.start()
        assert node.post(PULL).content == b""
        timer.join()
        assert superlink.messages
        assert node.post(PULL).status_code == 401


@dataclass
class Breaking(SuperLink):
    """Breaks at the second time that it is asked for messages."""

    async def answer(self, request: Request) -> Response:
        done = await super().answer(request)
        return Response(status_code=503) if self.pulls > 1 else done


def test_an_error_of_the_superlink_is_passed_on(folder: FederationFolder) -> None:
    superlink = Breaking()
    with proxied(folder, superlink, QUICK) as node:
        node.post(PUSH, content=PUSHED)
        assert node.post(PULL).status_code == 503
    assert superlink.pulls == 2


def test_a_held_question_keeps_no_line_to_the_superlink(folder: FederationFolder) -> None:
    superlink = SuperLink()
    with proxied(folder, superlink, Pace(hold_s=2.0, poll_s=1.0, slow_s=1.0)) as node:
        node.post(PUSH, content=PUSHED)
        with ThreadPoolExecutor(1) as other:
            held = other.submit(node.post, PULL)
            while not superlink.pulls:
                time.sleep(0.01)
            time.sleep(0.2)
            assert node.post(PUSH, content=PUSHED).content == b"taken"
            assert len(superlink.lines) == 1
            assert held.result().content == b""


def test_a_node_that_asks_anew_gives_its_first_question_up(folder: FederationFolder) -> None:
    superlink = SuperLink()
    with proxied(folder, superlink, Pace(hold_s=15.0, poll_s=0.3, slow_s=0.3)) as node:
        node.post(PUSH, content=PUSHED)
        with ThreadPoolExecutor(2) as others:
            first = others.submit(node.post, PULL)  # its line may be dead by now
            while superlink.pulls < 1:
                time.sleep(0.01)
            second = others.submit(node.post, PULL)
            while superlink.pulls < 2:
                time.sleep(0.01)
            assert first.result(timeout=5).content == b""
            superlink.messages.append(b"for the living line")
            assert second.result(timeout=5).content == b"for the living line"


def test_what_the_superlink_did_not_take_is_no_sign_of_a_run(folder: FederationFolder) -> None:
    superlink = SuperLink(broken=True)
    with proxied(folder, superlink, QUICK) as node:
        assert node.post(PUSH, content=PUSHED).status_code == 503
        assert node.post(PULL).content == b""
    assert superlink.pulls == 1


@pytest.mark.parametrize("chunked", [True, False])
def test_a_node_sends_no_more_than_an_answer_for_each_message(
    folder: FederationFolder, chunked: bool
) -> None:
    superlink, piece = SuperLink(), bytes(600)
    with proxied(folder, superlink, QUICK, most=1000) as node:

        def sent() -> httpx.Response:
            content = iter([piece[:300], piece[300:]]) if chunked else piece
            return node.post("/v1/fleet/push-object", content=content)

        assert sent().status_code == 200
        refused = sent()
        assert refused.status_code == 413
        assert "for each message" in refused.json()["detail"]
        assert sent().status_code == 413
        superlink.messages.append(b"a message")
        assert node.post(PULL).content == b"a message"
        assert sent().status_code == 200
