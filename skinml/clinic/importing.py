"""Importing pictures: step by step, each picture whole or not at all, the same command goes on.

A picture is sealed in the vault, then put on record; of what a kill left in between nothing is on
record, and the next import removes it. What is on record already is not touched again unless its
file, its row or the choices of how it is made safe changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from typing import Protocol

from skinml.clinic.erased import erased_among
from skinml.clinic.folder import ClinicFolder
from skinml.clinic.gate import require_role
from skinml.clinic.importing_records import Records, Row, dates_of, read_records
from skinml.clinic.importing_steps import Done, Work, number_of, removed_for_good
from skinml.clinic.importing_terms import ImportTerms
from skinml.clinic.picture_lock import remove_orphans
from skinml.data.deidentify import Finders, shipped_finders
from skinml.data.settings import ImageLimits
from skinml.data.taxonomy import load_taxonomy
from skinml.errors import EnvironmentProblem
from skinml.stewardship.days import day_of
from skinml.stewardship.pictures import Picture

BY_A_PERSON = "by a person"


class Progress(Protocol):
    """Hears how far an import is."""

    def begin(self, stage: str, total: int) -> None:
        """Begin a stage."""

    def reached(self, done: int) -> None:
        """Hear how many steps of the stage are done."""


@dataclass(frozen=True)
class ImportRequest:
    """What to import.

    Attributes:
        source: The folder of the files.
        records: The list, CSV or Parquet.
        terms: Which column of the list is what, and how pictures are made safe.
        taxonomy: The clinic's own words; None for the shipped ones.
        limits: What a file may ask of this machine.
        dry_run: Whether to do everything but write.
        threads: How many pictures are looked at at once.
    """

    source: Path
    records: Path
    terms: ImportTerms = field(default_factory=ImportTerms)
    taxonomy: Path | None = None
    limits: ImageLimits = field(default_factory=ImageLimits)
    dry_run: bool = False
    threads: int = 1


@dataclass(frozen=True)
class ImportReport:
    """What an import did; counts only, exact, for the clinic's own screen.

    Attributes:
        rows: Rows of the list.
        patients: Patients in it.
        new: Pictures that were not on record.
        changed_files: Pictures on record whose file is another one now; looked at anew.
        changed_choices: Pictures on record that are made safe in another way now; looked at anew.
        changed_rows: Pictures on record whose row says something else now; pictures kept.
        unchanged: Pictures on record as they are.
        by_hand: Those of them that a person decided on, though other choices hold now.
        originals: Pictures of the list whose original file is kept, apart.
        keeps_originals: Whether the policy says so; if not, they are there from before.
        erased: Rows of patients who were erased here; nothing of them was read.
        ended: Rows of pictures that were kept for their days before; nothing of them was read.
        corrected: Values of the list that a correction made here stands against.
        without_consent: Patients with neither a consent that stands today, for any purpose of the
            policy, nor a licence; nothing of theirs is used.
        missing_rows: Pictures on record that the list does not name any more; they stay.
        states: How many of the list's pictures are in which state now.
        reasons: How many have which reason; those that a person decided on have this one alone.
        kept: Columns that were kept.
        dropped: Headers that were not.
        closed: Declared columns that the policy does not keep.
        others: By column, values that are no word of its list and are kept as "other".
        other_files: Files below the source that the list does not name.
        seconds: Processor time by stage.
        dry_run: Whether nothing was written.
    """

    rows: int
    patients: int
    new: int
    changed_files: int
    changed_choices: int
    changed_rows: int
    unchanged: int
    by_hand: int
    originals: int
    keeps_originals: bool
    erased: int
    ended: int
    corrected: int
    without_consent: int
    missing_rows: int
    states: Mapping[str, int]
    reasons: Mapping[str, int]
    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    closed: tuple[str, ...]
    others: Mapping[str, int]
    other_files: int
    seconds: Mapping[str, float]
    dry_run: bool


def import_pictures(
    folder: ClinicFolder,
    request: ImportRequest,
    *,
    now: datetime,
    finders: Finders | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Import pictures with their list into a clinic's vault.

    Args:
        folder: The clinic's opened folder.
        request: What to import.
        now: The time, with its zone.
        finders: Who looks for faces and writing; by default the models of the extra `import`.
        progress: Hears how far it is.

    Returns:
        What was done.

    Raises:
        ConfigError: If the terms are at fault.
        DataError: If the list is; then nothing was imported.
        EnvironmentProblem: If something cannot be read or written, or the extra is missing.
        IntegrityError: If the folder was changed.
        PolicyError: If the user may not import, or the policy refuses a column.

    Guarantees:
        Killed at any moment, each picture is on record whole or not at all, and the same call goes
        on. A picture that did not change costs one reading of its file. No file's name, no cell of
        the list and no letter read in a picture is in the audit log, a message or the report.
    """
    actor = require_role(folder, "data.import")
    terms = request.terms
    if not request.source.is_dir():
        raise EnvironmentProblem(
            rule="a folder with the pictures", got="none there", do="Name another folder."
        )
    dates = dates_of(folder, terms, day_of(now))
    records = read_records(folder, request.records, terms, dates, load_taxonomy(request.taxonomy))
    gone = erased_among(folder, {row.patient for row in records.rows})
    living = [row for row in records.rows if row.patient not in gone]
    over = removed_for_good(folder, folder.pictures.ended(), day_of(now))
    rows = [row for row in living if number_of(folder, row) not in over]
    looking = finders or shipped_finders(terms.pictures)
    work = Work(folder, request.source, terms, request.limits, dates, looking, now, actor)
    if not request.dry_run:
        remove_orphans(folder)
    before = folder.pictures.pictures()
    if progress is not None:
        progress.begin("looking at pictures", len(rows))
    done = []
    for each in work.steps(rows, before, threads=request.threads, dry_run=request.dry_run):
        done.append(each)
        if progress is not None:
            progress.reached(len(done))
    report = replace(
        _report(
            request,
            records,
            before,
            done,
            keeps_originals=folder.policy.originals == "keep",
        ),
        erased=len(records.rows) - len(living) + len(rows) - len(done),
        ended=len(living) - len(rows),
        without_consent=_without_consent(folder, living, day_of(now)),
    )
    changed = report.new + report.changed_files + report.changed_choices + report.changed_rows
    if changed and not request.dry_run:
        folder.audit.write(
            "import",
            actor,
            now=now,
            kind="images",
            patients=len({row.patient for row in rows}),
            rows=changed,
            source=records.digest,
            states=dict(report.states),
            reasons=dict(report.reasons),
        )
    return report


