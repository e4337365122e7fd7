"""Files that survive a crash: written whole or not at all, and locked against another process."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from skinml.errors import EnvironmentProblem

_PRIVATE_FILE, _SHARED_FILE = 0o600, 0o660
_PRIVATE_FOLDER, _SHARED_FOLDER = 0o700, 0o2770
_PATIENCE_S = 60.0  # no work under a lock takes as long
_POLL_S = 0.005
_ZEROS = 2**20  # at once: one write takes less than 2 GiB, and memory holds less still
_TURN = threading.local()


@contextmanager
def turns() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Let threads work one at a time, and wait for the disk or for a lock side by side.

    Yields:
        What a thread works in: `with in_turn(): ...`. It has no effect on what is synced when.
    """
    turn = threading.Lock()

    @contextmanager
    def in_turn() -> Iterator[None]:
        with turn:
            _TURN.lock = turn
            try:
                yield
            finally:
                _TURN.lock = None

    yield in_turn


@contextmanager
def _aside() -> Iterator[None]:
    """Let another thread work until the block ends; see `turns`."""
    turn: threading.Lock | None = getattr(_TURN, "lock", None)
    if turn is None:
        yield
        return
    turn.release()
    try:
        yield
    finally:
        turn.acquire()


def sync(descriptor: int) -> None:
    """Wait until an open file is on the disk.

    Args:
        descriptor: The open file, or a folder.

    Raises:
        OSError: If the disk refuses.
    """
    with _aside():
        os.fsync(descriptor)


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
            sync(file.fileno())
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


def write_over(path: Path, content: bytes, what: str) -> None:
    """Write over a file's content without waiting for the disk.

    It outlives the process from the moment on when this returns, but no power cut before the
    system has written it: for what may be lost as long as nothing wrong can stand in its place.
    Whoever reads it must be able to tell what is not whole, and holds a lock (`locked`).

    Args:
        path: The file; its folder must exist.
        content: Its new content.
        what: What the file is, for the message.

    Raises:
        EnvironmentProblem: If it cannot be written; what stands there then may be anything.
    """
    try:
        with os.fdopen(open_private(path, os.O_WRONLY | os.O_CREAT), "wb", buffering=0) as file:
            rest = memoryview(content)
            while rest:
                rest = rest[file.write(rest) :]
            file.truncate(len(content))
    except OSError as error:
        raise cannot("write", what, error) from error


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
                for start in range(0, status.st_size, _ZEROS):
                    os.pwrite(descriptor, bytes(min(_ZEROS, status.st_size - start)), start)
                sync(descriptor)
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
        with _aside():
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
        sync(descriptor)
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
