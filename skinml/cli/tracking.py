"""`skinml mlflow`: MLflow's page on this computer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skinml.cli.browser import open_browser
from skinml.cli.completion import finished_runs


def mlflow(
    run: Annotated[
        str | None,
        typer.Argument(
            help="A run's id: its page. By default the list of runs.", autocompletion=finished_runs
        ),
    ] = None,
    work_dir: Annotated[Path, typer.Option(help="The working folder with the runs.")] = Path(),
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port on this computer; 0: a free one.")
    ] = 0,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address and open no browser.")
    ] = False,
) -> None:
    """Open MLflow's page on the runs of a working folder, until Ctrl-C.

    Each run's page begins with what ran, on what, at which epsilon, and how it did by skin tone.
    It answers on 127.0.0.1 only, without a password, and MLflow's usage reports are off.

    Example: skinml mlflow --port 5000
    """
    from skinml.experiments.tracking_page import open_tracking

    print("Starting MLflow's page ...", flush=True)

    def ready(address: str) -> None:
        print(f"   {address}", flush=True)
        print("Ctrl-C ends it.", flush=True)
        if not no_browser:
            open_browser(address)

    open_tracking(run, work_dir=work_dir, port=port, ready=ready)
    print("MLflow's page has ended.", flush=True)
