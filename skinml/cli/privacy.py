"""`skinml privacy ...`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from skinml.cli import privacy_audit, privacy_spent
from skinml.cli.options import AsJson, Experiment, Overrides
from skinml.errors import InputError

if TYPE_CHECKING:
    from skinml.experiments.plan import Plan

_WIDTH = 80
_RELEASES = (
    "noise: standard deviation over what one patient can change",
    "budget: part of what its split may spend; each split is charged by itself",
    "noise in sum: standard deviation in the sum of all clinics",
)
_ROOMS = ("left: greatest epsilon of one more run, composed and not subtracted",)
_WORDS = ("release", "split", "ceiling", "where it stands")
_SPANS = {"run": "one run", "year": "365 days", "life": "in all"}

app = typer.Typer(no_args_is_help=True, help="What runs cost in privacy, ahead and so far.")
app.command()(privacy_spent.spent)
app.command()(privacy_audit.audit)


@app.callback()
def _group() -> None:
    """What runs cost in privacy, ahead and so far."""


@app.command()
def plan(
    experiment: Experiment,
    overrides: Overrides = None,
    patients: Annotated[
        int | None,
        typer.Option(min=1, help="Patients of all clinics together: a public figure, no count."),
    ] = None,
    clinics: Annotated[
        int | None,
        typer.Option(min=1, help="Clinics in the run, where the experiment does not say."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="A clinic's folder: its ledger and policy.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="A PNG file to draw the plan's curves into.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell a run's noise, its epsilon and what a ledger leaves; no data are read.

    A run that policy or budget do not allow is refused with exit code 3 and the nearest that they
    do.

    Example: skinml privacy plan quickstart privacy.epsilon=1 --plot plan.png
    """
    from skinml.experiments.plan import plan_experiment, save_plot

    if plot is not None and plot.suffix.lower() != ".png":
        raise InputError(
            rule="a file that ends in .png for the plot", got=f"plot={plot}", do="Name a PNG file."
        )
    made = plan_experiment(
        experiment,
        overrides or [],
        now=datetime.now(UTC),
        patients=patients,
        num_clinics=clinics,
        folder=folder,
        curves=plot is not None,
    )
    if plot is not None:
        save_plot(made, plot)
    if as_json:
        told = _values(made) | {"plot": None if plot is None else str(plot)}
        print(json.dumps(told, allow_nan=False), flush=True)
        return
    print_plan(made, Console())
    if plot is not None:
        Console(soft_wrap=True).print(Text(f"Plot: {plot}"))


def print_plan(made: Plan, console: Console) -> None:
    """Print a plan within 80 columns.

    Args:
        made: The plan.
        console: Where to.
    """
    console = Console(file=console.file, width=min(console.width, _WIDTH))
    clinics = _number(made.num_clinics, "clinic")
    console.print(Text(f"Plan of {made.experiment}: {clinics}, trust {made.trust}"), style="bold")
    _print_lines(console, _promise(made), before="")
    _print_table(console, _releases(made), _RELEASES)
    _print_lines(console, _signal(made))
    if made.changes:
        _print_table(console, _rounds(made), ())
    if made.ledger is not None or made.rooms:
        _print_lines(console, [_ledger(made)])
    if made.rooms:
        _print_table(console, _rooms(made), _ROOMS)
    if made.runs is not None:
        console.print(Text(f"Such runs that still fit: {_runs(made.runs)}"), style="bold")


def _print_lines(console: Console, lines: Sequence[str], before: str = "\n") -> None:
    console.print(Text(before + "\n".join(lines)))


def _print_table(console: Console, table: Table, notes: Sequence[str]) -> None:
    console.print()
    console.print(table)
    for note in notes:
        console.print(Text(note), style="dim")


def _promise(made: Plan) -> list[str]:
    if not made.private:
        return [
            "NOT PRIVATE: trust is none, no noise is added. A ledger that is charged for this",
            "is unbounded from then on.",
        ]
    who, delta = made.unit_stands_for, f"{made.delta:g}"
    lines = [f"Epsilon at delta {delta}, unit {made.unit.replace('patient', who)}:"]
    for each in made.readings:
        place = "one clinic alone" if each.clinics == 1 else f"{each.clinics} clinics"
        place = f"all {place}" if 1 < each.clinics == made.num_clinics else place
        lines.append(f"  {each.epsilon:8.3f}  for a {who} at {place}")
    return [*lines, f"  {made.epsilon:8.3f}  is charged to each clinic's ledger"]