def _report(
    request: ImportRequest,
    records: Records,
    before: Mapping[str, Picture],
    done: Sequence[Done],
    *,
    keeps_originals: bool,
) -> ImportReport:
    kinds = Counter(each.kind for each in done)
    seconds: Counter[str] = Counter()
    for each in done:
        seconds.update(dict(each.seconds))
    return ImportReport(
        rows=len(records.rows),
        patients=len({row.patient for row in records.rows}),
        new=kinds["new"],
        changed_files=kinds["file"],
        changed_choices=kinds["choices"],
        changed_rows=kinds["row"],
        unchanged=kinds["same"],
        by_hand=sum(each.by_hand for each in done),
        originals=sum(each.with_original for each in done),
        keeps_originals=keeps_originals,
        erased=0,
        ended=0,
        corrected=sum(each.corrected for each in done),
        without_consent=0,
        missing_rows=len(before.keys() - {each.picture.number for each in done}),
        states=dict(Counter[str](each.picture.state for each in done)),
        reasons=dict(Counter[str](why for each in done for why in _open_reasons(each.picture))),
        kept=records.kept,
        dropped=records.dropped,
        closed=records.closed,
        others=records.others,
        other_files=_other_files(request.source, records.rows),
        seconds=dict(seconds),
        dry_run=request.dry_run,
    )


def _open_reasons(picture: Picture) -> tuple[str, ...]:
    """Tell why a picture is as it is; what a person has decided on is open no longer."""
    return (BY_A_PERSON,) if BY_A_PERSON in picture.reasons else picture.reasons


def _without_consent(folder: ClinicFolder, rows: Sequence[Row], today: date) -> int:
    """Count patients of whom nothing may be used on any ground."""
    patients = sorted({row.patient for row in rows if not row.fields.get("licence")})
    covered = {
        patient
        for purpose in folder.policy.purposes
        for patient, why in zip(
            patients, folder.consents.verdicts(patients, purpose, today), strict=True
        )
        if why in ("", "restricted")
    }
    return len(patients) - len(covered)


def _other_files(source: Path, rows: Iterable[Row]) -> int:
    """Count files that no row names; links are not followed."""
    named = {row.image for row in rows}
    below = (
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_symlink() or path.is_file()
    )
    return sum(name not in named for name in below)
