"""`skinml clinic check`: one page for the people of a practice."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skinml.cli.edge import lines_of, printable, report_error
from skinml.cli.options import AsJson, AtFolder, Manifest, Taxonomy
from skinml.cli.progress import Bars
from skinml.cli.screen import narrow_console
from skinml.clinic.hints import placed
from skinml.errors import DataError

if TYPE_CHECKING:
    from skinml.clinic.findings import CheckReport, ConsentCover, Finding, ToneCover

_STYLES = {"green": "green", "amber": "yellow", "red": "bold red"}
_MOST_DETAILS = 5
_WORDS_WIDTH = 57  # columns beside a colour and a topic


def check(
    data: Annotated[
        Path | None,
        typer.Option("--data", help="The folder of a list and its images; else what was imported."),
    ] = None,
    purpose: Annotated[
        str | None, typer.Option(help="What for; by default federated_training.")
    ] = None,
    manifest: Manifest = "manifest.csv",
    taxonomy: Taxonomy = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure how long a run takes here.")
    ] = True,
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Look at a data set from all sides before a run does; exit code 2 where something is red.

    Example: skinml clinic check --data images --folder north
    """
    from skinml.clinic.opening import open_at_screen

    opened = open_at_screen(folder)  # told before what takes seconds to load
    from skinml.clinic.check_clinic import check_clinic
    from skinml.clinic.check_machine import Moment
    from skinml.experiments.pace import measure_pace

    with Bars(quiet=as_json) as bars:
        report = check_clinic(
            opened,
            data,
            now=datetime.now(UTC),
            clocks=lambda: Moment(time.time(), time.monotonic()),
            purpose=purpose,
            manifest=manifest,
            taxonomy=taxonomy,
            measure=measure_pace if measure else None,
            progress=bars,
        )
    told = (replace(each, do=placed(each.do, folder)) for each in report.findings)
    report = replace(report, findings=tuple(told))
    error = _error(report)
    if as_json:
        print(json.dumps(_values(report, error), allow_nan=False), flush=True)
    else:
        print_report(report, narrow_console())
    if error is not None:
        raise typer.Exit(report_error(error, as_json=False, folder=folder))


def print_report(report: CheckReport, console: Console) -> None:
    """Print the page.

    Args:
        report: What was found.
        console: Where to.
    """
    words = report.purpose.replace("_", " ")
    console.print(
        Text(f"{report.clinic}, {report.day}: are the data ready for {words}?"),
        style="bold",
    )
    console.print("Exact numbers, for this clinic's eyes: they stay here.\n")
    _print_findings(report.findings, console)
    if report.consents:
        _print_consents(report.consents, console)
    if report.tones:
        _print_tones(report.tones, console)
    colours = [each.colour for each in report.findings]
    counts = ", ".join(f"{colours.count(colour)} {colour}" for colour in ("red", "amber", "green"))
    console.print(f"\n{counts}. {_verdict(report)}")


def _print_findings(findings: tuple[Finding, ...], console: Console) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for width in (5, 15):
        table.add_column(min_width=width)
    table.add_column(overflow="fold")
    for each in findings:
        text = Text(printable(each.found))
        for line in each.details[:_MOST_DETAILS]:
            text.append(f"\n  {printable(line)}")
        if len(each.details) > _MOST_DETAILS:
            text.append(f"\n  and {len(each.details) - _MOST_DETAILS} more: --json shows them all")
        if each.do:
            lines = lines_of(f"To do: {printable(each.do)}", _WORDS_WIDTH)
            text.append("\n" + "\n".join(lines), style="italic")
        table.add_row(Text(each.colour.upper(), style=_STYLES[each.colour]), each.topic, text)
    console.print(table)


def _print_consents(covers: tuple[ConsentCover, ...], console: Console) -> None:
    console.print("\nPatients who may be used today", style="bold")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("for")
    for heading in ("by consent", "by licence", "ends in 90 days", "not at all"):
        table.add_column(heading, justify="right")
    for each in covers:
        numbers = (
            each.num_consent,
            each.num_licence,
            each.num_ending,
            sum(each.refused.values()),
        )
        table.add_row(each.purpose.replace("_", " "), *(f"{number:,}" for number in numbers))
    console.print(table)


def _print_tones(covers: tuple[ToneCover, ...], console: Console) -> None:
    console.print("\nWhat these patients can tell about a model on each skin tone", style="bold")
    console.print(
        "AUROC is how often a malignant lesion scores above a benign one: 1.00 always, 0.50 by "
        "chance. On the one patient in five who is kept for testing, a model of 0.85 would be "
        "measured to within:"
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("skin tone")
    for heading in ("patients", "malignant", "AUROC"):
        table.add_column(heading, justify="right")
    table.add_column("a difference of 0.10")
    for each in covers:
        table.add_row(
            Text(printable(f"{each.scale} {each.tone}")),
            f"{each.num_patients:,}",
            f"{each.num_malignant:,}",
            "too few" if each.half_width is None else f"± {each.half_width:.2f}",
            "can be told" if each.told else "cannot be told",
        )
    console.print(table)


def _verdict(report: CheckReport) -> str:
    return {
        "red": "Do what is red before a run.",
        "amber": "A run may start; read what is amber first.",
        "green": "A run may start.",
    }[report.colour]


def _error(report: CheckReport) -> DataError | None:
    red = [each for each in report.findings if each.colour == "red"]
    if not red:
        return None
    topics = ", ".join(dict.fromkeys(each.topic.lower() for each in red))
    return DataError(
        rule="data that are ready for a run", got=f"red: {topics}", do="Do what the page says."
    )


def _values(report: CheckReport, error: DataError | None) -> dict[str, object]:
    values = asdict(report) | {"day": report.day.isoformat(), "colour": report.colour}
    if error is None:
        return values
    told = {"code": error.exit_code, "rule": error.rule, "got": error.got, "do": error.do}
    return values | {"error": told}
