"""What a clinic's staff does with consents: each act asks for a role and ends in the audit log."""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from skinml.clinic.erased import erased_names, give_keys
from skinml.clinic.gate import require_role
from skinml.clinic.requests import answered
from skinml.durable import locked
from skinml.errors import ConfigError, DataError, EnvironmentProblem
from skinml.stewardship.consent import (
    USUALLY_WITHDRAWN,
    Consent,
    PatientState,
    RegisterLine,
    Withdrawal,
)
from skinml.stewardship.consent_import import read_consents
from skinml.stewardship.consent_rules import (
    GIVERS,
    HOWS,
    USUAL_DATA,
    Restriction,
    standing,
)
from skinml.stewardship.days import day_of
from skinml.stewardship.pseudonyms import pseudonym
from skinml.stewardship.purposes import DATA_KINDS, PURPOSES, Purpose

if TYPE_CHECKING:
    from skinml.clinic.erased import erased_names
from skinml.clinic.folder import ClinicFolder

WORDS: Mapping[str, tuple[str, ...]] = {
    "purposes": PURPOSES,
    "data": DATA_KINDS,
    "how": HOWS,
    "given_by": GIVERS,
}
"""The words that a form's fields take."""

DEFAULT_DATA: tuple[str, ...] = USUAL_DATA
COVERED = "covered"
_EVENTS = ("consent granted", "consent withdrawn", "use restricted", "consents imported")
_KIND_WORDS = {Consent: "consent", Withdrawal: "withdrawal", Restriction: "restriction"}
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_MOST_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class PatientAnswer:
    """How one patient stands. Per patient: never log.

    Attributes:
        day: The day asked about.
        purposes: For each purpose "covered", or why not.
        changes: What was recorded, oldest first: when, by whom, and what it says.
    """

    day: datetime.date
    purposes: Mapping[str, str]
    changes: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class ConsentTable:
    """How many patients are covered. Exact: these numbers stay in the clinic.

    Attributes:
        day: The day asked about.
        num_patients: Patients on record.
        num_erased: Those who were erased; no purpose counts them.
        purposes: For each purpose, patients by "covered" or the reason why not.
    """

    day: datetime.date
    num_patients: int
    num_erased: int
    purposes: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        num_rows: Rows recorded; 0 where the same list was imported before.
        num_patients: Patients in them.
    """

    num_rows: int
    num_patients: int


@dataclass(frozen=True, repr=False)
class Ending:
    """A patient whose consent ends soon. Per patient: never log.

    Attributes:
        patient: The clinic's own id; None where the vault does not know it.
        purposes: What ends.
        until: The last day of the first of them to end.
    """

    patient: str | None
    purposes: tuple[str, ...]
    until: datetime.date


@dataclass(frozen=True)
class EndingConsents:
    """Consents that end soon. Exact: these numbers stay in the clinic.

    Attributes:
        day: The day asked about.
        within_days: How far ahead.
        num_patients: Patients whose cover ends for at least one purpose.
        purposes: Patients for each purpose, zeros left out.
        patients: Whose they are, where that was asked for.
    """

    day: datetime.date
    within_days: int
    num_patients: int
    purposes: Mapping[str, int]
    patients: tuple[Ending, ...] = ()


def add_consent(
    folder: ClinicFolder, patient: str, form: Mapping[str, Any], *, now: datetime.datetime
) -> PatientAnswer:
    """Record a consent.

    Args:
        folder: The clinic's folder.
        patient: The patient's id.
        form: The fields of `Consent`; days as YYYY-MM-DD. Missing `data` means images and
            records, missing `valid_from` today.
        now: The time, with its zone.

    Returns:
        How the patient stands now.

    Raises:
        ConfigError: If a field is missing or wrong.
        DataError: If the id could not be one, or the form began before the patient withdrew.
        EnvironmentProblem: If a file cannot be written.
        IntegrityError: If register or audit log was changed.
        PolicyError: If the user may not.
    """
    actor = require_role(folder, "consent.change")
    consent = _consent(form, day_of(now))
    history = folder.consents.state_of(patient).history
    late = [word for word in consent.purposes if consent not in standing([*history, consent], word)]
    if late:
        raise DataError(
            rule="a form given on the day of the patient's withdrawal or later",
            got=f"an earlier valid_from for {', '.join(late)}",
            do="Ask the patient again, and record the new form from its own day.",
        )
    folder.vault.remember([patient])
    folder.consents.grant(patient, consent, now=now, actor=actor)
    log_changes(folder)
    return answer_of(folder.consents.state_of(patient), day_of(now))


def withdraw_consent(
    folder: ClinicFolder,
    patient: str,
    purposes: Sequence[str] | None = None,
    *,
    now: datetime.datetime,
    even_if_unknown: bool = False,
) -> PatientAnswer:
    """Record that a patient takes consent back; the next round of a run goes without their data.

    Args:
        folder: The clinic's folder.
        patient: The patient's id.
        purposes: For which purposes; None: for all but care.
        now: The time, with its zone.
        even_if_unknown: Record it also where nothing is on record: a no in advance, or one of a
            patient in a research dataset.

    Returns:
        How the patient stands now.

    Raises:
        ConfigError: If a purpose is no known word.
        DataError: If nothing is on record about the patient; most likely the id is mistyped.
        EnvironmentProblem: If a file cannot be written.
        IntegrityError: If register or audit log was changed.
        PolicyError: If the user may not.
    """
    actor = require_role(folder, "consent.change")
    words = USUALLY_WITHDRAWN if purposes is None else tuple(purposes)
    if not set(words) <= set(PURPOSES):
        raise ConfigError(
            rule=f"purposes among {', '.join(PURPOSES)}",
            got="another word",
            do="Name what the patient takes back.",
        )
    if not folder.consents.state_of(patient).changes and not even_if_unknown:
        raise DataError(
            rule="a patient about whom something is on record",
            got="a number that the register does not know; nothing was recorded",
            do="Check the number; --even-if-unknown records the withdrawal in advance.",
        )
    known = cast(tuple[Purpose, ...], words)
    folder.consents.withdraw(patient, purposes=known, now=now, actor=actor)
    log_changes(folder)
    answered(folder, patient, "object", now=now, actor=actor)
    return answer_of(folder.consents.state_of(patient), day_of(now))


def import_consents(folder: ClinicFolder, path: Path, *, now: datetime.datetime) -> Imported:
    """Record a whole list of consents, or nothing.

    Args:
        folder: The clinic's folder.
        path: The list, see `skinml.stewardship.consent_import`.
        now: The time, with its zone.

    Returns:
        What was recorded.

    Raises:
        DataError: If the list breaks a rule.
        EnvironmentProblem: If a file cannot be read or written.
        IntegrityError: If register or audit log was changed.
        PolicyError: If the user may not.
    """
    actor = require_role(folder, "consent.change")
    content = _read(path)
    records = read_consents(content, "the list of consents", today=day_of(now))
    patients = {record.patient for record in records}
    digest = hashlib.sha256(content).hexdigest()
    rows = folder.consents.import_records(records, source_digest=digest, now=now, actor=actor)
    # An old form of somebody who was erased since brings nobody back.
    give_keys(folder, patients, PURPOSES, day_of(now))
    log_changes(folder)
    return Imported(rows, len(patients) if rows else 0)


def count_consents(folder: ClinicFolder, day: datetime.date) -> ConsentTable:
    """Count the patients that each purpose covers, and why it does not cover the others.

    Args:
        folder: The clinic's folder.
        day: The day to judge for.

    Returns:
        The table.

    Raises:
        IntegrityError: If the register was changed.
        PolicyError: If the user may not.
    """
    require_role(folder, "consent.count")
    book, erased = folder.consents.book(), erased_names(folder)
    purposes: dict[str, dict[str, int]] = {
        purpose: {reason or COVERED: number for reason, number in sorted(tally.items())}
        for purpose, tally in book.tally(day, erased).items()
    }
    return ConsentTable(day, book.num_patients, len(erased), purposes)


def show_patient(folder: ClinicFolder, patient: str, *, now: datetime.datetime) -> PatientAnswer:
    """Tell how one patient stands; the audit log says that somebody looked.

    Args:
        folder: The clinic's folder.
        patient: The patient's id.
        now: The time, with its zone.

    Returns:
        How the patient stands.

    Raises:
        DataError: If the id could not be one.
        IntegrityError: If register or audit log was changed.
        PolicyError: If the user may not.
    """
    actor = require_role(folder, "consent.read")
    state = folder.consents.state_of(patient)
    name = pseudonym(folder.key, patient)
    folder.audit.write("access", actor, now=now, kind="consents", patient=name, patients=1)
    return answer_of(state, day_of(now))


def expiring_consents(
    folder: ClinicFolder, within_days: int, *, now: datetime.datetime, named: bool = False
) -> EndingConsents:
    """Find the consents that end soon.

    Args:
        folder: The clinic's folder.
        within_days: How many days to look ahead, from 0 to 36,500.
        now: The time, with its zone.
        named: Whether to say whose they are, which needs the right to read single consents and
            is written into the audit log.

    Returns:
        The numbers and, where asked for, the patients.

    Raises:
        ConfigError: If the number of days lies outside.
        IntegrityError: If a file was changed.
        PolicyError: If the user may not.
    """
    actor = require_role(folder, "consent.read" if named else "consent.count")
    day = day_of(now)
    found = folder.consents.expiring(day, within_days)
    counts = {word: sum(word in each.purposes for each in found) for word in PURPOSES}
    patients: tuple[Ending, ...] = ()
    if named and found:
        folder.audit.write("access", actor, now=now, kind="consents", patients=len(found))
        patients = tuple(
            Ending(folder.vault.identify(each.pseudonym), each.purposes, each.until)
            for each in found
        )
    purposes: dict[str, int] = {word: number for word, number in counts.items() if number}
    return EndingConsents(day, within_days, len(found), purposes, patients)


def log_changes(folder: ClinicFolder) -> int:
    """Write what the register says and the audit log does not say yet into the audit log.

    Args:
        folder: The clinic's folder.

    Returns:
        Entries written.

    Raises:
        EnvironmentProblem: If the log cannot be written.
        IntegrityError: If register or audit log was changed.

    Guarantees:
        Each line of the register has one entry, in the same order, however often processes were
        killed between the two: the next call writes what is missing.
    """
    with locked(folder.path / ".consent.lock", "consent register"):
        known = sum(entry.event in _EVENTS for entry in folder.audit.entries())
        lines = folder.consents.lines(known)
        for line in lines:
            _log(folder, line)
    return len(lines)


def _log(folder: ClinicFolder, line: RegisterLine) -> None:
    now = datetime.datetime.fromisoformat(line.at)
    patient, entry = line.events[0]
    if line.change == "imported":
        folder.audit.write(
            "consents imported",
            line.actor,
            now=now,
            source=line.source,
            rows=sum(isinstance(each, Consent) for _, each in line.events),
            patients=len({name for name, _ in line.events}),
        )
    elif isinstance(entry, Restriction):
        told = {"patient": patient, "restricted": entry.restricted, "day": entry.since}
        folder.audit.write("use restricted", line.actor, now=now, **told)
    elif isinstance(entry, Withdrawal):
        told = {"patient": patient, "purposes": entry.purposes, "withdrawn_on": entry.day}
        folder.audit.write("consent withdrawn", line.actor, now=now, **told)
    else:
        told = entry.model_dump(exclude={"form_version"}) | {"form": entry.form_version}
        folder.audit.write("consent granted", line.actor, now=now, patient=patient, **told)


def _consent(form: Mapping[str, Any], today: datetime.date) -> Consent:
    """Build a consent from a form's fields; all problems at once, no value quoted."""
    values = {"valid_from": today.isoformat()} | {
        name: value for name, value in form.items() if value not in (None, "", ())
    }
    wrong = [
        f"{name}: must be a day such as 2026-03-01"
        for name in ("valid_from", "valid_until")
        if name in values and not _DAY.fullmatch(str(values[name]))
    ]
    try:
        consent = Consent.model_validate(values)
    except ValidationError as error:
        told = {
            str(part["loc"][0]) if part["loc"] else "form": part["msg"] for part in error.errors()
        }
        known = {line.split(":")[0] for line in wrong}
        wrong += [
            f"{name}: {_said(name, text)}" for name, text in told.items() if name not in known
        ]
    if wrong:
        raise ConfigError(
            rule="a form whose fields are all filled in with known words",
            got="; ".join(wrong),
            do="Nothing was recorded.",
            details=wrong,
        )
    return consent


