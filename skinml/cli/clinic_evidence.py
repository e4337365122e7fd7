"""`skinml clinic evidence`: documents for data protection, for patients and for the worst day."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from skinml.cli.options import AsJson, AtFolder
from skinml.cli.screen import narrow_console


def evidence(
    to: Annotated[Path, typer.Option("--to", help="A new folder for the documents.")],
    contact: Annotated[
        str, typer.Option(help="How patients reach the clinic, for the notice; one line.")
    ] = "",
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Write drafts of what the law asks to have in writing, from the clinic's own files.

    A notice for patients, an impact assessment, a record of processing, a map
    of laws' articles and a runbook for a breach: each as text to edit and as a
    page to print. What only people can know is marked "To fill in".

    Example: skinml clinic evidence --to evidence --folder north
    """
    from skinml.clinic.evidence import DOCUMENTS, write_evidence
    from skinml.clinic.opening import open_at_screen

    done = write_evidence(
        open_at_screen(folder), to, now=datetime.now().astimezone(), contact=contact
    )
    if as_json:
        values = {
            "folder": str(done.folder),
            "documents": done.documents,
            "articles": dict(done.lines),
            "to_fill": done.to_fill,
        }
        print(json.dumps(values, allow_nan=False), flush=True)
        return
    console = narrow_console()
    table = Table(box=None, pad_edge=False)
    table.add_column("document")
    table.add_column("to print", no_wrap=True)
    table.add_column("to edit", no_wrap=True)
    for name in done.documents:
        table.add_row(DOCUMENTS[name], f"{name}.html", f"{name}.md")
    console.print(table)
    for status, count in done.lines.items():
        console.print(Text(f"{count:3d} demands of the laws: {status}"))
    console.print(
        Text(
            f"{done.to_fill} places are left to fill in, and all of it is to be read by people "
            f"before it is used. It is in {done.folder}."
        )
    )
