"""`skinml compare`: what privacy, or another change, costs whom."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from skinml.cli.completion import experiments_and_runs
from skinml.cli.edge import SAME_COMMAND, Interrupted
from skinml.cli.options import AsJson
from skinml.cli.progress import Bars
from skinml.cli.screen import narrow_console, plain_table
from skinml.errors import InputError

if TYPE_CHECKING:
    from skinml.experiments.compare import Compared


def compare(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="EXPERIMENT [key=value ...] | RUN RUN ...",
            help="An experiment with changes that all arms share, or finished runs.",
            autocompletion=experiments_and_runs,
        ),
    ],
    epsilon: Annotated[
        str,
        typer.Option(
            help="Arms of the experiment, such as none,8,3,1,0.5; the first is held against."
        ),
    ] = "",
    seeds: Annotated[str, typer.Option(help="Seeds of each arm's runs, such as 0,1,2.")] = "",
    groups: Annotated[
        str,
        typer.Option(
            help="What groups are of, such as skin_tone,sex; by default as the experiment names it."
        ),
    ] = "",
    arm: Annotated[
        list[str] | None,
        typer.Option(help='One more arm: changes such as "training.head.rounds=20"; repeatable.'),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Two runs side by side: before, after, difference.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Hold arms of an experiment, or finished runs, against each other on the same patients.

    Each arm is run with each seed; runs that are there already are taken as they are, and after a
    stop the same command goes on. Each run is charged to the clinics' ledgers like any other.
    With --report two runs are two versions of a model, whatever they differ in.

    Example: skinml compare quickstart --epsilon none,3,1 --seeds 0,1,2
    """
    from skinml.config import experiments, load_config

    chosen = [word.strip() for word in groups.split(",") if word.strip()]
    with Bars(quiet=as_json) as bars:
        try:
            if report:
                runs, work_dir = _runs(what, arms=bool(epsilon or seeds or arm), two=True)
                from skinml.experiments.compare import compare_versions

                before, after = runs
                done = compare_versions(
                    before, after, work_dir=work_dir, groups=chosen, progress=bars
                )
            elif what[0] in experiments():
                load_config(what[0], what[1:])  # told before what takes seconds to load
                from skinml.experiments.compare import compare_experiment
                from skinml.experiments.compare_plan import arms_of, seeds_of

                epsilons = [word for word in epsilon.split(",") if word.strip()]
                done = compare_experiment(
                    what[0],
                    what[1:],
                    arms=arms_of(epsilons, arm or ()),
                    seeds=seeds_of(seeds or "0"),
                    groups=chosen,
                    progress=bars,
                )
            else:
                runs, work_dir = _runs(what, arms=bool(epsilon or seeds or arm))
                from skinml.experiments.compare import compare_finished

                done = compare_finished(runs, work_dir=work_dir, groups=chosen, progress=bars)
        except KeyboardInterrupt as stopped:
            raise Interrupted(stopped, SAME_COMMAND) from None
    if as_json:
        print(json.dumps(done.result, allow_nan=False), flush=True)
        return
    _show(done)


def _runs(words: Sequence[str], *, arms: bool, two: bool = False) -> tuple[list[str], Path]:
    """Part runs from work_dir=PATH, the only change that finished runs take."""
    from skinml.experiments.workspace import require_several

    runs = [word for word in words if not word.startswith("work_dir=")]
    changed = [word for word in runs if "=" in word]
    if arms or changed:
        raise InputError(
            rule="--epsilon, --seeds, --arm and changes with an experiment only",
            got=f"{words[0]}, which is no experiment",
            do="Name an experiment first, or finished runs alone (work_dir=PATH may follow).",
        )
    if two:
        _require_two(runs)
    require_several(runs)
    places = [word.removeprefix("work_dir=") for word in words if word not in runs]
    return runs, Path(places[-1]) if places else Path()


def _require_two(runs: Sequence[str]) -> None:
    if len(set(runs)) != 2 or len(runs) != 2:
        raise InputError(
            rule="two different finished runs behind --report",
            got="one run alone" if len(set(runs)) == 1 else f"{len(runs)} runs",
            do="Example: skinml compare --report RUN_BEFORE RUN_AFTER",
        )


def _show(done: Compared) -> None:
    record, console = done.record, narrow_console()
    stamps = [] if all(arm.private for arm in record.arms) else ["NOT PRIVATE: in part"]
    stamps += ["SIMULATED"] if record.simulated else []
    what = "two versions" if record.changed else f"{len(record.arms)} arms, {record.num_runs} runs"
    title = f"{record.experiment}: {what}"
    console.print(Text("  ".join([title, *stamps])), style="bold")
    for lines in done.screen_tables:
        table = plain_table(*lines.columns, words=lines.columns)
        for line in lines.rows:
            table.add_row(*(Text(cell) for cell in line))
        if lines.caption:
            console.print(Text(lines.caption))
        console.print(table)
    if record.found.unpaired:
        console.print(Text(f"Not paired, no difference tested: {record.found.unpaired}."))
    for each in (*record.charged, *record.notes):
        console.print(Text(each))
    out = Console(soft_wrap=True)  # a path is copied: it stays one line
    out.print(Text(f"Page:  {done.files.html.resolve()}"))
