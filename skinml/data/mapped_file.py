"""Bytes of a file through a memory map, of which none that cannot be read ends the process.

Whoever touches a page of a map that is not there, because the file was cut short or its drive has
gone, gets no error but a signal. Linux (from 5.14 on) brings pages in when it is asked to, and
says so where it cannot: they are asked for before they are touched.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_POPULATE_READ = 22  # MADV_POPULATE_READ of Linux; Python has no name for it
_MOST_BYTES = 2**25  # read before pages are let go
# By way of ctypes: `mmap.madvise` would keep all other threads waiting for a slow drive.
_madvise = ctypes.CDLL(None).madvise if sys.platform == "linux" else None


@dataclass(frozen=True)
class _Map:
    """A file as it was when it was mapped."""

    pages: mmap.mmap
    address: int


class MappedFile:
    """Reads from a file that others may append to; whatever becomes of its name, it stays the same.

    Args:
        path: The file.

    Attributes:
        descriptor: The file, open for reading for as long as this object lives.

    Raises:
        OSError: If it cannot be opened.

    Guarantees:
        What is read, and what reading raises, is that of reading by position, also where the file
        was cut short or cannot be read. (But for a page that is lost between two instructions:
        after it was brought in, and before it is copied.) Pages are let go after every 32 MB read.
    """

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)
        self._map: _Map | None = None
        self._resident = 0

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
        mapped = self._reaching(offset + length)
        if mapped is not None and self._brought_in(mapped, offset, length):
            found = mapped.pages[offset : offset + length]
            if os.fstat(self.descriptor).st_size >= offset + length:
                return found
        # The file ends before, no kernel that would tell, or the reason is to be told.
        return os.pread(self.descriptor, length, offset)

    def forget(self) -> None:
        """Let go of the pages that were read; they are brought in again when they are asked for."""
        if self._map is not None and self._resident:
            with suppress(OSError):  # not where all of the process's memory is locked
                self._map.pages.madvise(mmap.MADV_DONTNEED)
            self._resident = 0

    def _reaching(self, end: int) -> _Map | None:
        """Map the file anew where it has grown; nothing where it ends before."""
        if _madvise is None:
            return None
        if self._map is None or len(self._map.pages) < end:
            size = os.fstat(self.descriptor).st_size
            if size < end:
                return None
            with suppress(OSError, ValueError):  # ValueError: cut short since it was asked
                pages = mmap.mmap(self.descriptor, size, access=mmap.ACCESS_READ)
                self._map = _Map(pages, np.frombuffer(pages, np.uint8).ctypes.data)
                return self._map
            return None
        return self._map

    def _brought_in(self, mapped: _Map, offset: int, length: int) -> bool:
        """Bring pages in; tells whether all of them are there."""
        if self._resident > _MOST_BYTES:
            self.forget()
        self._resident += length + mmap.PAGESIZE
        start = offset - offset % mmap.PAGESIZE
        size = offset + length - start
        where = ctypes.c_void_p(mapped.address + start)
        return _madvise is not None and not _madvise(where, ctypes.c_size_t(size), _POPULATE_READ)
