"""Serving the review page on this computer, until somebody ends it or nobody is there."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn

from skinml.clinic.folder import ClinicFolder
from skinml.clinic.review import Review
from skinml.clinic.review_app import Desk, make_app
from skinml.clinic.review_guard import LOOPBACK, Door
from skinml.clinic.review_runs import RunsDesk
from skinml.errors import EnvironmentProblem


def serve_review(
    folder: ClinicFolder,
    *,
    port: int,
    idle_s: float,
    ready: Callable[[str], None],
    runs: RunsDesk | None = None,
) -> None:
    """Serve the page until Quit, a signal, or a time without anybody.

    Args:
        folder: The clinic's opened folder.
        port: The port on 127.0.0.1; 0 takes a free one.
        idle_s: Seconds without anybody after which it ends.
        ready: Hears the first address, which is good once.
        runs: Knows the runs that the clinic is asked for; None leaves them out.

    Raises:
        EnvironmentProblem: If the port is taken.
        IntegrityError: If something in the folder was changed.
        KeyboardInterrupt: If a signal ended it, once everything is closed.
        PolicyError: If the user may not review pictures.

    Guarantees:
        Nobody beyond this computer can reach it. When it returns or raises, the port is closed.
    """
    review = Review(folder)
    with _listening(port) as listener:
        door = Door(listener.getsockname()[1])

        def stop() -> None:
            server.should_exit = True

        config = uvicorn.Config(
            make_app(Desk(review, door, idle_s, stop, runs)),
            log_level="warning",
            access_log=False,  # addresses hold the token
            server_header=False,
            date_header=False,
            proxy_headers=False,
            http="h11",
            ws="none",
            lifespan="on",
            limit_concurrency=64,
            timeout_graceful_shutdown=3,
        )
        server = uvicorn.Server(config)
        ready(door.address)
        server.run(sockets=[listener])


def _listening(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise EnvironmentProblem(
            rule="a free port on this computer",
            got=f"port={port}: {error.strerror}",
            do="Leave --port away, and a free one is taken.",
        ) from None
    return listener