def require_answer(form: Mapping[str, Any], name: str, *, today: datetime.date) -> None:
    """Look at one answer of a form that is being filled in.

    Args:
        form: The fields so far, as for `add_consent`.
        name: The field that was answered last.
        today: The day.

    Raises:
        ConfigError: If that field is wrong, whatever the others still lack.
    """
    try:
        _consent(form, today)
    except ConfigError as error:
        for line in error.details:
            if line.startswith(f"{name}: "):
                got = line.removeprefix(f"{name}: ")
                raise ConfigError(rule=error.rule, got=got, do="Type it again.") from None


def _said(name: str, text: str) -> str:
    if text == "Field required":
        return "is missing"
    if name in WORDS:
        return f"must be of {', '.join(WORDS[name])}"
    if name == "form_version":
        return "must be up to 40 letters, digits and . _ @ + - without a space"
    return text.removeprefix("Value error, ")


def answer_of(state: PatientState, day: datetime.date) -> PatientAnswer:
    """Say how one patient stands, for callers that have asked for a role and log it.

    Args:
        state: What is on record.
        day: The day asked about.

    Returns:
        The answer.
    """
    changes = []
    for change in state.changes:
        kind = _KIND_WORDS[type(change.entry)]
        values = change.entry.model_dump(mode="json", exclude={"with_form"})
        told = {"at": change.at, "actor": change.actor, "imported": change.imported}
        changes.append(told | {"kind": kind} | values)
    reasons: dict[str, str] = {
        purpose: state.reason(purpose, day) or COVERED for purpose in PURPOSES
    }
    return PatientAnswer(day, reasons, tuple(changes))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise EnvironmentProblem(
            rule="a list of consents that can be read",
            got=f"{path.name} ({error.strerror or type(error).__name__})",
            do="Check the path and its permissions.",
        ) from error
    if len(content) > _MOST_BYTES:
        raise DataError(
            rule=f"a list of at most {_MOST_BYTES // 2**20} MB",
            got="a longer one",
            do="Import it in parts.",
        )
    return content
