"""The consent register: every consent and withdrawal of a clinic, in the order they were recorded.

The register holds pseudonyms, and those sealed. Its state is what its lines add up to, so that
each change is one line, and how things stood after any number of lines can be told again.
"""

from __future__ import annotations

import base64
import datetime
import json
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from skinml.errors import ConfigError, DataError, IntegrityError
from skinml.journal import Body, Journal, Mark, canonical
from skinml.records import StrArray
from skinml.stewardship.consent_book import (
    Change,
    ConsentBook,
    Expiring,
    PatientState,
    collector_paused,
)
from skinml.stewardship.consent_rules import (
    Consent,
    Entry,
    Reason,
    Restriction,
    Withdrawal,
    read_entry,
)
from skinml.stewardship.days import desk_day_of
from skinml.stewardship.encryption import derive_key, keyed_digest, seal, unseal
from skinml.stewardship.pseudonyms import pseudonyms
from skinml.stewardship.purposes import PURPOSES, Purpose

__all__ = [
    "Change",
    "Consent",
    "ConsentBook",
    "ConsentRecord",
    "ConsentRegister",
    "Expiring",
    "PatientState",
    "RegisterLine",
    "Withdrawal",
]

USUALLY_WITHDRAWN: tuple[Purpose, ...] = tuple(word for word in PURPOSES if word != "care")
"""What a withdrawal ends unless it says otherwise: the care of the patient goes on."""
# What an authentic line of another release could make a reader raise.
_UNREADABLE = (ValueError, KeyError, TypeError, IndexError, zlib.error)


@dataclass(frozen=True, repr=False)
class ConsentRecord:
    """One row of a list of consents. Per patient: never log.

    Attributes:
        patient: The patient's id.
        consent: What was agreed to.
        withdrawn: The day that it was taken back; None where it stands.
    """

    patient: str
    consent: Consent
    withdrawn: datetime.date | None = None


@dataclass(frozen=True, repr=False)
class RegisterLine:
    """One change of the register. Per patient: never log but as the audit log's events allow.

    Attributes:
        at: When it was recorded, ISO 8601 in UTC.
        actor: Who recorded it.
        change: "granted", "withdrawn", "restricted" or "imported".
        events: Pseudonym and entry, one of each for a single change.
        source: The keyed digest of an imported list; None otherwise.
    """

    at: str
    actor: str
    change: str
    events: tuple[tuple[str, Entry], ...]
    source: str | None


