"""A person's look at imported pictures: what waits, what was decided, and the way back.

The order at each decision: the new object, the line of the register, the line of the audit log.
The objects that the line before named stay until the next decision, so that one step can be taken
back; then, or when the session ends, it is discarded. Of a session that was killed the next import
or session discards it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from threading import RLock
from typing import Literal

from skinml.clinic.erasure import alone_with_erasures
from skinml.clinic.folder import ClinicFolder
from skinml.clinic.gate import require_role
from skinml.clinic.picture_lock import changing_pictures, remove_orphans
from skinml.data.deidentify import masked_by_hand
from skinml.data.foreign_pictures import Refused
from skinml.data.settings import ImageLimits
from skinml.errors import DataError, IntegrityError
from skinml.stewardship.deidentification import Box
from skinml.stewardship.pictures import PENDING, PICTURE, Picture, reviewed
from skinml.stewardship.pseudonyms import pseudonym

Step = Literal["accept", "mask", "reject"]
MOST_BOXES = 100
_LIMITS = ImageLimits()
_SHOWN = (PICTURE, PENDING)  # never an original


@dataclass(frozen=True, repr=False)
class Verdict:
    """What a person wants done with a picture.

    Attributes:
        step: Accept it as it is, cover boxes, or reject it.
        seen: `version_of` the picture that the person looked at.
        boxes: What to cover, in the picture's pixels; nothing but for "mask".
    """

    step: Step
    seen: str
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True, repr=False)
class Done:
    """The last decision of a session.

    Attributes:
        before: The picture as it stood.
        after: The picture as it was put on record.
    """

    before: Picture
    after: Picture


class Review:
    """One session; its methods may be called by several threads.

    Args:
        folder: The clinic's opened folder.

    Raises:
        IntegrityError: If something in the folder was changed.
        PolicyError: If the user may not review pictures.

    Guarantees:
        When a decision returns, it is on the disk; killed at any moment, a picture stands as it
        did before the decision or as it does after it. A decision on a picture that somebody else
        has changed since it was looked at is refused. No decrypted pixel is written anywhere.
    """

    def __init__(self, folder: ClinicFolder) -> None:
        require_role(folder, "data.review")
        self._folder = folder
        self._mutex = RLock()
        self._stamp: tuple[tuple[int, int, int], ...] = ()
        self._known: Mapping[str, Picture] = {}
        self._decided: set[str] = set()
        self._looked_at: set[str] = set()
        self._last: Done | None = None
        remove_orphans(folder)  # of a session or an import that was killed

    @property
    def clinic(self) -> str:
        """The clinic's name."""
        return self._folder.name

    @property
    def place(self) -> Path:
        """The clinic's folder."""
        return self._folder.path

    @property
    def last(self) -> Done | None:
        """The decision that can be taken back."""
        return self._last

    @property
    def decided(self) -> int:
        """Pictures that waited and were decided on in this session."""
        return len(self._decided)

    def pictures(self) -> Mapping[str, Picture]:
        """List all pictures, as others have left them too.

        Returns:
            By number, in the order of their first import.

        Raises:
            EnvironmentProblem: If a file cannot be read.
            IntegrityError: If the register was changed.
        """
        with self._mutex:
            stamp = self._stamp_now()
            if stamp != self._stamp or not self._known:
                self._known = self._folder.pictures.pictures()
                self._stamp = stamp
            return self._known

    def find(self, number: str) -> Picture:
        """Look up one picture.

        Args:
            number: Its number.

        Returns:
            The picture.

        Raises:
            DataError: If there is none, or its patient was erased.
            IntegrityError: If the register was changed.
        """
        found = self.pictures().get(number)
        if found is None:
            raise DataError(
                rule="a picture of this clinic",
                got="another number, or a patient who was erased",
                do="Go back to the list.",
            )
        return found

    def pixels(self, number: str) -> bytes:
        """Decrypt a picture in memory.

        Args:
            number: Its number.

        Returns:
            A JPEG or PNG file.

        Raises:
            DataError: If there is none, or nothing of it was kept.
            IntegrityError: If it was changed.
        """
        name = self.find(number).object
        if name is None:
            raise DataError(
                rule="a picture of which something was kept",
                got="a rejected one",
                do="Import its file again if it is needed.",
            )
        with self._mutex:
            try:
                return self._folder.vault.read(name, _SHOWN)
            except IntegrityError:
                if self.find(number).object == name:
                    raise
        raise _changed()  # somebody else decided between the two readings

    def note_access(self, numbers: Collection[str], *, now: datetime) -> None:
        """Write into the audit log that pictures were shown which no decision waits for.

        Args:
            numbers: The pictures; a patient counts once in a session.
            now: The time, with its zone.

        Raises:
            PolicyError: If the user may not review pictures any more.
        """
        with self._mutex:
            shown = [self.pictures().get(each) for each in numbers]
            settled = [each for each in shown if each is not None and each.usable]
            new = {each.patient for each in settled} - self._looked_at
            if new:
                actor = require_role(self._folder, "data.review")
                self._folder.audit.write(
                    "access",
                    actor,
                    now=now,
                    kind="images",
                    patients=len(new),
                    objects=sum(each.patient in new for each in settled),
                )
                self._looked_at |= new

    def decide(self, number: str, verdict: Verdict, *, now: datetime) -> Picture:
        """Do what a person wants with a picture.

        Args:
            number: Its number.
            verdict: What is wanted.
            now: The time, with its zone.

        Returns:
            The picture as it stands now.

        Raises:
            DataError: If the picture is not as it was looked at, or the verdict does not fit it.
            EnvironmentProblem: If something cannot be written.
            IntegrityError: If something was changed.
            PolicyError: If the user may not review pictures any more.
        """
        with self._mutex, _alone(self._folder):
            actor = require_role(self._folder, "data.review")
            before = self._folder.pictures.find(number)
            if version_of(before) != verdict.seen:
                raise _changed()
            after = self._done(before, verdict)
            self._folder.pictures.write([after], now=now, actor=actor)
            self._log(after, actor, now)
            previous, self._last = self._last, Done(before, after)
            self._discard(previous)
            if before.state == "to_review":
                self._decided.add(number)
            return after

    def undo(self, *, now: datetime) -> Picture:
        """Take the last decision back.

        Args:
            now: The time, with its zone.

        Returns:
            The picture as it stands again.

        Raises:
            DataError: If there is none to take back, or the picture was changed since.
            EnvironmentProblem: If something cannot be written.
            IntegrityError: If something was changed.
            PolicyError: If the user may not review pictures any more.
        """
        with self._mutex, _alone(self._folder):
            actor = require_role(self._folder, "data.review")
            last, vault = self._last, self._folder.vault
            if last is None:
                raise _too_late()
            before = last.before
            current = self._folder.pictures.pictures().get(before.number)
            if current is None or version_of(current) != version_of(last.after):
                raise _too_late()
            if before.object is not None and before.object not in vault.objects(before.patient):
                raise _too_late()
            # Its fields may have been corrected since: only what the decision changed goes back.
            kept = before if before.original != last.after.original else current
            before = replace(
                current,
                original=kept.original,
                state=before.state,
                reasons=before.reasons,
                object=before.object,
                boxes=before.boxes,
            )
            self._folder.pictures.write([before], now=now, actor=actor)
            self._log(before, actor, now)
            self._last = None
            self._decided.discard(before.number)
            vault.discard([each for each in [last.after.object] if each])
            return before

    def whose(self, number: str, *, now: datetime) -> str:
        """Tell whose a picture is; the audit log says that somebody asked.

        Args:
            number: Its number.
            now: The time, with its zone.

        Returns:
            The clinic's own id of the patient: never log.

        Raises:
            DataError: If there is no such picture.
            PolicyError: If the user may not read single patients' records.
        """
        with self._mutex:
            actor = require_role(self._folder, "consent.read")
            picture = self.find(number)
            name = pseudonym(self._folder.key, picture.patient)
            self._folder.audit.write(
                "access", actor, now=now, kind="images", patient=name, objects=1
            )
            return picture.patient

    def close(self) -> None:
        """End the session: the last step cannot be taken back any more.

        Raises:
            EnvironmentProblem: If the object that it kept cannot be removed.
        """
        with self._mutex:
            last, self._last = self._last, None
            self._discard(last)

    def _done(self, before: Picture, verdict: Verdict) -> Picture:
        """Put the new object into the vault, and say what the picture is now."""
        if verdict.step == "reject" and before.state != "rejected":
            return reviewed(before, "rejected", content=None)
        if verdict.step == "accept" and before.state == "to_review":
            content = self._folder.vault.read(before.object or "", _SHOWN)
            return reviewed(before, "accepted", content=self._put(before, content))
        if verdict.step == "mask" and before.object is not None:
            fresh = fitting(verdict.boxes, before)
            try:
                pixels = self._folder.vault.read(before.object, _SHOWN)
                content = masked_by_hand(pixels, fresh, _LIMITS)
            except Refused as refusal:
                raise DataError(
                    rule="a picture that can be written anew",
                    got=refusal.reason,
                    do="Reject it.",
                ) from None
            covered = before.boxes if before.state == "masked" else ()
            boxes = (*covered, *fresh)
            return reviewed(before, "masked", content=self._put(before, content), boxes=boxes)
        raise DataError(
            rule="a step that changes this picture",
            got=f"{verdict.step} of one that is {before.state}",
            do="Look at it again; nothing was done now.",
        )

    def _put(self, picture: Picture, content: bytes) -> str:
        return self._folder.vault.put(picture.patient, content, kind=PICTURE)

    def _log(self, picture: Picture, actor: str, now: datetime) -> None:
        self._folder.audit.write("pictures reviewed", actor, now=now, states={picture.state: 1})

    def _discard(self, done: Done | None) -> None:
        if done is not None:
            before, after = done.before, done.after
            gone = {before.object, before.original} - {after.object, after.original, None}
            self._folder.vault.discard([each for each in gone if each])

    def _stamp_now(self) -> tuple[tuple[int, int, int], ...]:
        """Tell register and patients' keys by what changes with every writing."""
        found = []
        for path in (
            self._folder.path / "pictures.journal",
            self._folder.path / "vault" / "keys.sealed",
        ):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        return tuple(found)


