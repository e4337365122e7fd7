"""`skinml privacy audit`: attacks on an experiment's own promise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from skinml.cli.options import AsJson, Experiment, Overrides
from skinml.cli.progress import Bars
from skinml.cli.screen import narrow_console, plain_table
from skinml.errors import IntegrityError

if TYPE_CHECKING:
    from skinml.experiments.audit import Audited

_ALL = "all"


def audit(
    experiment: Experiment,
    overrides: Overrides = None,
    tiers: Annotated[
        str, typer.Option(help="Of T0, T1, T2, T3, inversion, with commas between; or all.")
    ] = "T0,T1",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the page; by default one below WORK_DIR/audits."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Attack an experiment on its own data and write what came of it into audit.html.

    Exit code 5 where a finding contradicts the promise. Nothing flagged proves no guarantee.

    Example: skinml privacy audit quickstart --tiers T0,T3
    """
    from skinml.config import load_config

    load_config(experiment, overrides or [])  # told before what takes seconds to load
    from skinml.experiments.audit import ALL_TIERS
    from skinml.experiments.audit import audit as audit_experiment

    wanted = ALL_TIERS if tiers == _ALL else tuple(word.strip() for word in tiers.split(","))
    with Bars(quiet=as_json) as bars:
        done = audit_experiment(experiment, overrides or [], tiers=wanted, out=out, progress=bars)
    tell(done, as_json=as_json)


def tell(done: Audited, *, as_json: bool) -> None:
    """Print a finished audit and leave with its exit code.

    Args:
        done: The audit.
        as_json: Whether to print one JSON object instead of a table.

    Raises:
        typer.Exit: With code 5 if a finding contradicts the promise.
    """
    if as_json:
        print(json.dumps(done.result, allow_nan=False), flush=True)
    else:
        _show(done)
    if done.record.flagged:
        raise typer.Exit(IntegrityError.exit_code)


def _show(done: Audited) -> None:
    record, console = done.record, narrow_console()
    console.print(Text(f"Audit of {record.experiment}, trust {record.trust}"), style="bold")
    if record.private:
        console.print(Text(f"promised: epsilon {record.epsilon:.3f} at delta {record.delta:g}"))
    else:
        console.print(Text("NOT PRIVATE: this run promises nothing"), style="bold")
    table = plain_table(
        "tier", "tried", "found", "promised", "", words=("tier", "tried", "found", "")
    )
    for each in done.verdicts:
        mark = Text("FLAGGED", style="bold") if each.flagged else Text("ok" if each.allowed else "")
        words = (each.tier, each.what, each.found, each.allowed)
        table.add_row(*(Text(word) for word in words), mark)
    console.print(table)
    for missing in dict.fromkeys(record.not_audited):
        console.print(Text(f"Not audited: {missing.tier}, {missing.what}. {missing.why}"))
    if record.flagged:
        console.print(Text("FLAGGED: a finding contradicts the promise."), style="bold")
    else:
        console.print(Text("Nothing flagged. That proves no guarantee."))
    Console(soft_wrap=True).print(Text(f"Page: {done.files.html}"))
