"""The coordinator's folder: who the federation is, its certificates, and who is enrolled."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import psutil
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from skinml.deployment.certificates import (
    RENEW_DAYS,
    Sealed,
    expiry,
    make_authority,
    make_server_certificate,
)
from skinml.deployment.invitations import FEDERATION_NAME, split_address, time_text
from skinml.durable import cannot, locked, make_folder, read_whole, write_whole
from skinml.errors import ConfigError, IntegrityError

FILE = "federation.json"
_BORN_WITHIN_S = 0.05


class Settings(BaseModel):
    """What stands in `federation.json`; nothing of it is secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    name: str = Field(pattern=FEDERATION_NAME, description="The federation's name.")
    id: str = Field(pattern=r"^[0-9a-f]{32}$", description="Random; no other folder has it.")
    address: str = Field(description="Where clinics connect to, host:port.")
    listen: str = Field(description="Where the proxy listens, host:port.")
    hosts: tuple[str, ...] = Field(description="Names of the server's certificate.")
    made: str = Field(description="When the folder was made; ISO 8601, UTC.")


class Enrolment(BaseModel):
    """How a clinic stands with the federation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: Literal["invited", "joined", "revoked"]
    code_digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the one-time code.")
    expires: str = Field(description="When the code ends; ISO 8601, UTC.")
    purposes: tuple[str, ...]
    node_key: str | None = Field(None, description="The node's public key, an OpenSSH line.")
    node_id: int | None = None
    signing_key: str | None = Field(None, description="The clinic's Ed25519 key, 64 digits.")
    joined: str | None = None
    revoked: str | None = None


_ENROLMENTS = TypeAdapter(dict[str, Enrolment])


class Served(BaseModel):
    """The process that serves a federation, and where its SuperLink listens on this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int
    born: float
    port: int = Field(description="The SuperLink's port on 127.0.0.1.")
    since: str


@dataclass(frozen=True)
class FederationFolder:
    """An opened folder of a federation.

    Attributes:
        path: Its whole path.
        settings: Who the federation is.
    """

    path: Path
    settings: Settings

    @property
    def name(self) -> str:
        """The federation's name."""
        return self.settings.name

    @property
    def ca_certificate(self) -> Path:
        """The authority's certificate, which every invitation carries."""
        return self.path / "ca.crt"

    @property
    def ca_key(self) -> Path:
        """The authority's key, needed to renew the server's certificate alone."""
        return self.path / "ca.key"

    @property
    def server_certificate(self) -> Path:
        """The server's certificate, of the proxy and the SuperLink."""
        return self.path / "server.crt"

    @property
    def server_key(self) -> Path:
        """The server's key."""
        return self.path / "server.key"

    @property
    def superlink(self) -> Path:
        """What Flower keeps: its database and its home."""
        return self.path / "superlink"

    @property
    def runs(self) -> Path:
        """A folder a run."""
        return self.path / "runs"

    @property
    def logs(self) -> Path:
        """Logs of the parts, JSON lines."""
        return self.path / "logs"

    @property
    def empty(self) -> Path:
        """An empty folder, from which a ServerApp imports nothing by accident."""
        return self.superlink / "empty"

    @property
    def book(self) -> Path:
        """Which processes run, for the next start."""
        return self.path / "processes.json"

    def enrolments(self) -> dict[str, Enrolment]:
        """Read who is enrolled.

        Returns:
            The clinics by name.

        Raises:
            EnvironmentProblem: If the file cannot be read.
            IntegrityError: If it is damaged.
        """
        try:
            return _ENROLMENTS.validate_json(
                read_whole(self.path / "enrolments.json", "enrolments")
            )
        except ValidationError:
            raise _damaged("enrolments.json") from None

    @contextmanager
    def changing(self) -> Iterator[dict[str, Enrolment]]:
        """Change who is enrolled; nobody else can until the block ends.

        Yields:
            The clinics by name, to be changed in place; written when the block ends without an
            exception.

        Raises:
            EnvironmentProblem: If the file cannot be locked, read or written.
            IntegrityError: If it is damaged.
        """
        with locked(self.path / ".enrolments.lock", "enrolments"):
            found = self.enrolments()
            yield found
            _write_enrolments(self.path, found)

    def served(self) -> Served | None:
        """Find the process that serves this federation.

        Returns:
            It, or None where none is alive.
        """
        try:
            found = Served.model_validate_json((self.path / "serve.json").read_bytes())
            born = psutil.Process(found.pid).create_time()
        except (OSError, ValidationError, psutil.Error):
            return None
        return found if abs(born - found.born) < _BORN_WITHIN_S else None


