"""A clinic joins a federation: it makes a key that never leaves, and has the public half enrolled.

CLINIC'S FOLDER/
  membership.json     which federation, where, whose certificate, which key; anchored
  keys/node-DIGEST    the node's private key, OpenSSH, closed to others
"""

from __future__ import annotations

import hashlib
import json
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter

from skinml.clinic.folder import ClinicFolder
from skinml.clinic.gate import require_role
from skinml.clinic.hints import placed
from skinml.clinic.imported_data import is_clinic_folder
from skinml.deployment.anchored import find_anchored
from skinml.deployment.certificates import client_context
from skinml.deployment.invitations import CLINIC_NAME, FEDERATION_NAME, Invitation
from skinml.durable import locked, remove, write_whole
from skinml.errors import ConfigError, EnvironmentProblem, IntegrityError, RefusedError
from skinml.stewardship.encryption import derive_key, keyed_digest
from skinml.stewardship.policy import Policy

FILE = "membership.json"
_WHAT = "membership"
_MOST_BYTES = 64 * 1024
_TIMEOUT_S = 30.0
_LONGEST_WORDS = 500
_INVITE_AGAIN = "Ask the coordinator for a new invitation: skinml federation enrol."


class Membership(BaseModel):
    """Where a clinic belongs. Nothing of it is secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    federation: str = Field(pattern=FEDERATION_NAME, description="The federation's name.")
    clinic: str = Field(pattern=CLINIC_NAME, description="The clinic's name there.")
    address: str = Field(description="Where to connect, host:port.")
    ca: str = Field(description="Certificate of the federation's authority, PEM.")
    node_id: int = Field(ge=0, lt=2**64, description="The clinic's number on Flower's runtime.")
    node_key: str = Field(pattern=r"^node-[0-9a-f]{16}$", description="The key's file.")
    public_key: str = Field(description="The public half, as OpenSSH writes it.")
    joined: AwareDatetime = Field(description="When.")
    data: str | None = Field(None, description="Folder of the list and its images.")
    manifest: str = Field("manifest.csv", description="The list's name.")
    taxonomy: str | None = Field(None, description="The clinic's own words, YAML.")


@dataclass(frozen=True)
class ToDo:
    """Something that people at the clinic should still do.

    Attributes:
        words: What and why, whole sentences.
        steps: How: commands, and lines to be written, one after the other.
    """

    words: str
    steps: tuple[str, ...]


@dataclass(frozen=True)
class Joined:
    """A clinic that has just joined.

    Attributes:
        membership: Where it belongs now.
        to_do: What its people should still do.
        new: Whether it did not belong there before.
    """

    membership: Membership
    to_do: tuple[ToDo, ...]
    new: bool


def find_membership(folder: ClinicFolder) -> Membership | None:
    """Read which federation a clinic belongs to.

    Args:
        folder: The clinic's folder.

    Returns:
        The membership; None where it has joined none.

    Raises:
        IntegrityError: If it was changed.
    """
    return find_anchored(folder, folder.path / FILE, _WHAT, TypeAdapter(Membership))


def require_membership(folder: ClinicFolder) -> Membership:
    """Read which federation a clinic belongs to, and check that its key is there.

    Args:
        folder: The clinic's folder.

    Returns:
        The membership.

    Raises:
        ConfigError: If it has joined none.
        IntegrityError: If the membership or the key was changed.
    """
    membership = find_membership(folder)
    if membership is None:
        raise ConfigError(
            rule="a clinic that has joined a federation",
            got=f"clinic={folder.name}, which has joined none",
            do="Join with the file that the coordinator sent: skinml clinic join --invitation "
            "FILE --folder FOLDER",
        )
    if public_line(node_key_file(folder, membership)) != membership.public_key:
        raise IntegrityError(
            rule="the node key that this clinic joined with",
            got="another key, or none",
            do="Restore the folder 'keys' from a backup, or join again with a new invitation.",
        )
    return membership


def node_key_file(folder: ClinicFolder, membership: Membership) -> Path:
    """Name the file of the node's private key.

    Args:
        folder: The clinic's folder.
        membership: Where it belongs.

    Returns:
        The file.
    """
    return folder.path / "keys" / membership.node_key


def join(
    folder: ClinicFolder,
    invitation: Invitation,
    *,
    data: Path | None = None,
    manifest: str = "manifest.csv",
    taxonomy: Path | None = None,
    again: bool = False,
    now: datetime | None = None,
) -> Joined:
    """Join a federation.

    Args:
        folder: The clinic's folder.
        invitation: What the coordinator sent.
        data: Folder of the list and its images, for runs; the clinic's own for what it imported.
        manifest: The list's name.
        taxonomy: The clinic's own words, YAML.
        again: Leave the federation that it belongs to.
        now: The time, with its zone; by default the clock's.

    Returns:
        What holds now.

    Raises:
        ConfigError: If the invitation is another clinic's, the clinic belongs to a federation, or
            the list is not there.
        EnvironmentProblem: If the coordinator cannot be reached, or is not who invited.
        IntegrityError: If the folder was changed.
        PolicyError: If the user may not join federations.
        RefusedError: If the coordinator refuses the code.

    Guarantees:
        The private key is made here and never sent. Nothing is sent before the coordinator has
        shown a certificate of the invitation's own authority. Broken off at any moment, the same
        call again ends it, with the same key.
    """
    user = require_role(folder, "federation.join")
    at = now or datetime.now(UTC)
    _require_ours(folder, invitation)
    if data is not None:
        _require_data(folder, data, manifest)
    with locked(folder.path / f".{FILE}.lock", _WHAT):
        before = find_membership(folder)
        name = _key_name(folder, invitation)
        if before is not None and before.node_key != name and not again:
            raise ConfigError(
                rule="a clinic that belongs to no federation yet",
                got=f"clinic={folder.name}, which belongs to {before.federation}",
                do="Give --again to leave it; a run under way there ends without this clinic.",
            )
        public = _made_key(folder.path / "keys" / name)
        known = before if before is not None and before.node_key == name else None
        membership = Membership(
            federation=invitation.federation,
            clinic=folder.name,
            address=invitation.address,
            ca=invitation.ca,
            node_id=_enrolled(invitation, public, folder.identity.public_key),
            node_key=name,
            public_key=public,
            joined=at if known is None else known.joined,
            **_places(data, manifest, taxonomy, known),
        )
        if known is None:
            folder.audit.write(
                "federation joined",
                user,
                now=at,
                coordinator=membership.federation,
                public_key=hashlib.sha256(public.encode()).hexdigest(),
            )
        content = membership.model_dump_json(indent=1).encode() + b"\n"
        folder.anchors.replace(folder.path / FILE, content, _WHAT)
        if before is not None and before.node_key != name:
            remove(node_key_file(folder, before), "node key")
    return Joined(membership, _to_do(folder, invitation, membership), new=known is None)


def point_to_data(
    folder: ClinicFolder,
    data: Path,
    *,
    manifest: str = "manifest.csv",
    taxonomy: Path | None = None,
) -> Membership:
    """Say where the list and the images are that runs of the federation use.

    Args:
        folder: The clinic's folder.
        data: Folder of the list and its images, or the clinic's own.
        manifest: The list's name.
        taxonomy: The clinic's own words, YAML.

    Returns:
        The membership as it is now.

    Raises:
        ConfigError: If the clinic has joined no federation, or the list is not there.
        EnvironmentProblem: If it cannot be written.
        IntegrityError: If the folder was changed.
        PolicyError: If the user may not start runs here.
    """
    require_role(folder, "run.train")
    _require_data(folder, data, manifest)
    with locked(folder.path / f".{FILE}.lock", _WHAT):
        places = _places(data, manifest, taxonomy, None)
        membership = require_membership(folder).model_copy(update=places)
        content = membership.model_dump_json(indent=1).encode() + b"\n"
        folder.anchors.replace(folder.path / FILE, content, _WHAT)
    return membership


def public_line(file: Path) -> str:
    """Read the public half of a node's key.

    Args:
        file: The private key, OpenSSH.

    Returns:
        A line as OpenSSH writes it; empty where there is no such key.
    """
    try:
        key = load_ssh_private_key(file.read_bytes(), None)
    except (OSError, ValueError, UnsupportedAlgorithm):
        return ""
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _require_data(folder: ClinicFolder, data: Path, manifest: str) -> None:
    if not ((data / manifest).is_file() or is_clinic_folder(folder.path, data)):
        raise ConfigError(
            rule=f"a folder with the list {manifest}, or this clinic's own folder",
            got=f"data={data}, which is neither",
            do="Name the folder with --data. To look at it: skinml clinic check --data DIR "
            "--folder FOLDER",
        )


def _require_ours(folder: ClinicFolder, invitation: Invitation) -> None:
    if invitation.clinic != folder.name:
        raise ConfigError(
            rule=f"an invitation of clinic {folder.name}",
            got=f"clinic={invitation.clinic}",
            do="Use this clinic's own file, or name the other clinic's folder with --folder.",
        )


def _places(
    data: Path | None, manifest: str, taxonomy: Path | None, known: Membership | None
) -> dict[str, Any]:
    """Write down where the data are; what was known stays where nobody names others."""
    if data is None and known is not None:
        return known.model_dump(include={"data", "manifest", "taxonomy"})
    return {
        "data": None if data is None else str(data.expanduser().resolve()),
        "manifest": manifest,
        "taxonomy": None if taxonomy is None else str(taxonomy.expanduser().resolve()),
    }


def _key_name(folder: ClinicFolder, invitation: Invitation) -> str:
    """Name a key after its invitation: the same one again finds the key that it was made for."""
    key = derive_key(folder.key, "node key's name")
    return f"node-{keyed_digest(key, invitation.code.encode())[:16]}"


def _made_key(file: Path) -> str:
    known = public_line(file)
    if known:
        return known
    made = ec.generate_private_key(ec.SECP384R1())
    content = made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    write_whole(file, content, "node key")
    return public_line(file)


def _enrolled(invitation: Invitation, public: str, signing: str) -> int:
    """Show the one-time code to the coordinator; give the node's number."""
    request = {
        "clinic": invitation.clinic,
        "code": invitation.code,
        "node_key": public,
        "signing_key": signing,
    }
    status, answer = _posted(invitation, request)
    if 400 <= status < 600 and set(answer) >= {"rule", "got", "do"}:
        kind = RefusedError if status < 500 else EnvironmentProblem
        raise kind(rule=_words(answer["rule"]), got=_words(answer["got"]), do=_words(answer["do"]))
    node_id = answer.get("node_id")
    fits = status == 200 and answer.get("federation") == invitation.federation
    if fits and type(node_id) is int and 0 <= node_id < 2**64:
        return node_id
    raise EnvironmentProblem(
        rule=f"an answer of the coordinator of {invitation.federation}",
        got=f"status={status} with another content",
        do="Check the address with the coordinator: something else answers there.",
    )


