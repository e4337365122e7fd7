"""A clinic's side of a federation, kept running: Flower's SuperNode, and the runner beside it.

CLINIC'S FOLDER/federation/
  ca.crt          the authority of the federation, as the membership has it
  secret          what the SuperNode knows its runner by, drawn anew at each start
  flower/         Flower's own files
  empty/          where the processes stand
  node.log        what they said, JSON lines
  processes       which processes run, so that a later start ends those that a crash left behind
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from skinml.clinic.folder import ClinicFolder
from skinml.clinic.gate import require_role
from skinml.deployment.joining import Membership, node_key_file, require_membership
from skinml.deployment.runner import EXIT_LATE, EXIT_UNWANTED, USUAL_LIMIT_S, require_tested_flower
from skinml.deployment.sign_off import sign_off
from skinml.deployment.superlink import FLOWER_QUIET, LOOPBACK, SPOKEN, free_port
from skinml.deployment.supernode import about_clock, seconds_ahead
from skinml.deployment.supervision import (
    Backoff,
    Ended,
    JsonLog,
    Part,
    Supervision,
    Told,
    end_leftovers,
)
from skinml.deployment.tied import tied
from skinml.durable import locked, make_folder, write_whole
from skinml.errors import ConfigError, EnvironmentProblem
from skinml.stewardship.passphrases import FILE_VARIABLE, SecretSource

NODE, RUNNER = "node", "runner"
_REFUSED_WAIT_S = 15.0
_FORGOTTEN_AFTER = 12  # refusals in a row, three minutes: no crash explains so many
_LATEST_S = 60.0
_LOCK = ".serving.lock"
_FORESEEN = (2, 3, 4, 5, 6)  # what skinml's own errors end a process with


@dataclass(frozen=True)
class Serving:
    """What a clinic serves with.

    Attributes:
        folder: The clinic's folder.
        membership: Where it belongs.
        port: The SuperNode's port on this machine alone.
        limit_s: Seconds that one task may take.
        runner: The program that answers tasks; the folder, the address, the secret's file and
            the limit are added as arguments.
        environment: Variables beside those of this process.
    """

    folder: ClinicFolder
    membership: Membership
    port: int
    limit_s: float = USUAL_LIMIT_S
    runner: tuple[str, ...] = (sys.executable, "-m", "skinml.deployment.runner")
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def place(self) -> Path:
        """The folder of what its processes need, from the root on: they stand elsewhere."""
        return self.folder.path.resolve() / "federation"


def prepare(
    folder: ClinicFolder,
    *,
    limit_s: float = USUAL_LIMIT_S,
    environment: Mapping[str, str] | None = None,
    runner: Sequence[str] | None = None,
) -> Serving:
    """Check that a clinic can serve, and lay ready what its processes need.

    Args:
        folder: The clinic's folder.
        limit_s: Seconds that one task may take; above zero.
        environment: Variables beside those of this process.
        runner: Another program that answers tasks.

    Returns:
        What to serve with.

    Raises:
        ConfigError: If the clinic has joined no federation, or the limit is not above zero.
        EnvironmentProblem: If Flower is not a tested release, or a file cannot be written.
        IntegrityError: If the membership or its key was changed.
        PolicyError: If the user may not start runs here.
    """
    require_role(folder, "run.train")
    if not 0 < limit_s < 10 * 86400:
        raise ConfigError(
            rule="a limit above 0 and below ten days, in seconds",
            got=f"limit={limit_s:g}",
            do="Choose what a round takes here at most, many times over.",
        )
    require_tested_flower()
    serving = Serving(
        folder=folder,
        membership=require_membership(folder),
        port=free_port(),
        limit_s=limit_s,
        environment=tuple((environment or {}).items()),
    )
    for part in ("", "flower", "empty"):
        make_folder(serving.place / part, "federation's folder")
    write_whole(serving.place / "ca.crt", serving.membership.ca.encode(), "certificate")
    write_whole(serving.place / "secret", secrets.token_hex(32).encode(), "secret")
    if runner is None:
        return serving
    return Serving(**{**vars(serving), "runner": tuple(runner)})


def parts_of(serving: Serving) -> tuple[Part, Part]:
    """Describe a clinic's two processes.

    Args:
        serving: What it serves with.

    Returns:
        The SuperNode, which only dials out and hands tasks over on this machine's loopback; and
        the runner, which takes them. Both end when this process dies.
    """
    place, membership = serving.place, serving.membership
    node = (
        *(sys.executable, "-m", "skinml.deployment.supernode"),
        str(Path(sys.executable).with_name("flower-supernode")),
        *("--superlink", membership.address),
        *("--root-certificates", str(place / "ca.crt")),
        *("--auth-supernode-private-key", str(node_key_file(serving.folder, membership).resolve())),
        *("--isolation", "process"),
        *("--superexec-auth-secret-file", str(place / "secret")),
        *("--host", LOOPBACK, "--port", str(serving.port)),
    )
    runner = (
        *serving.runner,
        *("--folder", str(serving.folder.path.resolve())),
        *("--address", f"{LOOPBACK}:{serving.port}"),
        *("--secret-file", str(place / "secret")),
        *("--limit-s", f"{serving.limit_s:g}"),
    )
    quiet = FLOWER_QUIET | {"FLWR_HOME": str(place / "flower"), "PYTHONUNBUFFERED": "1"}
    return (
        Part(NODE, tied(node), place / "empty", quiet),
        Part(RUNNER, tied(runner), place / "empty", quiet | dict(serving.environment)),
    )


def serve(
    serving: Serving,
    *,
    told: Told = lambda part, event, words: None,
    until: Callable[[], bool] = lambda: False,
) -> None:
    """Keep a clinic's processes running until they are told to end.

    Args:
        serving: What it serves with.
        told: Called with a part, an event and words.
        until: Ends it where it says so; by default nothing does but Ctrl-C and SIGTERM.

    Raises:
        EnvironmentProblem: If this clinic is being served already, or a file cannot be written.

    Guarantees:
        Both processes have ended on return, whatever the reason. A coordinator that is away is
        tried again for ever. A node that died is signed off before the next one starts.
    """
    log, book = JsonLog(serving.place / "node.log"), serving.place / "processes"
    certificate, member = serving.place / "ca.crt", serving.membership

    def sign_off_the_dead() -> bool:
        key = node_key_file(serving.folder, member)
        return sign_off(member.address, certificate, key, member.node_id)

    def wait_s(ended: Ended) -> float | None:
        if ended.part == NODE and ended.code < 0 and sign_off_the_dead():
            return 1.0
        wait, words = explained(ended)
        if words:
            log.write(part=ended.part, event="why", words=words)
            told(ended.part, "why", words)
        return wait

    with locked(serving.place / _LOCK, "serving of this clinic", patience_s=0.0):
        if words := about_clock(seconds_ahead(member.address, member.ca.encode())):
            log.write(part=NODE, event="why", words=words)
            told("clock", "why", words)
        if book.exists():  # an earlier serving was killed, and perhaps its node
            end_leftovers(book)
            sign_off_the_dead()
        supervision = Supervision(
            parts_of(serving),
            log,
            book,
            told=told,
            backoff=Backoff(first_s=1.0, most_s=_LATEST_S),
            wait_s=wait_s,
        )
        with supervision.running():
            supervision.wait(until)


def is_served(folder: ClinicFolder) -> bool:
    """Tell whether a process keeps a clinic's side running now.

    Args:
        folder: The clinic's folder.

    Returns:
        Whether it does.
    """
    lock = folder.path / "federation" / _LOCK
    if not lock.exists():
        return False
    try:
        with locked(lock, "serving of this clinic", patience_s=0.0):
            return False
    except EnvironmentProblem:
        return True


def explained(ended: Ended) -> tuple[float | None, str]:
    """Say in words why a process ended.

    Args:
        ended: What ended.

    Returns:
        Seconds until it is started again, None where the usual back-off does; and words, empty
        where there are none.
    """
    said = "\n".join(ended.tail)
    if ended.part == RUNNER:
        words = {
            EXIT_LATE: "A task took longer than the limit; the runner starts anew.",
            EXIT_UNWANTED: "The coordinator gave a task up; the runner starts anew.",
        }
        if ended.code in _FORESEEN and ended.tail:
            return None, f"The runner cannot work: {ended.tail[-1]}"
        return (1.0 if ended.code in words else None), words.get(ended.code, "")
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return None, (
            "The coordinator does not show the federation's certificate, or it has ended. Check "
            "this computer's clock, then ask the coordinator. It is tried again."
        )
    spoken = [line.removeprefix(SPOKEN) for line in ended.tail if line.startswith(SPOKEN)]
    if spoken:  # the coordinator's door said why
        return (
            _LATEST_S,
            f"The coordinator does not let this clinic in. {spoken[-1]} It is tried again.",
        )
    if "2004" in said or "2001" in said:
        if ended.failures <= _FORGOTTEN_AFTER:
            return _REFUSED_WAIT_S, (
                "The coordinator does not let this clinic in yet. After a crash that is usual for "
                "about a minute. It is tried again."
            )
        return _LATEST_S, (
            "The coordinator refuses this clinic's key: it was revoked, or another computer uses "
            "it. Ask the coordinator; with a new invitation: skinml clinic join --invitation FILE "
            "--again --folder FOLDER"
        )
    return None, ""


@contextmanager
def handed_on(folder: ClinicFolder, source: SecretSource) -> Iterator[dict[str, str]]:
    """Hand a passphrase that was typed to the processes of this one, by way of memory alone.

    Args:
        folder: The opened folder.
        source: Gave the passphrase, and gives it again.

    Yields:
        The variables that the processes need, for as long as the block lasts.

    Raises:
        EnvironmentProblem: If this system has no such memory.
    """
    lock = folder.lock
    if lock is None or lock.method != "passphrase" or os.environ.get(FILE_VARIABLE):
        yield {}
        return
    if not hasattr(os, "memfd_create"):
        raise EnvironmentProblem(
            rule=f"a private file with the passphrase, named by {FILE_VARIABLE}",
            got="none",
            do="Set the variable, or lock the clinic's key with a key file: skinml clinic keys "
            "lock PLACE --folder FOLDER",
        )
    descriptor = os.memfd_create("passphrase")
    try:
        os.fchmod(descriptor, 0o600)
        os.write(descriptor, source().encode())
        yield {FILE_VARIABLE: f"/proc/{os.getpid()}/fd/{descriptor}"}
    finally:
        os.close(descriptor)
