"""What one run left in a clinic's ledger, cut out so that it can be followed without the rest.

An extract holds the run's own lines as they stand in the ledger, and of all other lines nothing but
the digests at its edges. Whoever has an extract follows its chain and computes epsilon from its
events; whoever has the ledger finds out whether these lines stand there. The seal of a line is made
with a key that only the clinic has: without it nobody can tell who wrote a line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from skinml.errors import IntegrityError
from skinml.journal import Mark, canonical
from skinml.privacy.ledger import Entry, Ledger, decode_entry, ledger_name

_STRICT = ConfigDict(extra="forbid")
_DO = "Ask the clinic for the extract anew, and hold it against the ledger there."


@checked(frozen=True, config=_STRICT)
class Stretch:
    """Lines of one run that stand behind one another.

    Attributes:
        first: Number of the first one in the ledger, from 0.
        before: SHA-256 of the line before it; of the ledger's name where it is the first of all.
        lines: The lines, each as it stands in the ledger without its end of line.
        after: SHA-256 of the last one, which the ledger's next line begins with.
    """

    first: int
    before: str
    lines: tuple[str, ...]
    after: str


@checked(frozen=True, config=_STRICT)
class Extract:
    """What one run left in one clinic's ledger.

    Attributes:
        clinic: The clinic.
        run: The run.
        count: Lines of the ledger when the run's report was made.
        head: SHA-256 of the last of these.
        stretches: The run's own lines.
    """

    clinic: str
    run: str
    count: int
    head: str
    stretches: tuple[Stretch, ...]

    @property
    def whole(self) -> bool:
        """Whether nothing but this run was in the ledger when its report was made."""
        return sum(len(each.lines) for each in self.stretches) == self.count


_EXTRACTS = TypeAdapter(tuple[Extract, ...])


@dataclass(frozen=True)
class _Line:
    number: int
    text: bytes
    before: str
    digest: str


def extract_of(ledger: Ledger, run: str, count: int | None) -> Extract:
    """Cut a run's lines out of a ledger.

    Args:
        ledger: The ledger.
        run: The run's id.
        count: Lines of the ledger when the run's report was made; None: up to the run's last one.

    Returns:
        The extract; it holds no patient's id, for a ledger holds none.

    Raises:
        EnvironmentProblem: If the ledger cannot be read.
        IntegrityError: If it was changed, or has fewer lines.
    """
    entries, marks = ledger.entries(), ledger.marks()
    texts = ledger.path.read_bytes().splitlines(keepends=True)
    own = [entry.index for entry in entries if entry.binding.run == run]
    end = max(own, default=-1) + 1 if count is None else count
    heads = [_start(ledger.clinic), *(mark.head for mark in marks)]
    if end > len(entries) or [hashlib.sha256(text).hexdigest() for text in texts] != heads[1:]:
        raise _changed(ledger.clinic, f"{len(entries)} lines, or others than a moment ago")
    lines = [_Line(at, texts[at], heads[at], heads[at + 1]) for at in own if at < end]
    return Extract(ledger.clinic, run, end, heads[end], tuple(_stretches(lines)))


def follow(extract: Extract) -> tuple[Entry, ...]:
    """Follow an extract's chain and read its entries.

    Args:
        extract: The extract.

    Returns:
        The run's entries in their order.

    Raises:
        IntegrityError: If a line is not what the next one, or an edge, says that it was; or is no
            entry of this run.

    Guarantees:
        Without the clinic's key this shows that nothing was changed since the digests were told,
        and not who wrote the lines.
    """
    found: list[Entry] = []
    mark = Mark(0, _start(extract.clinic))
    for stretch in extract.stretches:
        if stretch.first < mark.count or not stretch.lines:
            raise _changed(extract.clinic, f"line {stretch.first + 1} out of order")
        if stretch.first == mark.count and stretch.before != mark.head:
            raise _changed(extract.clinic, f"line {stretch.first + 1} behind another line")
        mark = Mark(stretch.first, stretch.before)
        for text in stretch.lines:
            entry, mark = _next(extract, text, mark)
            found.append(entry)
        if mark.head != stretch.after:
            raise _changed(extract.clinic, f"line {mark.count} with another digest")
    if mark.count > extract.count or (mark.count == extract.count and mark.head != extract.head):
        raise _changed(extract.clinic, f"{mark.count} lines, of {extract.count} that were told")
    return tuple(found)


def stands_in(extract: Extract, ledger: Ledger) -> bool:
    """Hold an extract against the ledger that it was cut out of.

    Args:
        extract: The extract.
        ledger: The clinic's ledger, which has the key of its seals.

    Returns:
        Whether the ledger's lines of this run are these and no others.

    Raises:
        EnvironmentProblem: If the ledger cannot be read.
        IntegrityError: If the ledger was changed.
    """
    if extract.count > len(ledger.entries()):
        return False
    return extract_of(ledger, extract.run, extract.count) == extract


def extracts_json(extracts: Iterable[Extract]) -> bytes:
    """Write extracts as JSON.

    Args:
        extracts: The extracts.

    Returns:
        UTF-8; the same extracts give the same bytes.
    """
    return _EXTRACTS.dump_json(tuple(extracts), indent=1) + b"\n"


def read_extracts(content: bytes) -> tuple[Extract, ...]:
    """Read extracts from JSON.

    Args:
        content: What `extracts_json` wrote, possibly changed by somebody.

    Returns:
        The extracts, not yet followed.

    Raises:
        IntegrityError: If it is of another form, or names a clinic twice.
    """
    try:
        found = _EXTRACTS.validate_json(content)
    except ValidationError:
        raise _changed("of any name", "another form") from None
    if len({each.clinic for each in found}) < len(found):
        raise _changed("of any name", "one clinic twice")
    return found


def _stretches(lines: Iterable[_Line]) -> Iterator[Stretch]:
    together: list[_Line] = []
    for line in lines:
        if together and line.number != together[-1].number + 1:
            yield _stretch(together)
            together = []
        together.append(line)
    if together:
        yield _stretch(together)


def _stretch(lines: list[_Line]) -> Stretch:
    texts = tuple(line.text.decode().removesuffix("\n") for line in lines)
    return Stretch(lines[0].number, lines[0].before, texts, lines[-1].digest)


def _next(extract: Extract, text: str, after: Mark) -> tuple[Entry, Mark]:
    """Read one line that follows a mark."""
    body = _body(text, after)
    if body is None:
        raise _changed(extract.clinic, f"line {after.count + 1} that is not what was written")
    entry = decode_entry(body, after.count, extract.clinic)
    if entry.binding.run != extract.run:
        raise _changed(extract.clinic, f"line {after.count + 1} of another run")
    return entry, Mark(after.count + 1, hashlib.sha256(f"{text}\n".encode()).hexdigest())


def _body(text: str, after: Mark) -> Mapping[str, Any] | None:
    try:
        values = json.loads(text)
        kept = {"body": values["body"], "number": after.count, "previous": after.head}
        whole = canonical(kept | {"seal": values["seal"]}).decode()
        return dict(values["body"]) if text == whole else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _start(clinic: str) -> str:
    return hashlib.sha256(f"skinml journal: {ledger_name(clinic)}".encode()).hexdigest()


def _changed(clinic: str, got: str) -> IntegrityError:
    return IntegrityError(
        rule=f"an unchanged extract of the privacy ledger of clinic {clinic}", got=got, do=_DO
    )
