"""`skinml federation submit | resume | runs`: runs of real clinics."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from skinml.cli.edge import printable
from skinml.cli.federation_status import stands, way_on
from skinml.cli.options import (
    AsJson,
    AskedClinics,
    AtFederation,
    Experiment,
    Hours,
    Overrides,
)

if TYPE_CHECKING:
    from skinml.deployment.federation_folder import FederationFolder


def submit(
    experiment: Experiment,
    overrides: Overrides = None,
    folder: AtFederation = Path(),
    clinic: AskedClinics = None,
    hours: Hours = 168.0,
    as_json: AsJson = False,
) -> None:
    """Ask the clinics for a run; it begins when each of them has said yes or no.

    Example: skinml federation submit derm_malignancy privacy.epsilon=1 --folder network
    """
    from skinml.deployment import submission

    def ask(opened: FederationFolder) -> str:
        return submission.submit(
            opened, experiment, overrides or (), clinics=clinic or (), within=timedelta(hours=hours)
        )

    ask_clinics(folder, ask, as_json=as_json)


def ask_clinics(folder: Path, ask: Callable[[FederationFolder], str], *, as_json: bool) -> None:
    """Hand a run in, start its coordinator, and say how to see what clinics answer.

    Args:
        folder: The federation's folder.
        ask: Writes the run down and gives its id.
        as_json: Print one JSON object.
    """
    from skinml.deployment.federation_folder import open_federation
    from skinml.deployment.flower_runs import start_run
    from skinml.deployment.superlink import control

    opened = open_federation(folder)
    with control(opened) as client:
        run = ask(opened)
        flower = start_run(client, run)
    if as_json:
        print(json.dumps({"run": run, "flower_run": flower}), flush=True)
        return
    print(f"Submitted: {run}")
    print("Each clinic now answers on its own machine: skinml clinic approve --folder CLINIC")
    print(f"How far it is: skinml federation runs --folder {shlex.quote(str(folder))}")


def resume(
    run: Annotated[str, typer.Argument(help="A run that was broken off.")],
    folder: AtFederation = Path(),
    as_json: AsJson = False,
) -> None:
    """Go on with a run of real clinics from its last whole round.

    Example: skinml federation resume derm_malignancy-20260101-120000-abcd --folder network
    """
    from skinml.deployment.federation_folder import open_federation
    from skinml.deployment.flower_runs import start_run
    from skinml.deployment.submission import find_submitted
    from skinml.deployment.superlink import control
    from skinml.errors import ConfigError
    from skinml.experiments.workspace import in_work

    opened = open_federation(folder)
    if in_work(find_submitted(opened, run)):
        raise ConfigError(
            rule="a run that was broken off",
            got=f"run={run}, which is going on or waits for clinics",
            do="See how far it is: skinml federation runs",
        )
    with control(opened) as client:
        flower = start_run(client, run)
    if as_json:
        print(json.dumps({"run": run, "flower_run": flower}), flush=True)
    else:
        print(f"{run} goes on.")


def runs(folder: AtFederation = Path(), as_json: AsJson = False) -> None:
    """Show how far each run is, and where each clinic stands.

    Example: skinml federation runs --folder network
    """
    from skinml.deployment.federation_folder import open_federation
    from skinml.deployment.standing import standings

    found = standings(open_federation(folder))
    if as_json:
        told = {run: asdict(standing) for run, standing in found.items()}
        print(json.dumps({"runs": told}), flush=True)
        return
    console = Console(highlight=False)
    if not found:
        console.print("No run yet: skinml federation submit EXPERIMENT")
    for run, standing in found.items():
        far = f"round {standing.round} of {standing.rounds}" if standing.rounds else ""
        console.print(Text(f"{run}  {standing.stage}  {far}".rstrip(), style="bold"))
        if standing.problem:
            console.print(Padding(Text(printable(standing.problem)), (0, 0, 0, 2)))
        if standing.stage == "failed":
            console.print(Padding(Text(way_on(run, standing)), (0, 0, 0, 2)))
        table = Table(box=None, pad_edge=False, show_header=False)
        for name in sorted(standing.clinics):
            table.add_row(Text(f"  {name}"), Text(printable(stands(standing, name))))
        console.print(table)
