"""An append-only file of JSON lines, each chained to the one before it and sealed with a key.

A line is {"body", "number", "previous", "seal"}: `previous` is the SHA-256 of the line before it,
`seal` speaks for all the rest. So the seal of the last line speaks for the whole file, and only
that one needs checking; what the chain cannot tell is that lines were cut off its end. An anchor,
kept somewhere else, remembers how many lines there were and the digest of the last. Lines are
announced to it before they are written, so that the file is never ahead of it by lines that it
does not know of, and an anchor that was set back to an older copy shows as well.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from skinml.durable import cannot, open_private, sync, sync_folder, take_lock
from skinml.errors import IntegrityError

Body = Mapping[str, Any]
REPLACES = "replaces"
"""Key of the first line of a journal that was written anew."""


@dataclass(frozen=True)
class Mark:
    """How far a journal has come.

    Attributes:
        count: Its lines.
        head: SHA-256 of the last line in hexadecimal; of the journal's name where there is none.
    """

    count: int
    head: str


class Remembered(Protocol):
    """Tells how far a journal had come."""

    def read(self) -> Mark:
        """Look up the last mark; that of an empty journal where none was ever set.

        Raises:
            IntegrityError: If the anchor was changed or is missing.
        """


class Anchor(Remembered, Protocol):
    """Remembers, away from the file, how far a journal had come and will come next."""

    def announced(self) -> Mark | None:
        """Look up the mark that was announced since the last move, if there is one.

        Raises:
            IntegrityError: If the anchor was changed or is missing.
        """

    def announce(self, mark: Mark) -> None:
        """Remember where a journal will end, before it does; on return it is on the disk."""

    def move(self, mark: Mark) -> None:
        """Remember a new mark and forget what was announced; on return it is on the disk."""


class Seal(Protocol):
    """Vouches for a line."""

    def make(self, content: bytes) -> str:
        """Vouch for bytes."""

    def fits(self, content: bytes, seal: str) -> bool:
        """Tell whether a seal vouches for bytes."""


class KeyedSeal:
    """A seal that only the holder of a key can make or check: HMAC with SHA-256 (RFC 2104).

    Args:
        key: The key, never logged; each journal's name enters what is sealed.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def make(self, content: bytes) -> str:
        """Vouch for bytes.

        Args:
            content: What to vouch for.

        Returns:
            64 hexadecimal digits.
        """
        return hmac.digest(self._key, b"skinml journal line\n" + content, "sha256").hex()

    def fits(self, content: bytes, seal: str) -> bool:
        """Tell whether a seal vouches for bytes.

        Args:
            content: The bytes.
            seal: The seal.

        Returns:
            Whether it does.
        """
        return hmac.compare_digest(self.make(content).encode(), seal.encode())


