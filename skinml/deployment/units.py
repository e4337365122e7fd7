"""Systemd units: a coordinator or a clinic that serves from the machine's start on, hardened."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from skinml.clinic.folder import ClinicFolder
from skinml.deployment.federation_folder import FederationFolder
from skinml.deployment.invitations import split_address
from skinml.deployment.joining import Membership
from skinml.errors import ConfigError, EnvironmentProblem
from skinml.stewardship.passphrases import FILE_VARIABLE
from skinml.stewardship.roles import os_user

_INTERRUPTED = 130  # what a command ends with that was told to while it was starting
_FIRST_OPEN_PORT = 1024
_LOW_PORTS = "CAP_NET_BIND_SERVICE"
_HARDENED = (
    "UMask=0077",
    "NoNewPrivileges=yes",
    "PrivateTmp=yes",
    "ProtectSystem=strict",
    "ProtectHome=read-only",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "SystemCallArchitectures=native",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK",
)


def clinic_unit(folder: ClinicFolder, membership: Membership) -> str:
    """Write a systemd unit that keeps a clinic serving.

    Args:
        folder: The clinic's folder.
        membership: Where it belongs.

    Returns:
        The unit's text; its processes are those of the user who asks for it.

    Raises:
        EnvironmentProblem: If the computer knows no name for that user.
    """
    path, anchors = folder.path.resolve(), folder.anchors.path.resolve().parent
    lock = folder.lock
    asked = lock is not None and lock.method == "passphrase"
    secret = (
        "# The passphrase, in a file that root alone can read; systemd hands it on.",
        f"LoadCredential=passphrase:/etc/skinml/{folder.identity.id}.passphrase",
    )
    return _unit(
        f"{folder.name} in {membership.federation}",
        ("clinic", "serve"),
        path,
        writable=(path, anchors),
        further=secret if asked else (),
        environment=(f"{FILE_VARIABLE}=%d/passphrase",) if asked else (),
    )


def coordinator_unit(folder: FederationFolder) -> str:
    """Write a systemd unit that keeps a federation served.

    Args:
        folder: The federation's folder.

    Returns:
        The unit's text; its processes are those of the user who asks for it, with the right to
        a port below 1024 where it listens on one, and no other.

    Raises:
        EnvironmentProblem: If the computer knows no name for that user.
    """
    path = folder.path.resolve()
    _, port = split_address(folder.settings.listen)
    return _unit(
        f"coordinator of {folder.name}",
        ("federation", "serve"),
        path,
        writable=(path,),
        capability=_LOW_PORTS if port < _FIRST_OPEN_PORT else "",
    )


def write_unit(file: Path, text: str) -> None:
    """Write a unit down; nothing is written over.

    Args:
        file: A new file.
        text: The unit.

    Raises:
        ConfigError: If systemd would not know the file as a unit.
        EnvironmentProblem: If the file is there already, or cannot be written.
    """
    if file.suffix != ".service":
        raise ConfigError(
            rule="a unit's file whose name ends in .service",
            got=file.name,
            do=f"Name it {file.name}.service, say.",
        )
    try:
        with file.open("x", encoding="utf-8") as written:
            written.write(text)
    except OSError as error:
        raise EnvironmentProblem(
            rule="a new file for the unit",
            got=f"{file} ({error.strerror})",
            do="Choose another name; nothing is written over.",
        ) from error


def next_steps(file: Path, text: str) -> tuple[str, ...]:
    """Say what is to be done with a unit.

    Args:
        file: Where it was written.
        text: The unit.

    Returns:
        Lines for the screen.
    """
    lines = (
        f"Written to {file}. As root, look at it, then:",
        f"   install -m 644 {file} /etc/systemd/system/ && systemctl enable --now {file.name}",
    )
    if "LoadCredential" not in text:
        return lines
    return (
        *lines,
        "Put the passphrase into the file that LoadCredential names, mode 600, before.",
    )


def _unit(
    what: str,
    command: Sequence[str],
    folder: Path,
    *,
    writable: Sequence[Path],
    further: Sequence[str] = (),
    environment: Sequence[str] = (),
    capability: str = "",
) -> str:
    skinml = Path(sys.executable).with_name("skinml")
    lines = (
        "[Unit]",
        f"Description=skinml: {what}".replace("%", "%%"),
        "Wants=network-online.target",
        "After=network-online.target",
        "",
        "[Service]",
        f"User={os_user()}",
        f"ExecStart={_quoted(skinml)} {' '.join(command)} --folder {_quoted(folder)}",
        *further,
        "# The home folder is read-only; what a library keeps for itself goes with the service.",
        f"Environment={' '.join(['MPLCONFIGDIR=/tmp/matplotlib', *environment])}",
        "Restart=on-failure",
        "RestartSec=10",
        f"SuccessExitStatus={_INTERRUPTED}",
        "TimeoutStopSec=60",
        *_HARDENED,
        f"CapabilityBoundingSet={capability}",
        f"AmbientCapabilities={capability}",
        f"ReadWritePaths={' '.join(map(_quoted, writable))}",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
        "",
    )
    return "\n".join(lines)


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{text}"'
