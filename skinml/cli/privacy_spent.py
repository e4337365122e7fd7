"""`skinml privacy spent`: what the virtual clinics of a working folder have spent."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from skinml.cli.clinic_ledger import At, Delta, epsilon_words, left_words
from skinml.cli.options import AsJson
from skinml.cli.screen import narrow_console, plain_table

if TYPE_CHECKING:
    from skinml.clinic.statements import Spending


def spent(
    work_dir: Annotated[Path, typer.Option(help="The working folder of the runs.")] = Path(),
    at: At = None,
    delta: Delta = None,
    as_json: AsJson = False,
) -> None:
    """Verify the ledgers of all virtual clinics of a working folder and show what they add up to.

    A real clinic asks for its own: skinml clinic ledger.

    Example: skinml privacy spent --work-dir ./work --at 2026-12-31
    """
    from skinml.clinic.statements import read_all
    from skinml.experiments.workspace import Workspace

    found = read_all(
        Workspace(work_dir).clinics,
        now=datetime.now(UTC),
        at=None if at is None else at.date(),
        delta=delta,
    )
    if as_json:
        print(json.dumps(_values(found), allow_nan=False), flush=True)
    else:
        print_spending(found)


def print_spending(found: Spending) -> None:
    """Print one line a clinic, and the greatest.

    Args:
        found: The statements.
    """
    console, said = narrow_console(), found.clinics[0].statement
    units = sorted({unit for each in found.clinics for unit in each.statement.units})
    unit = " and ".join(word.replace("_", " ") for word in units) or "patient"
    console.print(Text(f"Spent by virtual clinics at {said.day}"), style="bold")
    console.print(Text(f"epsilon at delta {said.delta:g} for one {unit}, add or remove one"))
    table = plain_table(
        "clinic", "runs", "releases", "latest", "365 days", "total", "next run", words=("clinic",)
    )
    for each in found.clinics:
        table.add_row(
            Text(each.clinic),
            f"{len(each.statement.runs):,}",
            f"{each.statement.total.num_releases:,}",
            epsilon_words(each.run.spent),
            epsilon_words(each.year.spent),
            epsilon_words(each.life.spent),
            left_words(each.left),
        )
    console.print(table)
    console.print(Text(f"Greatest total: {epsilon_words(found.greatest)}"), style="bold")
    across = epsilon_words(found.everywhere)
    console.print(Text(f"For a patient whose data lie at all of these clinics: {across}"))
    bare = sum(each.statement.total.num_bare for each in found.clinics)
    fixed = sum(each.statement.total.num_fixed for each in found.clinics)
    for number, had in ((bare, "no noise"), (fixed, "noise that a test fixed")):
        if number:
            console.print(Text(f"{number:,} releases had {had}: unbounded, for good."))
    console.print(Text("Every line and every anchor hold. More: skinml clinic ledger"))


def _values(found: Spending) -> dict[str, Any]:
    from skinml.clinic.statements import plain_values

    return {
        "clinics": {each.clinic: plain_values(each) for each in found.clinics},
        "greatest_epsilon": found.greatest if isfinite(found.greatest) else None,
        "everywhere_epsilon": found.everywhere if isfinite(found.everywhere) else None,
        "delta": found.clinics[0].statement.delta,
        "day": found.clinics[0].statement.day.isoformat(),
    }
