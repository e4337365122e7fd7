"""The register of a clinic's imported pictures: the state of each, and what is known beside it.

One journal line a change. In the clear a line has only the picture's number and the id of its
patient's key; the rest is sealed under that key, so that erasing the patient erases it. The state
of a picture is what its last line says. Of a picture whose time has ended a line stays, with its
number and the day that its time began, so that no later import begins that time anew.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime
from typing import Any

from skinml.errors import DataError, IntegrityError
from skinml.journal import REPLACES, Body, Journal, Mark
from skinml.stewardship.audit_events import checked_actor, written_time
from skinml.stewardship.deidentification import USABLE, Box, Reason, State
from skinml.stewardship.encryption import keyed_digest, seal, unseal
from skinml.stewardship.patient_keys import PatientKeys

PICTURE = "picture"
"""Kind of the vault's objects that may be used: made safe, JPEG or PNG."""
PENDING = "pending"
"""Kind of those that a person has to look at first: without metadata, and with nothing masked."""
ORIGINAL = "original"
"""Kind of the files that pictures were imported from, byte for byte: for a patient's own copy, and
for nothing else."""

NUMBER_DIGITS = 32
SHORT = 8
"""Digits of a number that people see; those of one patient do not meet by chance."""


@dataclass(frozen=True, repr=False)
class Picture:
    """An imported picture. Per patient: never log.

    Attributes:
        number: Its number, 32 hexadecimal digits, the same in each import of the same file name.
        patient: The clinic's own id of the patient.
        state: Whether it may be used.
        reasons: Why, words of the closed list.
        object: The vault's object with its pixels; None where nothing of it was kept.
        source: Keyed digest of the file that it came from.
        choices: Keyed digest of how it was made safe; "" where a release before this one did it.
        original: The vault's object with that file; None where it was not kept.
        described: Keyed digest of the row that described it and of how that was read.
        fields: What was kept beside it, by the manifest's column.
        boxes: What was covered; where a person has to look, what the machine proposes to cover.
        width: Pixels across; 0 where nothing of it was kept.
        height: Pixels down.
        imported: The day of the import that first kept it; retention counts from here.
        corrected: Fields that the clinic corrected since; no list of an import changes them.
    """

    number: str
    patient: str
    state: State
    reasons: tuple[Reason, ...]
    object: str | None
    source: str
    described: str
    fields: Mapping[str, str] = field(default_factory=dict)
    boxes: tuple[Box, ...] = ()
    width: int = 0
    height: int = 0
    imported: date = date.min
    corrected: tuple[str, ...] = ()
    choices: str = ""
    original: str | None = None

    @property
    def usable(self) -> bool:
        """Whether training, checks and reports may read it."""
        return self.state in USABLE


@dataclass(frozen=True)
class _Mark:
    """What stays of a picture whose time has ended.

    Attributes:
        began: The day that its time began.
        renewed: Whether it stands under a key that was made when the picture was gone.
    """

    began: date
    renewed: bool


