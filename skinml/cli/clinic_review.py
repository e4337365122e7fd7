"""`skinml clinic review`: a page on this computer for pictures and runs that wait for a person."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skinml.cli.browser import open_browser
from skinml.cli.options import AtFolder


def review(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port on this computer; 0: a free one.")
    ] = 0,
    idle: Annotated[
        float, typer.Option(min=0.05, help="Minutes without anybody after which it ends.")
    ] = 15.0,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address and open no browser.")
    ] = False,
    folder: AtFolder = Path(),
) -> None:
    """Look at pictures and runs that wait for a person, in the browser of this computer.

    Accept, cover or reject pictures; see the budget, the last runs and the
    consents, and answer what a coordinator asks for. The page answers on
    127.0.0.1 only and ends with Ctrl-C, its Quit button, or when idle.

    Example: skinml clinic review --folder north
    """
    from skinml.clinic.opening import open_at_screen

    opened = open_at_screen(folder)  # told before what takes seconds to load
    from skinml.clinic.review_server import serve_review
    from skinml.deployment.runs_desk import ClinicRuns

    def ready(address: str) -> None:
        print("Open this address in one browser; it is good once:", flush=True)
        print(f"   {address}", flush=True)
        print("Ctrl-C or the button Quit ends the review.", flush=True)
        if not no_browser:
            open_browser(address)

    serve_review(opened, port=port, idle_s=60 * idle, ready=ready, runs=ClinicRuns(opened))
    print("The review has ended. Nothing of it is open any more.", flush=True)
