"""Telling a coordinator that a clinic's node has died, for the node that could not.

Flower lets a key in once. After a crash it takes the dead node for a living one, for about a
minute, and refuses the next. Who knows that its own node is dead can say so in its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skinml.deployment.supernode import about_clock, reckon_with, seconds_ahead
from skinml.durable import read_whole

_PROGRAM = "SuperNode"


def sign_off(address: str, authority: Path, key: Path, node_id: int) -> bool:
    """Tell the coordinator that the node of this clinic has gone.

    Args:
        address: The coordinator, host:port.
        authority: File of the federation's CA certificate, PEM.
        key: File of the node's private key.
        node_id: The node's number.

    Returns:
        Whether the coordinator took note; False where it did not answer, or knew the node as
        gone already.

    Raises:
        EnvironmentProblem: If a file cannot be read.
        IntegrityError: If the authority is no certificate.
    """
    import httpx
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    from flwr.proto.fleet_pb2 import DeactivateNodeRequest
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    certificate = read_whole(authority, "certificate")
    ahead = seconds_ahead(address, certificate)
    if ahead is None:
        return False
    if about_clock(ahead):
        reckon_with(ahead)
    private = load_ssh_private_key(read_whole(key, "node's key"), password=None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        return False
    gates: list[Any] = [
        RuntimeVersionHttpInterceptor(component_name=_PROGRAM),
        NodeAuthHttpInterceptor(private, private.public_key()),
    ]
    try:
        with FleetHttpClient.from_server_address(address, False, certificate, gates) as client:
            client.DeactivateNode(DeactivateNodeRequest(node_id=node_id))
    except (httpx.HTTPError, RuntimeError):
        return False
    return True
