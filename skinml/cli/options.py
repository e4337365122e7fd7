"""Options that several commands share, so that they are called and explained alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skinml.cli.completion import experiment_names, finished_runs

Experiment = Annotated[
    str,
    typer.Argument(help="One of configs/experiment/*.yaml.", autocompletion=experiment_names),
]
Overrides = Annotated[list[str] | None, typer.Argument(help="Changes such as privacy.epsilon=1.")]
FinishedRun = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A finished run's id or folder.", autocompletion=finished_runs
    ),
]
AtFolder = Annotated[Path, typer.Option("--folder", help="The clinic's folder.")]
AtFederation = Annotated[Path, typer.Option("--folder", help="The federation's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Manifest = Annotated[str, typer.Option(help="The list's name.")]
Taxonomy = Annotated[
    Path | None, typer.Option(help="Your own words for diagnoses and sites, YAML.")
]
AskedClinics = Annotated[
    list[str] | None,
    typer.Option("--clinic", help="A clinic to be asked; may be repeated. Default: all."),
]
Hours = Annotated[
    float, typer.Option("--hours", min=0.01, max=2160, help="How long clinics may take.")
]
