"""`skinml run` and `skinml evaluate`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from skinml.cli.completion import experiment_names, unfinished_runs
from skinml.cli.edge import Interrupted
from skinml.cli.options import FinishedRun
from skinml.cli.progress import Bars
from skinml.cli.screen import work_dir_option
from skinml.cli.sweep import run_sweep
from skinml.errors import InputError

if TYPE_CHECKING:
    from skinml.records import Estimate, GroupResult, RunRecord

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object as the last line of output.")
]
WorkDir = Annotated[
    Path, typer.Option(help="The working folder: runs, clinic folders, MLflow's store.")
]


def run(
    experiment: Annotated[
        str | None,
        typer.Argument(help="One of configs/experiment/*.yaml.", autocompletion=experiment_names),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes such as privacy.epsilon=1 seed=7.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Go on with a run that was broken off; work_dir=PATH may follow.",
            autocompletion=unfinished_runs,
        ),
    ] = None,
    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep", help="Run each combination of changes such as seed=range(5) a=1,3."
        ),
    ] = False,
    jobs: Annotated[
        int, typer.Option(min=0, help="Runs of a sweep at a time; 0: one for two cores.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Train, evaluate, report and track an experiment.

    Example: skinml run quickstart privacy.epsilon=8
    """
    if sweep:
        run_sweep(experiment, overrides or (), resume, jobs=jobs, as_json=as_json)
        return
    words = [*([experiment] if experiment else []), *(overrides or [])]
    if resume is not None and experiment and resume.startswith(f"{experiment}-"):
        words = words[1:]  # its own experiment's name says nothing new
    place = Path() if resume is None else _work_dir(words)
    if resume is None:
        experiment = _known(experiment, overrides or [])
    from skinml.experiments.run import resume as resume_run
    from skinml.experiments.run import run as run_experiment

    try:
        with Bars(quiet=as_json) as bars:
            if resume is not None:
                finished = resume_run(resume, work_dir=place, progress=bars)
            else:
                finished = run_experiment(str(experiment), overrides or [], progress=bars)
    except KeyboardInterrupt as stopped:
        raise Interrupted(stopped) from None
    if as_json:
        _print_json(finished.result)
        return
    _show(finished.record, finished.result)
    work_dir = Path(str(finished.record.config["work_dir"]))
    console = Console(soft_wrap=True)
    console.print(f"Report:  {Path(finished.result['artifacts']['report']).resolve()}")
    if finished.result["artifacts"]["mlflow_run"]:
        # A command is copied: it stays one line.
        console.print(f"MLflow:  skinml mlflow {finished.record.run}{work_dir_option(work_dir)}")


def evaluate(
    run: FinishedRun,
    data: Annotated[Path, typer.Option(help="A folder with manifest.csv and its images.")],
    work_dir: WorkDir = Path(),
    as_json: AsJson = False,
) -> None:
    """Score a finished run's model on another folder of images.

    Example: skinml evaluate quickstart-20260101-120000-abcd --data ./new_clinic
    """
    from skinml.experiments.workspace import Workspace

    Workspace(work_dir).find_run(run)  # told before what takes seconds to load
    from skinml.experiments.evaluate import evaluate_run

    with Bars(quiet=as_json) as bars:
        done = evaluate_run(run, data, work_dir=work_dir, progress=bars)
    if as_json:
        _print_json(done.result)
        return
    _show(done.record, done.result)
    report = Path(done.result["artifacts"]["report"]).resolve()
    Console(soft_wrap=True).print(f"Report:  {report}")


def _known(experiment: str | None, overrides: Sequence[str]) -> str:
    """Refuse a mistyped experiment or change at once, not after PyTorch and Flower are loaded."""
    from skinml.config import load_config

    if experiment is None:
        raise InputError(
            rule="an experiment, or --resume with a run",
            got="neither",
            do="Example: skinml run quickstart",
        )
    load_config(experiment, overrides)
    return experiment