class PictureRegister:
    """The register of one clinic.

    Args:
        journal: Its journal.
        keys: The patients' keys.
        key: The clinic's key, which numbers and digests are made with.

    Guarantees:
        A change is on the disk on return, whole or not at all. A changed line, one that was taken
        out and an older file are an IntegrityError. What concerns an erased patient cannot be
        read, and is as if it had never been.
    """

    def __init__(self, journal: Journal, keys: PatientKeys, key: bytes) -> None:
        self._journal = journal
        self._keys = keys
        self._key = key
        self._opened: dict[str, Picture | _Mark] = {}

    def number_of(self, patient: str, name: str) -> str:
        """Number a picture, so that the same file is known in the next import.

        Args:
            patient: The clinic's own id.
            name: What the list of pictures calls the file.

        Returns:
            32 hexadecimal digits that nobody can make without the clinic's key.
        """
        return self.digest_of(json.dumps([patient, name]).encode())[:NUMBER_DIGITS]

    def digest_of(self, content: bytes) -> str:
        """Make a digest that nobody can make or test without the clinic's key.

        Args:
            content: What is to be known again.

        Returns:
            64 hexadecimal digits.
        """
        return keyed_digest(self._key, b"skinml picture\n" + content)

    def mark(self) -> Mark:
        """Verify the journal.

        Returns:
            Where it ends.

        Raises:
            EnvironmentProblem: If it cannot be read.
            IntegrityError: If it was changed.
        """
        return self._journal.mark()

    def pictures(self) -> dict[str, Picture]:
        """Read the state of every picture.

        Returns:
            By number, in the order of their first import; without those of erased patients and
            those whose time has ended.

        Raises:
            EnvironmentProblem: If a file cannot be read.
            IntegrityError: If one was changed.
        """
        return _pictures(self._standing(self._journal.read()))

    def ended(self) -> dict[str, date]:
        """List the pictures that are gone because their time had ended.

        Returns:
            By number, the day that the time began; nothing else of them is there.

        Raises:
            EnvironmentProblem: If a file cannot be read.
            IntegrityError: If one was changed.
        """
        return _ended(self._standing(self._journal.read()))

    def ended_by_key(self) -> dict[bytes, dict[str, date]]:
        """List the same by the id of the patient's key.

        Returns:
            By key id, what `ended` says of that patient's pictures.

        Raises:
            EnvironmentProblem: If a file cannot be read.
            IntegrityError: If one was changed.
        """
        bodies = self._journal.read()
        over = _ended(self._standing(bodies))
        owners = {str(b["picture"]): str(b["key"]) for b in bodies if REPLACES not in b}
        found: dict[bytes, dict[str, date]] = {}
        for number, began in over.items():
            found.setdefault(bytes.fromhex(owners[number]), {})[number] = began
        return found

    def emptied_keys(self) -> set[bytes]:
        """Find the keys under which nothing stands but marks of pictures that they opened.

        Returns:
            Ids of patients' keys.

        Raises:
            EnvironmentProblem: If a file cannot be read.
            IntegrityError: If one was changed.
        """
        bodies = self._journal.read()
        owners = {str(b["picture"]): str(b["key"]) for b in bodies if REPLACES not in b}
        used, marked = set[bytes](), set[bytes]()
        for number, each in self._standing(bodies).items():
            if isinstance(each, Picture):
                used.add(bytes.fromhex(owners[number]))
            elif not each.renewed:
                marked.add(bytes.fromhex(owners[number]))
        return marked - used

    def mark_ended(
        self, patient: str, began: Mapping[str, date], *, now: datetime, actor: str
    ) -> None:
        """Put on record, under a key that never opened them, that pictures' time had ended.

        Args:
            patient: The clinic's own id, with a new key; where it has none, nothing is written.
            began: By the pictures' numbers, the days that their time began.
            now: The time, with its zone.
            actor: Who does it: a user of the operating system.

        Raises:
            EnvironmentProblem: If it cannot be written.
            IntegrityError: If the register was changed.
        """
        marks = [(n, patient, _mark_of(day, renewed=True)) for n, day in began.items()]
        bodies = self._sealed(marks, now=now, actor=actor)
        if bodies:
            self._journal.append(lambda _: bodies)

    def _standing(self, bodies: Sequence[Body]) -> dict[str, Picture | _Mark]:
        """Read from the journal's lines the state of every picture, or when its time began."""
        last: dict[str, int] = {}
        for at, body in enumerate(bodies):
            if REPLACES not in body:
                last[str(body["picture"])] = at
        ids = {bytes.fromhex(str(bodies[at]["key"])) for at in last.values()}
        keys = self._keys.find(ids)
        found: dict[str, Picture | _Mark] = {}
        for number, at in last.items():
            key_id = bytes.fromhex(str(bodies[at]["key"]))
            if key_id not in keys:
                self._opened.pop(str(bodies[at]["sealed"]), None)
            else:
                found[number] = self._open(at, bodies[at], keys[key_id])
        return found

    def find(self, number: str) -> Picture:
        """Look up one picture.

        Args:
            number: Its number.

        Returns:
            The picture.

        Raises:
            DataError: If there is no such picture, or its patient was erased.
            IntegrityError: If the register was changed.
        """
        found = self.pictures().get(number)
        if found is None:
            raise DataError(
                rule="the number of a picture in this clinic's register",
                got="another one, or one of a patient who was erased",
                do="Reload the list.",
            )
        return found

    def of_patient(self, patient: str) -> list[Picture]:
        """List a patient's pictures.

        Args:
            patient: The clinic's own id.

        Returns:
            The pictures in all states.

        Raises:
            IntegrityError: If the register was changed.
        """
        return [each for each in self.pictures().values() if each.patient == patient]

    def objects(self) -> set[str]:
        """List the vault's objects that a picture of the register has.

        Returns:
            Their ids; of erased patients none.

        Raises:
            IntegrityError: If the register was changed.
        """
        return {each.object for each in self.pictures().values() if each.object is not None}

    def originals(self) -> set[str]:
        """List the vault's objects that hold the file which a picture was imported from.

        Returns:
            Their ids; of erased patients none.

        Raises:
            IntegrityError: If the register was changed.
        """
        return {each.original for each in self.pictures().values() if each.original is not None}

    def write(self, pictures: Iterable[Picture], *, now: datetime, actor: str) -> None:
        """Put pictures on record, or say how they stand now.

        Args:
            pictures: The pictures. Those of patients without a key are left out: whoever has none
                was erased meanwhile.
            now: The time, with its zone.
            actor: Who did it: a user of the operating system.

        Raises:
            EnvironmentProblem: If it cannot be written.
            IntegrityError: If the register was changed.
        """
        bodies = self._bodies(pictures, now=now, actor=actor)
        if bodies:
            self._journal.append(lambda _: bodies)

    def _bodies(self, pictures: Iterable[Picture], *, now: datetime, actor: str) -> list[Body]:
        return self._sealed(
            [(each.number, each.patient, _packed(each)) for each in pictures], now=now, actor=actor
        )

    def _sealed(
        self, lines: Sequence[tuple[str, str, bytes]], *, now: datetime, actor: str
    ) -> list[Body]:
        """Seal lines of number, patient and content, each under its patient's key."""
        patients = list(dict.fromkeys(patient for _, patient, _ in lines))
        names = dict(zip(patients, self._keys.pseudonyms(patients), strict=True))
        keys = self._keys.find_pseudonyms(names.values())
        bodies: list[Body] = []
        for number, patient, content in lines:
            owner = keys.get(names[patient])
            if owner is None:
                continue
            sealed = seal(owner.key, content, context=_context(number, owner.id))
            bodies.append(
                {
                    "actor": checked_actor(actor),
                    "at": written_time(now),
                    "key": owner.id.hex(),
                    "picture": number,
                    "sealed": base64.b64encode(sealed).decode(),
                }
            )
        return bodies

    def rewrite(
        self,
        change: Callable[[dict[str, Picture]], Iterable[Picture]],
        *,
        now: datetime,
        actor: str,
    ) -> None:
        """Write the register anew, so that what its old lines said can be read by nobody.

        Args:
            change: From the pictures as they stand to those that shall be on record. Of one that
                it leaves out stays the day that its time began, see `ended`.
            now: The time, with its zone.
            actor: Who does it: a user of the operating system.

        Raises:
            EnvironmentProblem: If it cannot be written: the old one stays.
            IntegrityError: If the register was changed.

        Guarantees:
            Killed at any moment, there is the old register or the new one.
        """

        def lines(bodies: tuple[Body, ...]) -> Sequence[Body]:
            standing = self._standing(bodies)
            known, over = _pictures(standing), _ended(standing)
            left = list(change(known))
            gone = [known[number] for number in known.keys() - {each.number for each in left}]
            marks = [(each.number, each.patient, _mark_of(each.imported)) for each in gone]
            last = {str(body["picture"]): body for body in bodies if REPLACES not in body}
            return [
                *(last[number] for number in over),
                *self._sealed(marks, now=now, actor=actor),
                *self._bodies(left, now=now, actor=actor),
            ]

        self._journal.replace(lines)
        self._opened.clear()

    def _open(self, at: int, body: Body, key: bytes) -> Picture | _Mark:
        line = str(body["sealed"])
        if line not in self._opened:
            number, key_id = str(body["picture"]), bytes.fromhex(str(body["key"]))
            try:
                sealed = base64.b64decode(str(body["sealed"]), validate=True)
                plain = unseal(key, sealed, context=_context(number, key_id))
                self._opened[line] = _unpacked(number, json.loads(plain))
            except (IntegrityError, ValueError, KeyError, TypeError):
                raise IntegrityError(
                    rule="a register of pictures as it was written, by this release of skinml",
                    got=f"line {at + 1}, which does not open",
                    do="Restore the folder and its anchors from one backup.",
                ) from None
        return self._opened[line]


