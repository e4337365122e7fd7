"""A SuperNode on a computer whose clock is wrong goes by the coordinator's."""

from __future__ import annotations

import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from skinml.deployment.certificates import Sealed, make_authority, make_server_certificate
from skinml.deployment.sign_off import sign_off
from skinml.deployment.superlink import free_port
from skinml.deployment.supernode import (
    RunOverError,
    about_clock,
    dropping_what_is_over,
    reckon_with,
    seconds_ahead,
)

NOW = datetime.now(UTC)
AUTHORITY = make_authority("network", NOW)


@contextmanager
def door(place: Path, *, behind_s: float) -> Iterator[str]:
    """A coordinator's door by another clock, which knows no page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(404)
            self.send_header("Date", self.date_time_string(time.time() - behind_s))
            self.send_header("Content-Length", "0")
            self.end_headers()

    sealed = make_server_certificate(AUTHORITY, "network", ["127.0.0.1"], NOW)
    (place / "crt").write_bytes(sealed.certificate)
    (place / "key").write_bytes(sealed.key)
    server = HTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place / "crt", place / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("behind_s", [0.0, 86400.0, -4000.0])
def test_the_difference_is_measured_to_about_a_second(tmp_path: Path, behind_s: float) -> None:
    with door(tmp_path, behind_s=behind_s) as address:
        found = seconds_ahead(address, AUTHORITY.certificate)
    assert found is not None
    assert abs(found - behind_s) < 1.5
    assert bool(about_clock(found)) == bool(behind_s)
    assert ("ahead of" in about_clock(found)) == (behind_s > 0)


def test_a_stranger_or_nobody_is_not_believed(tmp_path: Path) -> None:
    other: Sealed = make_authority("network", NOW)
    with door(tmp_path, behind_s=86400.0) as address:
        assert seconds_ahead(address, other.certificate) is None
    assert seconds_ahead(f"127.0.0.1:{free_port()}", AUTHORITY.certificate) is None
    assert about_clock(None) == ""


def test_flower_goes_by_the_other_clock_but_for_what_stays_on_this_computer() -> None:
    from flwr.supercore.auth import superexec
    from flwr.supernode import node_auth_http_interceptor as node
    from flwr.supernode.nodestate import in_memory_nodestate as state

    def off(module: object) -> float:
        return (datetime.now(UTC) - module.__dict__["now"]()).total_seconds()

    try:
        reckon_with(86400.0)
        assert off(node) == pytest.approx(86400, abs=1)
        assert off(state) == pytest.approx(86400, abs=1)
        assert off(superexec) == pytest.approx(0, abs=1)
        reckon_with(-100.0)  # measured anew: not added to what was
        assert off(node) == pytest.approx(-100, abs=1)
    finally:
        reckon_with(0.0)
    assert off(node) == pytest.approx(0, abs=1)


def test_a_message_whose_run_ended_is_dropped_by_flowers_own_way_of_dropping() -> None:
    from flwr.supercore.run import RunNotRunningException

    def over(*words: object) -> bytes:
        raise RunNotRunningException

    @contextmanager
    def usual(word: str) -> Iterator[tuple[object, ...]]:
        yield (word, 2, 3, 4, 5, over, over, lambda number, name: f"{number} {name}")

    with dropping_what_is_over(usual)("a node") as (first, *_, pull, push, confirm):
        assert first == "a node"
        with pytest.raises(RunOverError):
            pull(1, "part")
        with pytest.raises(RunNotRunningException):
            push(1, "part")  # nothing waits for this one
        assert confirm(1, "whole") == "1 whole"


def test_nobody_is_signed_off_where_nobody_answers(tmp_path: Path) -> None:
    (tmp_path / "ca").write_bytes(AUTHORITY.certificate)
    gone = f"127.0.0.1:{free_port()}"
    assert not sign_off(gone, tmp_path / "ca", tmp_path / "no key is needed", 1)


@pytest.mark.parametrize(
    ("ending", "code"),
    [("sys.exit(3)", 3), ("raise KeyboardInterrupt", 0), ("raise OSError('line')", 1), ("0", 0)],
)
def test_a_node_that_gives_up_ends_whatever_thread_it_leaves(ending: str, code: int) -> None:
    """Flower's thread for the runner is no daemon: the process would stay for ever."""
    script = (
        "import sys, threading, time\n"
        "from skinml.deployment.supernode import end_with\n"
        "def program():\n"
        "    threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "    print('said')\n"
        f"    {ending}\n"
        "end_with(program)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (code, "said\n")
