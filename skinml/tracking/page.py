"""MLflow's own page on the store of a working folder, on this computer only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING
from urllib.error import URLError

from skinml.errors import DataError, EnvironmentProblem
from skinml.tracking.mlflow_tracker import MlflowTracker, artifact_root, tracking_uri
from skinml.tracking.overview import VIEW, experiment_tags
from skinml.tracking.quiet import quiet
from skinml.tracking.settings import TrackingSettings

if TYPE_CHECKING:
    from mlflow import MlflowClient

_HOST = "127.0.0.1"
_SQLITE = "sqlite:///"
_PATIENCE_S, _GRACE_S, _POLL_S = 180.0, 5.0, 0.2
_TAIL = 400


def serve_page(
    settings: TrackingSettings,
    folder: Path,
    *,
    port: int,
    ready: Callable[[str], None],
    mlflow_run: str | None = None,
) -> None:
    """Serve MLflow's page until Ctrl-C or a signal.

    Args:
        settings: Where the store is.
        folder: The working folder, which holds the store where no address is given.
        port: The port on 127.0.0.1; 0 takes a free one.
        ready: Hears the address of the list of runs, or of one run's page, once it answers.
        mlflow_run: MLflow's id of the run whose page it is; None: the list.

    Raises:
        DataError: If there is no store yet, or it is a server with a page of its own.
        EnvironmentProblem: If the port is taken, or the server does not start.

    Guarantees:
        Nobody beyond this computer can reach it, and MLflow reports its use to nobody. When it
        returns or raises, the server has ended. Whoever has an account on this computer can
        reach it, as far as nothing else forbids: MLflow asks for no password.
    """
    uri = _local_store(settings, folder)
    port = _free_port(port)
    place = _page_of(settings, folder, mlflow_run)
    with TemporaryFile() as log, _server(uri, port, log) as process:
        _wait(process, port, log)
        ready(f"http://{_HOST}:{port}/{place}")
        with suppress(KeyboardInterrupt):
            process.wait()
            raise _not_started(log)


def _local_store(settings: TrackingSettings, folder: Path) -> str:
    uri = tracking_uri(settings, folder)
    if uri.startswith(("http://", "https://")):
        raise DataError(
            rule="a store without a page of its own",
            got="the address of an MLflow server",
            do="Open that address in a browser.",
        )
    if uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE)).is_file():
        raise DataError(
            rule="the tracking store of a working folder",
            got=f"no mlflow.db in {folder}",
            do="Run an experiment there first, or name the folder with --work-dir.",
        )
    return uri


def _page_of(settings: TrackingSettings, folder: Path, mlflow_run: str | None) -> str:
    """Say which page is to be shown, and see to it that the list has its columns."""
    with MlflowTracker(settings, folder).store() as client:
        if mlflow_run is not None:
            experiment = str(client.get_run(mlflow_run).info.experiment_id)
            return f"#/experiments/{experiment}/runs/{mlflow_run}"
        found = client.get_experiment_by_name(settings.experiment)
        if found is None:
            return ""
        _see_to_view(client, str(found.experiment_id), found.tags)
        return f"#/experiments/{found.experiment_id}/runs?viewStateShareKey={VIEW}"


def _see_to_view(client: MlflowClient, experiment: str, known: dict[str, str]) -> None:
    """Give an experiment that an older skinml made, or that has older columns, its tags."""
    for name, value in experiment_tags().items():
        # Somebody's own words about the experiment stay.
        if name not in known or ("sharedViewState" in name and known[name] != value):
            client.set_experiment_tag(experiment, name, value)


def _free_port(port: int) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise EnvironmentProblem(
                rule="a free port on this computer",
                got=f"port={port}: {error.strerror}",
                do="Choose another with --port, or leave --port away, and a free one is taken.",
            ) from None
        return int(probe.getsockname()[1])


def _command(uri: str, port: int) -> list[str]:
    store = ["--backend-store-uri", uri, "--no-serve-artifacts"]
    if uri.startswith(_SQLITE):
        store += ["--default-artifact-root", artifact_root(uri)]
    net = ["--host", _HOST, "--port", str(port), "--workers", "1"]
    # With options for gunicorn MLflow serves its tracking alone: the assistant beside it, which
    # runs commands on this computer for whoever asks on this port, is not there.
    net += ["--gunicorn-opts", "--log-level warning --threads 4"]
    # Without -P a folder called mlflow where the user happens to be would be run instead.
    return [sys.executable, "-P", "-m", "mlflow", "server", *store, *net]


@contextmanager
def _server(uri: str, port: int, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    with quiet():  # sets the variables that keep MLflow from reporting its use
        environment = dict(os.environ)
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    # A page of elsewhere that gave this address a name of its own is turned away.
    environment["MLFLOW_SERVER_ALLOWED_HOSTS"] = f"{_HOST}:{port},localhost:{port}"
    # A session of its own: Ctrl-C is for skinml, which then ends the server and its workers.
    with subprocess.Popen(  # noqa: S603 - our own words and a checked address
        _command(uri, port),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server with its workers, which are a group of processes of their own."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)


def _wait(process: subprocess.Popen[bytes], port: int, log: IO[bytes]) -> None:
    until = time.monotonic() + _PATIENCE_S
    while process.poll() is None and time.monotonic() < until:
        with (
            suppress(URLError, ConnectionError, TimeoutError),
            urllib.request.urlopen(f"http://{_HOST}:{port}/health", timeout=5) as answer,
        ):
            if answer.status == 200:
                return
        time.sleep(_POLL_S)
    raise _not_started(log)


def _not_started(log: IO[bytes]) -> EnvironmentProblem:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
    return EnvironmentProblem(
        rule="MLflow's server to start and to stay",
        got=lines[-1][-_TAIL:],
        do="Try another --port; skinml doctor says what is installed.",
    )