def make_federation(
    path: Path,
    name: str,
    address: str,
    now: datetime,
    *,
    hosts: Sequence[str] = (),
    listen: str | None = None,
) -> FederationFolder:
    """Make a federation's folder with its authority and its server's certificate.

    Args:
        path: The folder to be; new or empty.
        name: The federation's name; clinics' policies name it as coordinator.
        address: Where clinics connect to, host:port.
        now: The time, with its zone.
        hosts: Further names of the server's certificate.
        listen: Where the proxy listens, host:port; by default the address where that is on
            loopback, else the address's port on all interfaces.

    Returns:
        The opened folder.

    Raises:
        ConfigError: If the folder is not empty, or an argument is at fault.
        EnvironmentProblem: If it cannot be written.
    """
    whole = path.expanduser().resolve()
    if whole.exists() and not (whole.is_dir() and not any(whole.iterdir())):
        raise ConfigError(
            rule="a new or empty folder for the federation",
            got=f"folder={path}, where something is",
            do="Name another folder; nothing was changed.",
        )
    host, port = split_address(address)
    loopback = host in {"localhost", "::1"} or host.startswith("127.")
    listen = listen or (address if loopback else f"0.0.0.0:{port}")
    split_address(listen)
    try:
        settings = Settings(
            name=name,
            id=os.urandom(16).hex(),
            address=address,
            listen=listen,
            hosts=tuple(dict.fromkeys((host, *hosts))),
            made=time_text(now),
        )
    except ValidationError:
        raise ConfigError(
            rule="a name of up to 64 letters, digits, dots, dashes and underscores",
            got=f"name={name!r}",
            do="Choose a shorter or plainer name, such as skin-network.",
        ) from None
    authority = make_authority(name, now)
    server = make_server_certificate(authority, name, settings.hosts, now)
    folder = FederationFolder(whole, settings)
    for each in (whole, folder.superlink, folder.empty, folder.runs, folder.logs):
        make_folder(each, "federation's folder")
    _write_pair(folder.ca_certificate, folder.ca_key, authority)
    _write_pair(folder.server_certificate, folder.server_key, server)
    write_whole(folder.superlink / "secret", os.urandom(32).hex().encode(), "executor's secret")
    _write_enrolments(whole, {})
    text = json.dumps(settings.model_dump(mode="json"), indent=1)
    write_whole(whole / FILE, text.encode() + b"\n", "federation.json")  # last: now it is whole
    return folder


def open_federation(path: Path) -> FederationFolder:
    """Open a federation's folder.

    Args:
        path: The folder.

    Returns:
        The opened folder.

    Raises:
        ConfigError: If there is no federation's folder.
        EnvironmentProblem: If it cannot be read.
        IntegrityError: If a file of it is missing or damaged.
    """
    whole = path.expanduser().resolve()
    if not (whole / FILE).is_file():
        raise ConfigError(
            rule="the folder of a federation",
            got=f"folder={path} without {FILE}",
            do="Name the folder with --folder, or make one: skinml federation init FOLDER.",
        )
    try:
        settings = Settings.model_validate_json(read_whole(whole / FILE, FILE))
    except ValidationError:
        raise _damaged(FILE) from None
    folder = FederationFolder(whole, settings)
    needed = (folder.ca_certificate, folder.server_certificate, folder.server_key)
    for file in (*needed, folder.superlink / "secret"):
        if not file.is_file():
            raise _damaged(file.name)
    for file in (folder.server_key, folder.ca_key, folder.superlink / "secret"):
        if file.exists() and file.stat().st_mode & 0o077:
            raise IntegrityError(
                rule=f"a file {file.name} that its owner alone may read",
                got=f"permissions={file.stat().st_mode & 0o777:o}",
                do=f"If nobody else can have read it: chmod 600 {file.name}. Else make a new "
                "federation: its key is no secret any more.",
            )
    return folder


def renew_server_certificate(folder: FederationFolder, now: datetime) -> bool:
    """Make a new server certificate where the old one ends within thirty days.

    Clinics notice nothing: they trust the authority, which stays.

    Args:
        folder: The federation's folder.
        now: The time, with its zone.

    Returns:
        Whether one was made.

    Raises:
        ConfigError: If one is needed and the authority's key is kept elsewhere.
        EnvironmentProblem: If a file cannot be read or written.
        IntegrityError: If a certificate is damaged.
    """
    ends = expiry(read_whole(folder.server_certificate, "server's certificate"))
    if ends - now > timedelta(days=RENEW_DAYS):
        return False
    if not folder.ca_key.is_file():
        if now < ends:
            return False
        raise ConfigError(
            rule="a server's certificate that has not expired",
            got=f"expired={ends:%Y-%m-%d}, and no ca.key here to make another",
            do="Put ca.key back into the federation's folder while you start skinml federation "
            "serve once.",
        )
    authority = Sealed(
        read_whole(folder.ca_certificate, "authority's certificate"),
        read_whole(folder.ca_key, "authority's key"),
    )
    server = make_server_certificate(authority, folder.name, folder.settings.hosts, now)
    _write_pair(folder.server_certificate, folder.server_key, server)
    return True


def _write_pair(certificate: Path, key: Path, made: Sealed) -> None:
    write_whole(key, made.key, "key")
    write_whole(certificate, made.certificate, "certificate")
    try:
        certificate.chmod(0o644)  # public: clinics and Flower's command line read it
    except OSError as error:
        raise cannot("write", "certificate", error) from error


def _write_enrolments(path: Path, found: dict[str, Enrolment]) -> None:
    values = {name: each.model_dump(mode="json") for name, each in sorted(found.items())}
    content = json.dumps(values, indent=1).encode() + b"\n"
    write_whole(path / "enrolments.json", content, "enrolments")


def _damaged(file: str) -> IntegrityError:
    return IntegrityError(
        rule=f"a file {file} as skinml wrote it",
        got="another content, or none",
        do="Restore the federation's folder from a backup.",
    )