def version_of(picture: Picture) -> str:
    """Tell how a picture stands from how it stood.

    Args:
        picture: The picture.

    Returns:
        16 hexadecimal digits that say nothing of the patient.
    """
    told = f"{picture.number} {picture.state} {picture.object}"
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def waiting(pictures: Mapping[str, Picture]) -> list[str]:
    """List what a person has to look at.

    Args:
        pictures: All pictures.

    Returns:
        Their numbers, in the order of their import.
    """
    return [number for number, each in pictures.items() if each.state == "to_review"]


def next_waiting(pictures: Mapping[str, Picture], number: str) -> str | None:
    """Find the next picture that waits, from the beginning again behind the last.

    Args:
        pictures: All pictures.
        number: Where somebody is.

    Returns:
        Its number; None where no other waits.
    """
    order = list(pictures)
    at = order.index(number) + 1 if number in pictures else 0
    others = (each for each in (*order[at:], *order[:at]) if each != number)
    return next((each for each in others if pictures[each].state == "to_review"), None)


def fitting(boxes: Sequence[Box], picture: Picture) -> tuple[Box, ...]:
    """Cut boxes to a picture.

    Args:
        boxes: As somebody drew them.
        picture: The picture.

    Returns:
        What of them is in the picture.

    Raises:
        DataError: If there is none, one is beside the picture, or there are too many.
    """
    cut = tuple(
        Box(
            max(0, each.left),
            max(0, each.top),
            min(picture.width, each.right),
            min(picture.height, each.bottom),
            each.sort,
        )
        for each in boxes
    )
    inside = all(each.left < each.right and each.top < each.bottom for each in cut)
    if not cut or not inside or len(cut) > MOST_BOXES:
        raise DataError(
            rule=f"1 to {MOST_BOXES} boxes inside the picture",
            got=f"{len(cut)} boxes" if inside else "a box without any pixel of it",
            do="Choose a box, or draw one.",
        )
    return cut


@contextmanager
def _alone(folder: ClinicFolder) -> Iterator[None]:
    """Keep imports, retention and erasures out: a decision must not bring back who was erased."""
    with alone_with_erasures(folder), changing_pictures(folder):
        yield


def _changed() -> DataError:
    return DataError(
        rule="the picture as it was when you looked at it",
        got="one that was changed since, perhaps in another window",
        do="Look at it again; nothing was done now.",
    )


def _too_late() -> DataError:
    return DataError(
        rule="a last step that can be taken back",
        got="none, or one whose picture was changed or removed since",
        do="Look at the picture again; nothing was done now.",
    )
