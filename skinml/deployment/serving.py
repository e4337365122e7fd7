"""What runs on the coordinator's machine while a federation is served, and how it is ended."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime

import psutil

from skinml.deployment.federation_folder import (
    FederationFolder,
    Served,
    renew_server_certificate,
)
from skinml.deployment.invitations import split_address, time_text
from skinml.deployment.proxy import proxy_part
from skinml.deployment.superlink import (
    control,
    executor_part,
    free_port,
    listed,
    superlink_part,
    take_back,
    wait_ready,
)
from skinml.deployment.supervision import JsonLog, Supervision, Told, end_leftovers
from skinml.durable import locked, remove, write_whole
from skinml.errors import EnvironmentProblem, SkinmlError

_STOP_S = 40.0
_POLL_S = 0.1
_PROXY_S = 60.0
_DAY_S = 86400.0


def serve(
    folder: FederationFolder,
    told: Told = lambda part, event, words: None,
    *,
    until: Callable[[], bool] = lambda: False,
) -> None:
    """Serve a federation: SuperLink, executor and proxy, until asked to end.

    Args:
        folder: The federation's folder.
        told: Called with a part, an event and words: `listening` when a part is ready, and the
            events of `Supervision`.
        until: Ends the serving when it holds; by default only Ctrl-C and SIGTERM do.

    Raises:
        ConfigError: If the certificate has expired and cannot be renewed.
        EnvironmentProblem: If the federation is served already, the address is taken, or a part
            does not come up.
        IntegrityError: If a file of the folder is damaged.
        KeyboardInterrupt: If the user ends it.

    Guarantees:
        On return every process that was started has ended.
    """
    _require_unserved(folder)
    with locked(folder.path / ".serve.lock", "federation", patience_s=1.0):
        end_leftovers(folder.book)
        if renew_server_certificate(folder, datetime.now(UTC)):
            told("certificate", "renewed", "for another year")
        _require_free(folder.settings.listen)
        port = free_port(_last_port(folder))
        parts = (superlink_part(folder, port), proxy_part(folder, port))
        log = JsonLog(folder.logs / "serve.jsonl")
        supervision = Supervision(parts, log, folder.book, told=told)
        try:
            with supervision.running():
                _write_served(folder, port)
                wait_ready(folder, port)
                told("superlink", "listening", f"127.0.0.1:{port}, on this machine alone")
                supervision.add(executor_part(folder, port))  # now: it is slow to ask again
                told("executor", "listening", "for runs; each gets a process of its own")
                _wait_for_proxy(folder)
                told("proxy", "listening", f"{folder.settings.listen}, for clinics")
                take_back_revoked(folder, port)
                look = _DailyLook(folder, supervision, told)
                supervision.wait(lambda: look() or until())
        finally:
            remove(folder.path / "serve.json", "serve.json")


def renew_while_served(
    folder: FederationFolder, supervision: Supervision, told: Told, now: datetime
) -> None:
    """Renew the server's certificate in its last month, and have the parts that show it restart.

    Runs go on: nodes and runs try again until the SuperLink is back, which takes seconds.

    Args:
        folder: The federation's folder.
        supervision: The running parts.
        told: As for `serve`.
        now: The time, with its zone.
    """
    try:
        renewed = renew_server_certificate(folder, now)
    except SkinmlError as error:  # serving goes on: whoever is connected stays so
        told("certificate", "not renewed", str(error))
        return
    if renewed:
        told("certificate", "renewed", "for another year")
        for name in ("superlink", "proxy"):
            supervision.restart(name)


def stop(folder: FederationFolder) -> int:
    """End the serving of a federation, and what a killed one has left behind.

    Args:
        folder: The federation's folder.

    Returns:
        How many processes there were: the serving one, or what it had left.

    Raises:
        EnvironmentProblem: If the serving process does not end in time, or is another user's.
    """
    served = folder.served()
    if served is None:
        return end_leftovers(folder.book)
    try:
        os.kill(served.pid, signal.SIGTERM)
    except ProcessLookupError:
        return end_leftovers(folder.book)
    except PermissionError as error:
        raise EnvironmentProblem(
            rule="a process of your own",
            got=f"process {served.pid} of another user",
            do="Run skinml federation stop as the user who serves the federation.",
        ) from error
    until = time.monotonic() + _STOP_S
    while folder.served() is not None:
        if time.monotonic() > until:
            raise EnvironmentProblem(
                rule=f"a serving process that ends within {_STOP_S:g} s",
                got=f"process {served.pid} still there",
                do=f"Look at it; if it hangs, end it (kill -9 {served.pid}) and run this again.",
            )
        time.sleep(_POLL_S)
    return 1 + end_leftovers(folder.book)


def take_back_revoked(folder: FederationFolder, port: int | None = None) -> int:
    """Take the keys of revoked clinics back where the SuperLink still has them.

    Args:
        folder: The federation's folder.
        port: The SuperLink's port; by default that of the process which serves the federation.

    Returns:
        How many keys were taken back.

    Raises:
        EnvironmentProblem: If nobody serves the federation or the SuperLink refuses.
    """
    with folder.changing() as book:  # so that nobody is just joining
        joined = {each.node_id for each in book.values() if each.state == "joined"}
        # A clinic whose joining was cut off comes again with the same key.
        joining = {name for name, each in book.items() if each.state == "invited"}
        with control(folder, port) as client:
            gone = [
                node.id
                for node in listed(client)
                if node.id not in joined and node.name not in joining
            ]
            for node_id in gone:
                take_back(client, node_id)
    return len(gone)


class _DailyLook:
    """Looks at the certificate once a day; called often."""

    def __init__(self, folder: FederationFolder, supervision: Supervision, told: Told) -> None:
        self._what = (folder, supervision, told)
        self._next = time.monotonic() + _DAY_S

    def __call__(self) -> bool:
        """Look if it is time to; never end anything."""
        if time.monotonic() >= self._next:
            self._next += _DAY_S
            renew_while_served(*self._what, datetime.now(UTC))
        return False


def _wait_for_proxy(folder: FederationFolder) -> None:
    host, outside = split_address(folder.settings.listen)
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 compared, not bound
    until = time.monotonic() + _PROXY_S
    while True:
        try:
            with socket.create_connection((local, outside), timeout=5.0):
                break
        except OSError:
            if time.monotonic() > until:
                raise EnvironmentProblem(
                    rule=f"a proxy that listens on {folder.settings.listen}",
                    got="nobody there",
                    do=f"Look into {folder.logs / 'serve.jsonl'} for what it said.",
                ) from None
            time.sleep(_POLL_S)


def _require_unserved(folder: FederationFolder) -> None:
    served = folder.served()
    if served is not None:
        raise EnvironmentProblem(
            rule="a federation that nobody serves yet",
            got=f"process {served.pid}, which serves it since {served.since}",
            do="Nothing is to be done; to end it: skinml federation stop.",
        )


def _require_free(listen: str) -> None:
    host, port = split_address(listen)
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise EnvironmentProblem(
                rule=f"an address {listen} to listen on",
                got=error.strerror or type(error).__name__,
                do="End the program that has the port, or make the federation with another "
                "--address or --listen.",
            ) from None


def _write_served(folder: FederationFolder, port: int) -> None:
    me = psutil.Process()
    served = Served(
        pid=me.pid, born=me.create_time(), port=port, since=time_text(datetime.now(UTC))
    )
    write_whole(folder.superlink / "port", str(port).encode(), "port")
    write_whole(folder.path / "serve.json", served.model_dump_json().encode(), "serve.json")


def _last_port(folder: FederationFolder) -> int | None:
    """Read the last port, so that what a restart finds still running finds the SuperLink again."""
    try:
        return int((folder.superlink / "port").read_text())
    except (OSError, ValueError):
        return None