def _releases(made: Plan) -> Table:
    table = _table("release", "split", "times", "noise", "budget", "noise in sum")
    for line in made.lines:
        sampled = "" if line.sampling_prob == 1 else f" of {line.sampling_prob:.0%}"
        table.add_row(
            line.name.replace("_", " "),
            line.split,
            f"{line.times:,}{sampled}",
            f"{line.noise_multiplier:.4g}",
            "" if line.share is None else f"{line.share:.0%}",
            f"{line.noise_in_sum:.3g}",
        )
    return table


def _signal(made: Plan) -> list[str]:
    step, signal = "local step" if made.end_to_end else "round", made.signal
    lines = [
        "Noise-to-signal: standard deviation in each number of the mean gradient,",
        f"where the clip is 1, over {made.patients:,.0f} training patients,",
        f"{made.patients_from}:",
        f"  {signal.step:8.3g}  in one {step}",
    ]
    if signal.run != signal.step:
        lines.append(f"  {signal.run:8.3g}  in the mean of all {step}s")
    return lines


def _rounds(made: Plan) -> Table:
    noise = next(line.noise_multiplier for line in made.lines if line.name == made.training)
    at = f"noise at epsilon {made.epsilon:.4g}" if made.private else "noise"
    table = _table("rounds", at, "noise-to-signal", f"epsilon at noise {noise:.4g}")
    for each in made.changes:
        table.add_row(
            f"{each.rounds:,}",
            f"{each.noise_multiplier:.4g}",
            f"{each.signal.step:.3g}",
            f"{each.epsilon:.3f}" if isfinite(each.epsilon) else "unbounded",
        )
    return table


def _ledger(made: Plan) -> str:
    if made.ledger is None:
        return "Ceilings, from an empty ledger:"
    held, number = made.ledger, _number(made.ledger.num_releases, "release")
    spent = f"epsilon {_epsilon(held.year)} in the last 365 days, {_epsilon(held.life)} in all"
    return f"Ledger of {held.clinic}: {number}, {spent}"


def _rooms(made: Plan) -> Table:
    table = _table("ceiling", "of", "spent", "with it", "left", "runs", "where it stands")
    for room in made.rooms:
        table.add_row(
            _SPANS[room.limit.span],
            f"{room.limit.ceiling:g}",
            _epsilon(room.spent),
            _epsilon(room.with_run),
            f"{room.most_epsilon:.3f}",
            "" if room.runs is None else _runs(room.runs),
            room.limit.rule,
        )
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        side: JustifyMethod = "left" if heading in _WORDS else "right"
        table.add_column(heading, overflow="fold", justify=side)
    return table


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _runs(count: int) -> str:
    from skinml.experiments.plan import MOST_RUNS

    return f"{count:,} or more" if count >= MOST_RUNS else f"{count:,}"


def _epsilon(value: float) -> str:
    return f"{value:.3f}" if isfinite(value) else "unbounded"


def _values(made: Plan) -> dict[str, Any]:
    """Write a plan as JSON; what has no bound is null, as everywhere."""
    values = asdict(made)
    del values["curves"]
    values["releases"] = values.pop("lines")
    values["noise_to_signal"] = values.pop("signal")
    values["rounds"] = values.pop("changes")
    values["ceilings"] = [
        {name: getattr(room.limit, name) for name in ("span", "ceiling", "rule")}
        | {name: getattr(room, name) for name in ("spent", "with_run", "most_epsilon", "runs")}
        for room in made.rooms
    ]
    del values["rooms"]
    values["runs"] = made.runs
    return {name: _bounded(value) for name, value in values.items()}


def _bounded(value: object) -> object:
    match value:
        case float():
            return value if isfinite(value) else None
        case dict():
            return {name: _bounded(each) for name, each in value.items()}
        case list() | tuple():
            return [_bounded(each) for each in value]
    return value
