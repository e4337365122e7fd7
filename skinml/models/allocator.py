"""Asks the C library to keep freed memory for the next batch.

A batch's activations are tens of megabytes each. By default glibc gives such blocks back to the
kernel on every free and takes fresh ones, zeroed a page at a time, on every allocation.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

# Parameters of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8


@cache
def keep_freed_memory() -> bool:
    """Let this process reuse the memory that it frees. Works once; later calls change nothing.

    Numbers that the program computes do not change. Without glibc (macOS, musl) nothing happens.

    Returns:
        Whether the C library took the request.

    Source:
        mallopt(3), Linux man-pages 6.
    """
    mallopt = _glibc_function("mallopt")
    if mallopt is None:
        return False
    requests = (
        (_M_ARENA_MAX, 1),  # threads share one heap; their own ones hold no large block
        (_M_MMAP_MAX, 0),  # large blocks come from the heap, where they can be reused
        (_M_TRIM_THRESHOLD, 2**31 - 1),  # a free heap top stays
        (_M_TOP_PAD, 64 * 2**20),  # the heap grows in large steps
    )
    answers = [bool(mallopt(name, value)) for name, value in requests]
    return all(answers)


def release_freed_memory() -> bool:
    """Give the memory that is free at this moment back to the system.

    Returns:
        Whether the C library gave anything back.

    Source:
        malloc_trim(3), Linux man-pages 6.
    """
    malloc_trim = _glibc_function("malloc_trim")
    return malloc_trim is not None and bool(malloc_trim(ctypes.c_size_t(0)))


def _glibc_function(name: str) -> ctypes._NamedFuncPointer | None:
    """Find a function that only glibc has; None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return None
    return getattr(library, name, None)
