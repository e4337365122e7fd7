"""Flower's simulation runtime: nodes that play the clinics, worker processes, no network."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread, current_thread
from typing import TypeVar

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from skinml.federated.hosts import HostApp, HostGrid, hosts

T = TypeVar("T")

_GRACE_S = 10
# Set only where the user has not: no usage reports, no look for updates, no installs at run time.
QUIET_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}
# Read by what computes as soon as a worker process loads it.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def simulate(
    app: ClientApp,
    num_clinics: int,
    drive: Callable[[HostGrid, Event], T],
    *,
    cpus: int = 0,
    num_nodes: int = 0,
) -> T:
    """Run a coordinator against virtual clinics.

    Args:
        app: The client app; it and what it refers to travel to worker processes.
        num_clinics: How many clinics.
        drive: The coordinator: gets the grid and an event that is set when the run must end.
        cpus: Processor cores, one worker each; 0 takes all there are, at most 8.
        num_nodes: Flower's nodes; 0 takes those that play the clinics, see `hosts`.

    Returns:
        What drive returned.

    Raises:
        SkinmlError: Whatever drive raised.

    Guarantees:
        When it returns or raises, Ctrl-C included, its worker processes have been told to end and
        Ray is shut down. A worker computes in one thread, whatever the environment says of threads.
    """
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray  # only here: it takes seconds to load
    from flwr.simulation import run_simulation

    cores = cpus or min(os.cpu_count() or 1, 8)
    num_hosts = hosts(num_clinics, cores)
    outcome: list[T] = []
    servers: list[Thread] = []
    stop = Event()
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        servers.append(current_thread())
        outcome.append(drive(HostGrid(grid, num_clinics, num_hosts), stop))

    level = logging.getLogger("flwr").level
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    try:
        with _one_thread_a_worker(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # third-party deprecations on every start of Ray
            run_simulation(
                server_app=server,
                client_app=HostApp(app),
                num_supernodes=num_nodes or num_hosts,
                backend_config={
                    "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
                    "init_args": {
                        "num_cpus": cores,
                        "num_gpus": 0,
                        "include_dashboard": False,
                        "logging_level": "ERROR",
                        "log_to_driver": False,
                    },
                },
            )
    finally:
        stop.set()
        for thread in servers:  # Ctrl-C reaches the main thread only
            thread.join(_GRACE_S)
        ray.shutdown()
        logging.getLogger("flwr").setLevel(level)
    return outcome[0]


@contextmanager
def _one_thread_a_worker() -> Iterator[None]:
    """Have processes that are started meanwhile compute in one thread each.

    There is a worker a core. With two threads each, all wait for each other at the end of every
    layer: DP-SGD of a small network then takes about seven times the processor time.
    """
    before = {name: os.environ.pop(name, None) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
