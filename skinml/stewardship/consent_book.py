"""All consents of a clinic as they stand, under pseudonyms, for questions about many patients."""

from __future__ import annotations

import datetime
import gc
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skinml.errors import require_in_range, require_same_length
from skinml.records import StrArray
from skinml.stewardship.consent_rules import (
    USUAL_DATA,
    Consent,
    Entry,
    Reason,
    Withdrawal,
    judge,
    last_day,
    read_entry,
)
from skinml.stewardship.purposes import PURPOSES, Purpose

_MOST_DAYS = 36_500


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep Python's search for unused objects from running while many are made that all stay.

    It would look at each of them again and again: most of the time that reading takes.

    Yields:
        Nothing.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


@dataclass(frozen=True)
class Change:
    """One entry of a patient's history.

    Attributes:
        at: When it was recorded, ISO 8601 in UTC.
        actor: Who recorded it.
        imported: Whether it came with a list.
        entry: The consent or the withdrawal.
    """

    at: str
    actor: str
    imported: bool
    entry: Entry


@dataclass(frozen=True)
class PatientState:
    """What is on record about one patient. Per patient: never log.

    Attributes:
        changes: The entries in the order in which they were recorded.
    """

    changes: tuple[Change, ...]

    @property
    def history(self) -> tuple[Entry, ...]:
        """The entries alone."""
        return tuple(change.entry for change in self.changes)

    def reason(
        self, purpose: str, day: datetime.date, kinds: Collection[str] = USUAL_DATA
    ) -> Reason:
        """Tell why the patient's data may not be used; see `consent_rules.judge`.

        Args:
            purpose: What the data shall be used for.
            day: The day of use.
            kinds: Which data are used.

        Returns:
            The reason, empty where the use is covered.
        """
        return judge(self.history, purpose, day, kinds)


@dataclass(frozen=True)
class Expiring:
    """A patient whose consent ends soon. Per patient: never log.

    Attributes:
        pseudonym: The patient.
        purposes: What is covered on the day asked about and will not be.
        until: The last day of the first of them to end.
    """

    pseudonym: str
    purposes: tuple[Purpose, ...]
    until: datetime.date


