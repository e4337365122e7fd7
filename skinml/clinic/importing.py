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
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Protocol

from skinml.clinic.folder import ClinicFolder
from skinml.clinic.gate import require_role
from skinml.clinic.importing_records import Dates, Records, Row, dates_of, grouped_age, read_records
from skinml.clinic.importing_terms import ImportTerms
from skinml.data.deidentify import Finders, Safe, make_safe, shipped_finders
from skinml.data.foreign_pictures import Refused, read_below
from skinml.data.settings import ImageLimits
from skinml.data.taxonomy import load_taxonomy
from skinml.durable import locked
from skinml.errors import EnvironmentProblem
from skinml.stewardship.deidentification import Decision
from skinml.stewardship.pictures import PENDING, PICTURE, Picture
from skinml.stewardship.pseudonyms import pseudonyms

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
    gone = _erased(folder, records)
    rows = [row for row in records.rows if row.patient not in gone]
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
    report = _report(request, records, before, done)
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
        erased=len(records.rows) - len(done),
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


@contextmanager
def changing_pictures(folder: ClinicFolder) -> Iterator[None]:
    """Keep others from changing vault and register of pictures until the block ends.

    Put the new object first, then the line of the register, then discard the old object: whatever
    a kill leaves in between, no line names an object that is not there.

    Args:
        folder: The clinic's folder.

    Yields:
        Nothing.

    Raises:
        EnvironmentProblem: If another process holds it for a minute.
    """
    with locked(folder.path / ".pictures.lock", "register of pictures"):
        yield


@dataclass(frozen=True, repr=False)
class _Done:
    """One picture, ready to be put on record: what it is, and its bytes where they are new."""

    kind: str
    picture: Picture
    content: bytes | None = None
    seconds: tuple[tuple[str, float], ...] = ()


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
                    self.keep(done)
                for each in done:
                    yield replace(each, content=None)  # thousands of pictures do not stay in memory

    def step(self, row: Row, before: Mapping[str, Picture]) -> _Done:
        """Do everything for one picture but write."""
        register, request = self.folder.pictures, self.request
        number = register.number_of(row.patient, row.image)
        described = register.digest_of(json.dumps(dict(row.fields), sort_keys=True).encode())
        known = before.get(number)
        try:
            content = read_below(request.source, row.image, request.limits)
        except Refused as refusal:
            safe, source = Safe(Decision("rejected", (refusal.reason,)), None), ""
        else:
            source = register.digest_of(content)
            if known is not None and known.source == source:
                same = known.described == described
                fields = {**_from_header(known, request.terms), **row.fields}
                renewed = replace(known, fields=fields, described=described)
                return _Done("same", known) if same else _Done("row", renewed)
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
            imported=self.now.date() if known is None else known.imported,
        )
        if known is None:
            return _Done("new", picture, safe.content, safe.seconds)
        if not source and known.state == "rejected" and known.reasons == picture.reasons:
            return _Done("same", known)
        return _Done("file", picture, safe.content, safe.seconds)

    def keep(self, done: Sequence[_Done]) -> None:
        """Put a few pictures on record: objects, then lines, then the old objects go."""
        fresh = [each for each in done if each.kind != "same"]
        if not fresh:
            return
        vault = self.folder.vault
        with changing_pictures(self.folder):
            # Somebody may have reviewed one since: of a changed row only the fields are taken.
            current = self.folder.pictures.pictures()
            written = [
                replace(
                    current[each.picture.number],
                    fields=each.picture.fields,
                    described=each.picture.described,
                )
                for each in fresh
                if each.kind == "row" and each.picture.number in current
            ]
            fresh = [each for each in fresh if each.kind != "row"]
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
            self.folder.pictures.write(written, now=self.now, actor=self.actor)
            vault.discard([each for each in old if each])


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


def _erased(folder: ClinicFolder, records: Records) -> set[str]:
    """Find patients who were erased here and have not come back since."""
    asked = {
        str(entry.fields.get("patient"))
        for entry in folder.audit.entries()
        if entry.event == "erasure"
    }
    patients = list(dict.fromkeys(row.patient for row in records.rows))
    names = dict(zip(patients, pseudonyms(folder.key, patients), strict=True))
    there = folder.patient_keys.find_pseudonyms(asked)
    return {patient for patient, name in names.items() if name in asked and name not in there}


def remove_orphans(folder: ClinicFolder) -> None:
    """Remove what an import or a review that was killed had sealed and not put on record.

    Args:
        folder: The clinic's folder.

    Raises:
        EnvironmentProblem: If a file cannot be removed.
        IntegrityError: If the register was changed.
    """
    with changing_pictures(folder):
        folder.vault.discard(folder.vault.listed([PICTURE, PENDING]) - folder.pictures.objects())


def _other_files(source: Path, rows: Iterable[Row]) -> int:
    """Count files that no row names; links are not followed."""
    named = {row.image for row in rows}
    below = (
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_symlink() or path.is_file()
    )
    return sum(name not in named for name in below)