def _work_dir(words: Sequence[str]) -> Path:
    """Read the only change that a resumed run takes: where its working folder is now."""
    others = [word for word in words if not word.startswith("work_dir=")]
    if others:
        raise InputError(
            rule="--resume with the run alone, for a run goes on as it began; only work_dir=PATH "
            "may follow",
            got=" ".join(others),
            do="Leave that out, or begin a new run without --resume.",
        )
    return Path(words[-1].removeprefix("work_dir=")) if words else Path()


def _print_json(result: dict[str, Any]) -> None:
    print(json.dumps(result, allow_nan=False), flush=True)


def _show(record: RunRecord, result: dict[str, Any]) -> None:
    console = Console()
    stamps = ["LEAKED TEST"] if record.data.get("leak") else []
    stamps += [] if record.guarantee.private else ["NOT PRIVATE"]
    stamps += ["SIMULATED"] if record.guarantee.simulated else []
    stamps += [] if record.complete else ["INCOMPLETE"]
    console.print(f"[bold]{record.run}[/bold]  {'  '.join(stamps)}")
    if not record.complete:
        console.print(f"Clinics were missing: {_who_was_missing(record)}.")
    table = Table(box=None, pad_edge=False)
    shown = (record.overall, *(g for g in record.groups if g.attribute == "skin_tone"))
    # A patient may have malignant images and others: images are counted where they can be.
    by_image = record.overall.num_images is not None
    people = f"{result['privacy']['unit_stands_for']}s"
    counted = (people, "images", "malignant") if by_image else (people, "malignant")
    for heading in ("group", *counted, "AUROC (95% interval)"):
        table.add_column(heading)
    for each in shown:
        name = "everybody" if each.attribute == "overall" else f"skin tone {each.group}"
        # What noise took below 0 is told as 0.
        counts = [f"about {max(n, 0)}" if each.count_std else str(n) for n in _numbers(each)]
        table.add_row(name, *counts, _words(each.estimates["auroc"]))
    console.print(table)
    if note := noise_note(shown):
        console.print(note)
    for beside in record.yardsticks[:1]:
        console.print(f"{beside.name}, not private: AUROC {_words(beside.estimates['auroc'])}")
    console.print(_promise(result["privacy"]))


def noise_note(shown: Sequence[GroupResult]) -> str:
    """Explain the word "about" once, under a table of counts.

    Args:
        shown: The groups in the table.

    Returns:
        A sentence; empty where all counts are exact.
    """
    std = max(each.count_std for each in shown)
    if not std:
        return ""
    # A number of patients is the sum of two counts, each with noise of its own.
    return (
        "'about': the counts hold noise that hides single patients; 19 in 20 are within "
        f"{1.96 * sqrt(2) * std:.0f} of the truth."
    )


def _numbers(each: GroupResult) -> tuple[int, ...]:
    images = () if each.num_images is None else (each.num_images,)
    return (each.num_patients, *images, each.num_positives)


def _who_was_missing(record: RunRecord) -> str:
    from skinml.records import last_attempts

    rounds = last_attempts(record.participation)
    missed = Counter(name for each in rounds for name in each.missing)
    times = [f"{name} from {times}" for name, times in sorted(missed.items())]
    return f"{', '.join(times)} of {len(rounds)} rounds"


def _promise(privacy: dict[str, Any]) -> str:
    if not privacy["private"]:
        return (
            "No privacy is promised: trust is none. The ledgers of these clinics are unbounded "
            "from now on."
        )
    total = privacy["total_epsilon"]
    so_far = "unbounded" if total is None else f"{total:.3f}"
    text = (
        f"epsilon {privacy['epsilon']:.3f} at delta {privacy['delta']:g} for one "
        f"{_unit(privacy)}; ledger total so far {so_far}"
    )
    across = privacy["epsilon_across_clinics"]
    if privacy["max_clinics"] > 1 and across is not None:
        text += (
            f"; {across:.3f} for a {privacy['unit_stands_for']} at {privacy['max_clinics']} clinics"
        )
    return text


def _unit(privacy: dict[str, Any]) -> str:
    """Name the unit; where the data know no patients, say what stands for one."""
    return str(privacy["unit"]).replace("patient", privacy["unit_stands_for"]).replace("_", " ")


def _words(estimate: Estimate) -> str:
    if estimate.value is None:
        return f"undefined: {estimate.reason}"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f} (no interval)"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
