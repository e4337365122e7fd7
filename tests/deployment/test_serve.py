"""A federation that is really served: SuperLink, executor, proxy and a node as processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from skinml.cli.main import main
from skinml.deployment import bundle
from skinml.deployment.certificates import client_context, make_authority
from skinml.deployment.federation_folder import (
    FederationFolder,
    make_federation,
    open_federation,
)
from skinml.deployment.flower_runs import list_runs, log_of, start_run, stop_run
from skinml.deployment.invitations import Invitation, read_invitation
from skinml.deployment.serving import renew_while_served, stop
from skinml.deployment.superlink import FLOWER_QUIET, control, free_port, wait_ready
from skinml.deployment.supervision import Backoff, JsonLog, Part, Supervision

PROGRAMS = Path(sys.executable).parent
PATIENCE_S = 90.0


def wait_for(condition: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    until = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


@dataclass
class Federation:
    """A served federation, and what was started for it."""

    folder: FederationFolder
    started: list[subprocess.Popen[bytes]]

    @property
    def address(self) -> str:
        return self.folder.settings.address

    def start(self, *command: str, out: Path, **environment: str) -> subprocess.Popen[bytes]:
        with out.open("wb") as file:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=out.parent,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        self.started.append(child)
        return child

    def serve(self) -> subprocess.Popen[bytes]:
        out = self.folder.path.parent / "serve.out"
        place = str(self.folder.path)
        child = self.start(
            sys.executable,
            "-c",
            "import sys; from skinml.cli.main import main; sys.exit(main())",
            *("federation", "serve", "--json", "--folder", place),
            out=out,
        )
        wait_for(lambda: b'"proxy", "event": "listening"' in out.read_bytes())
        return child

    def processes(self) -> dict[str, int]:
        """The parts' processes by a word of their command."""
        found = {}
        for pid, _ in json.loads(self.folder.book.read_bytes()):
            with contextlib.suppress(psutil.Error):
                words = " ".join(psutil.Process(pid).cmdline())
                for name in ("superlink", "superexec", "proxy"):
                    if name in words.split(str(self.folder.path))[0]:
                        found[name] = pid
        return found

    def join(self, invitation: Invitation, node: Path) -> httpx.Response:
        node.mkdir()
        key = ec.generate_private_key(ec.SECP384R1())
        private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        (node / "key").write_bytes(private)
        (node / "ca.crt").write_text(invitation.ca)
        line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        asked = {"clinic": invitation.clinic, "code": invitation.code, "node_key": line}
        with self.client() as client:
            return client.post("/enrol", json=asked | {"signing_key": os.urandom(32).hex()})

    def start_node(self, node: Path) -> subprocess.Popen[bytes]:
        return self.start(
            str(PROGRAMS / "flower-supernode"),
            *("--superlink", self.address, "--root-certificates", str(node / "ca.crt")),
            *("--auth-supernode-private-key", str(node / "key")),
            *("--isolation", "process", "--port", str(free_port())),
            out=node / "out",
            FLWR_HOME=str(node / "home"),
            **FLOWER_QUIET,
        )

    def client(self) -> httpx.Client:
        context = client_context(self.folder.ca_certificate.read_bytes())
        return httpx.Client(
            base_url=f"https://{self.address}", verify=context, trust_env=False, timeout=30
        )


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    place = tmp_path / "net"
    address = f"127.0.0.1:{free_port()}"
    assert main(["federation", "init", str(place), "--name", "net", "--address", address]) == 0
    found = Federation(open_federation(place), [])
    try:
        yield found
    finally:
        stop(found.folder)
        for child in found.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def told(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["federation", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def enrolled(federation: Federation, clinic: str) -> Invitation:
    file = federation.folder.path.parent / f"{clinic}.json"
    place = str(federation.folder.path)
    assert main(["federation", "enrol", clinic, "--folder", place, "--out", str(file)]) == 0
    return read_invitation(file)


def require_only_the_nodes_paths(federation: Federation) -> None:
    served = federation.folder.served()
    assert served is not None
    with federation.client() as client:
        inside = f"https://127.0.0.1:{served.port}/v1/control/list-nodes"
        headers = {"content-type": "application/protobuf"}
        assert client.post(inside, headers=headers).status_code == 200
        assert client.post("/v1/control/list-nodes", headers=headers).status_code == 404
        for path in ("/health", "/docs", "/v1/runtime/acquire-task"):
            assert client.get(path).status_code == 404
        assert client.post("/v1/fleet/pull-messages").status_code == 401
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://{federation.address}/", trust_env=False)
    other = client_context(make_authority("net", datetime.now(UTC)).certificate)
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"https://{federation.address}/", verify=other, trust_env=False)


def tls_versions(address: str) -> dict[str, bool]:
    """Which versions of TLS a server speaks."""
    host, port = address.split(":")
    found = {}
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = context.maximum_version = version
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            contextlib.suppress(ssl.SSLError),
            context.wrap_socket(plain) as wrapped,
        ):
            found[version.name] = wrapped.version() is not None
    return found


