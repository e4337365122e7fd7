"""Importing pictures: step by step, each picture whole or not at all, the same command goes on.

A picture is sealed in the vault, then put on record; of what a kill left in between nothing is on
record, and the next import removes it. What is on record already is not touched again unless its
file or its row changed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from itertools import islice
from pathlib import Path
from typing import Protocol

from skinml.clinic.erased import erased_among
from skinml.clinic.folder import ClinicFolder
from skinml.clinic.gate import require_role
from skinml.clinic.importing_records import Dates, Records, Row, dates_of, grouped_age, read_records
from skinml.clinic.importing_terms import ImportTerms
from skinml.clinic.picture_lock import changing_pictures, remove_orphans
from skinml.data.deidentify import Finders, Safe, make_safe, shipped_finders
from skinml.data.foreign_pictures import Refused, read_below
from skinml.data.settings import ImageLimits
from skinml.data.taxonomy import load_taxonomy
from skinml.errors import EnvironmentProblem
from skinml.stewardship.deidentification import Decision
from skinml.stewardship.pictures import PENDING, PICTURE, Picture
from skinml.stewardship.retention import is_over, shortened

_BATCH = 8  # pictures put on record at once: so many are looked at again after a kill, at most


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
        changed_rows: Pictures on record whose row says something else now; pictures kept.
        unchanged: Pictures on record as they are.
        erased: Rows of patients who were erased here; nothing of them was read.
        ended: Rows of pictures that were kept for their days before; nothing of them was read.
        corrected: Values of the list that a correction made here stands against.
        without_consent: Patients with neither a consent that stands today, for any purpose of the
            policy, nor a licence; nothing of theirs is used.
        missing_rows: Pictures on record that the list does not name any more; they stay.
        states: How many of the list's pictures are in which state now.
        reasons: How many have which reason.
        kept: Columns that were kept.
        dropped: Headers that were not.
        closed: Declared columns that the policy does not keep.
        other_files: Files below the source that the list does not name.
        seconds: Processor time by stage.
        dry_run: Whether nothing was written.
    """

    rows: int
    patients: int
    new: int
    changed_files: int
    changed_rows: int
    unchanged: int
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
    dates = dates_of(folder, terms, now.date())
    records = read_records(folder, request.records, terms, dates, load_taxonomy(request.taxonomy))
    gone = erased_among(folder, {row.patient for row in records.rows})
    living = [row for row in records.rows if row.patient not in gone]
    over = _over(folder, folder.pictures.ended(), now.date())
    rows = [row for row in living if _number(folder, row) not in over]
    looking = finders or shipped_finders(terms.pictures)
    work = _Work(folder, request, dates, looking, now, actor)
    if not request.dry_run:
        remove_orphans(folder)
    before = folder.pictures.pictures()
    if progress is not None:
        progress.begin("looking at pictures", len(rows))
    done = []
    for each in work.steps(rows, before):
        done.append(each)
        if progress is not None:
            progress.reached(len(done))
    report = replace(
        _report(request, records, before, done),
        erased=len(records.rows) - len(living) + len(rows) - len(done),
        ended=len(living) - len(rows),
        without_consent=_without_consent(folder, living, now.date()),
    )
    changed = report.new + report.changed_files + report.changed_rows
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
    request: ImportRequest, records: Records, before: Mapping[str, Picture], done: Sequence[_Done]
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
        changed_rows=kinds["row"],
        unchanged=kinds["same"],
        erased=0,
        ended=0,
        corrected=sum(each.corrected for each in done),
        without_consent=0,
        missing_rows=len(before.keys() - {each.picture.number for each in done}),
        states=dict(Counter[str](each.picture.state for each in done)),
        reasons=dict(Counter[str](why for each in done for why in each.picture.reasons)),
        kept=records.kept,
        dropped=records.dropped,
        closed=records.closed,
        other_files=_other_files(request.source, records.rows),
        seconds=dict(seconds),
        dry_run=request.dry_run,
    )


@dataclass(frozen=True, repr=False)
class _Done:
    """One picture, ready to be put on record: what it is, and its bytes where they are new."""

    kind: str
    picture: Picture
    content: bytes | None = None
    seconds: tuple[tuple[str, float], ...] = ()
    corrected: int = 0


