"""What a clinic has released, one line a release, written and synced before the release.

The file belongs to a clinic's identity and never to the content of its data: a patient more opens
no fresh budget. Each line holds the hash of the line before it. A reservation is spent, whatever
happens next. Epsilon is always recomputed from the events.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import IO, TYPE_CHECKING

from skinml.errors import BudgetExceededError, IntegrityError
from skinml.privacy.accounting import epsilon
from skinml.privacy.events import Event, event_from_json, event_to_json

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
        other change is an IntegrityError.
    """

    def __init__(self, path: Path, clinic: str) -> None:
        self.path = path
        self.clinic = clinic

    def entries(self) -> tuple[Entry, ...]:
        """Read and verify the whole ledger.

        Returns:
            All entries, oldest first.

        Raises:
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
    ) -> tuple[Entry, ...]:
        """Write releases down before they happen.

        Args:
            binding: What they are bound to.
            releases: Name, purpose, split and event of each.
            guarantee: Whether their noise is secret.

        Returns:
            The new entries.

        Raises:
            IntegrityError: If the ledger was changed.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked() as file:
            known, previous = self._read(file)
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
        fresh = not self.path.exists()
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if fresh:
                _sync_folder(self.path.parent)
            yield file

    def _read(self, file: IO[bytes]) -> tuple[tuple[Entry, ...], str]:
        """Verify all lines, cut a torn tail, and leave the file at its end."""
        file.seek(0)
        content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            file.truncate(len(whole))
        file.seek(len(whole))
        previous = hashlib.sha256(f"skinml ledger of {self.clinic}".encode()).hexdigest()
        entries = []
        for number, line in enumerate(whole.splitlines(keepends=True)):
            entries.append(_decode(line, previous, number, self.clinic))
            previous = hashlib.sha256(line).hexdigest()
        return tuple(entries), previous


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
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _decode(line: bytes, previous: str, number: int, clinic: str) -> Entry:
    try:
        values = json.loads(line)
        intact = values.pop("previous") == previous and values["index"] == number
        if intact and values.pop("schema") == SCHEMA:
            binding = dict(values.pop("binding"))
            binding["participants"] = tuple(binding["participants"])
            event = event_from_json(values.pop("event"))
            return Entry(binding=Binding(**binding), event=event, **values)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise IntegrityError(
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
        Epsilon; infinity where something was released without noise.
    """
    chosen = list(entries)
    if len({entry.binding.split_key_id for entry in chosen}) > 1:
        return epsilon([entry.event for entry in chosen], delta)
    splits: dict[str, list[Event]] = {}
    for entry in chosen:
        splits.setdefault(entry.split, []).append(entry.event)
    return max((epsilon(events, delta) for events in splits.values()), default=0.0)


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