class Journal:
    """One append-only file.

    Args:
        path: The file; made at the first `append`.
        name: What the journal is in messages, such as "privacy ledger of clinic north"; its chain
            begins with this name.
        seal: Vouches for its lines.
        anchor: Remembers its end elsewhere; None where nothing can be remembered.

    Guarantees:
        What `append` was given is on the disk when it returns; a crash leaves each of its lines
        whole or not at all. Readers and writers of one file exclude each other. A line that a
        crash cut short is dropped: nothing can have followed from it, because its `append` never
        returned. Any other change is an IntegrityError that names the journal; with an anchor,
        also lines cut off the end and a missing file. Without one, these show only to an object
        that has read the lines before.
    """

    def __init__(self, path: Path, name: str, seal: Seal, anchor: Anchor | None = None) -> None:
        self.path = path
        self.name = name
        self._seal = seal
        self._anchor = anchor
        self._verified = self._nothing()

    def read(self) -> tuple[Body, ...]:
        """Read and verify the whole journal.

        Returns:
            The bodies of all lines, oldest first. Equal calls give the same objects: never write
            into them.

        Raises:
            EnvironmentProblem: If the file cannot be read.
            IntegrityError: If something was changed, put in or taken out.
        """
        if not self.path.exists():
            remembered = self._verified.mark.count or self._remembered().count
            # Another process may have written the first lines since the look above.
            if not remembered:
                return ()
            if not self.path.exists():
                raise self._changed(f"0 of {remembered} lines, for there is no file")
        with self._locked() as file:
            return self._read(file)[0].bodies

    def append(self, write: Callable[[tuple[Body, ...]], Sequence[Body]]) -> Mark:
        """Write lines to the end.

        Args:
            write: From what the journal holds to the lines' bodies, JSON objects; or it raises
                where nothing may be written. Nobody else can write in between.

        Returns:
            Where the journal ends now.

        Raises:
            EnvironmentProblem: If the file cannot be written: nothing is added. If only the
                anchor cannot be written, the lines stay.
            IntegrityError: If the journal was changed.
        """
        with self._locked() as file:
            known, whole = self._read(file)
            mark, written = known.mark, []
            bodies, heads = list(known.bodies), list(known.heads)
            for body in write(known.bodies):
                kept, line = self._line(body, mark)
                mark = Mark(mark.count + 1, hashlib.sha256(line).hexdigest())
                written.append(line)
                bodies.append(kept)
                heads.append(mark.head)
            if not written:
                return mark
            if self._anchor is not None:
                self._anchor.announce(mark)
            whole += b"".join(written)
            _write(file, whole[known.size :], known.size)
            digest = hashlib.sha256(whole).hexdigest()
            self._verified = _Verified(len(whole), digest, tuple(bodies), mark, tuple(heads))
            if self._anchor is not None:
                self._anchor.move(mark)
        return mark

    def replace(self, write: Callable[[tuple[Body, ...]], Sequence[Body]]) -> Mark:
        """Write the journal anew, so that what its old lines said is no longer there.

        The new journal begins with a line `{"replaces": {...}}`, which says where the old one
        ended and how many have been replaced by now.

        Args:
            write: From what the journal holds to the bodies that it shall hold behind that line.
                Nobody else can write in between.

        Returns:
            Where the journal ends now.

        Raises:
            EnvironmentProblem: If the file cannot be written: the old one stays.
            IntegrityError: If the journal was changed.

        Guarantees:
            Killed at any moment, there is the old journal or the new one, whole. Other processes
            take the new one up, and an older copy that is put back is noticed as before.
        """
        with self._locked() as file:
            known, _ = self._read(file)
            mark, written = self._nothing().mark, []
            old = {"count": known.mark.count, "head": known.mark.head}
            first = {REPLACES: old | {"generation": known.generation + 1}}
            for body in (first, *write(known.bodies)):
                _, line = self._line(body, mark)
                mark = Mark(mark.count + 1, hashlib.sha256(line).hexdigest())
                written.append(line)
            if self._anchor is not None:
                self._anchor.announce(mark)
            with self._in_its_place(b"".join(written)):
                if self._anchor is not None:
                    self._anchor.move(mark)
        return mark

    def mark(self) -> Mark:
        """Tell where the verified journal ends.

        Returns:
            Its mark.

        Raises:
            EnvironmentProblem: If the file cannot be read.
            IntegrityError: If the journal was changed.
        """
        self.read()
        return self._verified.mark

    def mark_at(self, count: int) -> Mark:
        """Tell where the journal ended when it had fewer lines.

        Args:
            count: How many lines, from 1 to those that there are.

        Returns:
            The mark.

        Raises:
            EnvironmentProblem: If the file cannot be read.
            IntegrityError: If the journal was changed, or has fewer lines.
        """
        self.read()
        if not 0 < count <= self._verified.mark.count:
            raise self._changed(f"{self._verified.mark.count} lines, not {count}")
        return Mark(count, self._verified.heads[count - 1])

    def marks(self) -> tuple[Mark, ...]:
        """Tell where the verified journal ended after each of its lines.

        Returns:
            Its marks, oldest first.

        Raises:
            EnvironmentProblem: If the file cannot be read.
            IntegrityError: If the journal was changed.
        """
        self.read()
        return tuple(Mark(count, head) for count, head in enumerate(self._verified.heads, start=1))

    def passed(self, mark: Mark) -> bool:
        """Tell whether the verified journal once ended at a mark.

        Args:
            mark: A mark that somebody remembered.

        Returns:
            Whether it did.

        Raises:
            EnvironmentProblem: If the file cannot be read.
            IntegrityError: If the journal was changed.
        """
        self.read()
        return 0 < mark.count <= self._verified.mark.count and self._verified.passed(mark)

    def _line(self, body: Body, after: Mark) -> tuple[Body, bytes]:
        # As a reader will see it: numbers as keys become words, which sort otherwise.
        body = json.loads(canonical(body))
        content = _content(body, after)
        return body, _sealed(content, self._seal.make(content))

    def _nothing(self) -> _Verified:
        head = hashlib.sha256(f"skinml journal: {self.name}".encode()).hexdigest()
        return _Verified(0, hashlib.sha256().hexdigest(), (), Mark(0, head))

    @contextmanager
    def _locked(self) -> Iterator[IO[bytes]]:
        try:
            while True:
                fresh = not self.path.exists()
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
                # Unbuffered: what a full disk refused must not be written when the file is closed.
                with os.fdopen(open_private(self.path, flags), "r+b", buffering=0) as file:
                    take_lock(file.fileno(), self.name)
                    if not _is_at(self.path, file):
                        continue  # it was written anew while this waited for the old one
                    if fresh:
                        sync_folder(self.path.parent)
                    yield file
                    return
        except OSError as error:
            raise cannot("read and write", self.name, error) from error

    @contextmanager
    def _in_its_place(self, content: bytes) -> Iterator[None]:
        """Put another file in the journal's place, and keep others out of it for a while."""
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.unlink(missing_ok=True)  # left by a crash, or laid there
        descriptor = open_private(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            take_lock(file.fileno(), self.name)
            try:
                _write(file, content, 0)
            except OSError:
                partial.unlink(missing_ok=True)
                raise
            partial.replace(self.path)
            sync_folder(self.path.parent)
            yield

    def _read(self, file: IO[bytes]) -> tuple[_Verified, bytes]:
        """Verify and give all lines, drop a torn tail, and leave the file at its end."""
        file.seek(0)
        content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        torn = len(content) > len(whole)
        known = self._verified
        if hashlib.sha256(whole[: known.size]).hexdigest() != known.digest:
            found = self._followed(whole, self._nothing())
            if found.generation <= known.generation:
                self._require_passed(found, known.mark, torn=torn)
                raise self._changed("other lines than were there before")
            known = self._nothing()
        verified = self._followed(whole, known)
        remembered = self._remembered()
        if self._anchor is not None and verified.replaces(remembered):
            # A crash came between a replacement and its anchor, which knows what was to come.
            if verified.mark != self._anchor.announced():
                raise self._changed("a journal written anew that its anchor does not know of")
            self._anchor.move(verified.mark)
            remembered = verified.mark
        self._require_passed(verified, remembered, torn=torn)
        self._verified = verified
        if torn:
            file.truncate(len(whole))
        if self._anchor is not None and verified.mark.count > remembered.count:
            # A crash came between a line and its anchor. From now on the line is relied upon.
            self._require_announced(verified.mark, remembered, self._anchor.announced())
            sync(file.fileno())
            self._anchor.move(verified.mark)
        file.seek(len(whole))
        return verified, whole

    def _followed(self, whole: bytes, known: _Verified) -> _Verified:
        """Verify the lines behind those that are known."""
        if len(whole) == known.size:
            return known
        fresh = whole[known.size :].splitlines(keepends=True)
        bodies, heads, mark = list(known.bodies), list(known.heads), known.mark
        for position, line in enumerate(fresh, start=1):
            bodies.append(self._body(line, mark, sealed=position == len(fresh)))
            mark = Mark(mark.count + 1, hashlib.sha256(line).hexdigest())
            heads.append(mark.head)
        digest = hashlib.sha256(whole).hexdigest()
        return _Verified(len(whole), digest, tuple(bodies), mark, tuple(heads))

    def _body(self, line: bytes, after: Mark, *, sealed: bool) -> Body:
        try:
            values = json.loads(line)
            body, seal = values["body"], values["seal"]
            content = _content(body, after)
            intact = line == _sealed(content, seal)
            if intact and (not sealed or self._seal.fits(content, seal)):
                return dict(body)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass  # whatever stands there, it is not what was written
        raise self._changed(f"line {after.count + 1} is not what was written")

    def _remembered(self) -> Mark:
        return Mark(0, "") if self._anchor is None else self._anchor.read()

    def _require_passed(self, found: _Verified, mark: Mark, *, torn: bool) -> None:
        """Hold what was found against what is remembered."""
        if found.mark.count < mark.count:
            cut = f"{found.mark.count} of {mark.count} lines"
            raise self._changed(f"{cut}{', the last one changed or cut' if torn else ''}")
        if mark.count and not found.passed(mark):
            raise self._changed(f"another line {mark.count} than was remembered")

    def _require_announced(self, found: Mark, remembered: Mark, announced: Mark | None) -> None:
        """Tell a crash before the anchor's last step from an anchor that was set back."""
        most = remembered if announced is None else announced
        if found.count > most.count or (found.count == most.count and found != most):
            raise self._changed(f"{found.count} lines, of which its anchor knows {most.count}")

    def _changed(self, got: str) -> IntegrityError:
        return IntegrityError(
            rule=f"an unchanged {self.name}",
            got=got,
            do="Restore it and its anchor from one backup; nothing is used until then.",
        )


@dataclass(frozen=True)
class _Verified:
    """The beginning of the file that was verified before, so that a run does not grow quadratic."""

    size: int
    digest: str
    bodies: tuple[Body, ...]
    mark: Mark
    heads: tuple[str, ...] = ()

    def passed(self, mark: Mark) -> bool:
        """Tell whether the journal's line at a mark has the mark's digest."""
        return self.heads[mark.count - 1] == mark.head

    @property
    def generation(self) -> int:
        """How often the journal was written anew."""
        return int(self._replaced.get("generation", 0))

    @property
    def _replaced(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.bodies[0].get(REPLACES, {}) if self.bodies else {}
        return found

    def replaces(self, mark: Mark) -> bool:
        """Tell whether this was written in the place of a journal that ended at a mark."""
        old = self._replaced
        return bool(old) and (old["count"], old["head"]) == (mark.count, mark.head)


def _is_at(path: Path, file: IO[bytes]) -> bool:
    """Tell whether an open file is still the one of its name."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def canonical(values: Body) -> bytes:
    """Write JSON the one way that seals and digests are made of.

    Args:
        values: A JSON object.

    Returns:
        UTF-8, sorted keys, no spaces.
    """
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _content(body: Body, after: Mark) -> bytes:
    """Write what a line's seal speaks for: `canonical` of body, number and previous."""
    head = json.dumps(after.head).encode()
    return b'{"body":%b,"number":%d,"previous":%b}' % (canonical(body), after.count, head)


def _sealed(content: bytes, seal: str) -> bytes:
    """Write a line: `canonical` of its content with the seal, and the line's end."""
    return b'%b,"seal":%b}\n' % (content[:-1], json.dumps(seal).encode())


def _write(file: IO[bytes], content: bytes, end: int) -> None:
    """Write behind the end and sync, or leave the file as it was."""
    rest = memoryview(content)
    try:
        while rest:
            rest = rest[file.write(rest) :]
        sync(file.fileno())
    except OSError:
        with suppress(OSError):  # then the next reader drops the torn line
            os.ftruncate(file.fileno(), end)
        raise
