"""Signed statements that something was removed, to be kept or handed out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from skinml.clinic.folder import ClinicFolder
from skinml.durable import make_folder, read_whole, write_whole
from skinml.errors import IntegrityError
from skinml.journal import canonical
from skinml.stewardship.days import day_of
from skinml.stewardship.encryption import keyed_digest
from skinml.stewardship.signing import Signature

_WHAT = "certificate"
_FORMAT = "skinml-certificate-1"
_ABOUT = b"skinml certificate\n"


@dataclass(frozen=True)
class Certificate:
    """What a certificate says.

    Attributes:
        path: Where it is.
        says: Its content.
    """

    path: Path
    says: Mapping[str, Any]


def certify(
    folder: ClinicFolder, kind: str, says: Mapping[str, Any], *, now: datetime
) -> Certificate:
    """Write a certificate into the clinic's folder `certificates`, or find the one of this moment.

    Args:
        folder: The clinic's folder.
        kind: What it is about: "retention" or "erasure".
        says: Plain JSON values: no patient, no pseudonym.
        now: The moment of what it certifies; the same moment gives the same file.

    Returns:
        The certificate.

    Raises:
        EnvironmentProblem: If it cannot be written.

    Guarantees:
        Signed with the key that signs the clinic's audit log; `verify_certificate` needs nothing
        but the clinic's public key.
    """
    content = {
        "format": _FORMAT,
        "kind": kind,
        "clinic": folder.name,
        "day": day_of(now).isoformat(),
        "public_key": folder.identity.public_key,
        "says": dict(says),
    }
    seal = Signature(folder.identity.public_key, folder.signing_key, about=_ABOUT)
    make_folder(folder.path / "certificates", _WHAT)
    path = certificate_path(folder, kind, now)
    written = content | {"signature": seal.make(canonical(content))}
    write_whole(path, json.dumps(written, indent=1).encode(), _WHAT)
    return Certificate(path, content)


def certificate_path(folder: ClinicFolder, kind: str, now: datetime) -> Path:
    """Name the file of a certificate.

    Args:
        folder: The clinic's folder.
        kind: What it is about.
        now: The moment of what it certifies.

    Returns:
        The path; it says nothing of whom it concerns.
    """
    # Not the time itself: beside an exported log it would say whose pseudonym that is.
    mark = keyed_digest(folder.key, f"certificate {now.isoformat()}".encode())[:12]
    return folder.path / "certificates" / f"{kind}-{day_of(now)}-{mark}.json"


def verify_certificate(path: Path, public_key: str) -> Mapping[str, Any]:
    """Check a certificate's signature.

    Args:
        path: The file.
        public_key: The clinic's public key, 64 hexadecimal digits, as the clinic gave it.

    Returns:
        What it says.

    Raises:
        EnvironmentProblem: If it cannot be read.
        IntegrityError: If it is not what the clinic signed.
    """
    other_key = False
    try:
        content = json.loads(read_whole(path, _WHAT))
        signature = content.pop("signature")
        signed = Signature(public_key, about=_ABOUT).fits(canonical(content), signature)
        if signed and content["format"] == _FORMAT:
            found: Mapping[str, Any] = content
            return found
        own = content["public_key"]
        other_key = own != public_key and Signature(own, about=_ABOUT).fits(
            canonical(content), signature
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # whatever stands there, it is not what was signed
    if other_key:
        raise IntegrityError(
            rule="the key that this certificate was signed with",
            got="this is not that key",
            do="Give the signing clinic's public key with --key, or its folder with --folder.",
        )
    raise IntegrityError(
        rule="a certificate as this clinic signed it",
        got="another content, or no certificate",
        do="Ask the clinic for the certificate again.",
    ) from None
