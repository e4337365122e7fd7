"""`skinml run --sweep`: the table of a sweep's runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from skinml.cli.edge import SAME_COMMAND, Interrupted
from skinml.cli.progress import Bars
from skinml.cli.screen import narrow_console, plain_table, work_dir_option
from skinml.errors import InputError

if TYPE_CHECKING:
    from skinml.experiments.sweep import SweepLine, Swept
    from skinml.records import Estimate


def run_sweep(
    experiment: str | None,
    overrides: Sequence[str],
    resume: str | None,
    *,
    jobs: int,
    as_json: bool,
) -> None:
    """Do all runs of a sweep and show them.

    Args:
        experiment: The experiment.
        overrides: Changes; those with several values are swept.
        resume: What `--resume` was given, which a sweep does not take.
        jobs: Runs at the same time; 0: one for each two processor cores.
        as_json: Whether one JSON object is printed.

    Raises:
        InputError: If there is no experiment.
        Interrupted: If Ctrl-C was pressed; the same command goes on.
        SkinmlError: For whatever keeps a run from its report; see `skinml.errors`.
    """
    if experiment is None or resume is not None:
        raise InputError(
            rule="--sweep with an experiment; what was broken off goes on with the same command",
            got="--resume" if resume is not None else "no experiment",
            do="Example: skinml run quickstart --sweep privacy.epsilon=1,3 'seed=range(2)'",
        )
    from skinml.experiments.sweep import sweep

    with Bars(quiet=as_json) as bars:
        try:
            done = sweep(experiment, overrides, jobs=jobs, progress=bars)
        except KeyboardInterrupt as stopped:
            raise Interrupted(stopped, SAME_COMMAND) from None
    if as_json:
        print(json.dumps(done.result, allow_nan=False), flush=True)
        return
    _show(done)


def _show(done: Swept) -> None:
    from skinml.experiments.sweep import NOT_COVERED

    console = narrow_console()
    console.print(Text(f"{done.experiment}: {len(done.lines)} runs"), style="bold")
    columns = ("changes", "epsilon", "AUROC", *((f"lowest by {done.groups}",) * bool(done.groups)))
    table = plain_table(*columns, words=columns)
    for line in done.lines:
        table.add_row(*(Text(cell) for cell in _cells(line, groups=bool(done.groups))))
    console.print(table)
    for each in done.charged_words:
        console.print(Text(each))
    if any(line.private for line in done.lines):
        console.print(Text(NOT_COVERED))
    out = Console(soft_wrap=True)  # a path is copied: it stays one line
    out.print(Text(f"Table:  {(done.folder / 'sweep.csv').absolute()}"))
    if done.mlflow_run:
        out.print(Text(f"MLflow:  skinml mlflow{work_dir_option(done.folder.parent.parent)}"))


def _cells(line: SweepLine, *, groups: bool) -> tuple[str, ...]:
    epsilon = "none" if line.epsilon is None else f"{line.epsilon:.3f}"
    cells = (line.changes, epsilon, _figure(line.auroc))
    return (*cells, f"{line.worst_group}: {_figure(line.worst)}") if groups else cells


def _figure(estimate: Estimate) -> str:
    if estimate.value is None:
        return "undefined"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
