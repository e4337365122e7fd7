"""The command line's entry: commands, exit codes, and nothing heavy before a command needs it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import click
import typer

from skinml.cli import (
    bundle,
    clinic,
    compare,
    data,
    doctor,
    federation,
    predict,
    privacy,
    report,
    runs,
    tracking,
)
from skinml.cli.edge import EXIT_INTERRUPTED, EXIT_USAGE, report_error, usage_error
from skinml.cli.version import version_lines

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Federated skin-condition classifiers with patient-level privacy and fairness reports.",
    epilog="Exit codes: 0 done, 2 input, 3 refused by policy or budget, 4 incomplete, "
    "5 integrity, 6 environment, 130 interrupted, 1 a defect of skinml.",
)
app.command()(runs.run)
app.command()(runs.evaluate)
app.command()(predict.predict)
app.command()(compare.compare)
app.add_typer(data.app, name="data")
app.add_typer(clinic.app, name="clinic")
app.add_typer(federation.app, name="federation")
app.add_typer(privacy.app, name="privacy")
app.add_typer(report.app, name="report")
app.add_typer(bundle.app, name="bundle")
app.command()(tracking.mlflow)
app.command()(doctor.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        print("\n".join(version_lines()))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show versions and platform."
        ),
    ] = False,
) -> None:
    """Federated skin-condition classifiers with patient-level privacy and fairness reports."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: What stands behind `skinml`; by default the process's own arguments.

    Returns:
        The exit code of design.md section 5.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(words, prog_name="skinml", standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # what typer makes of Ctrl-C
            return report_error(KeyboardInterrupt(), as_json=as_json)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except (click.Abort, KeyboardInterrupt):
        return report_error(KeyboardInterrupt(), as_json=as_json)
    except click.exceptions.NoArgsIsHelpError as help_text:
        click.echo(help_text.format_message(), err=True)
        return EXIT_USAGE
    except click.ClickException as complaint:
        asked = getattr(complaint, "ctx", None)
        command = "skinml" if asked is None else asked.command_path
        return report_error(usage_error(complaint.format_message(), command), as_json=as_json)
    # The process edge: foreseen errors become one line, defects show their traceback.
    except Exception as error:  # noqa: BLE001
        return report_error(error, as_json=as_json, folder=_clinic_folder(words))
    finally:
        signal.signal(signal.SIGTERM, before)
    return code if isinstance(code, int) else 0


def _clinic_folder(words: Sequence[str]) -> Path | None:
    """Find the folder that a clinic's command was given; None for a command of another group."""
    if words[:1] != ["clinic"]:
        return None
    for word, following in pairwise((*words, "")):
        name, sign, value = word.partition("=")
        if name == "--folder":
            return Path(value if sign else following)
    return Path()


def _interrupt(number: int, frame: object) -> None:
    """End a terminated command the way Ctrl-C does, so that its workers end too."""
    del number, frame
    raise KeyboardInterrupt
