"""What a clinic has released, one line a release, written and synced before the release.

The file is a `skinml.journal`. It belongs to a clinic's identity and never to the content of its
data: a patient more opens no fresh budget. A reservation is spent, whatever happens next. Epsilon
is always recomputed from the events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path

from skinml.errors import BudgetExceededError, IntegrityError
from skinml.journal import Anchor, Body, Journal, KeyedSeal, Mark
from skinml.privacy.accounting import epsilon
from skinml.privacy.events import Event, UnprotectedEvent, event_from_json, event_to_json
from skinml.records import EVERY_SPLIT, SPLITS

SCHEMA = 2
_YEAR_DAYS = 365


@dataclass(frozen=True)
class Binding:
    """What one release is bound to.

    Attributes:
        run: The run's id.
        round: The round's number.
        attempt: The attempt at the round, from 1.
        participants: The clinics of the sum.
        trust: The trust model.
        unit: Whose records are protected as a whole.
        split_key_id: Short public digest of the split key: equal ids mean equal splits.
        simulated: Whether one machine saw everything.
    """

    run: str
    round: int
    attempt: int
    participants: tuple[str, ...]
    trust: str
    unit: str
    split_key_id: str
    simulated: bool


@dataclass(frozen=True)
class Entry:
    """One release in the ledger.

    Attributes:
        index: Position in the ledger, from 0.
        time: When it was reserved, ISO 8601, UTC.
        binding: What it is bound to.
        name: What left, such as "gradient".
        purpose: Why, such as "training".
        split: Which split of patients it read; "all" where it looked at every patient.
        event: What the accountant is told.
        guarantee: False where the noise was fixed by a test.
    """

    index: int
    time: str
    binding: Binding
    name: str
    purpose: str
    split: str
    event: Event
    guarantee: bool


_FIELDS = tuple(each.name for each in fields(Entry))


class Ledger:
    """The append-only ledger of one clinic.

    Args:
        path: The ledger's file; made at the first reservation.
        clinic: The clinic's name, which the chain begins with.
        key: A key for this ledger alone, derived from the clinic's.
        anchor: Remembers the ledger's end elsewhere; None where nothing can be remembered.

    Guarantees:
        A reservation is on the disk before `reserve` returns. Readers and writers of one file
        exclude each other. A torn last line, which no release can have followed, is dropped; any
        other change is an IntegrityError, with an anchor also an older copy of the file, lines
        cut off its end, or no file at all. Without the key no other line passes.
    """

    def __init__(self, path: Path, clinic: str, key: bytes, anchor: Anchor | None = None) -> None:
        self.path = path
        self.clinic = clinic
        self._journal = Journal(path, ledger_name(clinic), KeyedSeal(key), anchor)
        self._decoded: tuple[tuple[Body, ...], tuple[Entry, ...]] = ((), ())

    def entries(self) -> tuple[Entry, ...]:
        """Read and verify the whole ledger.

        Returns:
            All entries, oldest first.

        Raises:
            EnvironmentProblem: If the file cannot be read.
            IntegrityError: If a line was changed, removed or put in.
        """
        return self._entries(self._journal.read())

    def mark(self) -> Mark:
        """Tell where the ledger ends, for others to remember.

        Returns:
            The number of entries and the digest of the last.

        Raises:
            EnvironmentProblem: If the file cannot be read.
            IntegrityError: If a line was changed, removed or put in.
        """
        return self._journal.mark()

    def mark_at(self, count: int) -> Mark:
        """Tell where the ledger ended earlier; see `skinml.journal.Journal.mark_at`."""
        return self._journal.mark_at(count)

    def marks(self) -> tuple[Mark, ...]:
        """Tell where the ledger ended after each entry; see `skinml.journal.Journal.marks`."""
        return self._journal.marks()

    def passed(self, mark: Mark) -> bool:
        """Tell whether the ledger once ended at a mark; see `skinml.journal.Journal.passed`."""
        return self._journal.passed(mark)

    def reserve(
        self,
        binding: Binding,
        releases: Sequence[tuple[str, str, str, Event]],
        *,
        guarantee: bool = True,
        admit: Callable[[tuple[Entry, ...]], None] | None = None,
    ) -> tuple[Entry, ...]:
        """Write releases down before they happen.

        Args:
            binding: What they are bound to.
            releases: Name, purpose, split and event of each.
            guarantee: Whether their noise is secret.
            admit: Looks at what the ledger holds and raises where the releases must not happen.
                Nobody else can write between its look and the reservation, so that two runs at
                once cannot both spend what is left.

        Returns:
            The new entries.

        Raises:
            EnvironmentProblem: If the file cannot be written.
            IntegrityError: If the ledger was changed.
            RefusedError: If admit raises it; nothing is written.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        fresh: list[Entry] = []

        def write(held: tuple[Body, ...]) -> list[Body]:
            known = self._entries(held)
            if admit is not None:
                admit(known)
            for name, purpose, split, event in releases:
                index = len(known) + len(fresh)
                fresh.append(Entry(index, now, binding, name, purpose, split, event, guarantee))
            return [_encode(entry) for entry in fresh]

        self._journal.append(write)
        return tuple(fresh)

    def _entries(self, bodies: tuple[Body, ...]) -> tuple[Entry, ...]:
        """Decode what was not decoded before."""
        known, entries = self._decoded
        same = len(known) <= len(bodies) and all(
            a is b for a, b in zip(known, bodies, strict=False)
        )
        start = len(known) if same else 0
        fresh = (
            decode_entry(body, at, self.clinic) for at, body in enumerate(bodies[start:], start)
        )
        self._decoded = bodies, (*entries[:start], *fresh)
        return self._decoded[1]