@dataclass(repr=False)
class ConsentBook:
    """The register's content after some number of its lines. Per patient: never log.

    Equal entries are kept once, so that a question is answered once for all patients with the
    same history.

    Attributes:
        name_patients: Turns patients' ids into pseudonyms.
    """

    name_patients: Callable[[Sequence[str]], list[str]]
    _entries: list[Entry] = field(default_factory=list)
    _numbers: dict[Entry, int] = field(default_factory=dict)
    _histories: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _recorded: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _lines: list[tuple[str, str, bool]] = field(default_factory=list)
    _sources: set[str] = field(default_factory=set)

    def fold(self, at: str, actor: str, change: str, content: Mapping[str, Any]) -> None:
        """Take in the next line of the register.

        An imported entry that is in a patient's history already is left out: a list that is
        imported again does not give a form anew. A withdrawal counts again where the list brings
        something new before it. A list does not tell which came first on one day: an imported
        form does not stand for what was taken back on the day that it begins.

        Args:
            at: When it was recorded.
            actor: Who recorded it.
            change: "granted", "withdrawn", "restricted" or "imported".
            content: "entries", and for each event "patients" and "entry", its number among them;
                "source" for an import.
        """
        imported = change == "imported"
        line = len(self._lines)
        self._lines.append((at, actor, imported))
        numbers = [self._number(values) for values in content["entries"]]
        if imported:
            self._sources.add(content["source"])
        touched: set[str] = set()
        for patient, position in zip(content["patients"], content["entry"], strict=True):
            number, known = numbers[position], self._histories.get(patient, ())
            if imported and known:
                left = self._not_taken_back(number, known)
                if left is None:
                    continue
                number = left
            if imported and number in known:
                given = isinstance(self._entries[number], Consent)
                if given or patient not in touched:
                    continue
            touched.add(patient)
            self._histories[patient] = (*known, number)
            self._recorded[patient] = (*self._recorded.get(patient, ()), line)

    @property
    def num_patients(self) -> int:
        """Patients with at least one entry."""
        return len(self._histories)

    @property
    def num_lines(self) -> int:
        """The register's lines that are in here."""
        return len(self._lines)

    def has_source(self, digest: str) -> bool:
        """Tell whether a list was imported before.

        Args:
            digest: The list's digest.

        Returns:
            Whether it was.
        """
        return digest in self._sources

    def state_of(self, patient: str) -> PatientState:
        """Look up one patient.

        Args:
            patient: The patient's id.

        Returns:
            What is on record; nothing for a patient that the register does not know.
        """
        (name,) = self.name_patients([patient])
        pairs = zip(self._histories.get(name, ()), self._recorded.get(name, ()), strict=True)
        return PatientState(
            tuple(Change(*self._lines[line], self._entries[number]) for number, line in pairs)
        )

    def verdicts(
        self,
        patients: Sequence[str],
        purpose: str,
        day: datetime.date,
        kinds: Sequence[Collection[str]] | None = None,
    ) -> StrArray:
        """Tell for each row whether its data may be used, or why not.

        Args:
            patients: (n,) the patient's id of each row; ids may repeat.
            purpose: What the data shall be used for.
            day: The day of use.
            kinds: (n,) which data each row is; by default an image and its record.

        Returns:
            (n,) words of `consent_rules.REASONS`; empty where the use is covered.

        Raises:
            DataError: If there is not one entry of kinds a patient.
        """
        asked = [USUAL_DATA] * len(patients) if kinds is None else kinds
        require_same_length(patients=patients, kinds=asked)
        known = list(dict.fromkeys(str(patient) for patient in patients))
        names = dict(zip(known, self.name_patients(known), strict=True))
        with collector_paused():
            reasons = self._reasons(patients, names, purpose, day, asked)
        return np.array(reasons, dtype=np.str_)

    def counts(self, day: datetime.date, without: Collection[str] = ()) -> dict[Purpose, int]:
        """Count the patients whose images and records may be used for each purpose.

        Args:
            day: The day of use.
            without: Pseudonyms of patients who are not counted.

        Returns:
            Patients for each purpose, zeros included.
        """
        told = self.tally(day, without)
        return {purpose: tally.get("", 0) for purpose, tally in told.items()}

    def tally(
        self, day: datetime.date, without: Collection[str] = ()
    ) -> dict[Purpose, dict[Reason, int]]:
        """Count the patients on record by purpose and reason.

        Args:
            day: The day of use.
            without: Pseudonyms of patients who are not counted.

        Returns:
            For each purpose, patients by reason, the empty one for those that are covered;
            reasons that nobody has are left out.
        """
        told: dict[Purpose, dict[Reason, int]] = {purpose: {} for purpose in PURPOSES}
        counted = (known for name, known in self._histories.items() if name not in without)
        for history, patients in Counter(counted).items():
            entries = self._read(history)
            for purpose in PURPOSES:
                reason = judge(entries, purpose, day)
                told[purpose][reason] = told[purpose].get(reason, 0) + patients
        return told

    def expiring(self, day: datetime.date, within_days: int) -> tuple[Expiring, ...]:
        """Find the patients whose cover on a day ends on that day or soon after.

        Args:
            day: The day.
            within_days: How many days to look ahead, from 0 to 36,500.

        Returns:
            One entry a patient, those who expire first in front.

        Raises:
            ConfigError: If the number of days lies outside.
        """
        require_in_range(0, _MOST_DAYS, within_days=within_days)
        later = day + datetime.timedelta(days=within_days + 1)
        told: dict[tuple[int, ...], tuple[tuple[Purpose, ...], datetime.date]] = {}
        for history in set(self._histories.values()):
            ending = self._ends(self._read(history), day, later)
            if ending:
                told[history] = tuple(ending), min(ending.values())
        found = [
            Expiring(name, *told[history])
            for name, history in self._histories.items()
            if history in told
        ]
        return tuple(sorted(found, key=lambda each: (each.until, each.pseudonym)))

    @staticmethod
    def _ends(
        entries: tuple[Entry, ...], day: datetime.date, before: datetime.date
    ) -> dict[Purpose, datetime.date]:
        """Find the purposes that are covered on a day, and end before another, with their ends."""
        covered = [purpose for purpose in PURPOSES if judge(entries, purpose, day) == ""]
        ends = {purpose: last_day(entries, purpose, day, before) for purpose in covered}
        return {purpose: end for purpose, end in ends.items() if end is not None}

    def _reasons(
        self,
        patients: Sequence[str],
        names: Mapping[str, str],
        purpose: str,
        day: datetime.date,
        kinds: Sequence[Collection[str]],
    ) -> list[Reason]:
        """Answer row by row; patients with one history and kinds of data get one answer."""
        told: dict[tuple[tuple[int, ...], frozenset[str]], Reason] = {}
        sets: dict[tuple[str, ...], frozenset[str]] = {}
        reasons: list[Reason] = []
        for patient, row in zip(patients, kinds, strict=True):
            history = self._histories.get(names[str(patient)], ())
            question = history, sets.setdefault(tuple(row), frozenset(row))
            if question not in told:
                told[question] = judge(self._read(history), purpose, day, question[1])
            reasons.append(told[question])
        return reasons

    def _number(self, values: Mapping[str, Any]) -> int:
        """Find the number of an entry, a new one where it is new."""
        return self._keep(read_entry(values))

    def _keep(self, entry: Entry) -> int:
        number = self._numbers.setdefault(entry, len(self._entries))
        if number == len(self._entries):
            self._entries.append(entry)
        return number

    def _not_taken_back(self, number: int, known: tuple[int, ...]) -> int | None:
        """Find the entry for what an imported form keeps beside withdrawals of its first day."""
        form = self._entries[number]
        if not isinstance(form, Consent):
            return number
        back = {
            purpose
            for entry in self._read(known)
            if isinstance(entry, Withdrawal) and entry.day == form.valid_from
            for purpose in entry.purposes
        }
        left = tuple(purpose for purpose in form.purposes if purpose not in back)
        if len(left) == len(form.purposes) or number in known:
            return number
        return self._keep(form.model_copy(update={"purposes": left})) if left else None

    def _read(self, history: tuple[int, ...]) -> tuple[Entry, ...]:
        return tuple(self._entries[number] for number in history)
