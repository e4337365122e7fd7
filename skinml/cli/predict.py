"""`skinml predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from skinml.cli.options import AsJson, FinishedRun
from skinml.cli.runs import WorkDir

if TYPE_CHECKING:
    from skinml.experiments.predicting import Prediction


def predict(
    run: FinishedRun,
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Image files. A model of several views takes them lesion after lesion."
        ),
    ],
    tone: Annotated[
        str | None,
        typer.Option(
            metavar="GROUP",
            help="The patient's skin tone group; without it the widest set of all groups counts. "
            "'measure': from the close-up, where the run's own tones were measured so.",
        ),
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Also write the answers as a page, without pictures.")
    ] = None,
    work_dir: WorkDir = Path(),
    as_json: AsJson = False,
) -> None:
    """Ask a finished run's model about images; a clinician decides.

    Nothing leaves this machine, and nothing is kept but the page that --page asks for.

    Example: skinml predict quickstart-20260101-120000-abcd lesion.jpg --tone 4-6
    """
    from skinml.experiments.workspace import Workspace

    Workspace(work_dir).find_run(run)  # told before what takes seconds to load
    from skinml.experiments.predicting import predict_run, save_page

    made = predict_run(run, images, group=tone, work_dir=work_dir)
    if page is not None:
        save_page(made, page)
    if as_json:
        print(json.dumps(made.values(), allow_nan=False), flush=True)
        return
    _show(made)
    if page is not None:
        Console(soft_wrap=True).print(f"Page:    {page.resolve()}")


def _show(made: Prediction) -> None:
    console = Console(highlight=False)
    for line in made.words():
        console.print(line, markup=False)
