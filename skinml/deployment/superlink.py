"""Flower's SuperLink and its executor on the coordinator's machine, reached over loopback alone."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from skinml.deployment.certificates import client_context
from skinml.deployment.federation_folder import FederationFolder
from skinml.deployment.supervision import Part
from skinml.deployment.tied import tied
from skinml.durable import read_whole
from skinml.errors import EnvironmentProblem

if TYPE_CHECKING:
    from flwr.supercore.control import ControlHttpClient

LOOPBACK = "127.0.0.1"
FLOWER_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
"""Flower calls nobody outside and installs nothing."""
SPOKEN = "skinml: "
"""What the line begins with by which a SuperNode tells its clinic why it was not let in."""
_HEARTBEATS = 2  # Flower counts a node as online for two intervals after its last word
_POLL_S = 0.1
# A line for every request that went well, and what each of them calls itself.
_NOISE = r'\[uvicorn\.access\].*" 2\d\d$|(Control|Fleet|Runtime)\w*\.\w+$'


@dataclass(frozen=True)
class Node:
    """A node as the SuperLink knows it.

    Attributes:
        id: Its number.
        name: The clinic's name.
        status: registered, online or offline.
        last_seen: When it last gave a sign, UTC; None where it never did.
        key: Its public key, PEM.
    """

    id: int
    name: str
    status: str
    last_seen: datetime | None
    key: bytes


def free_port(preferred: int | None = None) -> int:
    """Find a port on loopback that nobody listens on.

    Args:
        preferred: One to take if it is free.

    Returns:
        The port.
    """
    for port in (preferred, 0):
        if port is None:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise EnvironmentProblem(
        rule="a free port on 127.0.0.1", got="none", do="End programs that hold many ports."
    )


def superlink_part(folder: FederationFolder, port: int) -> Part:
    """Describe the SuperLink's process.

    Args:
        folder: The federation's folder.
        port: Its port on 127.0.0.1.

    Returns:
        The part: TLS and node authentication on, runs in processes of their own, state on disk.
    """
    command = (
        _program("flower-superlink"),
        *("--host", LOOPBACK, "--port", str(port)),
        *("--ssl-certfile", str(folder.server_certificate)),
        *("--ssl-keyfile", str(folder.server_key)),
        *("--ssl-ca-certfile", str(folder.ca_certificate)),
        "--enable-supernode-auth",
        *("--isolation", "process"),
        *("--superexec-auth-secret-file", str(folder.superlink / "secret")),
        *("--database", str(folder.superlink / "state.db")),
        "--disable-runtime-dependency-installation",
    )
    return Part("superlink", tied(command), folder.empty, environment(folder), noise=_NOISE)


def executor_part(folder: FederationFolder, port: int) -> Part:
    """Describe the process that starts a ServerApp for each run.

    Args:
        folder: The federation's folder.
        port: The SuperLink's port.

    Returns:
        The part.
    """
    command = (
        _program("flower-superexec"),
        *("--runtime-api-address", f"{LOOPBACK}:{port}"),
        *("--root-certificates", str(folder.ca_certificate)),
        *("--superexec-auth-secret-file", str(folder.superlink / "secret")),
    )
    own = {"SKINML_FEDERATION": str(folder.path), "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2"}
    return Part("executor", tied(command), folder.empty, environment(folder) | own)


def environment(folder: FederationFolder) -> dict[str, str]:
    """Give the variables of every Flower process on the coordinator's machine.

    Args:
        folder: The federation's folder.

    Returns:
        The variables beside those of this process.
    """
    programs = str(Path(sys.executable).parent)
    return {
        **FLOWER_QUIET,
        "FLWR_HOME": str(folder.superlink / "home"),
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
    }


def wait_ready(
    folder: FederationFolder,
    port: int,
    patience_s: float = 60.0,
    given_up: Callable[[], bool] = lambda: False,
) -> None:
    """Wait until the SuperLink answers.

    Args:
        folder: The federation's folder.
        port: Its port.
        patience_s: Seconds to wait.
        given_up: Asked in between whether to stop waiting.

    Raises:
        EnvironmentProblem: If it does not in time.
    """
    context = client_context(read_whole(folder.ca_certificate, "authority's certificate"))
    until = time.monotonic() + patience_s
    with httpx.Client(verify=context, timeout=5.0, trust_env=False) as client:
        while not given_up():
            try:
                if client.get(f"https://{LOOPBACK}:{port}/health").is_success:
                    return
            except httpx.TransportError:
                pass
            if time.monotonic() > until:
                break
            time.sleep(_POLL_S)
    raise EnvironmentProblem(
        rule=f"a SuperLink that answers within {patience_s:g} s",
        got="no answer",
        do=f"Look into {folder.logs / 'serve.jsonl'} for what it said.",
    )


@contextmanager
def control(folder: FederationFolder, port: int | None = None) -> Iterator[ControlHttpClient]:
    """Connect to the SuperLink's Control API, which only this machine can reach.

    Args:
        folder: The federation's folder.
        port: The SuperLink's port; by default that of the process which serves the federation.

    Yields:
        Flower's client.

    Raises:
        EnvironmentProblem: If nobody serves the federation, the SuperLink cannot be reached, or
            it refuses; raised from within the block, too.
    """
    from flwr.supercore.control import ControlHttpClient

    if port is None:
        served = folder.served()
        if served is None:
            raise EnvironmentProblem(
                rule="a federation that is served",
                got="no process that serves it",
                do=f"Start it in another terminal: skinml federation serve --folder {folder.path}",
            )
        port = served.port
    context = client_context(read_whole(folder.ca_certificate, "authority's certificate"))
    client = ControlHttpClient(f"https://{LOOPBACK}:{port}", verify=context)
    try:
        yield client
    except httpx.HTTPStatusError as error:
        raise _refused(f"HTTP {error.response.status_code}") from error
    except httpx.HTTPError as error:
        raise _refused(type(error).__name__) from error
    finally:
        client.close()


def register(client: ControlHttpClient, key: bytes, clinic: str) -> int:
    """Make a node's key known to the SuperLink.

    Args:
        client: What `control` gave.
        key: The public key, PEM.
        clinic: The clinic's name.

    Returns:
        The node's number: the same where the key is known already.

    Raises:
        HTTPError: If the SuperLink cannot be reached, or refuses the key, such as one that was
            taken back; `control` translates it.
    """
    from flwr.proto.control_pb2 import RegisterNodeRequest

    known = [node.id for node in listed(client) if node.key == key]
    if known:
        return known[0]
    return client.RegisterNode(RegisterNodeRequest(public_key=key, name=clinic)).node_id


def take_back(client: ControlHttpClient, node_id: int) -> None:
    """Take a node's key back; the SuperLink lets it in no more, and never again.

    Args:
        client: What `control` gave.
        node_id: The node's number.

    Raises:
        HTTPError: If the SuperLink cannot be reached, or knows no such node; `control`
            translates it.
    """
    from flwr.proto.control_pb2 import UnregisterNodeRequest

    client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))


def listed(client: ControlHttpClient) -> tuple[Node, ...]:
    """Ask the SuperLink which nodes it knows.

    Args:
        client: What `control` gave.

    Returns:
        The nodes, without those whose key was taken back.

    Raises:
        HTTPError: If the SuperLink cannot be reached; `control` translates it.
    """
    from flwr.proto.control_pb2 import ListNodesRequest

    return tuple(
        Node(
            id=each.node_id,
            name=each.name,
            status=each.status,
            last_seen=_last_seen(each.online_until, each.heartbeat_interval, each.status),
            key=each.public_key,
        )
        for each in client.ListNodes(ListNodesRequest()).nodes_info
        if each.status != "unregistered"
    )


def _last_seen(online_until: float, interval: float, status: str) -> datetime | None:
    if not online_until:
        return None
    before = _HEARTBEATS * interval if status == "online" else 0.0
    return datetime.fromtimestamp(online_until - before, UTC)


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _refused(got: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        rule="a SuperLink that answers",
        got=got,
        do="Look at skinml federation status and at the log in the federation's folder.",
    )
