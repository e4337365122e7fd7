"""From an invitation's one-time code to a clinic whose node key the SuperLink knows."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skinml.deployment.federation_folder import Enrolment, FederationFolder
from skinml.deployment.invitations import (
    CLINIC_NAME,
    Invitation,
    digest_of,
    new_code,
    parse_time,
    time_text,
)
from skinml.durable import read_whole
from skinml.errors import ConfigError, RefusedError
from skinml.stewardship.purposes import PURPOSES

VALID_DAYS = 14
_NOBODYS = digest_of("")

Register = Callable[[bytes, str], int]
"""Makes a node's key known to the SuperLink: its PEM and the clinic's name, to the node's id."""


class Request(BaseModel):
    """What a clinic sends to be enrolled."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    clinic: str = Field(max_length=64)
    code: str = Field(max_length=64, repr=False)
    node_key: str = Field(max_length=1024)
    signing_key: str = Field(pattern=r"^[0-9a-f]{64}$")


def invite(
    folder: FederationFolder,
    clinic: str,
    now: datetime,
    *,
    purposes: Sequence[str] = ("federated_training",),
    valid_days: int = VALID_DAYS,
) -> Invitation:
    """Invite a clinic; an earlier invitation that was not used ends.

    Args:
        folder: The federation's folder.
        clinic: The clinic's name.
        now: The time, with its zone.
        purposes: What runs with it may be for.
        valid_days: Days for which the code works; from 1 to 90.

    Returns:
        The invitation; its code is kept nowhere else.

    Raises:
        ConfigError: If a word is at fault, or the clinic has joined already.
        EnvironmentProblem: If the enrolments cannot be read or written.
        IntegrityError: If they are damaged.

    Guarantees:
        The folder keeps the code's digest alone.
    """
    if not re.fullmatch(CLINIC_NAME.strip("^$"), clinic):
        raise ConfigError(
            rule="a name of up to 64 letters, digits, spaces, dots, dashes and underscores",
            got=f"clinic={clinic!r}",
            do="Use the name that the clinic gave itself. To see it: skinml clinic status "
            "--folder FOLDER",
        )
    unknown = sorted(set(purposes) - set(PURPOSES))
    if unknown or not purposes:
        raise ConfigError(
            rule=f"purposes of {', '.join(PURPOSES)}",
            got=f"purpose={', '.join(unknown) or 'none'}",
            do="Choose among these words; --purpose may be given several times.",
        )
    if not 1 <= valid_days <= 90:
        raise ConfigError(
            rule="an invitation that is valid for 1 to 90 days",
            got=f"days={valid_days}",
            do="Give --days a number from 1 to 90; who misses the day gets a new invitation.",
        )
    code, expires = new_code(), time_text(now + timedelta(days=valid_days))
    chosen = tuple(word for word in PURPOSES if word in purposes)
    with folder.changing() as book:
        before = book.get(clinic)
        if before is not None and before.state == "joined":
            raise ConfigError(
                rule="a clinic that has not joined yet",
                got=f"clinic={clinic}, joined {before.joined}",
                do=f"To give it a new key, revoke the old one first: skinml federation revoke "
                f"{clinic!r}.",
            )
        book[clinic] = Enrolment(
            state="invited", code_digest=digest_of(code), expires=expires, purposes=chosen
        )
    return Invitation(
        federation=folder.name,
        clinic=clinic,
        address=folder.settings.address,
        ca=read_whole(folder.ca_certificate, "authority's certificate").decode(),
        code=code,
        purposes=chosen,
        expires=expires,
    )


def require_new_file(path: Path) -> None:
    """Check that an invitation will not replace a file, before a code is made.

    Args:
        path: The file to be.

    Raises:
        ConfigError: If there is a file, or no folder for it.
    """
    if path.exists() or not path.absolute().parent.is_dir():
        raise ConfigError(
            rule="a new file in a folder that is there, for the invitation",
            got=f"out={path}",
            do="Name another with --out.",
        )


def redeem(
    folder: FederationFolder, content: object, register: Register, now: datetime
) -> dict[str, object]:
    """Enrol a clinic that shows its code.

    Args:
        folder: The federation's folder.
        content: What the clinic sent.
        register: Makes the node's key known to the SuperLink.
        now: The time, with its zone.

    Returns:
        What the clinic is answered: node_id and federation.

    Raises:
        ConfigError: If the request is malformed.
        EnvironmentProblem: If the SuperLink cannot be reached or the book not be written.
        IntegrityError: If the enrolments are damaged.
        RefusedError: If the code is wrong, used or expired, or a key is in use.

    Guarantees:
        A code enrols one pair of keys. The same request again gets the same answer, so that a
        clinic which lost the answer loses nothing; other keys are refused. Codes are compared in
        constant time, and an unknown clinic is told the same as a wrong code.
    """
    asked = _read(content)
    key = node_key_pem(asked.node_key)
    with folder.changing() as book:
        found = book.get(asked.clinic)
        kept = found.code_digest if found else _NOBODYS
        right = hmac.compare_digest(digest_of(asked.code), kept)
        if found is None or not right or found.state == "revoked":
            raise RefusedError(
                rule="the code of an open invitation to this clinic",
                got="another code, another name, or one that was revoked",
                do="Use the newest invitation file as it is, or ask the coordinator for another.",
            )
        if found.state == "joined":
            return _same_again(folder, found, asked)
        if now >= parse_time(found.expires):
            raise RefusedError(
                rule="an invitation that has not expired",
                got=f"expires={found.expires}",
                do="Ask the coordinator for a new one: skinml federation enrol.",
            )
        _require_own_keys(book, asked)
        node_id = register(key, asked.clinic)
        joined = {"state": "joined", "node_key": _bare(asked.node_key), "node_id": node_id}
        book[asked.clinic] = found.model_copy(
            update=joined | {"signing_key": asked.signing_key, "joined": time_text(now)}
        )
    return {"node_id": node_id, "federation": folder.name}


def revoke(folder: FederationFolder, clinic: str, now: datetime) -> Enrolment:
    """Take a clinic's enrolment, or its invitation, back.

    Args:
        folder: The federation's folder.
        clinic: Its name.
        now: The time, with its zone.

    Returns:
        The enrolment as it was. Where it has a node, the SuperLink has yet to be told; the proxy
        lets the node in no more from the next message on.

    Raises:
        ConfigError: If there is no such clinic.
        EnvironmentProblem: If the enrolments cannot be read or written.
        IntegrityError: If they are damaged.
    """
    with folder.changing() as book:
        before = book.get(clinic)
        if before is None:
            raise ConfigError(
                rule="an enrolled clinic",
                got=f"clinic={clinic!r}",
                do="See skinml federation status for the clinics' names.",
            )
        if before.state != "revoked":
            book[clinic] = before.model_copy(update={"state": "revoked", "revoked": time_text(now)})
    return before


def node_key_pem(line: str) -> bytes:
    """Read a node's public key.

    Args:
        line: OpenSSH form, one line; an elliptic curve of NIST.

    Returns:
        PEM, the form in which Flower's messages carry it.

    Raises:
        ConfigError: If it is none.
    """
    try:
        key = load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError(
            rule="a node's public key: one OpenSSH line, on curve P-256, P-384 or P-521",
            got="node_key of another kind",
            do="To have the key made: skinml clinic join --invitation FILE --folder FOLDER",
        )
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _read(content: object) -> Request:
    try:
        return Request.model_validate(content)
    except ValidationError as error:
        fields = sorted({str(each["loc"][0]) for each in error.errors() if each["loc"]})
        raise ConfigError(
            rule="clinic, code, node_key and signing_key, each a text of its form",
            got=f"a fault in: {', '.join(fields) or 'the whole'}",
            do="With the coordinator's release: skinml clinic join --invitation FILE "
            "--folder FOLDER",
        ) from None


def _same_again(folder: FederationFolder, found: Enrolment, asked: Request) -> dict[str, object]:
    keys = (found.node_key, found.signing_key)
    if keys == (_bare(asked.node_key), asked.signing_key):
        return {"node_id": found.node_id, "federation": folder.name}
    raise RefusedError(
        rule="a code that was not used yet",
        got=f"a code used at {found.joined}",
        do="If it was not your clinic that used it, tell the coordinator at once, who revokes it; "
        "then ask for a new invitation.",
    )


def _require_own_keys(book: dict[str, Enrolment], asked: Request) -> None:
    for each in book.values():
        if _bare(asked.node_key) == each.node_key or asked.signing_key == each.signing_key:
            if each is book[asked.clinic]:
                continue
            raise RefusedError(
                rule="keys that no enrolment has or had",
                got="a key that is known already",
                do="Join again with a new node key, from the clinic's own folder; a folder is "
                "enrolled under one name.",
            )


def _bare(line: str) -> str:
    """Leave out a key's comment, which may say anything."""
    return " ".join(line.split()[:2])
