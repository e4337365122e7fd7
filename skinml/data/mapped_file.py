"""Bytes of a file through a memory map, of which none that cannot be read ends the process.

Whoever touches a page of a map that is not there, because the file was cut short or its drive has
gone, gets no error but a signal. Linux (from 5.14 on) brings pages in when it is asked to, and
says so where it cannot: they are asked for before they are touched.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress

_POPULATE_READ = 22  # MADV_POPULATE_READ of Linux; Python has no name for it
_DONT_NEED = getattr(mmap, "MADV_DONTNEED", None)


class MappedFile:
    """Reads from an open file that others may append to.

    Args:
        descriptor: The file, open for reading for as long as this object is used.

    Guarantees:
        Where the file is shorter than it was, or cannot be read, reading ends as reading by
        position would: with fewer bytes, or an OSError. (But for a page that is lost between two
        instructions: after it was brought in, and before it is copied.)
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._map: mmap.mmap | None = None

    def read(self, offset: int, length: int) -> bytes:
        """Read some bytes.

        Args:
            offset: Where they begin.
            length: How many.

        Returns:
            A copy of them; fewer where the file ends before.

        Raises:
            OSError: If the file cannot be read.
        """
        start, end = offset - offset % mmap.PAGESIZE, offset + length
        with suppress(OSError):
            mapped = self._reaching(end)
            if mapped is not None:
                mapped.madvise(_POPULATE_READ, start, end - start)
                return mapped[offset:end]
        # The file ends before, no kernel that would tell, or the reason is to be told.
        return os.pread(self._descriptor, length, offset)

    def forget(self) -> None:
        """Let go of the pages that were read; they are brought in again when they are asked for."""
        if self._map is not None and _DONT_NEED is not None:
            self._map.madvise(_DONT_NEED)

    def _reaching(self, end: int) -> mmap.mmap | None:
        """Map the file anew where it has grown; nothing where it ends before."""
        if self._map is None or len(self._map) < end:
            size = os.fstat(self._descriptor).st_size
            if size < end or not hasattr(mmap.mmap, "madvise"):
                return None
            self._map = mmap.mmap(self._descriptor, size, access=mmap.ACCESS_READ)
        return self._map
