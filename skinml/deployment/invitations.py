"""The file by which a coordinator invites a clinic: where to connect, whom to trust, a code."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from skinml.deployment.certificates import is_authority
from skinml.durable import read_whole, write_whole
from skinml.errors import ConfigError
from skinml.stewardship.purposes import Purpose

FEDERATION_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
CLINIC_NAME = r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}$"
_CODE_BYTES = 20  # 160 random bits: nobody guesses one, so that its digest needs no salt
_MOST_BYTES = 64 * 1024


class Invitation(BaseModel):
    """What stands in an invitation file. The code is a secret until it has been used."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1] = 1
    federation: str = Field(pattern=FEDERATION_NAME, description="The federation's name.")
    clinic: str = Field(pattern=CLINIC_NAME, description="Who is invited.")
    address: str = Field(description="Where to connect, host:port.")
    ca: str = Field(description="Certificate of the federation's authority, PEM.", repr=False)
    code: str = Field(pattern=r"^[A-Z2-7]{32}$", description="Works once.", repr=False)
    purposes: tuple[Purpose, ...] = Field(
        min_length=1, strict=False, description="What runs may be for."
    )
    expires: str = Field(description="When the code ends; ISO 8601, UTC.")

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        split_address(value)
        return value

    @field_validator("ca")
    @classmethod
    def _is_an_authority(cls, value: str) -> str:
        if not is_authority(value.encode()):
            raise ValueError("not the certificate of an authority")
        return value

    @field_validator("expires")
    @classmethod
    def _is_a_time(cls, value: str) -> str:
        parse_time(value)
        return value

    def expired(self, now: datetime) -> bool:
        """Tell whether the code has ended.

        Args:
            now: The time, with its zone.

        Returns:
            Whether it has.
        """
        return now >= parse_time(self.expires)


def new_code() -> str:
    """Draw a one-time code.

    Returns:
        32 letters and digits (base32), from the operating system's randomness.
    """
    return base64.b32encode(os.urandom(_CODE_BYTES)).decode()


def digest_of(code: str) -> str:
    """Give what the coordinator keeps of a code.

    Args:
        code: The code.

    Returns:
        SHA-256, in hexadecimal digits.
    """
    return hashlib.sha256(code.encode()).hexdigest()


def write_invitation(path: Path, invitation: Invitation) -> None:
    """Write an invitation file, closed to others.

    Args:
        path: The file; its folder must exist.
        invitation: The invitation.

    Raises:
        EnvironmentProblem: If it cannot be written.
    """
    text = json.dumps(invitation.model_dump(mode="json"), indent=1, ensure_ascii=False)
    write_whole(path, text.encode() + b"\n", "invitation")


def read_invitation(path: Path) -> Invitation:
    """Read an invitation file.

    Args:
        path: The file.

    Returns:
        The invitation; whether it has expired is for the caller to ask.

    Raises:
        ConfigError: If there is no such file, or it is not an invitation of this version.
        EnvironmentProblem: If it cannot be read.
    """
    if not path.is_file() or path.stat().st_size > _MOST_BYTES:
        raise ConfigError(
            rule="an invitation file",
            got=f"invitation={path.name}, which is no small file",
            do="Name the file that the coordinator sent: skinml federation enrol makes it.",
        )
    try:
        return Invitation.model_validate(json.loads(read_whole(path, "invitation")))
    except (ValueError, ValidationError) as error:
        wrong = "no JSON"
        if isinstance(error, ValidationError):
            wrong = (
                ", ".join(sorted({str(each["loc"][0]) for each in error.errors() if each["loc"]}))
                or "no object"
            )
        raise ConfigError(
            rule="an invitation as skinml federation enrol writes it, version 1",
            got=f"invitation={path.name} with a fault in: {wrong}",
            do="Ask the coordinator for the file again; it must arrive unchanged.",
        ) from None


def split_address(address: str) -> tuple[str, int]:
    """Split an address into host and port.

    Args:
        address: host:port; an IPv6 host stands in brackets.

    Returns:
        The host without brackets, and the port.

    Raises:
        ConfigError: If it is neither.
    """
    host, _, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    good = bool(bare) and (":" not in bare or host != bare) and not set(bare) & set("/ @?#[]")
    if not (good and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ConfigError(
            rule="an address HOST:PORT with a port from 1 to 65535",
            got=f"address={address!r}",
            do="Write it such as federation.example.org:8443.",
        )
    return bare, int(port)


def parse_time(text: str) -> datetime:
    """Read a time.

    Args:
        text: ISO 8601 with a zone.

    Returns:
        The time in UTC.

    Raises:
        ValueError: If it is none.
    """
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("a time without its zone")
    return found.astimezone(UTC)


def time_text(at: datetime) -> str:
    """Write a time.

    Args:
        at: The time, with its zone.

    Returns:
        ISO 8601 in UTC, whole seconds.
    """
    return at.astimezone(UTC).isoformat(timespec="seconds")
