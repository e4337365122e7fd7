"""Files that survive a crash: written whole or not at all, and locked against another process."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from skinml.errors import EnvironmentProblem, IntegrityError

_PRIVATE_FILE, _SHARED_FILE = 0o600, 0o660
_PRIVATE_FOLDER, _SHARED_FOLDER = 0o700, 0o2770
_PATIENCE_S = 60.0  # no work under a lock takes as long
_POLL_S = 0.005
_TWO_PLACES = b"skinml: two places in turn\n"
_BLOCK = 4096
_HEAD = struct.Struct("<QQ32s")  # number of the write, length of the content, SHA-256 of all three


def open_private(path: Path, flags: int) -> int:
    """Open a file; a new one is closed to all but its owner and whom its folder is shared with.

    Args:
        path: The file.
        flags: As for `os.open`; a link at the file's place is never followed.

    Returns:
        The descriptor.

    Raises:
        OSError: If the system refuses.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW, _PRIVATE_FILE)
    mine = os.fstat(descriptor).st_uid == os.geteuid()
    if flags & os.O_CREAT and mine and _is_shared(path.parent):
        os.fchmod(descriptor, _SHARED_FILE)
    return descriptor


def share(folder: Path, group: int) -> None:
    """Share a folder of one's own, and what will be made in it, with a Unix group.

    Args:
        folder: The folder.
        group: The group's number.

    Raises:
        OSError: If the system refuses.
    """
    os.chown(folder, -1, group)
    folder.chmod(_SHARED_FOLDER)


def _is_shared(folder: Path) -> bool:
    wanted = stat.S_IRWXG | stat.S_ISGID
    return folder.stat().st_mode & wanted == wanted


def write_whole(path: Path, content: bytes, what: str) -> None:
    """Replace a file, so that every moment has either the old content or the new one.

    Whoever may write the same file at the same time holds a lock (`locked`).

    Args:
        path: The file; its folder must exist.
        content: Its new content.
        what: What the file is, for the message, such as "policy".

    Raises:
        EnvironmentProblem: If it cannot be written; the old content stays, unless only the last
            step failed, which makes the new name survive a power cut.

    Guarantees:
        On return the new content is on the disk under its name, closed to others, in a file that
        this process made: whatever somebody laid in its way is neither followed nor used.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)  # left by a crash, or laid there
        descriptor = open_private(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):  # the next write removes it
            partial.unlink(missing_ok=True)
        raise cannot("write", what, error) from error


def read_whole(path: Path, what: str) -> bytes:
    """Read a file.

    Args:
        path: The file.
        what: What the file is, for the message.

    Returns:
        Its content.

    Raises:
        EnvironmentProblem: If it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise cannot("read", what, error) from error


