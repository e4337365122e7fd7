"""`skinml federation statistics`: private counts of patients over clinics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skinml.cli.completion import experiment_names
from skinml.cli.edge import printable
from skinml.cli.options import AsJson, AskedClinics, Hours
from skinml.cli.progress import Bars
from skinml.errors import InputError

if TYPE_CHECKING:
    from skinml.config import RunConfig
    from skinml.experiments.statistics import Counted, Preview

_WIDTH = 80
_MOST_ROWS = 12


def statistics(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes such as privacy.epsilon=0.5.")
    ] = None,
    experiment: Annotated[
        str,
        typer.Option(
            "--experiment", help="Whose data are counted.", autocompletion=experiment_names
        ),
    ] = "statistics",
    tables: Annotated[
        str | None,
        typer.Option("--tables", help="Such as diagnosis,outcome or diagnosis:outcome."),
    ] = None,
    region: Annotated[
        list[str] | None,
        typer.Option("--region", help="NAME=CLINIC,CLINIC: counted apart; may be repeated."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would cost, and count nothing.")
    ] = False,
    num_clinics: Annotated[
        int, typer.Option("--clinics", min=1, help="For how many clinics --dry-run plans.")
    ] = 6,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="A federation's folder: ask its real clinics."),
    ] = None,
    clinic: AskedClinics = None,
    hours: Hours = 168.0,
    as_json: AsJson = False,
) -> None:
    """Count patients over clinics by diagnosis, tone, age, treatment and outcome, with noise.

    Example: skinml federation statistics --experiment quickstart --tables diagnosis,outcome
    """
    from skinml.experiments.statistics import preview, run_statistics, statistics_config

    config = statistics_config(
        experiment,
        overrides or (),
        tables=_listed(tables),
        regions=_regions(region or ()),
        deployed=folder is not None,
    )
    if dry_run:
        _tell_preview(preview(config, num_clinics), as_json=as_json)
        return
    if folder is not None:
        _submit(folder, config, clinic or (), hours, as_json=as_json)
        return
    with Bars(quiet=as_json) as bars:
        counted = run_statistics(config, progress=bars)
    if as_json:
        print(json.dumps(counted.result, allow_nan=False), flush=True)
        return
    _show(counted)


def _submit(
    folder: Path, config: RunConfig, clinics: Sequence[str], hours: float, *, as_json: bool
) -> None:
    """Ask the clinics of a federation; they answer on their own machines."""
    from skinml.cli.federation_runs import ask_clinics
    from skinml.deployment.submission import hand_in

    within = timedelta(hours=hours)
    ask_clinics(
        folder,
        lambda opened: hand_in(opened, config, clinics=clinics, within=within),
        as_json=as_json,
    )


def _listed(words: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (words or "").split(",") if word.strip())


def _regions(told: Sequence[str]) -> dict[str, tuple[str, ...]]:
    found = {}
    for each in told:
        name, equals, members = each.partition("=")
        if not (equals and name and _listed(members)) or name in found:
            raise InputError(
                rule="regions with different names, each with its clinics",
                got=f"--region {each}",
                do="Example: --region coast=north,harbour --region hills=east,west",
            )
        found[name] = _listed(members)
    return found


def _tell_preview(found: Preview, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(found), allow_nan=False), flush=True)
        return
    console = _console()
    console.print(Text("Nothing was counted and nothing spent. It would cost:"), style="bold")
    if found.trust == "none":
        console.print("NOT PRIVATE: no noise, and no epsilon (privacy.trust=none)")
    else:
        console.print(
            f"epsilon {found.epsilon:.3f} at delta {found.delta:g} of each clinic's budget, "
            f"trust {found.trust}"
        )
        console.print(
            f"noise: 95 of 100 counts are off by {found.half_width:.0f} patients or less "
            f"({found.num_clinics} clinics)"
        )
    console.print(f"tables: {', '.join(found.tables)}; {found.num_cells} counts in all")
    console.print(f"Counts below {found.least_count} would not be shown.")


def _show(counted: Counted) -> None:
    from skinml.records import UNKNOWN_GROUP

    record, console = counted.record, _console()
    promise, people = record.guarantee, record.people
    if promise.private and promise.epsilon is not None:
        console.print(
            f"epsilon {promise.epsilon:.3f} at delta {promise.delta:g}, trust {promise.trust}; "
            f"95 of 100 counts are off by {record.half_width:.0f} or less"
        )
    else:
        console.print(Text("NOT PRIVATE: exact counts (privacy.trust=none)"), style="bold")
    if promise.simulated:
        console.print("SIMULATED: one machine played all clinics")
    for each in record.tables:
        if len(each.attributes) > 1:
            continue
        title = f"region {each.region}: " if each.region else ""
        by = each.name.replace("_", " ")
        console.print(Text(f"\n{title}{people} by {by}"), style="bold")
        table = Table(box=None, pad_edge=False)
        table.add_column("")
        table.add_column(people, justify="right")
        table.add_column("between", justify="right")
        for cell in each.cells:
            count = cell.count
            if count.value is None or count.low is None or count.high is None:
                continue
            between = f"{count.low:.0f} to {count.high:.0f}"
            group = "not known" if cell.groups[0] == UNKNOWN_GROUP else cell.groups[0]
            name = printable(group.replace("_", " "))
            table.add_row(Text(name), f"{count.value:.0f}", between)
        console.print(table)
        if each.num_suppressed:
            hidden = "1 group" if each.num_suppressed == 1 else f"{each.num_suppressed} groups"
            console.print(f"not shown: {hidden} below {record.least_count}")
    console.print()
    for kind, path in counted.result["artifacts"].items():
        if kind == "mlflow_run":
            continue
        Console(soft_wrap=True, highlight=False).print(f"{kind + ':':<6} {Path(path).resolve()}")


def _console() -> Console:
    return Console(width=min(Console().width, _WIDTH), highlight=False)
