"""What a clinic's files looked like last, remembered away from them, so that a rollback shows.

One small file, best on another disk than the clinic's folder: for each journal how many lines it
had and the digest of the last, for each file that is replaced as a whole the digest of what it
holds. A change is announced before it is made, so that a crash in between leaves either of two
known states and never an unknown one. So an older copy of this file shows too: against it, a
journal has lines that were never announced. What does not show is a whole folder that was set
back together with its anchors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skinml.durable import locked, read_whole, remove, write_whole
from skinml.errors import IntegrityError
from skinml.journal import KeyedSeal, Mark, canonical
from skinml.stewardship.encryption import derive_key

_RESTORE = "Restore the anchor and the clinic's folder from one backup."
_LOST = (
    "Plug in the disk that it is on, or restore it and the clinic's folder from one backup; "
    "where it is lost for good: skinml clinic anchor PLACE --lost --folder FOLDER"
)
_SCHEMA = 1
_NO_FILE = ""  # stands for the digest of a file that is not there yet


class Anchors:
    """The anchors of one clinic.

    Args:
        path: Their file.
        clinic: The clinic's id: the anchors of another clinic do not pass.
        key: The clinic's key.

    Guarantees:
        Without the key nobody can write an anchors file that passes. Processes exclude each other.
    """

    def __init__(self, path: Path, clinic: str, key: bytes) -> None:
        self.path = path
        self._clinic = clinic
        self._seal = KeyedSeal(derive_key(key, "anchors"))

    def create(self) -> None:
        """Write an empty file for a new clinic.

        Raises:
            EnvironmentProblem: If it cannot be written.
            IntegrityError: If there is one already: it would be forgotten.
        """
        with self._locked():
            self._require_no_file()
            self._write({"journals": {}, "files": {}})

    @contextmanager
    def moved(self, to: Anchors) -> Iterator[None]:
        """Let new anchors take this file's place.

        Args:
            to: The new anchors, without a file yet.

        Yields:
            Nothing; the block makes the clinic's folder ask the new anchors. When it ends well,
            this file is removed.

        Raises:
            EnvironmentProblem: If a file cannot be written or removed.
            IntegrityError: If these anchors were changed, or the new ones have a file already.

        Guarantees:
            The new anchors know exactly what these knew, announced changes included. Until the end
            nobody else reads or writes these; after it, whoever still holds to them finds no file
            and changes nothing, and a folder of before the move has no anchor that fits it.
        """
        with self._locked():
            state = self._read()
            with to._locked():
                to._require_no_file()
                to._write(state)
            yield
            remove(self.path, "anchor")

    def journal(self, name: str) -> JournalAnchor:
        """Name the anchor of a journal.

        Args:
            name: A short name, such as "ledger".

        Returns:
            The anchor, for `skinml.journal.Journal`.
        """
        return JournalAnchor(self, name)

    def replace(self, path: Path, content: bytes, what: str) -> None:
        """Replace a file whose content is anchored under the file's name.

        Args:
            path: The file.
            content: Its new content.
            what: What the file is, for messages.

        Raises:
            EnvironmentProblem: If it cannot be written.
            IntegrityError: If the anchors were changed.

        Guarantees:
            Killed at any moment, the next `read` or `find` finds the old content or the new one,
            and from then on accepts that one only.
        """
        with self._locked():
            state = self._read()
            known = state["files"].get(path.name, [_NO_FILE])
            # After an earlier crash two are known: the file can be either.
            state["files"][path.name] = [*known, _digest(content)]
            self._write(state)
            write_whole(path, content, what)
            state["files"][path.name] = [_digest(content)]
            self._write(state)

    def remove(self, path: Path, what: str) -> None:
        """Remove a file whose content is anchored under the file's name.

        Args:
            path: The file; it may be gone already.
            what: What the file is, for messages.

        Raises:
            EnvironmentProblem: If it cannot be removed.
            IntegrityError: If the anchors were changed.

        Guarantees:
            Killed at any moment, the next `find` finds what was there or nothing, and from then on
            accepts that one only: what was removed and is put back does not pass.
        """
        with self._locked():
            state = self._read()
            state["files"][path.name] = [*state["files"].get(path.name, [_NO_FILE]), _NO_FILE]
            self._write(state)
            remove(path, what)
            del state["files"][path.name]
            self._write(state)

    def read(self, path: Path, what: str) -> bytes:
        """Read a file whose content is anchored.

        Args:
            path: The file.
            what: What the file is, for messages.

        Returns:
            Its content.

        Raises:
            EnvironmentProblem: If it cannot be read.
            IntegrityError: If it is missing, or not what was last written.
        """
        content = self.find(path, what)
        if content is None:
            raise _not_as_written(path, what, content)
        return content

    def find(self, path: Path, what: str) -> bytes | None:
        """Read a file whose content is anchored, if it was ever written.

        Args:
            path: The file.
            what: What the file is, for messages.

        Returns:
            Its content; None where it was never written, or removed, and is not there.

        Raises:
            EnvironmentProblem: If it cannot be read.
            IntegrityError: If it is missing although it was written, or not what was last
                written.
        """
        with self._locked():
            state = self._read()
            known = state["files"].get(path.name, [_NO_FILE])
            content = read_whole(path, what) if path.exists() else None
            digest = _NO_FILE if content is None else _digest(content)
            if digest not in known:
                raise _not_as_written(path, what, content)
            if len(known) > 1:  # a crash interrupted `replace`
                state["files"][path.name] = [digest]
                self._write(state)
        return content

    def holds(self, name: str) -> bool:
        """Tell whether a file was ever anchored under a name.

        Args:
            name: The file's name.

        Returns:
            Whether it was.

        Raises:
            IntegrityError: If the anchors were changed or are missing.
        """
        with self._locked():
            return bool(self._read()["files"].get(name, [_NO_FILE]) != [_NO_FILE])

    def find_mark(self, name: str) -> Mark:
        """Look up a journal's last mark.

        Args:
            name: The journal's short name.

        Returns:
            The mark; of no lines where none was set.

        Raises:
            IntegrityError: If the anchors were changed or are missing.
        """
        with self._locked():
            count, head, *_ = self._read()["journals"].get(name, (0, ""))
        return Mark(count, head)

    def find_announced(self, name: str) -> Mark | None:
        """Look up the mark that a journal will have next.

        Args:
            name: The journal's short name.

        Returns:
            The mark; None where none was announced since the last `set_mark`.

        Raises:
            IntegrityError: If the anchors were changed or are missing.
        """
        with self._locked():
            _, _, *announced = self._read()["journals"].get(name, (0, ""))
        return Mark(*announced) if announced else None

    def announce_mark(self, name: str, mark: Mark) -> None:
        """Remember the mark that a journal will have next, beside the one that it has.

        Args:
            name: The journal's short name.
            mark: Where it will end.

        Raises:
            EnvironmentProblem: If it cannot be written.
            IntegrityError: If the anchors were changed or are missing.
        """
        with self._locked():
            state = self._read()
            count, head, *_ = state["journals"].get(name, (0, ""))
            state["journals"][name] = [count, head, mark.count, mark.head]
            self._write(state)

    def set_mark(self, name: str, mark: Mark) -> None:
        """Remember a journal's mark.

        Args:
            name: The journal's short name.
            mark: Where it ends.

        Raises:
            EnvironmentProblem: If it cannot be written.
            IntegrityError: If the anchors were changed or are missing.
        """
        with self._locked():
            state = self._read()
            state["journals"][name] = [mark.count, mark.head]
            self._write(state)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if not self.path.parent.is_dir():
            raise self._wrong("no folder of anchors", _LOST)
        with locked(self.path.with_name(f".{self.path.name}.lock"), "anchor"):
            yield

    def _require_no_file(self) -> None:
        if self.path.exists():
            raise self._wrong("a file that is there already")

    def _read(self) -> dict[str, Any]:
        if not self.path.exists():
            raise self._wrong("no file", _LOST)
        content = read_whole(self.path, "anchor")
        try:
            values = json.loads(content)
            kept = {"clinic": self._clinic, "schema": _SCHEMA, "state": values["state"]}
            whole = canonical(kept | {"seal": values["seal"]}) + b"\n"
            if whole == content and self._seal.fits(canonical(kept), values["seal"]):
                return dict(values["state"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass  # whatever stands there, it is not what was written
        raise self._wrong("another content, or another clinic's")

    def _write(self, state: dict[str, Any]) -> None:
        kept = {"clinic": self._clinic, "schema": _SCHEMA, "state": state}
        line = canonical(kept | {"seal": self._seal.make(canonical(kept))}) + b"\n"
        write_whole(self.path, line, "anchor")

    def _wrong(self, got: str, do: str = _RESTORE) -> IntegrityError:
        return IntegrityError(
            rule=f"the anchor of clinic {self._clinic} as it was last written",
            got=got,
            do=do,
        )


@dataclass(frozen=True)
class JournalAnchor:
    """One journal's place among a clinic's anchors; see `skinml.journal.Anchor`.

    Attributes:
        anchors: The clinic's anchors.
        name: The journal's short name.
    """

    anchors: Anchors
    name: str

    def read(self) -> Mark:
        """Look up the last mark, see `Anchors.find_mark`."""
        return self.anchors.find_mark(self.name)

    def announced(self) -> Mark | None:
        """Look up the next mark, see `Anchors.find_announced`."""
        return self.anchors.find_announced(self.name)

    def announce(self, mark: Mark) -> None:
        """Remember the next mark, see `Anchors.announce_mark`."""
        self.anchors.announce_mark(self.name, mark)

    def move(self, mark: Mark) -> None:
        """Remember a new mark, see `Anchors.set_mark`."""
        self.anchors.set_mark(self.name, mark)


def _not_as_written(path: Path, what: str, content: bytes | None) -> IntegrityError:
    """Build the error for a file that is missing, older, or changed."""
    return IntegrityError(
        rule=f"the {what} as it was last written",
        got="no file" if content is None else "another content, or an older one",
        do=f"Restore {path.name} and its anchor from one backup.",
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
