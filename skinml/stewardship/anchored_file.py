"""An anchored file that is parsed once for each of its contents, however often it is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from skinml.durable import cannot
from skinml.stewardship.anchors import Anchors

T = TypeVar("T")
_Stamp = tuple[int, int, int, int]


class AnchoredFile(Generic[T]):
    """What an anchored file holds.

    Args:
        path: The file.
        what: What it is, for messages.
        anchors: The clinic's anchors.
        parse: Reads its content, which the anchors vouch for.

    Guarantees:
        A file that was replaced or written to is read and verified anew; one that was not, by the
        operating system's word (inode, size, times), is taken from memory, as it was verified.
    """

    def __init__(
        self, path: Path, what: str, anchors: Anchors, parse: Callable[[bytes], T]
    ) -> None:
        self.path = path
        self._what = what
        self._anchors = anchors
        self._parse = parse
        self._known: tuple[_Stamp, T] | None = None

    def find(self, *, anew: bool = False) -> T | None:
        """Read the file.

        Args:
            anew: Read it even where nothing seems to have changed. Whoever is about to replace it
                asks for this: the times are too coarse to tell two changes of one moment.

        Returns:
            What it holds; never write into it. None where it was never written.

        Raises:
            EnvironmentProblem: If it cannot be read.
            IntegrityError: If it is not what was last written.
        """
        # The stamp is older than what is read, so that a change in between is read next time.
        stamp = self._stamp()
        if not anew and self._known is not None and self._known[0] == stamp:
            return self._known[1]
        content = self._anchors.find(self.path, self._what)
        if content is None:
            return None
        value = self._parse(content)
        if stamp is not None:
            self._known = stamp, value
        return value

    def replace(self, content: bytes) -> T:
        """Replace the file, see `Anchors.replace`. Whoever may do so at once holds a lock.

        Args:
            content: Its new content.

        Returns:
            What it holds now.

        Raises:
            EnvironmentProblem: If it cannot be written.
            IntegrityError: If the anchors were changed.
        """
        value = self._parse(content)
        self._anchors.replace(self.path, content, self._what)
        stamp = self._stamp()
        self._known = None if stamp is None else (stamp, value)
        return value

    def _stamp(self) -> _Stamp | None:
        """Tell a file from one that replaced it."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise cannot("read", self._what, error) from error
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
