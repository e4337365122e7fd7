"""`skinml clinic consent ...`. A patient's number is typed or piped in, and never an argument."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skinml.cli.clinic_rights import print_contributions
from skinml.cli.options import AsJson, AtFolder
from skinml.cli.patient_input import QuietCommand, ask_patient
from skinml.cli.screen import asked, minute, narrow_console
from skinml.clinic.days import day_of, this_day
from skinml.clinic.hints import placed
from skinml.errors import ConfigError

if TYPE_CHECKING:
    from skinml.clinic.consents import ConsentTable, EndingConsents, PatientAnswer

_NO_END = "no end"
_QUESTIONS = {
    "purposes": ("What did the patient agree to?", "Any of: {words}."),
    "data": ("For which data?", "Any of: {words}."),
    "valid_from": ("From which day on?", "A day such as 2026-03-01."),
    "valid_until": ("Until which day?", f"A day such as 2027-03-01, or '{_NO_END}'."),
    "form_version": ("Which version is printed on the form?", "Such as 2.1; no space in it."),
    "how": ("How was it given?", "One of: {words}."),
    "given_by": ("Who gave it?", "One of: {words}."),
}
_STAY = "These numbers are exact and stay in the clinic."


app = typer.Typer(no_args_is_help=True, help="Record, withdraw, show and import consents.")

Purposes = Annotated[
    list[str] | None,
    typer.Option("--purpose", help="Such as research or federated_training; may be repeated."),
]


@app.callback()
def _group() -> None:
    """Record, withdraw, show and import consents."""


@app.command(cls=QuietCommand)
def add(
    purpose: Purposes = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="images, records, before_and_after_images; by default the first two."),
    ] = None,
    valid_from: Annotated[str | None, typer.Option(help="First day; by default today.")] = None,
    valid_until: Annotated[str | None, typer.Option(help="Last day; by default no end.")] = None,
    form_version: Annotated[
        str | None, typer.Option(help="The version printed on the form.")
    ] = None,
    how: Annotated[str | None, typer.Option(help="paper, electronic or spoken.")] = None,
    given_by: Annotated[
        str | None, typer.Option(help="patient, parent, guardian or legal_representative.")
    ] = None,
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Record a consent. In a terminal, what is not given is asked for.

    Example: skinml clinic consent add --form-version 2.1 --folder north
    """
    from skinml.clinic.consents import add_consent
    from skinml.clinic.opening import open_at_screen

    form: dict[str, Any] = {
        "purposes": tuple(purpose or ()),
        "data": tuple(data or ()),
        "valid_from": valid_from,
        "valid_until": valid_until,
        "form_version": form_version,
        "how": how,
        "given_by": given_by,
    }
    opened = open_at_screen(folder)
    patient = ask_patient()
    if sys.stdin.isatty():
        form |= _ask(form)
    found = add_consent(opened, patient, form, now=datetime.now(UTC))
    if as_json:
        _print_json({"recorded": "consent", "purposes": dict(found.purposes)})
        return
    print("The consent is recorded.")
    _print_purposes(found.purposes)


