"""`skinml data ...`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from skinml.cli import data_tone
from skinml.cli.options import AsJson

_TONES_WIDTH = 13

app = typer.Typer(
    no_args_is_help=True,
    help="Bring published datasets into skinml's layout, draw one, measure tones.",
)
app.command()(data_tone.tone)


@app.callback()
def _group() -> None:
    """Bring published datasets into skinml's layout, draw one, measure tones."""


@app.command()
def prepare(
    dataset: Annotated[str, typer.Argument(help="Such as ham10000, milk10k or ddi.")],
    source: Annotated[Path, typer.Argument(help="The folder as its publisher lays it out.")],
    into: Annotated[
        Path | None, typer.Option(help="Where the manifest goes; by default the source folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the manifest of a published dataset.

    Example: skinml data prepare ham10000 ./HAM10000
    """
    from skinml.experiments.prepare import prepare_dataset

    path, rows = prepare_dataset(dataset, source, into or source)
    if as_json:
        print(json.dumps({"manifest": str(path), "images": rows}), flush=True)
    else:
        print(f"{rows} images: {path}")


@app.command("list")
def list_known(as_json: AsJson = False) -> None:
    """List the published datasets that skinml reads; it downloads none of them.

    Example: skinml data list
    """
    from skinml.experiments.prepare import known_datasets

    known = known_datasets()
    if as_json:
        print(json.dumps({"datasets": known}), flush=True)
        return
    from skinml.cli.screen import narrow_console, plain_table

    console, columns = narrow_console(), ("name", "unit", "skin tone", "what, where and licence")
    table = plain_table(*columns, words=columns)
    table.columns[2].max_width = _TONES_WIDTH
    for name, each in known.items():
        beside = [other for other in each["experiments"] if other != name]
        table.add_row(
            name,
            each["unit"],
            each["tones"],
            "\n".join(
                (each["what"], each["where"], each["licence"], *(f"also: {x}" for x in beside), "")
            ),
        )
    console.print(table)
    console.print("skinml data prepare NAME FOLDER, then skinml run NAME data.root=FOLDER")


@app.command()
def draw(
    folder: Annotated[Path, typer.Argument(help="The folder to be made; new or empty.")],
    patients: Annotated[int, typer.Option("--patients", help="How many, of one clinic.")] = 200,
    size: Annotated[int, typer.Option("--size", help="Pixels along an image's side.")] = 128,
    seed: Annotated[int, typer.Option("--seed", help="Another number: other patients.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Draw patients that nobody is, with lesions on skin of every tone, to try skinml with.

    Example: skinml data draw ./images --patients 200 --seed 1
    """
    from skinml.experiments.prepare import draw_patients

    path, images = draw_patients(folder, patients, size, seed)
    if as_json:
        told = {"manifest": str(path), "images": images, "patients": patients}
        print(json.dumps(told), flush=True)
    else:
        print(f"{images} images of {patients} drawn patients: {path}")
