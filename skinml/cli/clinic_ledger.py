"""`skinml clinic ledger`: what was spent, by run, by purpose and in total at a date."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from math import isinf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from skinml.cli.edge import printable
from skinml.cli.options import AsJson, AtFolder
from skinml.cli.screen import narrow_console, plain_table

if TYPE_CHECKING:
    from skinml.clinic.statements import Allowance, LedgerStatement, RunCost, Statement

_MOST_RUNS = 20
# What the trust model asks of others, so that a reader knows what the figures rest on.
_RESTS_ON = {
    "none": "none: no noise was added by anybody.",
    "central": "central: the coordinator said that it adds the noise; no ledger can see that.",
    "distributed": "distributed: holds where nobody sees one clinic's part before the sum.",
}

At = Annotated[
    datetime | None,
    typer.Option(formats=["%Y-%m-%d"], help="The last day that counts, in UTC; else today."),
]
Delta = Annotated[float | None, typer.Option(help="Read epsilon at this delta.")]


def ledger(
    at: At = None,
    delta: Delta = None,
    mark: Annotated[
        str | None, typer.Option(help="Where the ledger once ended, as this command printed it.")
    ] = None,
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Verify the clinic's privacy ledger and show what it adds up to; exit 5 where it was changed.

    Every epsilon is computed anew from the releases, so that parts do not sum to the total.

    Example: skinml clinic ledger --at 2026-12-31 --folder north
    """
    from skinml.clinic.logs import parse_mark
    from skinml.clinic.opening import open_at_screen
    from skinml.clinic.statements import plain_values, read_statement

    found = read_statement(
        open_at_screen(folder),
        now=datetime.now(UTC),
        at=None if at is None else at.date(),
        delta=delta,
        mark=None if mark is None else parse_mark(mark),
    )
    if as_json:
        print(json.dumps(plain_values(found), allow_nan=False), flush=True)
    else:
        print_ledger(found)


def print_ledger(found: LedgerStatement) -> None:
    """Print a statement within 80 columns.

    Args:
        found: The statement.
    """
    console, said = narrow_console(), found.statement
    kind = ", a virtual clinic," if found.virtual else ""
    console.print(Text(f"Ledger of {found.clinic}{kind} at {said.day}"), style="bold")
    if not said.runs:
        console.print(Text("Nothing was released. Every line and the anchor hold."))
    else:
        unit = " and ".join(word.replace("_", " ") for word in said.units)
        console.print(Text(f"epsilon at delta {said.delta:g} for one {unit}, add or remove one"))
        console.print(_spans(found))
        console.print(_parts(said))
        console.print(_runs(said.runs))
    for line in _remarks(said):
        console.print(Text(line))
    if found.mark is not None:
        console.print(
            Text(f"Every line and the anchor hold. Mark, to be kept for --mark:\n{found.mark}")
        )


def epsilon_words(value: float) -> str:
    """Write an epsilon.

    Args:
        value: Zero or above, or infinity.

    Returns:
        Three digits behind the point.
    """
    return "unbounded" if isinf(value) else f"{value:.3f}"


def left_words(left: float | None) -> str:
    """Write what a further run may spend.

    Args:
        left: Epsilon; None: any.

    Returns:
        Two digits behind the point, as it is rounded down to.
    """
    return "any" if left is None else f"{left:.2f}"


def _spans(found: LedgerStatement) -> Table:
    said = found.statement
    table = plain_table("", "releases", "epsilon", "ceiling", "next run at most", words=("",))

    def add(name: str, releases: int, each: Allowance) -> None:
        ceiling = "none" if each.ceiling is None else f"{each.ceiling:g}"
        spent = epsilon_words(each.spent)
        table.add_row(name, f"{releases:,}", spent, ceiling, left_words(each.left))

    add("latest run", said.runs[-1].cost.num_releases, found.run)
    add("last 365 days", said.year.num_releases, found.year)
    add("in total", said.total.num_releases, found.life)
    return table


def _parts(said: Statement) -> Table:
    table = plain_table("", "releases", "epsilon", words=("",))
    for name, cost in said.purposes.items():
        table.add_row(f"for {name}", f"{cost.num_releases:,}", epsilon_words(cost.epsilon))
    for name, cost in said.splits.items():
        table.add_row(f"{name} patients", f"{cost.num_releases:,}", epsilon_words(cost.epsilon))
    return table


def _runs(runs: tuple[RunCost, ...]) -> Table:
    mixed = len({unit for each in runs for unit in each.units}) > 1
    table = plain_table("run", "last release", "releases", "epsilon", "at all", words=("run",))
    if len(runs) > _MOST_RUNS:
        table.add_row(f"{len(runs) - _MOST_RUNS:,} earlier runs: see --json", *[""] * 4)
    for each in runs[-_MOST_RUNS:]:
        details = [*each.trusts, "simulated" if each.simulated else "deployed"]
        if mixed:
            details += [word.replace("_", " ") for word in each.units]
        table.add_row(
            Text(f"{printable(each.run)}\n  {', '.join(details)}"),
            each.last[:10],
            f"{each.cost.num_releases:,}",
            epsilon_words(each.cost.epsilon),
            f"{epsilon_words(each.across)} ({each.num_clinics})",
        )
    return table


def _remarks(said: Statement) -> list[str]:
    """Say in words what the figures alone do not tell."""
    total, keys = said.total, said.num_split_keys
    remarks = (
        (total.num_bare, "releases had no noise: the total is unbounded, for good"),
        (total.num_fixed, "releases had noise that a test fixed: it protects nobody"),
        (
            keys if keys > 1 else 0,
            "split keys: a patient may have been in each split, so that all compose",
        ),
        (said.num_later, "later releases are not in this statement"),
        (said.num_backwards, "entries are dated before the one in front: a clock was set back"),
    )
    told = [f"{number:,} {text}." for number, text in remarks if number]
    trusts = dict.fromkeys(word for each in said.runs for word in each.trusts)
    told += [_RESTS_ON[word] for word in trusts if word in _RESTS_ON]
    if said.runs:
        across = epsilon_words(said.across)
        at_all = "at all: for a patient at all clinics of the run (their number)"
        told = [f"{at_all}; all runs: {across}.", *told]
    return told
