"""What happened to a clinic's data, by whom and when: append-only, chained, signed by the clinic.

The log is a `skinml.journal` whose lines carry an Ed25519 signature instead of a keyed digest, so
that anybody who has the clinic's public key can check it, without the clinic's key, its folder or
a network. Who holds the signing key could still write another history from the start; what shows
that is a mark (a number of lines and the digest of the last) that somebody else kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from skinml.durable import cannot, make_folder, read_whole, take_lock, write_whole
from skinml.errors import EnvironmentProblem, IntegrityError
from skinml.journal import Anchor, Body, Journal, Mark, Remembered, canonical
from skinml.stewardship.audit_events import (
    EVENTS,
    Event,
    checked_actor,
    checked_fields,
    written_time,
)
from skinml.stewardship.signing import Signature, public_key_hex

LOG_FILE = "audit.journal"
STATEMENT_FILE = "statement.json"
_SCHEMA = 1
LINE = b"skinml audit log line\n"
_STATEMENT = b"skinml audit log export\n"


@dataclass(frozen=True)
class AuditEntry:
    """One line of an audit log.

    Attributes:
        number: Its position, from 0.
        at: When it was written, ISO 8601, UTC.
        actor: Who acted: a user of the operating system, or a coordinator.
        event: What happened.
        fields: More about it, see `skinml.stewardship.audit_events`; never a clear patient id.
    """

    number: int
    at: str
    actor: str
    event: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class LogCheck:
    """What was checked of a log, and what is certain now.

    Attributes:
        mark: Where the log ends; keep it elsewhere, and a later check can be held against it.
        public_key: The key that all signatures fit.
        entries: What the log says.
        anchored: Whether it was held against a mark from elsewhere.
    """

    mark: Mark
    public_key: str
    entries: tuple[AuditEntry, ...]
    anchored: bool


class AuditLog:
    """The audit log of one clinic.

    Args:
        path: Its file; made at the first `write`.
        clinic: The clinic's id, which the chain begins with.
        signing_key: 32 bytes from `new_signing_key`; never logged.
        anchor: Remembers the log's end elsewhere; None where nothing can be remembered.

    Raises:
        ConfigError: If the signing key is malformed.

    Guarantees:
        An entry is on the disk when `write` returns. Entries are only ever added. A changed,
        missing or added line is an IntegrityError, with an anchor also lines cut off the end.
        What is not in the table of `audit_events` cannot be written.
    """

    def __init__(
        self, path: Path, clinic: str, signing_key: bytes, anchor: Anchor | None = None
    ) -> None:
        self.path = path
        self.clinic = clinic
        self.public_key = public_key_hex(signing_key)
        self._signing_key = signing_key
        seal = Signature(self.public_key, signing_key, about=LINE)
        self._journal = Journal(path, f"audit log of clinic {clinic}", seal, anchor)

    def write(self, event: Event, actor: str, *, now: datetime, **fields: Any) -> AuditEntry:
        """Write down what happened, or is about to.

        Args:
            event: What.
            actor: Who: a user of the operating system, or a coordinator.
            now: When, with its time zone.
            **fields: More about it; only those that the event may have. None means no field.

        Returns:
            The new entry.

        Raises:
            ConfigError: If a field is not in the table or of another kind.
            EnvironmentProblem: If the log cannot be written.
            IntegrityError: If the log was changed.
        """
        body = {
            "actor": checked_actor(actor),
            "at": written_time(now),
            "event": event,
            "fields": checked_fields(event, fields),
        }
        mark = self._journal.append(lambda _: [body])
        return _entry(mark.count - 1, body)

    def entries(self) -> tuple[AuditEntry, ...]:
        """Read the log and verify its chain, its last signature and its anchor.

        Returns:
            All entries, oldest first.

        Raises:
            EnvironmentProblem: If the file cannot be read.
            IntegrityError: If the log was changed.
        """
        return tuple(_entry(number, body) for number, body in enumerate(self._journal.read()))

    def mark(self) -> Mark:
        """Tell where the log ends, for others to remember.

        Returns:
            The number of entries and the digest of the last.

        Raises:
            EnvironmentProblem: If the file cannot be read.
            IntegrityError: If the log was changed.
        """
        return self._journal.mark()

    def export(self, into: Path, *, now: datetime) -> Mark:
        """Copy the log into a folder, with what is needed to check it elsewhere.

        Args:
            into: A folder that is made, or is empty.
            now: When, with its time zone.

        Returns:
            Where the exported log ends.

        Raises:
            EnvironmentProblem: If the folder is not empty or cannot be written.
            IntegrityError: If the log was changed.
        """
        require_empty(into)
        make_folder(into, "folder of the export")
        mark = self._journal.mark()
        lines = read_whole(self.path, "audit log").splitlines(keepends=True)[: mark.count]
        if lines and hashlib.sha256(lines[-1]).hexdigest() != mark.head:
            raise _changed("a file that changed while it was read")
        statement = {
            "at": written_time(now),
            "clinic": self.clinic,
            "count": mark.count,
            "head": mark.head,
            "public_key": self.public_key,
            "schema": _SCHEMA,
        }
        seal = Signature(self.public_key, self._signing_key, about=_STATEMENT)
        signed = statement | {"signature": seal.make(canonical(statement))}
        write_whole(into / LOG_FILE, b"".join(lines), "exported audit log")
        write_whole(into / STATEMENT_FILE, canonical(signed) + b"\n", "exported audit log")
        return mark


def require_empty(into: Path) -> None:
    """Check that a folder can take an export.

    Args:
        into: The folder; it need not exist.

    Raises:
        EnvironmentProblem: If something is there.
    """
    try:
        taken = into.is_symlink() or (into.exists() and any(into.iterdir()))
    except OSError as error:
        raise cannot("use", "folder of the export", error) from error
    if taken:
        raise EnvironmentProblem(
            rule="an empty folder for the export, or none yet",
            got="something that is there already",
            do="Name another folder.",
        )


def verify_log(path: Path, public_key: str, anchor: Remembered | None = None) -> LogCheck:
    """Check every line and every signature of a log, with nothing but the file and the key.

    Args:
        path: The log's file, in a clinic's folder or copied from there.
        public_key: The clinic's public key, 64 hexadecimal digits, from a place that whoever
            wrote the file could not change.
        anchor: Where the log once ended, such as `KeptMark`; without it lines cut off the end
            cannot show.

    Returns:
        What was checked.

    Raises:
        ConfigError: If the public key is malformed.
        EnvironmentProblem: If the file cannot be read.
        IntegrityError: If anything is not as it was written.
    """
    seal = Signature(public_key, about=LINE)
    content = _read_shared(path)
    if not content.endswith(b"\n") and content:
        raise _changed("a last line that is cut short")
    entries, heads, head = [], [], ""
    for number, line in enumerate(content.splitlines(keepends=True)):
        body = _verified_body(line, number, head, seal)
        entries.append(_entry(number, body))
        head = hashlib.sha256(line).hexdigest()
        heads.append(head)
    if anchor is not None:
        _require_passed(heads, anchor.read())
    return LogCheck(Mark(len(heads), head), public_key, tuple(entries), anchor is not None)


def verify_export(folder: Path, public_key: str | None = None) -> LogCheck:
    """Check an exported log as a whole: its statement, every line, every signature, its end.

    Args:
        folder: The folder from `AuditLog.export`.
        public_key: The clinic's public key from a place of its own. None takes the one in the
            export: then the export agrees with itself, and who made it is not certain.

    Returns:
        What was checked.

    Raises:
        ConfigError: If the public key is malformed.
        EnvironmentProblem: If a file cannot be read.
        IntegrityError: If anything is not as it was exported.
    """
    content = read_whole(folder / STATEMENT_FILE, "statement of the export")
    statement = _statement(content, public_key)
    log = folder / LOG_FILE
    if not log.is_file():
        raise _changed("an export without its log")
    kept = KeptMark(Mark(statement["count"], statement["head"]))
    check = verify_log(log, statement["public_key"], kept if statement["count"] else None)
    if check.mark.count != statement["count"]:
        raise _changed(f"{check.mark.count} lines instead of {statement['count']}")
    return check


@dataclass(frozen=True)
class KeptMark:
    """A mark that somebody kept.

    Attributes:
        mark: The mark.
    """

    mark: Mark

    def read(self) -> Mark:
        """Look up the mark."""
        return self.mark


def _statement(content: bytes, public_key: str | None) -> dict[str, Any]:
    try:
        values = json.loads(content)
        signature = values.pop("signature")
        whole = canonical(values | {"signature": signature}) + b"\n"
        key = values["public_key"] if public_key is None else public_key
        signed = Signature(key, about=_STATEMENT).fits(canonical(values), signature)
        if whole == content and signed and values["schema"] == _SCHEMA:
            return dict(values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # whatever stands there, it is not what was written
    raise _changed("a statement that this public key did not sign")


def _verified_body(line: bytes, number: int, previous: str, seal: Signature) -> Body:
    try:
        values = json.loads(line)
        # The first line follows the journal's own name, which the signature speaks for.
        before = previous if number else values["previous"]
        kept = {"body": values["body"], "number": number, "previous": before}
        whole = canonical(kept | {"seal": values["seal"]}) + b"\n"
        if whole == line and seal.fits(canonical(kept), values["seal"]):
            return dict(values["body"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # whatever stands there, it is not what was written
    raise _changed(f"line {number + 1} is not what was written")


def _require_passed(heads: list[str], mark: Mark) -> None:
    if len(heads) < mark.count:
        raise _changed(f"{len(heads)} of {mark.count} lines")
    if mark.count and heads[mark.count - 1] != mark.head:
        raise _changed(f"another line {mark.count} than was remembered")


def _entry(number: int, body: Body) -> AuditEntry:
    fields, event = body.get("fields"), body.get("event")
    if event not in EVENTS or not isinstance(fields, dict):
        raise _changed(f"line {number + 1} is of another version of skinml")
    return AuditEntry(number, str(body.get("at")), str(body.get("actor")), event, fields)


def _read_shared(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            take_lock(file.fileno(), "audit log", shared=True)
            return file.read()
    except OSError as error:
        raise cannot("read", "audit log", error) from error


def _changed(got: str) -> IntegrityError:
    return IntegrityError(
        rule="an audit log as the clinic wrote it",
        got=got,
        do="Keep this copy as evidence and ask the clinic for its own.",
    )
