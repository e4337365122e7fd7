"""Reading, checking and exporting a clinic's audit log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from skinml.clinic.agreement import require_agreement
from skinml.clinic.flagging import note_flags
from skinml.clinic.folder import ClinicFolder
from skinml.clinic.gate import require_role
from skinml.errors import ConfigError, EnvironmentProblem, require_one_of
from skinml.journal import Mark
from skinml.stewardship.alerts import Flag, flags
from skinml.stewardship.audit_events import EVENTS
from skinml.stewardship.audit_log import (
    AuditEntry,
    KeptMark,
    LogCheck,
    require_empty,
    verify_export,
    verify_log,
)

_MARK = re.compile(r"([1-9][0-9]{0,11}):([0-9a-f]{64})")


@dataclass(frozen=True)
class ShownLog:
    """Part of an audit log, and what its rules point out.

    Attributes:
        clinic: The clinic's name.
        entries: The chosen entries, oldest first.
        num_entries: How many there are in all.
        flags: What the policy's rules point out, the latest first.
    """

    clinic: str
    entries: tuple[AuditEntry, ...]
    num_entries: int
    flags: tuple[Flag, ...]


@dataclass(frozen=True)
class Verified:
    """What was checked of a log and held.

    Attributes:
        of: The clinic's name; "" where only the file was at hand.
        num_entries: Lines, each with its signature, in an unbroken chain from the first.
        mark: Where the log ends, such as "12:0f3a..."; None for an empty log.
        public_key: The key that all signatures fit.
        key_from: Where the key came from: "clinic", "given", or "export": then only the export
            vouches for itself.
        held_against: What the end was held against: "anchor", "mark", "statement", or "nothing":
            then lines that were cut off the end would not show.
        first: When the first entry was written; "" for an empty log.
        last: When the last one was written.
        num_backwards: Entries that are dated before the one in front of them: a clock was set
            back, or a time was made up.
    """

    of: str
    num_entries: int
    mark: str | None
    public_key: str
    key_from: str
    held_against: str
    first: str
    last: str
    num_backwards: int


def show_log(
    folder: ClinicFolder, *, last: int | None = None, event: str | None = None
) -> ShownLog:
    """Read the audit log.

    Args:
        folder: The clinic's folder.
        last: So many of the last entries; None: all.
        event: Only entries with this event; None: every event.

    Returns:
        The entries.

    Raises:
        ConfigError: If there is no such event.
        IntegrityError: If the log was changed.
        PolicyError: If the user may not read it.
    """
    if event is not None:
        require_one_of(EVENTS, event=event)
    require_role(folder, "log.read")
    entries = folder.audit.entries()
    chosen = [each for each in entries if event in (None, each.event)]
    kept = chosen if last is None else chosen[max(len(chosen) - last, 0) :]
    return ShownLog(folder.name, tuple(kept), len(entries), flags(entries, folder.policy.alerts))


def verify_own(folder: ClinicFolder, mark: Mark | None = None) -> Verified:
    """Check every line and signature of a clinic's own log, its end against the anchor, and what
    it says of releases against the ledger and the records of contributions.

    Args:
        folder: The clinic's folder.
        mark: Where the log once ended, as somebody kept it; held against it too.

    Returns:
        What was checked.

    Raises:
        IntegrityError: If anything was changed.
        PolicyError: If the user may not read the log.
    """
    require_role(folder, "log.read")
    log, key = folder.audit, folder.identity.public_key
    log.mark()  # where a crash cut a line short, that line is dropped first
    if mark is not None:
        verify_log(log.path, key, KeptMark(mark))
    check = verify_log(log.path, key, folder.anchors.journal("audit"))
    require_agreement(folder)
    held = "anchor" if mark is None else "anchor and mark"
    return _told(check, of=folder.name, key_from="clinic", held=held)


def verify_copy(path: Path, public_key: str | None = None, mark: Mark | None = None) -> Verified:
    """Check an exported or copied log, with no clinic's folder, key or network.

    Args:
        path: A folder from `export_log`, or a log's file.
        public_key: The clinic's public key, 64 hexadecimal digits; it can be missing for an
            export, which holds one.
        mark: Where the log once ended, as somebody kept it.

    Returns:
        What was checked.

    Raises:
        ConfigError: If the public key is missing or malformed.
        EnvironmentProblem: If there is no such file, or it cannot be read.
        IntegrityError: If anything was changed.
    """
    given = "export" if public_key is None else "given"
    kept = None if mark is None else KeptMark(mark)
    if path.is_dir():
        check = verify_export(path, public_key)
        if kept is not None:
            verify_log(path / "audit.journal", check.public_key, kept)
        return _told(check, of="", key_from=given, held="statement")
    if not path.exists():
        raise EnvironmentProblem(
            rule="an exported log",
            got=f"no file or folder {path}",
            do="Check the path; leave it out to check the log of --folder.",
        )
    if public_key is None:
        raise ConfigError(
            rule="the clinic's public key for a log's file",
            got="no --public-key",
            do="Give the key that the clinic published, 64 hexadecimal digits.",
        )
    check = verify_log(path, public_key, kept)
    return _told(check, of="", key_from=given, held="nothing" if mark is None else "mark")


def export_log(folder: ClinicFolder, into: Path, *, now: datetime) -> Verified:
    """Copy the log into a folder, signed, so that others can check it.

    Args:
        folder: The clinic's folder.
        into: A folder that is made, or is empty.
        now: The time, with its zone.

    Returns:
        The check of the finished export.

    Raises:
        EnvironmentProblem: If the folder is not empty or cannot be written.
        IntegrityError: If the log was changed.
        PolicyError: If the user may not export it.

    Guarantees:
        The export holds its own entry.
    """
    user = require_role(folder, "log.export")
    require_empty(into)
    before = folder.audit.mark()
    folder.audit.write(
        "export", user, now=now, kind="audit log", count=before.count, head=before.head
    )
    note_flags(folder, user, now=now)
    folder.audit.export(into, now=now)
    check = verify_export(into, folder.identity.public_key)
    return _told(check, of=folder.name, key_from="clinic", held="statement")


def parse_mark(text: str) -> Mark:
    """Read a mark as `Verified` writes it.

    Args:
        text: Number of lines, a colon, the digest of the last.

    Returns:
        The mark.

    Raises:
        ConfigError: If it is none.

    >>> parse_mark("12:" + "0f" * 32).count
    12
    """
    found = _MARK.fullmatch(text)
    if found is None:
        raise ConfigError(
            rule="a mark such as 12:0f3a..., a number and 64 hexadecimal digits",
            got=f"mark={text[:80]!r}",
            do="Copy it from what this printed: skinml clinic log verify --folder FOLDER",
        )
    return Mark(int(found[1]), found[2])


def _told(check: LogCheck, *, of: str, key_from: str, held: str) -> Verified:
    times = [each.at for each in check.entries]
    return Verified(
        of=of,
        num_entries=len(times),
        mark=f"{check.mark.count}:{check.mark.head}" if times else None,
        public_key=check.public_key,
        key_from=key_from,
        held_against=held,
        first=times[0] if times else "",
        last=times[-1] if times else "",
        num_backwards=_backwards(times),
    )


def _backwards(times: Sequence[str]) -> int:
    dated = map(datetime.fromisoformat, times)
    return sum(later < earlier for earlier, later in pairwise(dated))
