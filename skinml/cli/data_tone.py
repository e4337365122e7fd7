"""`skinml data tone`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from skinml.cli.options import AsJson
from skinml.cli.progress import Bars
from skinml.errors import DataError

if TYPE_CHECKING:
    from skinml.experiments.tones import MeasuredTones


def tone(
    manifest: Annotated[Path, typer.Argument(help="The manifest of the close-ups.")],
    root: Annotated[
        Path | None, typer.Option(help="Folder of the images; by default the manifest's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Tones file, .csv or .parquet; by default beside it.")
    ] = None,
    table: Annotated[
        str, typer.Option(help="Cuts: del_bino_2013, kinyanjui_2019 or groh_2021.")
    ] = "del_bino_2013",
    lesion_masks: Annotated[
        Path | None, typer.Option(help="Folder of masks, NAME.png for an image NAME.jpg.")
    ] = None,
    by_tone: Annotated[
        Path | None, typer.Option(help="Also write this manifest, grouped by apparent tone.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Measure dermoscopic and unknown images too.")
    ] = False,
    exposure: Annotated[
        float | None, typer.Option(help="Doubt about the exposure, in stops (0.4).")
    ] = None,
    white_balance: Annotated[
        float | None, typer.Option(help="Doubt about the white balance, as a share (0.05).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the intervals.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure the apparent tone (ITA) of the skin in close-ups.

    Example: skinml data tone clinic/manifest.csv
    """
    if not manifest.is_file():  # told before what takes seconds to load
        raise DataError(
            rule="a readable manifest",
            got=f"{manifest.name}: no such file",
            do=f"Put a manifest at {manifest}, or name another one.",
        )
    from skinml.experiments.tones import measure_tones

    with Bars(quiet=as_json) as bars:
        done = measure_tones(
            manifest,
            {"table": table, "exposure_stops": exposure, "white_balance": white_balance},
            bars,
            root=root,
            out=out,
            lesion_masks=lesion_masks,
            by_tone=by_tone,
            force=force,
            seed=seed,
        )
    if as_json:
        facts = {"scale": done.scale, "tones": str(done.tones), "rates": done.rates}
        print(json.dumps(facts, allow_nan=False), flush=True)
    else:
        _show(done)


def _show(done: MeasuredTones) -> None:
    """Print how often the tone could be measured; no tone of anybody."""
    everything = done.rates[0]
    print(f"Tone measured on {everything['num_measured']} of {everything['num_images']} images.")
    print(f"Scale: {done.scale}\n  {done.source}")
    rows = Table(box=None, pad_edge=False)
    for heading in ("group", "value", "images", "measured", "95% limits"):
        rows.add_column(heading, justify="left" if heading in ("group", "value") else "right")
    for each in done.rates[1:]:
        limits = f"{float(each['low']):.0%} to {float(each['high']):.0%}"
        rows.add_row(
            str(each["attribute"]),
            str(each["group"]),
            str(each["num_images"]),
            f"{float(each['rate']):.0%}",
            limits,
        )
    Console().print(rows)
    print(f"Tones, an image a row: {done.tones}\nRates and reasons: {done.rates_file}")
    print("The tones are about patients: keep the file at the clinic.")
