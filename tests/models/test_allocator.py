"""Keeping freed memory: harmless anywhere, effective with glibc."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

from skinml.models.allocator import keep_freed_memory, release_freed_memory

COUNT_FAULTS = """
import resource, sys
from skinml.models.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
size = 2**26
for _ in range(8):  # the heap finds its size
    b"x" * size
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    b"x" * size
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def num_faults(mode):
    command = [sys.executable, "-c", COUNT_FAULTS, mode]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_memory_is_reused_in_place_of_fetched_anew():
    assert num_faults("keep") * 10 < num_faults("leave")


def test_asking_twice_and_releasing_is_harmless():
    assert keep_freed_memory() == keep_freed_memory()
    assert release_freed_memory() in (True, False)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0
