"""`skinml doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skinml.cli.options import AsJson

if TYPE_CHECKING:
    from skinml.experiments.doctor import Finding


def doctor(
    work_dir: Annotated[Path, typer.Option(help="The working folder of runs to come.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Say what is installed, what is missing, and what to type.

    Example: skinml doctor
    """
    from skinml.experiments.doctor import examine

    findings = examine(work_dir)
    wrong = sum(not each.ok for each in findings)
    if as_json:
        print(json.dumps({"findings": [asdict(each) for each in findings]}), flush=True)
    else:
        console = Console()
        table = Table(box=None, pad_edge=False, show_header=False)
        for each in findings:
            table.add_row(_state(each), each.what, Text(each.found))
        console.print(table)
        for each in findings:
            if each.do:  # a command is copied: it stays one line
                console.print(Text(f"{each.what}: {each.do}"), soft_wrap=True)
        end = f"{wrong} to mend." if wrong else "All is there. Begin with: skinml run quickstart"
        console.print(Text(end, style="bold red" if wrong else "green"))
    if wrong:
        raise typer.Exit(6)


def _state(finding: Finding) -> Text:
    if not finding.ok:
        return Text("MEND", style="bold red")
    return Text("note", style="yellow") if finding.do else Text("ok", style="green")
