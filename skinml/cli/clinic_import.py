"""`skinml clinic import`. What it prints are counts and words of closed lists, never a file."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from skinml.cli.options import AsJson, AtFolder, Taxonomy
from skinml.cli.progress import Bars
from skinml.cli.screen import narrow_console, print_next
from skinml.errors import EnvironmentProblem

if TYPE_CHECKING:
    from skinml.clinic.importing import ImportReport

_WORDS = {
    "accepted": "accepted as they are",
    "masked": "accepted, something covered",
    "to_review": "wait for a person",
    "rejected": "rejected, nothing kept",
}
_REASONS = {"by a person": "decided on by a person", "text left after masking": "text left over"}
_WOULD = {
    "accepted": "would be accepted as they are",
    "masked": "would be accepted, something covered",
    "to_review": "would wait for a person",
    "rejected": "would be rejected, nothing kept",
}


def import_(
    source: Annotated[Path, typer.Argument(help="The folder of the picture files.")],
    records: Annotated[Path, typer.Option("--records", help="The list: CSV or Parquet.")],
    terms: Annotated[
        Path | None,
        typer.Option("--terms", help="Which column of the list is what, and choices: YAML."),
    ] = None,
    taxonomy: Taxonomy = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Do everything but write; show what would be kept.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Pictures looked at at once.")] = 1,
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Bring pictures and their list into the vault: only what is declared, made safe first.

    Example: skinml clinic import camera --records list.csv --folder north
    """
    from skinml.clinic.import_models import require_import_models

    require_import_models()  # before the folder is opened, which may ask for a passphrase
    from skinml.clinic.importing import ImportRequest, import_pictures
    from skinml.clinic.importing_terms import ImportTerms, read_terms
    from skinml.clinic.opening import open_at_screen

    chosen = ImportTerms() if terms is None else read_terms(_content(terms))
    opened = open_at_screen(folder)
    request = ImportRequest(source, records, chosen, taxonomy, dry_run=dry_run, threads=threads)
    with Bars(quiet=as_json) as bars:
        report = import_pictures(opened, request, now=datetime.now(UTC), progress=bars)
    if as_json:
        print(json.dumps(asdict(report), allow_nan=False), flush=True)
    else:
        _print(report, folder)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EnvironmentProblem(
            rule="a readable file of terms",
            got=error.strerror or type(error).__name__,
            do="Name another file with --terms.",
        ) from None


def _print(report: ImportReport, folder: Path) -> None:
    from skinml.clinic.findings import counted

    console = narrow_console()
    head = "What an import would do; nothing was written." if report.dry_run else "Imported."
    console.print(f"{head} {counted(report.rows, 'row')}, {counted(report.patients, 'patient')}.")
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(justify="right")
    table.add_column()
    for state, words in (_WOULD if report.dry_run else _WORDS).items():
        table.add_row(f"{report.states.get(state, 0):,}", words)
    console.print(table)
    for reason, count in sorted(report.reasons.items(), key=lambda item: -item[1]):
        console.print(f"  {count:,} {_REASONS.get(reason, reason)}")
    console.print(
        f"{report.new:,} new, {report.changed_files:,} with another file, "
        f"{report.changed_rows:,} with another row, {report.unchanged:,} unchanged."
    )
    if report.changed_choices:
        console.print(f"{report.changed_choices:,} made safe anew, for other choices hold now.")
    for number, words in (
        (report.originals, _originals(report)),
        (report.by_hand, "pictures stay as a person left them, though other choices hold now."),
        (report.erased, "rows of erased patients were passed over."),
        (report.ended, "rows of pictures that were kept for their days; not brought in again."),
        (report.corrected, "values that were corrected here stand against those of the list."),
        (report.missing_rows, "pictures on record are not in this list; they stay."),
        (report.other_files, "files in the folder are not in the list; nothing read."),
    ):
        if number:
            console.print(f"{number:,} {words}")
    kept = "Would be kept" if report.dry_run else "Kept"
    console.print(f"{kept}: {', '.join(report.kept)}.")
    if report.dropped:
        console.print(f"Not kept, for nobody declared it: {', '.join(report.dropped)}.")
    if report.closed:
        console.print(f"Not kept, for the policy says no: {', '.join(report.closed)}.")
    for column, count in report.others.items():
        console.print(
            f"{count:,} values of {column} are on no list and kept as 'other'. To keep such "
            f"words, name them under words: {column} in the file of --terms."
        )
    if report.without_consent:
        whose = counted(report.without_consent, "patient")
        console.print(
            f"{whose} without a consent: nothing of theirs is used until one is recorded."
        )
    if not report.dry_run:
        print_next(console, _next(report), folder)


def _next(report: ImportReport) -> str:
    words = "check"
    if report.without_consent:
        words = "consent add"
    if report.states.get("to_review"):
        words = "review"
    return f"skinml clinic {words} --folder FOLDER"


def _originals(report: ImportReport) -> str:
    if report.keeps_originals:
        would = "would be" if report.dry_run else "are"
        return f"original files {would} kept, sealed apart: the policy says so."
    return (
        "original files are there from before; the policy drops them now: the command "
        "'retention' removes them, or says how many are held."
    )
