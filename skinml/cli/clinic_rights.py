"""`skinml clinic erase` and `skinml clinic contributions`: one patient's rights, told honestly."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from math import ceil, isinf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from skinml.cli.clinic_ledger import narrow_console
from skinml.cli.options import AsJson, AtFolder
from skinml.cli.patient_input import ask_patient
from skinml.errors import ConfigError

if TYPE_CHECKING:
    from skinml.clinic.contributions import Contributions, RunContribution

_UNBOUNDED = (
    "Something left this clinic without protecting noise: nothing bounds what it can tell about "
    "the patient."
)
_GONE = (
    "No model was changed, and none will be: what a model learnt from many patients cannot be "
    "taken out for one. Later runs leave the patient out."
)
_STAYS = (
    "A model that was trained keeps what it learnt. A withdrawal or an erasure changes what later "
    "runs may use, and no model."
)


def contributions(
    folder: AtFolder = Path(),
    delta: Annotated[float | None, typer.Option(help="Read epsilon at this delta.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tell which models a patient's data are in, and what bounds what these can tell.

    The patient's id is typed or piped in. It works after an erasure too.

    Example: skinml clinic contributions --folder ./north
    """
    from skinml.clinic.contributions import plain_values, show_contributions
    from skinml.clinic.opening import open_at_screen

    opened = open_at_screen(folder)
    found = show_contributions(opened, ask_patient(), now=datetime.now(UTC), delta=delta)
    if as_json:
        print(json.dumps(plain_values(found), allow_nan=False), flush=True)
    else:
        print_contributions(found)


def erase(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether to go on.")] = False,
    even_if_unknown: Annotated[
        bool,
        typer.Option("--even-if-unknown", help="Record the no also of an unknown patient."),
    ] = False,
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Erase a patient: withdraw consent, destroy the key, and tell which models were trained.

    The patient's id is typed or piped in. What was sealed under the key, in
    the vault, in caches and in files of runs, cannot be read any more. No
    model is changed. The clinic's own care records lie elsewhere and stay.

    Example: skinml clinic erase --folder ./north
    """
    from skinml.clinic.contributions import plain_values
    from skinml.clinic.erasure import erase_patient
    from skinml.clinic.opening import open_at_screen

    opened, patient = open_at_screen(folder), ask_patient()
    _confirm(yes)
    done = erase_patient(opened, patient, now=datetime.now(UTC), even_if_unknown=even_if_unknown)
    if as_json:
        told = plain_values(done.contributions)
        values: dict[str, Any] = {"key_destroyed": done.key, "objects": done.objects}
        print(json.dumps(values | {"contributions": told}, allow_nan=False), flush=True)
        return
    console = narrow_console()
    gone = (
        "The patient's key is destroyed: what was sealed under it in this folder cannot be read "
        "any more"
        if done.key
        else "The patient has no key here, so that nothing is sealed under one"
    )
    console.print(
        f"{gone}. Consent is withdrawn for all but care; the audit log says so. Care records that "
        "the clinic keeps elsewhere, files that images were imported from, and backups are not "
        "touched."
    )
    print_contributions(done.contributions)


def print_contributions(found: Contributions) -> None:
    """Print a patient's part in runs within 80 columns, with words for the patient.

    Args:
        found: What the clinic can tell.
    """
    console = narrow_console()
    if found.runs:
        table = Table(box=None, pad_edge=False)
        for heading in ("run", "experiment", "days", "rounds", "read for", "epsilon"):
            table.add_column(heading, overflow="fold", no_wrap=heading == "run")
        for run in found.runs:
            table.add_row(*map(Text, _row(run)))
        console.print(table)
    for line in sentences(found):
        console.print(Text(line))


def sentences(found: Contributions) -> list[str]:
    """Say what a patient's part in runs means, and what is not claimed.

    Args:
        found: What the clinic can tell.

    Returns:
        Sentences for a patient.
    """
    if not found.runs:
        lines = ["No run that this clinic has a record of read this patient's data."]
    else:
        models = "1 model" if found.models == 1 else f"{found.models} models"
        lines = [f"{models} learnt from this patient's data."]
        lines += _bound(found)
    if found.exact_figures:
        lines.append(
            "The patient was among those whom a model was tested on. In a simulation these figures "
            "are exact: no epsilon bounds them."
        )
    if found.unknown:
        lines.append(
            f"Of {len(found.unknown)} other run(s) the record is gone: nobody can tell any more "
            "whether they read this patient's data. If all of them did, epsilon is at most "
            f"{_words(found.epsilon_at_most)} in all."
        )
    if found.models:
        lines.append(_GONE if found.erased else _STAYS)
    return lines


def _bound(found: Contributions) -> list[str]:
    if isinf(found.epsilon):
        return [_UNBOUNDED]
    if not found.epsilon:
        return []
    words = (
        f"What bounds it: epsilon {found.epsilon:.3f} at delta {found.delta:g}, all together. In "
        "words: somebody who sees everything that these runs let out, and knows all other "
        "patients, and guesses whether this patient took part, is right at most "
        f"{ceil(100 * found.guess)} times in 100. Without looking it would be 50."
    )
    return [words]


def _row(run: RunContribution) -> tuple[str, ...]:
    days = run.first_day if run.first_day == run.last_day else f"{run.first_day} to {run.last_day}"
    outcome = "" if run.outcome in (None, "completed") else f" ({run.outcome})"
    return (
        run.run,
        f"{run.experiment or 'not told'}{outcome}",
        days,
        str(run.rounds),
        ", ".join(run.roles),
        _words(run.epsilon) if run.releases else "none",
    )


def _words(epsilon: float) -> str:
    return "unbounded" if isinf(epsilon) else f"{epsilon:.3f}"


def _confirm(yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(
            rule="--yes where nobody is at a terminal to be asked",
            got="no --yes; nothing was erased",
            do="Check the id, and give --yes.",
        )
    typer.confirm(
        "This cannot be undone. Erase this patient from the clinic's folder?", abort=True, err=True
    )