class ConsentRegister:
    """The consents of one clinic.

    Args:
        journal: Where they are kept; its name is what messages call the register.
        key: The clinic's key.

    Guarantees:
        Each change is on the disk when its call returns, and a crash leaves all of it or nothing.
        No patient's id is written, and pseudonyms are written sealed. A byte changed, a line taken
        out and, with the journal's anchor, lines cut off the end are an IntegrityError.
    """

    def __init__(self, journal: Journal, key: bytes) -> None:
        self._journal = journal
        self._clinic_key = key
        self._key = derive_key(key, "consent")
        self._book = self._new_book()
        self._folded: tuple[Body, ...] = ()

    def grant(self, patient: str, consent: Consent, *, now: datetime.datetime, actor: str) -> None:
        """Record a consent.

        Args:
            patient: The patient's id.
            consent: What was agreed to.
            now: The time, with its zone.
            actor: Who records it.

        Raises:
            ConfigError: If the time has no zone.
            DataError: If the id is empty or holds control characters.
            EnvironmentProblem: If the register cannot be written.
            IntegrityError: If the register was changed.
        """
        events = [(patient, consent)]
        self._append(self._body("granted", self._content(events), now, actor))

    def withdraw(
        self,
        patient: str,
        *,
        now: datetime.datetime,
        actor: str,
        purposes: Sequence[Purpose] | None = None,
    ) -> None:
        """Record that a patient takes consent back, from now on.

        It is recorded also for a patient of whom nothing is on record: a no in advance.

        Args:
            patient: The patient's id.
            now: The time, with its zone; its day here is the withdrawal's.
            actor: Who records it.
            purposes: For which purposes; by default all but care.

        Raises:
            ConfigError: If the time has no zone or there is no purpose.
            DataError: If the id is empty or holds control characters.
            EnvironmentProblem: If the register cannot be written.
            IntegrityError: If the register was changed.
        """
        words = USUALLY_WITHDRAWN if purposes is None else tuple(purposes)
        if not words or not set(words) <= set(PURPOSES):
            raise ConfigError(
                rule=f"purposes among {', '.join(PURPOSES)}",
                got="none" if not words else "another word",
                do="Name what the patient takes back.",
            )
        withdrawal = Withdrawal(purposes=words, day=desk_day_of(now))
        self._append(self._body("withdrawn", self._content([(patient, withdrawal)]), now, actor))

    def restrict(
        self, patient: str, *, restricted: bool, now: datetime.datetime, actor: str
    ) -> None:
        """Record that a patient's data are kept and not used, or that this is over.

        Args:
            patient: The patient's id.
            restricted: Whether it begins; False lifts it.
            now: The time, with its zone.
            actor: Who records it.

        Raises:
            ConfigError: If the time has no zone.
            DataError: If the id is empty or holds control characters.
            EnvironmentProblem: If the register cannot be written.
            IntegrityError: If the register was changed.
        """
        entry = Restriction(restricted=restricted, since=desk_day_of(now))
        self._append(self._body("restricted", self._content([(patient, entry)]), now, actor))

    def import_records(
        self,
        records: Sequence[ConsentRecord],
        *,
        source_digest: str,
        now: datetime.datetime,
        actor: str,
    ) -> int:
        """Record a whole list, or nothing where the same list was imported before.

        Within the list each patient's forms and withdrawals count in the order of their days. A
        row that is taken back ends its own purposes; care stays unless the row is about nothing
        else.

        Args:
            records: The list.
            source_digest: The list's digest; it is kept as a keyed digest.
            now: The time, with its zone.
            actor: Who imports.

        Returns:
            Rows recorded: all of them, or 0.

        Raises:
            ConfigError: If the time has no zone.
            DataError: If a patient's id is empty or holds control characters.
            EnvironmentProblem: If the register cannot be written.
            IntegrityError: If the register was changed.
        """
        source = keyed_digest(self._clinic_key, b"consents\n" + source_digest.encode())
        events = _in_order_of_days(records)
        if not events or self.book().has_source(source):
            return 0
        with collector_paused():
            content = self._content(events) | {"source": source}
            body = self._body("imported", content, now, actor)
        written = self._append(body, unless_source=source)
        return len(records) if written else 0

    def book(self, num_lines: int | None = None) -> ConsentBook:
        """Read how all consents stand, or stood.

        Args:
            num_lines: After how many of the register's lines, as `mark` tells them; by default
                after all.

        Returns:
            The consents. The same object grows with later changes where `num_lines` is None.

        Raises:
            ConfigError: If the register has fewer lines.
            EnvironmentProblem: If the register cannot be read.
            IntegrityError: If the register was changed.
        """
        bodies = self._journal.read()
        if num_lines is not None:
            if not 0 <= num_lines <= len(bodies):
                raise ConfigError(
                    rule=f"from 0 to {len(bodies)} lines of the {self._journal.name}",
                    got=f"num_lines={num_lines}",
                    do="Take the number from the record of a use.",
                )
            return self._fold(self._new_book(), bodies[:num_lines], 0)
        self._catch_up(bodies)
        return self._book

    def lines(self, since: int = 0) -> tuple[RegisterLine, ...]:
        """Read the changes one by one, for the audit log.

        Args:
            since: How many of the register's first lines to leave out.

        Returns:
            The changes, oldest first.

        Raises:
            EnvironmentProblem: If the register cannot be read.
            IntegrityError: If the register was changed.
        """
        found = []
        for number, body in enumerate(self._journal.read()[since:], start=since + 1):
            with self._named(number):
                at, actor, change, content = self._open(body)
                entries = [read_entry(values) for values in content["entries"]]
                pairs = zip(content["patients"], content["entry"], strict=True)
                events = tuple((str(patient), entries[position]) for patient, position in pairs)
                found.append(RegisterLine(at, actor, change, events, content.get("source")))
        return tuple(found)

    def mark(self) -> Mark:
        """Tell how far the register has come; see `Journal.mark`.

        Returns:
            Its mark, to be kept with the record of a use.

        Raises:
            EnvironmentProblem: If the register cannot be read.
            IntegrityError: If the register was changed.
        """
        return self._journal.mark()

    def state_of(self, patient: str) -> PatientState:
        """Look up one patient; see `ConsentBook.state_of` and `book`."""
        _require_id(patient)
        return self.book().state_of(patient)

    def verdicts(
        self,
        patients: Sequence[str],
        purpose: str,
        day: datetime.date,
        kinds: Sequence[Collection[str]] | None = None,
    ) -> StrArray:
        """Tell for each row whether its data may be used; see `ConsentBook.verdicts`, `book`."""
        return self.book().verdicts(patients, purpose, day, kinds)

    def counts(self, day: datetime.date) -> dict[Purpose, int]:
        """Count the patients covered by purpose; see `ConsentBook.counts` and `book`."""
        return self.book().counts(day)

    def tally(self, day: datetime.date) -> dict[Purpose, dict[Reason, int]]:
        """Count all patients by purpose and reason; see `ConsentBook.tally` and `book`."""
        return self.book().tally(day)

    def expiring(self, day: datetime.date, within_days: int) -> tuple[Expiring, ...]:
        """Find whose consent ends soon; see `ConsentBook.expiring` and `book`."""
        return self.book().expiring(day, within_days)

    def _new_book(self) -> ConsentBook:
        return ConsentBook(lambda patients: pseudonyms(self._clinic_key, patients))

    def _content(self, events: Sequence[tuple[str, Entry]]) -> dict[str, Any]:
        for patient, _ in events:
            _require_id(patient)
        numbers: dict[Entry, int] = {}
        positions = [numbers.setdefault(entry, len(numbers)) for _, entry in events]
        return {
            "entries": [entry.model_dump(mode="json") for entry in numbers],
            "entry": positions,
            "patients": pseudonyms(self._clinic_key, [patient for patient, _ in events]),
        }

    def _body(
        self, change: str, content: Mapping[str, Any], now: datetime.datetime, actor: str
    ) -> Body:
        at = _utc(now).isoformat(timespec="seconds")
        packed = zlib.compress(canonical(content))
        sealed = seal(self._key, packed, context=_context(at, actor, change))
        words = {"at": at, "actor": actor, "change": change}
        return words | {"sealed": base64.b64encode(sealed).decode()}

    def _append(self, body: Body, *, unless_source: str | None = None) -> bool:
        """Write a line, but none where another process imported the same list meanwhile."""
        fresh = True

        def write(bodies: tuple[Body, ...]) -> Sequence[Body]:
            nonlocal fresh
            self._catch_up(bodies)
            fresh = unless_source is None or not self._book.has_source(unless_source)
            return [body] if fresh else []

        self._journal.append(write)
        return fresh

    def _catch_up(self, bodies: tuple[Body, ...]) -> None:
        """Bring the book to the journal's end; from the start where its past is another."""
        folded = self._folded
        same = len(folded) <= len(bodies) and all(
            old is new for old, new in zip(folded, bodies, strict=False)
        )
        if not same:
            self._book, folded = self._new_book(), ()
        self._folded = ()  # a line that cannot be read leaves no half-read book behind
        book, self._book = self._book, self._new_book()
        self._book = self._fold(book, bodies, len(folded))
        self._folded = bodies

    def _fold(self, book: ConsentBook, bodies: tuple[Body, ...], start: int) -> ConsentBook:
        with collector_paused():
            for number, body in enumerate(bodies[start:], start=start + 1):
                with self._named(number):
                    book.fold(*self._open(body))
        return book

    def _open(self, body: Body) -> tuple[str, str, str, dict[str, Any]]:
        """Unseal a line: when, who, which change, and its content."""
        at, actor, change = (str(body[word]) for word in ("at", "actor", "change"))
        sealed = base64.b64decode(str(body["sealed"]), validate=True)
        packed = unseal(self._key, sealed, context=_context(at, actor, change))
        return at, actor, change, json.loads(zlib.decompress(packed))

    @contextmanager
    def _named(self, number: int) -> Iterator[None]:
        """Name the line that cannot be read."""
        try:
            yield
        except (IntegrityError, *_UNREADABLE) as error:
            raise self._unknown(number) from error

    def _unknown(self, number: int) -> IntegrityError:
        return IntegrityError(
            rule=f"a line of the {self._journal.name} that this key and this release can read",
            got=f"line {number}",
            do="Check that key and register belong together, or restore both from one backup.",
        )


