"""Flower's SuperNode, mended in three places: a wrong clock, a dead line, a run that ends early.

`python -m skinml.deployment.supernode flower-supernode ARGUMENT...`. Flower refuses a node whose
clock is more than five seconds ahead or five minutes behind, and a node drops messages that seem
too old by its own clock. Before the SuperNode starts, the coordinator is asked for the time, and
the SuperNode reckons with the difference. It sets nothing on this computer.

It changes parts of Flower that are internal, so it runs with the tested releases only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import httpx

from skinml.deployment.certificates import client_context
from skinml.durable import read_whole
from skinml.errors import SkinmlError

NOTICED_S = 2.0
"""Differences below this are not told apart from a slow line, and do no harm."""
_TIMEOUT_S = 10.0
Connection = Callable[..., contextlib.AbstractContextManager[tuple[Any, ...]]]
# What passes between the SuperNode and the runner, on this computer, goes by this computer's clock.
_OWN_CLOCK = "flwr.supercore.auth.superexec"


def seconds_ahead(address: str, authority: bytes) -> float | None:
    """Measure how far this computer's clock is ahead of the coordinator's.

    Args:
        address: The coordinator, host:port.
        authority: The federation's CA certificate, PEM.

    Returns:
        Seconds, below zero where it is behind, to about one second; None where the coordinator
        does not answer or shows another certificate.

    Raises:
        IntegrityError: If the authority is no certificate.
    """
    context = client_context(authority)
    try:
        with httpx.Client(verify=context, timeout=_TIMEOUT_S, trust_env=False) as client:
            before = datetime.now(UTC)
            told = client.get(f"https://{address}/").headers.get("date", "")
            after = datetime.now(UTC)
        # The header is cut to the second, and made anew once a second.
        there = parsedate_to_datetime(told) + timedelta(seconds=1)
    except (httpx.HTTPError, ValueError):
        return None
    return (before + (after - before) / 2 - there.astimezone(UTC)).total_seconds()


def about_clock(ahead_s: float | None) -> str:
    """Say what is wrong with this computer's clock.

    Args:
        ahead_s: What `seconds_ahead` gave.

    Returns:
        A sentence or two; empty where nothing is to be said.

    >>> about_clock(1.2)
    ''
    >>> about_clock(-86400.0)[:62]
    "The clock of this computer is 86,400 s behind the coordinator'"
    """
    if ahead_s is None or abs(ahead_s) <= NOTICED_S:
        return ""
    side = "ahead of" if ahead_s > 0 else "behind"
    return (
        f"The clock of this computer is {abs(ahead_s):,.0f} s {side} the coordinator's. The node "
        "reckons with it. Set the clock, by NTP best: consents and budgets go by it."
    )


def reckon_with(ahead_s: float) -> int:
    """Have the parts of Flower that are loaded in this process go by the coordinator's clock.

    Args:
        ahead_s: How far this computer's clock is ahead.

    Returns:
        In how many of Flower's modules.
    """
    from flwr.supercore import date

    latest, off = date.now, timedelta(seconds=ahead_s)
    flowers: Callable[[], datetime] = getattr(latest, "flowers", latest)

    def now() -> datetime:
        return flowers() - off

    now.__dict__["flowers"] = flowers  # for the next time
    found = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("flwr.") and getattr(module, "now", None) is latest
    ]
    for module in found:
        if module.__name__ != _OWN_CLOCK:
            module.__dict__["now"] = now
    return len(found)


class RunOverError(Exception):
    """A run ended while a message of it was being received."""


def dropping_what_is_over(usual: Connection) -> Connection:
    """Have a message dropped whole whose run ends while it is being received.

    Flower's own exception for that is no `Exception`: it passes by the place where the message and
    its task are removed. The task would stay, and whoever took it would wait for the rest of the
    message for ever: a clinic would answer nothing more.

    Args:
        usual: Flower's connection, which gives what a node says to a SuperLink: the sixth of these
            eight fetches a part of a message, the last confirms it.

    Returns:
        The same connection; those two raise an `Exception`.
    """
    from flwr.supercore.run import RunNotRunningException

    def plain(say: Callable[..., Any]) -> Callable[..., Any]:
        def said(*words: Any) -> Any:
            try:
                return say(*words)
            except RunNotRunningException:
                raise RunOverError("its run is over") from None

        return said

    @contextlib.contextmanager
    def connection(*given: Any, **named: Any) -> Iterator[tuple[Any, ...]]:
        with usual(*given, **named) as (*first, pull, push, confirm):
            yield (*first, plain(pull), push, plain(confirm))

    return connection


def end_with(program: Callable[[], object]) -> NoReturn:
    """Run a program and end this process with it, whatever threads it leaves.

    A SuperNode whose line goes dead gives up in the middle of a TLS handshake and ends, but for the
    thread that serves its runner: the process would stay, and no supervisor would start it anew.

    Args:
        program: What to run.
    """
    code = 1
    try:
        program()
        code = 0
    except KeyboardInterrupt:
        code = 0
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    # The process's edge: Flower's words go where its other words go.
    except Exception as error:  # noqa: BLE001
        traceback.print_exception(error)
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main(words: Sequence[str]) -> None:
    """Become the SuperNode.

    Args:
        words: The program's name and its arguments.
    """
    from flwr.supernode import start_client_internal as inside
    from flwr.supernode.cli import flower_supernode

    from skinml.deployment.runner import require_tested_flower

    try:
        require_tested_flower()
        place = dict(pairwise(words))
        authority = read_whole(Path(place["--root-certificates"]), "certificate")
        ahead = seconds_ahead(place["--superlink"], authority)
    except SkinmlError as error:
        sys.exit(str(error))
    if words_ := about_clock(ahead):
        print(words_, flush=True)  # noqa: T201 the supervisor's log reads it
        reckon_with(ahead or 0.0)
    inside.__dict__["_init_connection"] = dropping_what_is_over(inside._init_connection)
    sys.argv = list(words)
    end_with(flower_supernode)


if __name__ == "__main__":
    main(sys.argv[1:])
