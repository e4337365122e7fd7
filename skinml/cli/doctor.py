"""`skinml doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from skinml.cli.options import AsJson


def doctor(
    work_dir: Annotated[Path, typer.Option(help="The working folder of runs to come.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Say what is installed, what is missing, and what to type.

    Example: skinml doctor
    """
    from skinml.experiments.doctor import examine

    findings = examine(work_dir)
    if as_json:
        print(json.dumps({"findings": [asdict(each) for each in findings]}), flush=True)
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        for each in findings:
            table.add_row(
                "ok" if each.ok else "[bold]MISSING[/bold]", each.what, each.found, each.do
            )
        Console().print(table)
    if not all(each.ok for each in findings):
        raise typer.Exit(6)
