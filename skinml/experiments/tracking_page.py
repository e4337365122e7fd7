"""MLflow's page on what a working folder has tracked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from skinml.config import parse_config
from skinml.errors import DataError
from skinml.experiments.result import read_mlflow_run, read_record
from skinml.experiments.workspace import Workspace
from skinml.tracking.page import serve_page
from skinml.tracking.settings import TrackingSettings


def open_tracking(
    run: str | None, *, work_dir: Path, port: int, ready: Callable[[str], None]
) -> None:
    """Serve MLflow's page until Ctrl-C or a signal.

    Args:
        run: A run's id or folder, whose page it shall be; None: the list of runs.
        work_dir: The working folder.
        port: The port on 127.0.0.1; 0 takes a free one.
        ready: Hears the address once it answers.

    Raises:
        DataError: If there is nothing tracked, or the run is not.
        EnvironmentProblem: If the port is taken, or the server does not start.
    """
    tracked, settings = None, TrackingSettings()
    if run is not None:
        folder = Workspace(work_dir).find_run(run)
        tracked = read_mlflow_run(folder)
        if tracked is None:
            raise DataError(
                rule="a run that was tracked in MLflow",
                got=f"{folder.name}, which ran with tracking.enabled=false",
                do="Open its report.html instead.",
            )
        settings = parse_config(dict(read_record(folder).config)).tracking
    serve_page(settings, work_dir, port=port, ready=ready, mlflow_run=tracked)
