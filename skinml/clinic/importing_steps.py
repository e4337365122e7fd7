"""One picture after the other on its way into a vault: looked at, sealed, put on record.

Objects are sealed first, then lines of the register name them, then what they replace is removed:
of what a kill left in between nothing is on record. The file that a picture came from is sealed as
an object of a kind of its own, and only where the policy keeps it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal

from skinml.clinic.erased import erased_among
from skinml.clinic.folder import ClinicFolder
from skinml.clinic.importing_records import Dates, Row, from_header, tagged
from skinml.clinic.importing_terms import ImportTerms
from skinml.clinic.picture_lock import changing_pictures
from skinml.data.deidentify import Finders, Safe, make_safe
from skinml.data.foreign_pictures import Refused, read_below
from skinml.data.settings import ImageLimits
from skinml.stewardship.days import day_of
from skinml.stewardship.deidentification import Decision
from skinml.stewardship.pictures import ORIGINAL, PENDING, PICTURE, Picture
from skinml.stewardship.retention import is_over, keeps_original, shortened

_BATCH = 8  # pictures put on record at once: so many are looked at again after a kill, at most


@dataclass(frozen=True, repr=False)
class Done:
    """One picture, ready to be put on record.

    Attributes:
        kind: What is new: the picture, its file, the choices, only its row, or nothing.
        picture: The picture.
        content: Its bytes, made safe, where they are new.
        seconds: Processor time by stage.
        corrected: Values of its row that a correction stands against.
        original: The bytes of its file where they are new and kept.
        by_hand: Whether a person decided on it though other choices hold now.
    """

    kind: Literal["new", "file", "choices", "row", "same"]
    picture: Picture
    content: bytes | None = None
    seconds: tuple[tuple[str, float], ...] = ()
    corrected: int = 0
    original: bytes | None = None
    by_hand: bool = False

    @property
    def fresh(self) -> bool:
        """Whether the picture was looked at, and what is there of it takes its place."""
        return self.kind in ("new", "file", "choices")

    @property
    def with_original(self) -> bool:
        """Whether its original file is kept, or would be."""
        return self.original is not None or self.picture.original is not None


@dataclass(frozen=True, repr=False)
class Work:
    """What every step needs.

    Attributes:
        folder: The clinic's folder.
        source: The folder of the files.
        terms: Which column is what, and how pictures are made safe.
        limits: What a file may ask of this machine.
        dates: How dates are made coarse.
        finders: Who looks for faces and writing.
        now: The time, with its zone.
        actor: Who does it.
    """

    folder: ClinicFolder
    source: Path
    terms: ImportTerms
    limits: ImageLimits
    dates: Dates
    finders: Finders
    now: datetime
    actor: str

    @cached_property
    def choices(self) -> str:
        """All that decides what is made of a file, as a keyed digest."""
        chosen = self.terms.model_dump(mode="json", include={"pictures", "dicom"})
        if self.terms.dicom:  # dates of the list itself show in its rows
            chosen |= self.terms.model_dump(mode="json", include={"dates", "date_format"})
        named = b"choices\n" + json.dumps(chosen, sort_keys=True).encode()
        return self.folder.pictures.digest_of(named)

    def steps(
        self, rows: Sequence[Row], before: Mapping[str, Picture], *, threads: int, dry_run: bool
    ) -> Iterator[Done]:
        """Do one batch after the other; each is on record before the next begins.

        Args:
            rows: The rows.
            before: The pictures on record, by number.
            threads: How many pictures are looked at at once.
            dry_run: Whether nothing is written.

        Yields:
            What became of each row, without any bytes.
        """
        with ThreadPoolExecutor(max(1, threads)) as pool:
            for chunk in _batches(rows):
                done = list(pool.map(self.step, chunk, [before] * len(chunk)))
                if not dry_run:
                    done = self.keep(done)
                for each in done:  # thousands of pictures do not stay in memory
                    yield replace(each, content=None, original=each.original and b"")

    def step(self, row: Row, before: Mapping[str, Picture]) -> Done:
        """Do everything for one picture but write."""
        number = number_of(self.folder, row)
        known = before.get(number)
        held = _held_against(known, row)
        described = json.dumps(dict(row.fields), sort_keys=True).encode()
        described_as = self.folder.pictures.digest_of(described)
        try:
            content = read_below(self.source, row.image, self.limits)
        except Refused as refusal:
            if known is not None and _is_rejected_for(known, refusal):
                return Done("same", known, corrected=held)
            content, source = b"", ""
            safe = Safe(Decision("rejected", (refusal.reason,)), None)
        else:
            source = self.folder.pictures.digest_of(content)
            if known is not None and known.source == source and self.settled(known):
                return self._known(known, row, described_as, held)
            tags = tuple(self.terms.dicom.values())
            safe = make_safe(content, self.terms.pictures, self.finders, self.limits, tags)
        picture = Picture(
            number=number,
            patient=row.patient,
            state=safe.decision.state,
            reasons=safe.decision.reasons,
            object=None,
            source=source,
            described=described_as,
            choices=self.choices,
            fields={**tagged(safe.tags, self.terms, self.dates, row), **row.fields},
            boxes=safe.decision.masks,
            width=safe.width,
            height=safe.height,
            imported=day_of(self.now) if known is None else known.imported,
        )
        keeps = safe.content is not None and self._keeps_original(picture)
        return Done(
            _kind_of(known, source),
            picture,
            safe.content,
            safe.seconds,
            held,
            content if keeps else None,
        )

    def _known(self, known: Picture, row: Row, described: str, held: int) -> Done:
        """Take over what a row says anew of a picture that need not be looked at."""
        by_hand = known.choices != self.choices
        if known.described == described:
            return Done("same", known, corrected=held, by_hand=by_hand)
        fields = {**from_header(known, self.terms), **row.fields}
        renewed = replace(known, fields=fields, described=described)
        return Done("row", renewed, corrected=held, by_hand=by_hand)

    def settled(self, known: Picture) -> bool:
        """Tell whether a picture need not be looked at again, as long as its file is the same."""
        return known.choices == self.choices or "by a person" in known.reasons

    def _keeps_original(self, picture: Picture) -> bool:
        return keeps_original(self.folder.policy, picture.imported, day_of(self.now))

    def keep(self, done: Sequence[Done]) -> list[Done]:
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
            over = removed_for_good(folder, began, day_of(self.now))
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
            fresh = [
                self._begun(each, began, current.get(each.picture.number))
                for each in done
                if each.fresh and not self._decided(each, current)
            ]
            replaced = [current[name] for each in fresh if (name := each.picture.number) in current]
            written += self._sealed(fresh)
            vault.remember([each.patient for each in written])
            folder.pictures.write(written, now=self.now, actor=self.actor)
            vault.discard([name for old in replaced for name in (old.object, old.original) if name])
            stands = {**current, **{each.number: each for each in written}}
            return [
                replace(each, picture=stands.get(each.picture.number, each.picture), original=None)
                for each in done
            ]

    def _decided(self, each: Done, current: Mapping[str, Picture]) -> bool:
        """Tell whether a person decided on a picture while other choices were tried on it."""
        known = current.get(each.picture.number)
        same = known is not None and known.source == each.picture.source
        return each.kind == "choices" and same and self.settled(current[each.picture.number])

    def _begun(self, each: Done, began: Mapping[str, date], known: Picture | None) -> Done:
        """Say when the time of a picture began; that of its original may be over."""
        picture = each.picture
        picture = replace(picture, imported=began.get(picture.number, picture.imported))
        picture = self._merged(picture, known)
        original = each.original if self._keeps_original(picture) else None
        return replace(each, picture=picture, original=original)

    def _sealed(self, fresh: Sequence[Done]) -> list[Picture]:
        """Put what is new into the vault, originals as objects of a kind of their own."""
        objects: dict[str, str] = {}
        for kind in (PICTURE, PENDING):
            chosen = [each for each in fresh if _kind(each.picture) == kind]
            objects |= self._put([(each.picture, each.content) for each in chosen], kind)
        originals = self._put([(each.picture, each.original) for each in fresh], ORIGINAL)
        return [
            replace(each.picture, object=objects.get(number), original=originals.get(number))
            for each in fresh
            if (number := each.picture.number)
        ]

    def _put(self, contents: Sequence[tuple[Picture, bytes | None]], kind: str) -> dict[str, str]:
        """Seal what there is of pictures under their patients' keys; ids by the numbers."""
        there = [(picture, content) for picture, content in contents if content]
        patients = [picture.patient for picture, _ in there]
        ids = self.folder.vault.put_all(patients, [content for _, content in there], kind=kind)
        return {picture.number: name for (picture, _), name in zip(there, ids, strict=True)}

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
        return shortened(picture, self.folder.policy.retention, day_of(self.now))


