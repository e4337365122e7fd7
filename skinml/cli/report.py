"""`skinml report`: the report of any model's predictions, its check, and the gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skinml.cli.completion import finished_runs
from skinml.cli.options import AsJson
from skinml.errors import InputError

if TYPE_CHECKING:
    from skinml.experiments.predictions_file import PredictionsSettings

app = typer.Typer(
    invoke_without_command=True,
    help="Write the report of any model's predictions; check a report; hold it to its criteria.",
    epilog="Example: skinml report --predictions scores.csv --label malignant --score p "
    "--patient patient_id --group skin_tone --threshold 0.3",
)

WorkDir = Annotated[Path, typer.Option(help="The working folder with the runs.")]


@app.callback()
def report(
    context: typer.Context,
    predictions: Annotated[
        Path | None, typer.Option(help="A CSV or Parquet file, one row an image.")
    ] = None,
    label: Annotated[str, typer.Option(help="Column with the truth.")] = "",
    score: Annotated[
        list[str] | None,
        typer.Option(help="Column with the probability, 0 to 1; one a class if several."),
    ] = None,
    patient: Annotated[str, typer.Option(help="Column that tells whose image it is.")] = "",
    group: Annotated[
        list[str] | None,
        typer.Option(help="Column of groups, such as skin_tone, or NAME=COLUMN; repeatable."),
    ] = None,
    site: Annotated[str | None, typer.Option(help="Column with the clinic.")] = None,
    item: Annotated[
        str | None, typer.Option("--id", help="Column with the image's id, to find doubles.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Score from which the model raises an alarm.")
    ] = None,
    threshold_source: Annotated[
        str, typer.Option(help="Where the threshold comes from, in words for the reader.")
    ] = "",
    prediction: Annotated[
        str | None, typer.Option(help="Column with the model's own decision.")
    ] = None,
    positive: Annotated[
        list[str] | None,
        typer.Option(help="Word of the label that counts as malignant; repeatable."),
    ] = None,
    classes: Annotated[
        str, typer.Option(help="With several scores: the label's words, A,B,C in their order.")
    ] = "",
    settings: Annotated[
        Path | None,
        typer.Option(help="YAML with margins, references and so on, as under fairness."),
    ] = None,
    name: Annotated[str, typer.Option(help="What the model is called on the page.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for report.html and report.json.")] = Path(
        "report"
    ),
    seed: Annotated[int, typer.Option(help="Seed of the intervals.")] = 0,
    gate: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Hold a run or a report to its acceptance criteria."),
    ] = None,
    approve: Annotated[
        bool, typer.Option("--approve", help='Then give its model the alias "approved" in MLflow.')
    ] = False,
    work_dir: WorkDir = Path(),
    as_json: AsJson = False,
) -> None:
    """Write a report on any model, or hold one to its criteria.

    Example: skinml report --predictions scores.csv --label malignant --score p --patient id
    """
    if context.invoked_subcommand is not None:
        return
    if gate is not None:
        _gate(gate, predictions, work_dir, approve=approve, as_json=as_json)
        return
    if predictions is None:
        raise InputError(
            rule="--predictions FILE, --gate RUN, or the command verify",
            got="none of them",
            do=_EXAMPLE,
        )
    from skinml.experiments.predictions_report import read_settings, report_predictions

    done = report_predictions(
        _columns(
            path=predictions,
            label=label,
            scores=tuple(score or ()),
            patient=patient,
            groups=dict(_named(each) for each in group or ()),
            site=site,
            item=item,
            prediction=prediction,
            positive=tuple(positive or ()),
            classes=tuple(word.strip() for word in classes.split(",") if word.strip()),
            threshold=threshold,
        ),
        out,
        fairness=None if settings is None else read_settings(settings),
        name=name,
        threshold_source=threshold_source,
        seed=seed,
    )
    if as_json:
        files = {"report": str(done.files.html), "json": str(done.files.json)}
        print(json.dumps({"run": done.record.run, "artifacts": files}), flush=True)
        return
    print(f"Report:  {done.files.html.resolve()}")


@app.command()
def verify(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A run's id, its folder, or a report.json.",
            autocompletion=finished_runs,
        ),
    ],
    predictions: Annotated[
        Path | None, typer.Option(help="The predictions file that the report was made from.")
    ] = None,
    work_dir: WorkDir = Path(),
    as_json: AsJson = False,
) -> None:
    """Check each number of a report, and compute the figures anew where that can be done.

    Exit code 5 where something differs.

    Example: skinml report verify runs/derm_tone-20260301-093000-1f2e
    """
    from skinml.experiments.report_check import checks_json, require_unchanged, verify_report

    found = verify_report(target, work_dir=work_dir, predictions=predictions)
    if as_json and not found.differs:
        print(checks_json(found), flush=True)
        return
    for each in found.checks:
        print(f"{each.outcome}: {each.what}{f' ({each.detail})' if each.detail else ''}")
    require_unchanged(found)


def _gate(
    target: str, predictions: Path | None, work_dir: Path, *, approve: bool, as_json: bool
) -> None:
    from skinml.experiments.gate_check import pass_gate, reasons

    found = pass_gate(target, work_dir=work_dir, predictions=predictions, approve=approve)
    staged = found.staged
    if as_json:
        model = None
        if staged is not None:
            model = {"name": staged.name, "version": staged.version, "aliases": staged.aliases}
        told = {
            "run": found.verified.record.run,
            "criteria": reasons(found.judged),
            "model": model,
            "approved": model if found.approved else None,
        }
        print(json.dumps(told), flush=True)
        return
    for line in reasons(found.judged):
        print(line)
    for check in found.verified.checks:
        if check.outcome == "not checked":
            print(f"not checked: {check.what} ({check.detail})")
    if staged is not None:
        stage = "Approved" if found.approved else "Candidate"
        print(f"{stage}: version {staged.version} of {staged.name}, in MLflow's registry")
    elif found.not_staged:
        print(f"MLflow was not told: {found.not_staged}")


_EXAMPLE = "See `skinml report --help`."


def _named(words: str) -> tuple[str, str]:
    name, given, column = words.partition("=")
    return (name, column) if given else (words, words)


def _columns(**values: Any) -> PredictionsSettings:
    from pydantic import ValidationError

    from skinml.experiments.predictions_file import PredictionsSettings

    for name in ("label", "scores", "patient"):
        if not values[name]:
            option = name.removesuffix("s")
            raise InputError(
                rule=f"--{option} COLUMN", got="none", do=f"Name the file's column. {_EXAMPLE}"
            )
    try:
        return PredictionsSettings(**values)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise InputError(rule=f"a possible --{option}", got=first["msg"], do=_EXAMPLE) from None