def test_a_federation_from_its_start_to_its_end(
    federation: Federation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(federation.folder.path)
    invitation = enrolled(federation, "north")
    serving = federation.serve()
    require_only_the_nodes_paths(federation)
    assert tls_versions(federation.address) == {"TLSv1_2": True, "TLSv1_3": True}
    joined = federation.join(invitation, tmp_path / "north")
    assert (joined.status_code, joined.json()["federation"]) == (200, "net")
    node = federation.start_node(tmp_path / "north")

    def north() -> dict[str, Any]:
        clinic = told(capsys, "status", "--folder", place)["clinics"]["north"]
        assert isinstance(clinic, dict)
        return clinic

    wait_for(lambda: north()["node"] == "online")
    assert north()["node_id"] == str(joined.json()["node_id"])
    assert north()["last_seen"] is not None
    assert told(capsys, "revoke", "north", "--folder", place)["before"] == "joined"
    node.wait(timeout=PATIENCE_S)  # it ends by itself
    assert north()["state"] == "revoked"
    assert north()["node"] is None
    book = [pid for pid, _ in json.loads(federation.folder.book.read_bytes())]
    assert told(capsys, "stop", "--folder", place)["ended"] == 1
    assert serving.wait(timeout=10) == 0
    assert len(book) >= 3
    assert not [pid for pid in book if psutil.pid_exists(pid)]
    assert not federation.folder.book.exists()
    assert told(capsys, "stop", "--folder", place)["ended"] == 0
    log = (federation.folder.logs / "serve.jsonl").read_text()
    assert invitation.code not in log


def test_a_certificate_is_renewed_while_it_is_served(tmp_path: Path) -> None:
    made = datetime.now(UTC) - timedelta(days=300)
    folder = make_federation(tmp_path / "net", "net", "127.0.0.1:8443", made)
    parts = [Part(each, ("sleep", "604"), tmp_path) for each in ("superlink", "executor", "proxy")]
    log = JsonLog(tmp_path / "log")
    supervision = Supervision(parts, log, folder.book, backoff=Backoff(first_s=0.05))
    events: list[tuple[str, str, str]] = []

    def note(part: str, event: str, words: str) -> None:
        events.append((part, event, words))

    with supervision.running():
        wait_for(lambda: len(supervision.pids()) == 3)
        before = supervision.pids()
        renew_while_served(folder, supervision, note, made + timedelta(days=300))
        assert events == []
        renew_while_served(folder, supervision, note, made + timedelta(days=336))
        assert [each[:2] for each in events] == [("certificate", "renewed")]
        wait_for(lambda: len(set(supervision.pids().values()) - set(before.values())) == 2)
        assert supervision.pids()["executor"] == before["executor"]
        folder.ca_key.unlink()
        renew_while_served(folder, supervision, note, made + timedelta(days=4000))
        assert events[-1][:2] == ("certificate", "not renewed")
        assert "ca.key" in events[-1][2]


@pytest.mark.slow
def test_parts_that_are_killed_come_back_and_the_node_with_them(
    federation: Federation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(federation.folder.path)
    invitation = enrolled(federation, "north")
    serving = federation.serve()
    assert federation.join(invitation, tmp_path / "north").status_code == 200
    node = federation.start_node(tmp_path / "north")

    def online() -> bool:
        found = told(capsys, "status", "--folder", place)
        return bool(found["clinics"]["north"]["node"] == "online")

    wait_for(online)
    served = federation.folder.served()
    assert served is not None
    wait_for(lambda: len(federation.processes()) == 3)
    before = federation.processes()
    for name in ("superexec", "proxy", "superlink"):
        os.kill(before[name], signal.SIGKILL)
    wait_for(lambda: len(set(federation.processes().values()) - set(before.values())) == 3)
    wait_ready(federation.folder, served.port)
    wait_for(online)
    assert node.poll() is None
    assert serving.poll() is None


@pytest.mark.slow
def test_a_run_travels_with_the_published_bundle_and_is_given_a_process(
    federation: Federation,
) -> None:
    federation.serve()
    with control(federation.folder) as client:
        number = start_run(client, "no-such-run")
        wait_for(lambda: all(each.over for each in list_runs(client)))
        (found,) = list_runs(client)
        assert not stop_run(client, number)
        said = log_of(client, number)
    assert (found.id, found.run, found.bundle) == (number, "no-such-run", bundle.PUBLISHED)
    assert found.state == "failed"  # nobody made a run of that name
    assert "server_app" in said, (found.details, said)
    assert list(federation.folder.empty.iterdir()) == []


@pytest.mark.slow
def test_with_a_killed_serve_everything_ends_and_the_next_goes_on(
    federation: Federation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(federation.folder.path)
    invitation = enrolled(federation, "north")
    first = federation.serve()
    assert federation.join(invitation, tmp_path / "north").status_code == 200
    wait_for(lambda: len(federation.processes()) == 3)
    left = federation.processes()
    first.kill()
    first.wait()
    assert federation.folder.served() is None
    if sys.platform != "linux":
        assert stop(federation.folder) == len(left)
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in left.values()), 20)
    federation.serve()
    assert federation.join(enrolled(federation, "south"), tmp_path / "south").status_code == 200
    node = federation.start_node(tmp_path / "north")
    wait_for(
        lambda: told(capsys, "status", "--folder", place)["clinics"]["north"]["node"] == "online"
    )
    assert node.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything_with_code_zero(federation: Federation, by: int) -> None:
    serving = federation.serve()
    wait_for(lambda: len(federation.processes()) == 3)
    parts = federation.processes().values()
    serving.send_signal(by)
    assert serving.wait(timeout=40) == 0
    assert not [pid for pid in parts if psutil.pid_exists(pid)]
    with socket.socket() as probe:
        host, port = federation.address.split(":")
        probe.bind((host, int(port)))