def number_of(folder: ClinicFolder, row: Row) -> str:
    """Number the picture of a row.

    Args:
        folder: The clinic's folder.
        row: The row.

    Returns:
        The number.
    """
    return folder.pictures.number_of(row.patient, row.image)


def removed_for_good(folder: ClinicFolder, began: Mapping[str, date], today: date) -> set[str]:
    """Find pictures that were removed because their days were over, and still are.

    Args:
        folder: The clinic's folder.
        began: By number of a picture that was removed, the day that its time began.
        today: The day.

    Returns:
        Their numbers.
    """
    days = folder.policy.retention.images_days
    return {number for number, day in began.items() if is_over(day, days, today)}


def _kind_of(known: Picture | None, source: str) -> Literal["new", "file", "choices"]:
    if known is None:
        return "new"
    return "choices" if known.source == source else "file"


def _is_rejected_for(known: Picture, refusal: Refused) -> bool:
    return known.state == "rejected" and known.reasons == (refusal.reason,)


def _held_against(known: Picture | None, row: Row) -> int:
    """Count the values of a row that a correction stands against."""
    if known is None:
        return 0
    return sum(
        column in row.fields and row.fields[column] != known.fields.get(column)
        for column in known.corrected
    )


def _batches(rows: Sequence[Row]) -> Iterator[list[Row]]:
    left = iter(rows)
    while chunk := list(islice(left, _BATCH)):
        yield chunk


def _kind(picture: Picture) -> str:
    return PENDING if picture.state == "to_review" else PICTURE