@dataclass(frozen=True, repr=False)
class _Work:
    folder: ClinicFolder
    request: ImportRequest
    dates: Dates
    finders: Finders
    now: datetime
    actor: str

    def steps(self, rows: Sequence[Row], before: Mapping[str, Picture]) -> Iterator[_Done]:
        """Do one batch after the other; each is on record before the next begins."""
        with ThreadPoolExecutor(max(1, self.request.threads)) as pool:
            for chunk in _batches(rows):
                done = list(pool.map(self.step, chunk, [before] * len(chunk)))
                if not self.request.dry_run:
                    done = self.keep(done)
                for each in done:
                    yield replace(each, content=None)  # thousands of pictures do not stay in memory

    def step(self, row: Row, before: Mapping[str, Picture]) -> _Done:
        """Do everything for one picture but write."""
        register, request = self.folder.pictures, self.request
        number = _number(self.folder, row)
        described = register.digest_of(json.dumps(dict(row.fields), sort_keys=True).encode())
        known = before.get(number)
        held = _held_against(known, row)
        try:
            content = read_below(request.source, row.image, request.limits)
        except Refused as refusal:
            safe, source = Safe(Decision("rejected", (refusal.reason,)), None), ""
        else:
            source = register.digest_of(content)
            if known is not None and known.source == source:
                if known.described == described:
                    return _Done("same", known, corrected=held)
                fields = {**_from_header(known, request.terms), **row.fields}
                renewed = replace(known, fields=fields, described=described)
                return _Done("row", renewed, corrected=held)
            tags = tuple(request.terms.dicom.values())
            safe = make_safe(content, request.terms.pictures, self.finders, request.limits, tags)
        picture = Picture(
            number=number,
            patient=row.patient,
            state=safe.decision.state,
            reasons=safe.decision.reasons,
            object=None,
            source=source,
            described=described,
            fields={**_tagged(safe, request.terms, self.dates, row), **row.fields},
            boxes=safe.decision.masks,
            width=safe.width,
            height=safe.height,
            imported=self.now.date(),
        )
        if known is None:
            return _Done("new", picture, safe.content, safe.seconds)
        if not source and known.state == "rejected" and known.reasons == picture.reasons:
            return _Done("same", known, corrected=held)
        return _Done("file", picture, safe.content, safe.seconds, held)

    def keep(self, done: Sequence[_Done]) -> list[_Done]:
        """Put a few pictures on record: objects, then lines, then the old objects go.

        Returns:
            Those that could be: patients may have been erased, and days have ended, since.
        """
        if all(each.kind == "same" for each in done):
            return list(done)
        folder, vault = self.folder, self.folder.vault
        with changing_pictures(folder):
            gone = erased_among(folder, {each.picture.patient for each in done})
            began = folder.pictures.ended()
            over = _over(folder, began, self.now.date())
            done = [
                each
                for each in done
                if each.picture.patient not in gone and each.picture.number not in over
            ]
            # Somebody may have reviewed or corrected one since: what was done by hand stays.
            current = folder.pictures.pictures()
            written = [
                self._merged(
                    replace(known, fields=each.picture.fields, described=each.picture.described),
                    known,
                )
                for each in done
                if each.kind == "row" and (known := current.get(each.picture.number))
            ]
            fresh = []
            for each in done:
                if each.kind in ("new", "file"):
                    number = each.picture.number
                    picture = replace(
                        each.picture, imported=began.get(number, each.picture.imported)
                    )
                    picture = self._merged(picture, current.get(number))
                    fresh.append(replace(each, picture=picture))
            numbers = [each.picture.number for each in fresh]
            old = {current[name].object for name in numbers if name in current} - {None}
            for kind in (PICTURE, PENDING):
                chosen = [each for each in fresh if each.content and _kind(each.picture) == kind]
                patients = [each.picture.patient for each in chosen]
                ids = vault.put_all(patients, [each.content or b"" for each in chosen], kind=kind)
                written += [
                    replace(each.picture, object=name)
                    for each, name in zip(chosen, ids, strict=True)
                ]
            written += [each.picture for each in fresh if not each.content]
            vault.remember([each.patient for each in written])
            folder.pictures.write(written, now=self.now, actor=self.actor)
            vault.discard([each for each in old if each])
        return done

    def _merged(self, picture: Picture, known: Picture | None) -> Picture:
        """Keep corrected values and the day that a picture's time began; leave out what is over."""
        if known is not None:
            listed = {k: v for k, v in picture.fields.items() if k not in known.corrected}
            own = {k: known.fields[k] for k in known.corrected if k in known.fields}
            picture = replace(
                picture,
                fields={**listed, **own},
                imported=known.imported,
                corrected=known.corrected,
            )
        return shortened(picture, self.folder.policy.retention, self.now.date())


def _number(folder: ClinicFolder, row: Row) -> str:
    return folder.pictures.number_of(row.patient, row.image)


def _over(folder: ClinicFolder, began: Mapping[str, date], today: date) -> set[str]:
    """Find pictures that were removed because their days were over, and still are."""
    days = folder.policy.retention.images_days
    return {number for number, day in began.items() if is_over(day, days, today)}


def _held_against(known: Picture | None, row: Row) -> int:
    """Count the values of a row that a correction stands against."""
    if known is None:
        return 0
    return sum(
        column in row.fields and row.fields[column] != known.fields.get(column)
        for column in known.corrected
    )


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


def _batches(rows: Sequence[Row]) -> Iterator[list[Row]]:
    left = iter(rows)
    while chunk := list(islice(left, _BATCH)):
        yield chunk


def _kind(picture: Picture) -> str:
    return PENDING if picture.state == "to_review" else PICTURE


def _tagged(safe: Safe, terms: ImportTerms, dates: Dates, row: Row) -> dict[str, str]:
    """Take what the terms ask of a DICOM header, as coarse as the list's own columns."""
    tags = dict(safe.tags)
    found = {column: tags[tag] for column, tag in terms.dicom.items() if tag in tags}
    fields: dict[str, str] = {}
    taken = dates.read(found["taken"]) if "taken" in found else None
    born = dates.read(found["birth_date"]) if "birth_date" in found else None
    if taken is not None:
        fields["taken"] = dates.coarse(row.patient, taken)
    if born is not None:
        fields["age"] = dates.age(born, taken)
    age = found.get("age", "")
    if age[:-1].isdigit() and age.endswith("Y"):
        fields["age"] = grouped_age(age[:-1])
    sex = found.get("sex", "").upper()
    if sex in ("M", "F", "O"):
        fields["sex"] = {"M": "male", "F": "female", "O": "other"}[sex]
    return {column: value for column, value in fields.items() if value}


def _from_header(known: Picture, terms: ImportTerms) -> dict[str, str]:
    """What a picture's own header may have told, which a changed row does not take away."""
    told = {"age" if column == "birth_date" else str(column) for column in terms.dicom}
    return {column: value for column, value in known.fields.items() if column in told}


def _other_files(source: Path, rows: Iterable[Row]) -> int:
    """Count files that no row names; links are not followed."""
    named = {row.image for row in rows}
    below = (
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_symlink() or path.is_file()
    )
    return sum(name not in named for name in below)