def _posted(invitation: Invitation, request: dict[str, str]) -> tuple[int, dict[str, object]]:
    url = f"https://{invitation.address}/enrol"
    try:
        context = client_context(invitation.ca.encode())
        with (
            httpx.Client(verify=context, timeout=_TIMEOUT_S) as client,
            client.stream("POST", url, json=request) as response,
        ):
            content = b""
            for part in response.iter_bytes():
                content += part
                if len(content) > _MOST_BYTES:
                    break
            status = response.status_code
    except (httpx.HTTPError, ssl.SSLError) as error:
        raise _unreachable(invitation, error) from None
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        answer = None
    return status, answer if isinstance(answer, dict) else {}


def _unreachable(invitation: Invitation, error: Exception) -> EnvironmentProblem:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return EnvironmentProblem(
            rule=f"a certificate that the authority of {invitation.federation} signed",
            got=f"another one, or one that has ended, at {invitation.address}",
            do="Nothing was sent. Check this computer's clock, then ask the coordinator: somebody "
            "else may answer at that address.",
        )
    return EnvironmentProblem(
        rule=f"the coordinator of {invitation.federation} at {invitation.address}",
        got=_failure(error),
        do="Check the network, and whether `skinml federation serve` runs there. The code has "
        "not been used up: join again with the same file.",
    )


