"""What a clinic has released, one line a release, written and synced before the release.

The file belongs to a clinic's identity and never to the content of its data: a patient more opens
no fresh budget. Each line holds the hash of the line before it and a digest of itself, for no
line follows the last one. A reservation is spent, whatever happens next. Epsilon is always
recomputed from the events.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import IO, TYPE_CHECKING

from skinml.errors import BudgetExceededError, EnvironmentProblem, IntegrityError
from skinml.privacy.accounting import epsilon
from skinml.privacy.events import Event, UnprotectedEvent, event_from_json, event_to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = 1


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
        split: Which split of patients it read.
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


class Ledger:
    """The append-only ledger of one clinic.

    Args:
        path: The ledger's file; made at the first reservation.
        clinic: The clinic's name, which the chain begins with.

    Guarantees:
        A reservation is on the disk before `reserve` returns. Readers and writers of one file
        exclude each other. A torn last line, which no release can have followed, is dropped; any
        other change is an IntegrityError. The chain holds no secret: it shows damage and
        careless edits, not a forger who writes all lines anew, nor whole lines cut off the end,
        which show only against an anchor elsewhere.
    """

    def __init__(self, path: Path, clinic: str) -> None:
        self.path = path
        self.clinic = clinic
        self._verified = _Verified(0, hashlib.sha256().hexdigest(), (), _root(clinic))

    def entries(self) -> tuple[Entry, ...]:
        """Read and verify the whole ledger.

        Returns:
            All entries, oldest first.

        Raises:
            EnvironmentProblem: If the file cannot be read.
            IntegrityError: If a line was changed, removed or put in.
        """
        if not self.path.exists():
            return ()
        with self._locked() as file:
            return self._read(file)[0]

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
        with self._locked() as file:
            known, previous = self._read(file)
            if admit is not None:
                admit(known)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            fresh: list[Entry] = []
            for name, purpose, split, event in releases:
                index = len(known) + len(fresh)
                entry = Entry(index, now, binding, name, purpose, split, event, guarantee)
                line = _encode(entry, previous)
                file.write(line)
                previous = hashlib.sha256(line).hexdigest()
                fresh.append(entry)
            file.flush()
            os.fsync(file.fileno())
        return tuple(fresh)

    @contextmanager
    def _locked(self) -> Iterator[IO[bytes]]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fresh = not self.path.exists()
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if fresh:
                    _sync_folder(self.path.parent)
                yield file
        except OSError as error:
            raise EnvironmentProblem(
                rule=f"a privacy ledger of clinic {self.clinic} that can be read and written",
                got=error.strerror or type(error).__name__,
                do="Mend the disk or the permissions: nothing is released without the ledger.",
            ) from error

    def _read(self, file: IO[bytes]) -> tuple[tuple[Entry, ...], str]:
        """Verify all lines, mend a torn tail, and leave the file at its end."""
        file.seek(0)
        content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        known = self._verified
        start = known.size
        if hashlib.sha256(whole[:start]).hexdigest() != known.digest:
            start, known = 0, _Verified(0, "", (), _root(self.clinic))
        entries, previous = list(known.entries), known.previous
        for line in whole[start:].splitlines(keepends=True):
            entries.append(_decode(line, previous, len(entries), self.clinic))
            previous = hashlib.sha256(line).hexdigest()
        digest = hashlib.sha256(whole).hexdigest()
        self._verified = _Verified(len(whole), digest, tuple(entries), previous)
        if tail := content[len(whole) :]:
            _require_torn(tail, previous, len(entries), self.clinic)
            file.truncate(len(whole))
        file.seek(len(whole))
        return tuple(entries), previous


@dataclass(frozen=True)
class _Verified:
    """The beginning of the file that was verified before, so that a run does not grow quadratic."""

    size: int
    digest: str
    entries: tuple[Entry, ...]
    previous: str


def _root(clinic: str) -> str:
    return hashlib.sha256(f"skinml ledger of {clinic}".encode()).hexdigest()


def _require_torn(tail: bytes, previous: str, number: int, clinic: str) -> None:
    """Tell a line whose end was changed from one that was never finished."""
    for candidate in (tail, tail[:-1]):
        try:
            _decode(candidate + b"\n", previous, number, clinic)
        except IntegrityError:
            continue
        raise _changed(number, clinic)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _encode(entry: Entry, previous: str) -> bytes:
    values = asdict(entry) | {
        "schema": SCHEMA,
        "previous": previous,
        "event": event_to_json(entry.event),
    }
    values["digest"] = hashlib.sha256(_json(values)).hexdigest()
    return _json(values) + b"\n"


def _json(values: Mapping[str, object]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def _decode(line: bytes, previous: str, number: int, clinic: str) -> Entry:
    try:
        values = json.loads(line)
        digest = values.pop("digest")
        if digest != hashlib.sha256(_json(values)).hexdigest():
            raise _changed(number, clinic)
        schema = values.pop("schema")
        if schema != SCHEMA:
            raise IntegrityError(
                rule=f"a privacy ledger of schema {SCHEMA} at clinic {clinic}",
                got=f"schema={schema} on line {number + 1}",
                do="Read it with the release of skinml that wrote it.",
            )
        intact = values.pop("previous") == previous and values["index"] == number
        binding = dict(values.pop("binding"))
        binding["participants"] = tuple(binding["participants"])
        event = event_from_json(values.pop("event"))
        entry = Entry(binding=Binding(**binding), event=event, **values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _changed(number, clinic) from error
    # Written anew it must be the same bytes, its own digest among them.
    if not intact or _encode(entry, previous) != line:
        raise _changed(number, clinic)
    return entry


def _changed(number: int, clinic: str) -> IntegrityError:
    return IntegrityError(
        rule=f"an unchanged line {number + 1} in the privacy ledger of clinic {clinic}",
        got="a line that does not follow from the one before it",
        do="Restore the ledger from a backup; nothing may be released until then.",
    )


def spent(entries: Iterable[Entry], delta: float) -> float:
    """Compute what a patient of the clinic may have lost through these releases.

    Patients of the training, validation and test splits are disjoint as long as the split key
    stays the same: then each split is charged by itself and the greatest counts. With two split
    keys a patient may have been in several splits, so everything composes.

    Args:
        entries: Entries of one ledger.
        delta: Delta to read epsilon at.

    Returns:
        Epsilon; infinity where something was released without noise, or with noise that was fixed
        (pitfall P10: a test's noise buys no certificate).
    """
    chosen = list(entries)
    if len({entry.binding.split_key_id for entry in chosen}) > 1:
        return epsilon([_charged(entry) for entry in chosen], delta)
    splits: dict[str, list[Event]] = {}
    for entry in chosen:
        splits.setdefault(entry.split, []).append(_charged(entry))
    return max((epsilon(events, delta) for events in splits.values()), default=0.0)


def _charged(entry: Entry) -> Event:
    return entry.event if entry.guarantee else UnprotectedEvent(entry.event.count)


def require_affordable(
    entries: Sequence[Entry], planned: Sequence[Entry], *, ceiling: float | None, delta: float
) -> None:
    """Refuse a run before its first computation if the clinic cannot afford it.

    Args:
        entries: What the ledger holds.
        planned: The run's whole schedule as entries.
        ceiling: Greatest total epsilon; none: no ceiling.
        delta: Delta of the ceiling.

    Raises:
        BudgetExceededError: If the ledger and the plan together pass the ceiling.
    """
    if ceiling is None:
        return
    total = spent([*entries, *planned], delta)
    if total > ceiling:
        so_far = spent(entries, delta)
        word = "unbounded" if so_far == inf else f"{so_far:.3f}"
        raise BudgetExceededError(
            rule=f"a total epsilon of at most {ceiling:g} (privacy.budget.epsilon)",
            got=f"{word} spent so far, {total:.3f} with this run",
            do="Ask for a smaller privacy.epsilon, or stop here: the budget is used up.",
        )
