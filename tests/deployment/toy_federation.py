"""A served federation whose runs ask clinics what a test tells them to, for tests."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from skinml.deployment.federation_folder import FederationFolder, make_federation
from skinml.deployment.superlink import control, free_port, listed, wait_ready

_SERVER = """
import json, os, time
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()

@app.main()
def main(grid, context):
    told = context.run_config
    until = time.monotonic() + 60
    while not (nodes := list(grid.get_node_ids())) and time.monotonic() < until:
        time.sleep(0.2)
    found = []
    for kind in str(told["asks"]).split():
        asked = Message(RecordDict(), dst_node_id=nodes[0], message_type=f"query.{kind}")
        ids, until, replies = grid.push_messages([asked]), time.monotonic() + 60, []
        while not replies and time.monotonic() < until:
            replies = list(grid.pull_messages(ids))
            time.sleep(0.2)
        for reply in replies:
            if reply.has_error():
                found.append({"code": reply.error.code, "reason": reply.error.reason})
            else:
                found.append(dict(reply.content["told"]))
    with open(told["out"] + ".draft", "w") as file:
        json.dump(found, file)
    os.replace(told["out"] + ".draft", told["out"])
"""
_PROJECT = """
[project]
name = "toy"
version = "1.0.0"
description = "{note}"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "tests"
[tool.flwr.app.components]
serverapp = "toy_server:app"
clientapp = "toy_client:app"
[tool.flwr.app.config]
asks = ""
out = ""
"""


@dataclass(frozen=True)
class Process:
    """A command of skinml in a process group of its own."""

    process: subprocess.Popen[bytes]
    said: Path

    def end(self, how: int = signal.SIGTERM) -> int:
        """End it, and give its exit code."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, how)
        return self.process.wait(timeout=40)


@contextmanager
def command(*words: object, said: Path, **environment: str) -> Iterator[Process]:
    """Run a command; neither it nor what it started outlives the block."""
    with said.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env=os.environ | environment,
        )
    try:
        yield Process(process, said)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=40)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def waited(until: Callable[[], Any], patience_s: float = 60.0) -> Any:
    """Wait until something is there, and give it."""
    end = time.monotonic() + patience_s
    while not (found := until()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
    return found


@contextmanager
def served(place: Path) -> Iterator[FederationFolder]:
    """Serve a new federation."""
    address = f"127.0.0.1:{free_port()}"
    folder = make_federation(place / "net", "derm-net", address, datetime.now(UTC))
    script = "from skinml.cli.main import main; import sys; sys.exit(main())"
    words = ("-c", script, "federation", "serve", "--folder", folder.path)
    with command(*words, said=place / "serve.out") as process:

        def ready() -> bool:
            assert process.process.poll() is None, process.said.read_text()
            here = folder.served()
            return here is not None and _listens(folder.settings.address)

        waited(ready)
        found = folder.served()
        assert found is not None
        wait_ready(folder, found.port)
        yield folder


def _listens(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False


def online(folder: FederationFolder) -> bool:
    """Whether a clinic is there."""
    with control(folder) as client:
        return any(node.status == "online" for node in listed(client))


def toy_bundle(note: str = "", client: str = "") -> bytes:
    """Build a bundle whose server side asks what the run's config says."""
    files = {"pyproject.toml": _PROJECT.format(note=note), "toy_server.py": _SERVER}
    if client:
        files |= {"toy_client.py": client, "skinml/__init__.py": client}
    lines = [
        f"{name},{hashlib.sha256(text.encode()).hexdigest()},{8 * len(text.encode())}"
        for name, text in sorted(files.items())
    ]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in [*files.items(), (".info/CONTENT", "\n".join(lines))]:
            archive.writestr(zipfile.ZipInfo(name, (2024, 10, 1, 0, 0, 0)), text)
    return content.getvalue()


def submit(folder: FederationFolder, bundle: bytes, asks: str, out: Path) -> int:
    """Start a run; its answers will be in a file."""
    from flwr.common.serde import fab_to_proto, user_config_to_proto
    from flwr.proto.control_pb2 import StartRunRequest
    from flwr.supercore.fab import Fab

    out.unlink(missing_ok=True)
    fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
    request = StartRunRequest(
        fab=fab_to_proto(fab),
        override_config=user_config_to_proto({"asks": asks, "out": str(out)}),
    )
    with control(folder) as client:
        return int(client.StartRun(request).run_id)


def answers(folder: FederationFolder, bundle: bytes, asks: str, out: Path) -> list[dict[str, Any]]:
    """Run, and give the answers."""
    submit(folder, bundle, asks, out)
    waited(out.exists, 120.0)
    found = json.loads(out.read_text())
    assert isinstance(found, list)
    return found