def _encode(entry: Entry) -> Body:
    """Turn an entry into what JSON would read again: lists, no tuples."""
    values: dict[str, object] = {each: getattr(entry, each) for each in _FIELDS}
    binding = vars(entry.binding) | {"participants": list(entry.binding.participants)}
    return values | {"schema": SCHEMA, "binding": binding, "event": event_to_json(entry.event)}


def ledger_name(clinic: str) -> str:
    """Name a clinic's ledger, as its chain begins with it.

    Args:
        clinic: The clinic's name.

    Returns:
        The name.
    """
    return f"privacy ledger of clinic {clinic}"


def decode_entry(body: Body, number: int, clinic: str) -> Entry:
    """Read an entry from the body of a ledger's line.

    Args:
        body: The line's body.
        number: Where the line stands, from 0.
        clinic: The clinic's name, for the message.

    Returns:
        The entry.

    Raises:
        IntegrityError: If it is none that this release knows, or stands elsewhere.
    """
    try:
        values = dict(body)
        schema = values.pop("schema")
        if schema != SCHEMA:
            raise IntegrityError(
                rule=f"a privacy ledger of schema {SCHEMA} at clinic {clinic}",
                got=f"schema={schema} on line {number + 1}",
                do="Read it with the release of skinml that wrote it.",
            )
        binding = dict(values.pop("binding"))
        binding["participants"] = tuple(binding["participants"])
        event = event_from_json(values.pop("event"))
        entry = Entry(binding=Binding(**binding), event=event, **values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unknown(number, clinic) from error
    # Written anew it must be the same, with no field more or less.
    if entry.index != number or _encode(entry) != body:
        raise _unknown(number, clinic)
    return entry


def _unknown(number: int, clinic: str) -> IntegrityError:
    return IntegrityError(
        rule=f"an entry that this release of skinml knows on line {number + 1} of the privacy "
        f"ledger of clinic {clinic}",
        got="another one",
        do="Read it with the release of skinml that wrote it; nothing is released until then.",
    )


def spent(entries: Iterable[Entry], delta: float) -> float:
    """Compute what a patient of the clinic may have lost through these releases.

    Patients of the training, validation and test splits are disjoint as long as the split key
    stays the same: then each split is charged by itself and the greatest counts. With two split
    keys a patient may have been in several splits, so everything composes. What looked at every
    patient composes with each split.

    Args:
        entries: Entries of one ledger.
        delta: Delta to read epsilon at.

    Returns:
        Epsilon; infinity where something was released without noise, or with noise that was fixed
        (pitfall P10: a test's noise buys no certificate).
    """
    found = compositions(entries).values()
    return max((epsilon(events, delta) for events in found), default=0.0)


def compositions(entries: Iterable[Entry]) -> dict[str, list[Event]]:
    """Sort the events of entries by the patients who may have been in them.

    Args:
        entries: Entries of one ledger.

    Returns:
        Events that compose: by split, each with those about every split, or all under "" where
        there were several split keys.
    """
    chosen = list(entries)
    apart = len({entry.binding.split_key_id for entry in chosen}) <= 1
    found: dict[str, list[Event]] = {}
    for entry in chosen:
        found.setdefault(entry.split if apart else "", []).append(charged(entry))
    shared = found.pop(EVERY_SPLIT, [])
    if not shared:
        return found
    # Also a split that has nothing of its own: the next release about it composes with these.
    return {split: [*found.get(split, []), *shared] for split in dict.fromkeys((*found, *SPLITS))}


def charged(entry: Entry) -> Event:
    """Tell what the accountant is told of an entry.

    Args:
        entry: The entry.

    Returns:
        Its event; an unprotected one where its noise was not secret.
    """
    return entry.event if entry.guarantee else UnprotectedEvent(entry.event.count)


@dataclass(frozen=True)
class Ceilings:
    """Greatest epsilons that a ledger may reach; None: no ceiling.

    Attributes:
        run: By one run.
        year: Within any 365 days that end now.
        life: By all entries together.
        rule: Where the ceilings stand, for the message.
    """

    run: float | None = None
    year: float | None = None
    life: float | None = None
    rule: str = "privacy.budget"


def require_affordable(
    entries: Sequence[Entry],
    planned: Sequence[Entry],
    ceilings: Ceilings,
    *,
    delta: float,
    now: datetime,
) -> None:
    """Refuse a run before its first computation if the clinic cannot afford it.

    Args:
        entries: What the ledger holds.
        planned: The run's whole remaining schedule as entries.
        ceilings: What may not be passed.
        delta: Delta of the ceilings.
        now: The time, with its zone; the year is counted back from it.

    Raises:
        BudgetExceededError: If the ledger and the plan together pass a ceiling.
    """
    runs = {entry.binding.run for entry in planned}
    spans = {
        "total epsilon": (ceilings.life, entries),
        "epsilon a year": (ceilings.year, entries_of_year(entries, now)),
        "epsilon a run": (ceilings.run, [e for e in entries if e.binding.run in runs]),
    }
    for span, (ceiling, held) in spans.items():
        if ceiling is None:
            continue
        total = spent([*held, *planned], delta)
        if total > ceiling:
            raise BudgetExceededError(
                rule=f"{span} of at most {ceiling:g} ({ceilings.rule})",
                got=f"{_words(spent(held, delta))} spent so far, {_words(total)} with this run",
                do="Ask for a smaller privacy.epsilon, or stop here: the budget is used up.",
            )


def entries_of_year(entries: Iterable[Entry], now: datetime) -> list[Entry]:
    """Choose the entries of the last 365 days.

    Args:
        entries: Entries of one ledger.
        now: The time, with its zone.

    Returns:
        The entries since then, and those that a clock set back dates later than now.
    """
    since = (now - timedelta(days=_YEAR_DAYS)).astimezone(UTC).isoformat(timespec="seconds")
    return [entry for entry in entries if entry.time >= since]


def _words(epsilon: float) -> str:
    return "unbounded" if epsilon == inf else f"{epsilon:.3f}"
