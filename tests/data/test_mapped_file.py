"""Reading through a memory map: the bytes of reading by position, and never the process's end."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from skinml.data import mapped_file
from skinml.data.mapped_file import MappedFile

LENGTH = 40_000


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(np.random.default_rng(0).bytes(LENGTH))
    return path


@pytest.fixture
def opened(path):
    return MappedFile(path)


PLACES = [(0, 1), (0, LENGTH), (4095, 2), (4096, 4096), (LENGTH - 1, 1), (12_345, 5_149)]


@pytest.mark.parametrize(("offset", "length"), PLACES)
@pytest.mark.parametrize("change", [{}, {"_POPULATE_READ": 9999}, {"_madvise": None}])
def test_what_is_read_are_the_files_bytes(path, opened, monkeypatch, offset, length, change):
    """Also on an older kernel, and on a system that knows no such advice."""
    for name, value in change.items():
        monkeypatch.setattr(mapped_file, name, value)
    whole = path.read_bytes()
    for _ in range(2):
        assert opened.read(offset, length) == whole[offset : offset + length]
        opened.forget()


def test_on_this_kernel_bytes_come_from_the_map_and_not_by_position(path, opened, monkeypatch):
    def pread(*_):
        raise AssertionError("read by position")

    monkeypatch.setattr(os, "pread", pread)
    assert opened.read(5000, 100) == path.read_bytes()[5000:5100]


def test_what_was_appended_is_read_too_and_beyond_the_end_there_is_nothing(path, opened):
    assert opened.read(LENGTH - 10, 20) == path.read_bytes()[-10:]
    assert opened.read(LENGTH, 20) == b""
    with path.open("ab") as file:
        file.write(b"more")
    assert opened.read(LENGTH - 1, 20)[1:] == b"more"
    assert opened.read(LENGTH, 4) == b"more"


CUT = """
import os, sys
from skinml.data.mapped_file import MappedFile
mapped = MappedFile(sys.argv[1])
first = mapped.read(30_000, 100)
os.truncate(sys.argv[1], 10_000)
assert len(first) == 100
assert mapped.read(30_000, 100) == b""
assert len(mapped.read(9_950, 100)) == 50
"""
BARE = """
import mmap, os, sys
descriptor = os.open(sys.argv[1], os.O_RDONLY)
bare = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
os.truncate(sys.argv[1], 10_000)
bare[30_000:30_100]
"""


def ended(code, path):
    return subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode


def test_a_file_that_is_cut_short_under_the_map_does_not_end_the_process(path):
    assert ended(CUT, path) == 0


def test_without_asking_first_it_would(path):
    assert ended(BARE, path) == -signal.SIGBUS


def test_an_empty_file_has_nothing_and_is_read_on_once_it_has(tmp_path):
    place = tmp_path / "empty"
    place.touch()
    mapped = MappedFile(place)
    assert (mapped.read(0, 0), mapped.read(0, 9)) == (b"", b"")
    place.write_bytes(b"something")
    assert mapped.read(0, 9) == b"something"


def test_other_threads_go_on_while_pages_are_brought_in(opened):
    """The advice is not given by `mmap.madvise`, which keeps Python's lock."""
    assert opened.read(0, 10)
    assert isinstance(mapped_file._madvise, ctypes._CFuncPtr)
    assert not mapped_file._madvise._flags_ & ctypes._FUNCFLAG_PYTHONAPI


def test_however_much_is_read_pages_are_let_go_on_the_way(tmp_path, monkeypatch):
    """A page brings its neighbours along, as many as Linux keeps together: up to 2 MB."""
    monkeypatch.setattr(mapped_file, "_MOST_BYTES", 0)
    long = tmp_path / "long"
    long.touch()
    os.truncate(long, 2**26)
    mapped = MappedFile(long)
    for offset in range(0, 2**26, 2**16):
        mapped.read(offset, 1)
    with open("/proc/self/smaps") as file:
        assert 0 < resident(file.read(), long) <= 2**12


def test_pages_that_are_let_go_are_not_resident(path, opened):
    opened.read(0, LENGTH)
    with open("/proc/self/smaps") as file:
        assert resident(file.read(), path) >= LENGTH // mmap.PAGESIZE * mmap.PAGESIZE // 1024
    opened.forget()
    with open("/proc/self/smaps") as file:
        assert resident(file.read(), path) == 0


def resident(smaps, path):
    """Kilobytes of a file's map that this process holds."""
    after = smaps.split(str(path), 1)[1]
    return int(after.split("Rss:", 1)[1].split()[0])