@app.command(cls=QuietCommand)
def withdraw(
    purpose: Purposes = None,
    even_if_unknown: Annotated[
        bool,
        typer.Option(
            "--even-if-unknown",
            help="Record it also where nothing is on record about the patient.",
        ),
    ] = False,
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Record that a patient takes consent back; by default for all but care.

    Example: skinml clinic consent withdraw --folder north
    """
    from skinml.clinic.consents import withdraw_consent
    from skinml.clinic.contributions import contributions_of, plain_values
    from skinml.clinic.opening import open_at_screen

    opened, patient, now = open_at_screen(folder), ask_patient(), datetime.now(UTC)
    found = withdraw_consent(
        opened, patient, purpose or None, now=now, even_if_unknown=even_if_unknown
    )
    if as_json:
        told = plain_values(contributions_of(opened, patient))
        purposes = dict(found.purposes)
        _print_json({"recorded": "withdrawal", "purposes": purposes, "contributions": told})
        return
    print("The withdrawal is recorded. Runs leave the patient out from their next round on.")
    print("If it was a mistake, or the patient agrees again, record the consent anew:")
    print(placed("   skinml clinic consent add --folder FOLDER", folder))
    _print_purposes(found.purposes)
    print_contributions(contributions_of(opened, patient))


@app.command(cls=QuietCommand)
def show(
    patient_from_stdin: Annotated[
        bool,
        typer.Option("--patient-from-stdin", help="Show one patient, whose number is asked for."),
    ] = False,
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Show how many patients each purpose covers today, or how one patient stands.

    Example: skinml clinic consent show --folder north
    """
    from skinml.clinic.consents import count_consents, show_patient
    from skinml.clinic.opening import open_at_screen

    opened, now = open_at_screen(folder), datetime.now(UTC)
    if patient_from_stdin:
        found = show_patient(opened, ask_patient(), now=now)
        if as_json:
            _print_json(asdict(found) | {"day": found.day.isoformat()})
        else:
            _print_patient(found)
        return
    table = count_consents(opened, day_of(now))
    if as_json:
        _print_json(asdict(table) | {"day": table.day.isoformat()})
    else:
        _print_table(table)


@app.command(name="import", cls=QuietCommand)
def import_list(
    file: Annotated[Path, typer.Argument(help="A CSV file in UTF-8, with commas.")],
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Record a whole list of consents, or, where a row is wrong, nothing.

    Columns: patient_id; purposes, with ';' between several; valid_from, a
    day such as 2026-03-01; form_version; how: paper, electronic or spoken;
    given_by: patient, parent, guardian or legal_representative. May be there
    too: data (images;records where empty), valid_until, withdrawn.

    Example: skinml clinic consent import consents.csv --folder north
    """
    from skinml.clinic.consents import import_consents
    from skinml.clinic.opening import open_at_screen

    done = import_consents(open_at_screen(folder), file, now=datetime.now(UTC))
    if as_json:
        _print_json({"imported": done.num_rows, "patients": done.num_patients})
    elif done.num_rows:
        rows, people = _counted(done.num_rows, "row"), _counted(done.num_patients, "patient")
        print(f"Recorded: {rows}, {people}. {_STAY}")
    else:
        print("This list was imported before; nothing was recorded again.")


@app.command(cls=QuietCommand)
def expiring(
    within_days: Annotated[int, typer.Option(help="How many days to look ahead.")] = 90,
    named: Annotated[
        bool, typer.Option("--named", help="Say whose they are; the audit log notes it.")
    ] = False,
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Show whose consent ends soon.

    Example: skinml clinic consent expiring --within-days 30 --folder north
    """
    from skinml.clinic.consents import expiring_consents
    from skinml.clinic.opening import open_at_screen

    opened, now = open_at_screen(folder), datetime.now(UTC)
    found = expiring_consents(opened, within_days, now=now, named=named)
    if as_json:
        people = [asdict(each) | {"until": each.until.isoformat()} for each in found.patients]
        _print_json(asdict(found) | {"day": found.day.isoformat(), "patients": people})
    else:
        _print_ending(found)


def _ask(form: Mapping[str, Any]) -> dict[str, Any]:
    """Ask at the terminal for what a form still lacks, each question until its answer does."""
    from skinml.clinic.consents import DEFAULT_DATA, WORDS

    usual = {"data": ", ".join(DEFAULT_DATA), "valid_from": this_day().isoformat()}
    usual |= {"valid_until": _NO_END, "how": "paper", "given_by": "patient"}
    console, filled = narrow_console(Console(stderr=True)), dict(form)
    missing = [name for name in _QUESTIONS if not form[name]]
    for number, name in enumerate(missing, start=1):
        question, reason = _QUESTIONS[name]
        filled[name] = asked(
            f"{number} of {len(missing)}  {question}",
            reason.format(words=", ".join(WORDS.get(name, ()))),
            # What a patient said yes to is typed, never taken over by Enter.
            usual.get(name),
            partial(_answer, filled, name),
            console,
        )
    return filled


def _answer(form: Mapping[str, Any], name: str, text: str) -> Any:
    from skinml.clinic.consents import WORDS, require_answer

    if not text.isprintable():
        raise ConfigError(rule="printable characters", got="another one", do="Type it again.")
    value: Any = _words(text, WORDS[name]) if name in ("purposes", "data") else text
    if (name, text) == ("valid_until", _NO_END):
        value = None
    require_answer({**form, name: value}, name, today=this_day())
    return value


def _words(answer: str, known: Collection[str]) -> tuple[str, ...]:
    """Split an answer; a space within a known word stands for the line between its parts."""
    whole = tuple("_".join(each.split()) for each in answer.split(",") if each.strip())
    return whole if set(whole) <= set(known) else tuple(answer.replace(",", " ").split())


def _print_purposes(purposes: Mapping[str, str]) -> None:
    table = _table("use of the data", "today")
    for purpose, word in purposes.items():
        table.add_row(purpose.replace("_", " "), word)
    narrow_console().print(table)


def _print_patient(found: PatientAnswer) -> None:
    _print_purposes(found.purposes)
    table = _table("recorded (UTC)", "by", "what")
    for change in found.changes:
        table.add_row(
            minute(str(change["at"])), Text(str(change["actor"])), Text(_in_words(change))
        )
    narrow_console().print(table if found.changes else "Nothing is on record.")


def _in_words(change: Mapping[str, Any]) -> str:
    purposes = ", ".join(change["purposes"]).replace("_", " ")
    listed = " (imported)" if change["imported"] else ""
    if change["kind"] == "withdrawal":
        return f"withdrawn on {change['day']}: {purposes}{listed}"
    until = f" to {change['valid_until']}" if change["valid_until"] else ", no end"
    data = ", ".join(change["data"]).replace("_", " ")
    giver = change["given_by"].replace("_", " ")
    return (
        f"consent to {purposes}, for {data}; from {change['valid_from']}{until}; form "
        f"{change['form_version']}, {change['how']}, by {giver}{listed}"
    )


def _print_table(found: ConsentTable) -> None:
    from skinml.clinic.consents import COVERED

    table = _table("use of the data", COVERED, "not covered, and why")
    for purpose, tally in found.purposes.items():
        others = [f"{reason} {number:,}" for reason, number in tally.items() if reason != COVERED]
        table.add_row(purpose.replace("_", " "), f"{tally.get(COVERED, 0):,}", ", ".join(others))
    console = narrow_console()
    people = _counted(found.num_patients, "patient")
    apart = f", {found.num_erased:,} erased" * bool(found.num_erased)
    console.print(f"{people} on record{apart}, {found.day.isoformat()}")
    console.print(table)
    console.print(_STAY)


def _print_ending(found: EndingConsents) -> None:
    console = narrow_console()
    whose = f"The consent of {_counted(found.num_patients, 'patient')}"
    whose = whose if found.num_patients else "No consent"
    console.print(f"{whose} ends within {found.within_days} days. {_STAY}")
    table = _table("use of the data", "patients")
    for purpose, patients in found.purposes.items():
        table.add_row(purpose.replace("_", " "), f"{patients:,}")
    if found.purposes:
        console.print(table)
    people = _table("last day", "patient", "what ends")
    for each in found.patients:
        words = ", ".join(each.purposes).replace("_", " ")
        name = Text(each.patient) if each.patient else Text("not in the vault", style="italic")
        people.add_row(each.until.isoformat(), name, words)
    if found.patients:
        console.print(people)


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'s' * (number != 1)}"


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _print_json(values: Mapping[str, Any]) -> None:
    print(json.dumps(values, allow_nan=False), flush=True)