def _failure(error: Exception) -> str:
    """Say in words why a request did not come back."""
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {_TIMEOUT_S:g} seconds"
    if "SSL" in str(error):
        return "something that speaks no TLS"
    if isinstance(error, httpx.ConnectError):
        return "no connection: nothing answers there, or a firewall is between"
    return "a connection that broke off"


def _words(value: object) -> str:
    """Keep a stranger's words short."""
    return str(value)[:_LONGEST_WORDS]


def _to_do(
    folder: ClinicFolder, invitation: Invitation, membership: Membership
) -> tuple[ToDo, ...]:
    def at(steps: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(placed(step, folder.path) for step in steps)

    found = []
    lacks = _lacks(folder.policy, invitation)
    if lacks:
        reasons = "; ".join(reason for reason, _ in lacks)
        steps = (
            "skinml clinic policy show --yaml --folder FOLDER > policy.yaml",
            *(f"(write into it)  {line}" for _, line in lacks),
            "skinml clinic policy change policy.yaml --folder FOLDER",
        )
        found.append(ToDo(f"For a steward. The clinic's policy {reasons}:", at(steps)))
    if membership.data is None:
        steps = ("skinml clinic serve --data IMAGES --folder FOLDER",)
        words = "Next, and for as long as the clinic takes part; IMAGES is the folder of its list:"
        found.append(ToDo(words, at(steps)))
    return tuple(found)


def _lacks(policy: Policy, invitation: Invitation) -> list[tuple[str, str]]:
    """Name what a policy does not allow yet: why that matters, and the line that would."""
    found = []
    if invitation.federation not in policy.coordinators:
        line = ", ".join([*policy.coordinators, invitation.federation])
        reason = f"does not name {invitation.federation}, so that no run can be approved"
        found.append((reason, f"coordinators: [{line}]"))
    missing = [word for word in invitation.purposes if word not in policy.purposes]
    if missing:
        line = ", ".join([*policy.purposes, *missing])
        reason = f"does not allow {', '.join(missing)}, which its runs are for"
        found.append((reason, f"purposes: [{line}]"))
    return found