def write_in_turn(path: Path, content: bytes, what: str) -> None:
    """Replace a file's content in the file itself, which is on the disk much sooner than a new one.

    The file has two places, written in turn: a crash on the way leaves the older content. Whoever
    reads or writes it holds a lock (`locked`).

    Args:
        path: The file; its folder must exist. Content that `write_whole` left is replaced.
        content: Its new content.
        what: What the file is, for the message.

    Raises:
        EnvironmentProblem: If it cannot be written; the old content stays.

    Guarantees:
        On return the new content is on the disk. Content that was damaged afterwards is not told
        from content that a crash cut short: the one before it is read then.
    """
    try:
        held = path.read_bytes() if path.exists() else b""
        number = 1 + max(_contents(held), default=0)
        checked = hashlib.sha256(_HEAD.pack(number, len(content), b"") + content).digest()
        written = _HEAD.pack(number, len(content), checked) + content
        room = _room(held)
        if len(written) > room:
            room = -(-len(written) // _BLOCK) * _BLOCK  # whole blocks: places share none
            places = [bytes(room), bytes(room)]
            places[number % 2] = written.ljust(room, b"\0")
            write_whole(path, _TWO_PLACES.ljust(_BLOCK, b"\0") + b"".join(places), what)
            return
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            file.seek(_BLOCK + number % 2 * room)
            rest = memoryview(written)
            while rest:
                rest = rest[file.write(rest) :]
            os.fdatasync(file.fileno())
    except OSError as error:
        raise cannot("write", what, error) from error


def read_in_turn(path: Path, what: str) -> bytes:
    """Read a file of `write_in_turn`, or of `write_whole`.

    Args:
        path: The file.
        what: What the file is, for the message.

    Returns:
        The content that was written last.

    Raises:
        EnvironmentProblem: If it cannot be read.
        IntegrityError: If neither place holds what was written.
    """
    held = read_whole(path, what)
    if not held.startswith(_TWO_PLACES):
        return held
    found = _contents(held)
    if not found:
        raise IntegrityError(
            rule=f"unchanged {what}",
            got="another content",
            do="Restore the file from a backup; nothing is used until then.",
        )
    return found[max(found)]


def _room(held: bytes) -> int:
    """Tell how many bytes one of two places has."""
    return (len(held) - _BLOCK) // 2 if held.startswith(_TWO_PLACES) else 0


def _contents(held: bytes) -> dict[int, bytes]:
    """Find what is whole in the two places, by the number of the write."""
    room = _room(held)
    found = {}
    for start in (_BLOCK, _BLOCK + room) if room > _HEAD.size else ():
        number, length, checked = _HEAD.unpack_from(held, start)
        content = held[start + _HEAD.size :][: min(length, room - _HEAD.size)]
        told = _HEAD.pack(number, length, b"") + content
        if number and hashlib.sha256(told).digest() == checked:
            found[number] = content
    return found


def remove(path: Path, what: str) -> None:
    """Remove a file, if it is there, so that it stays removed.

    Args:
        path: The file.
        what: What the file is, for the message.

    Raises:
        EnvironmentProblem: If it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise cannot("remove", what, error) from error


@contextmanager
def overwritten(path: Path) -> Iterator[None]:
    """Write zeros over a file's old content, once the block has put another file in its place.

    So nobody finds it by searching the blocks that the file system has freed, where that writes
    in place and the disk does too. It promises no more: flash disks, file systems that copy on
    write, snapshots and journals keep what was written before.

    Args:
        path: The file; nothing is done where it is missing, stays, or has another name as well.

    Yields:
        Nothing.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    except OSError:
        yield
        return
    try:
        yield
        with suppress(OSError):  # an attempt that may fail; the old name leads nowhere anyway
            status = os.fstat(descriptor)
            if status.st_nlink == 0:
                os.pwrite(descriptor, bytes(status.st_size), 0)
                os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path, what: str, *, patience_s: float = _PATIENCE_S) -> Iterator[None]:
    """Keep other processes, and other threads, out until the block ends.

    Not to be taken twice by one thread: it would wait for itself.

    Args:
        path: The lock's own file, made where it is missing; never the file that it protects, for
            a replaced file takes its lock along.
        what: What the lock protects, for the message.
        patience_s: Seconds to wait for whoever holds it.

    Yields:
        Nothing.

    Raises:
        EnvironmentProblem: If the lock cannot be taken, or not in time.
    """
    try:
        descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise cannot("lock", what, error) from error
    try:
        try:
            take_lock(descriptor, what, patience_s=patience_s)
        except OSError as error:  # such as a network disk without locks
            raise cannot("lock", what, error) from error
        yield
    finally:
        os.close(descriptor)


def take_lock(
    descriptor: int, what: str, *, shared: bool = False, patience_s: float = _PATIENCE_S
) -> None:
    """Lock an open file until it is closed; say so where whoever holds it never lets go.

    Args:
        descriptor: The open file.
        what: What the lock protects, for the message.
        shared: Whether others may hold such a lock at the same time.
        patience_s: Seconds to wait.

    Raises:
        EnvironmentProblem: If another process holds it for longer: most likely one that was
            stopped, for one that ends gives its locks back.
        OSError: If the file system has no locks.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    until = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise EnvironmentProblem(
                    rule=f"the lock of the {what} within {patience_s:g} s",
                    got="another process that holds it",
                    do="Look for a skinml that was stopped (Ctrl-Z) or hangs; let it go on or end "
                    "it. Nothing is lost.",
                ) from None
        time.sleep(_POLL_S)


def make_folder(path: Path, what: str) -> None:
    """Make a folder that only its owner can enter, with those above it that are missing.

    Args:
        path: The folder.
        what: What the folder is, for the message.

    Raises:
        EnvironmentProblem: If it cannot be made.

    Guarantees:
        What was made is on the disk on return. A folder that is there keeps its permissions.
    """
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True, mode=_PRIVATE_FOLDER)
            if _is_shared(folder.parent):
                folder.chmod(_SHARED_FOLDER)
            sync_folder(folder.parent)
    except OSError as error:
        raise cannot("make", what, error) from error


def sync_folder(folder: Path) -> None:
    """Make new, replaced and removed names in a folder survive a power cut.

    Args:
        folder: The folder.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot(verb: str, what: str, error: OSError) -> EnvironmentProblem:
    """Build the error of a file operation that the system refused.

    Args:
        verb: What was tried, such as "write".
        what: What the file is.
        error: What the system said; its path is left out.

    Returns:
        The error.
    """
    return EnvironmentProblem(
        rule=f"{'an' if what[0] in 'aeiou' else 'a'} {what} that skinml can {verb}",
        got=error.strerror or type(error).__name__,
        do="Check the folder's permissions and the space on the disk.",
    )