def _in_order_of_days(records: Sequence[ConsentRecord]) -> list[tuple[str, Entry]]:
    """List forms and withdrawals by their days; on one day a form comes before a withdrawal."""
    withdrawals: dict[tuple[tuple[Purpose, ...], datetime.date], Withdrawal] = {}
    dated: list[tuple[datetime.date, bool, str, Entry]] = []
    for record in records:
        consent, day = record.consent, record.withdrawn
        dated.append((consent.valid_from, False, record.patient, consent))
        if day is None:
            continue
        others = tuple(word for word in consent.purposes if word != "care")
        words = others or consent.purposes
        if (words, day) not in withdrawals:
            withdrawals[words, day] = Withdrawal(purposes=words, day=day, with_form=True)
        dated.append((day, True, record.patient, withdrawals[words, day]))
    dated.sort(key=lambda event: event[:2])
    return [(patient, entry) for _, _, patient, entry in dated]


def _context(at: str, actor: str, change: str) -> bytes:
    return canonical({"at": at, "actor": actor, "change": change, "what": "skinml consents 1"})


def _utc(now: datetime.datetime) -> datetime.datetime:
    if now.tzinfo is None:
        raise ConfigError(
            rule="a time with its zone", got="a time without", do="Pass datetime.now(UTC)."
        )
    return now.astimezone(datetime.UTC)


def _require_id(patient: str) -> None:
    if not patient.strip() or not patient.isprintable():
        raise DataError(
            rule="a patient's number of printable characters",
            got="an empty one" if not patient.strip() else "one with control characters",
            do="Give the number as it stands in the manifest's column patient_id.",
        )