def reviewed(
    picture: Picture, state: State, *, content: str | None, boxes: Sequence[Box] = ()
) -> Picture:
    """Say what a person made of a picture.

    Args:
        picture: The picture as it stood.
        state: "accepted", "masked" or "rejected".
        content: The vault's object with its pixels now; None where it is rejected: then nothing
            of it is kept, its original neither.
        boxes: What is covered now.

    Returns:
        The picture to put on record.
    """
    reasons: tuple[Reason, ...] = (*(r for r in picture.reasons if r != "by a person"),)
    return replace(
        picture,
        state=state,
        reasons=(*reasons, "by a person"),
        object=content,
        original=None if content is None else picture.original,
        boxes=tuple(boxes),
    )


def _pictures(standing: Mapping[str, Picture | _Mark]) -> dict[str, Picture]:
    return {name: each for name, each in standing.items() if isinstance(each, Picture)}


def _ended(standing: Mapping[str, Picture | _Mark]) -> dict[str, date]:
    return {name: each.began for name, each in standing.items() if isinstance(each, _Mark)}


def _mark_of(began: date, *, renewed: bool = False) -> bytes:
    """Write what stays of a picture whose time has ended."""
    values = {"ended": True, "imported": began.isoformat()}
    return json.dumps(values | ({"renewed": True} if renewed else {})).encode()


def _packed(picture: Picture) -> bytes:
    values = asdict(picture)
    del values["number"]
    values["imported"] = picture.imported.isoformat()
    return json.dumps(values).encode()


def _unpacked(number: str, values: dict[str, Any]) -> Picture | _Mark:
    if "ended" in values:
        return _Mark(date.fromisoformat(values["imported"]), "renewed" in values)
    return Picture(
        **{
            **values,
            "number": number,
            "reasons": tuple(values["reasons"]),
            "boxes": tuple(Box(**box) for box in values["boxes"]),
            "imported": date.fromisoformat(values["imported"]),
            "corrected": tuple(values.get("corrected", ())),
        }
    )


def _context(number: str, key_id: bytes) -> bytes:
    """Bind what is sealed to its line."""
    return b"skinml picture 1 " + number.encode() + b" " + key_id
