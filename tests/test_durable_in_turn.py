"""A file with two places that are written in turn."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from skinml.durable import read_in_turn, write_in_turn, write_whole
from skinml.errors import EnvironmentProblem, IntegrityError

CONTENTS = [b"", b"one", b"two" * 5000, b"three", b"four" * 5000, b"5", b"6"]


def test_what_was_written_last_is_read(tmp_path: Path) -> None:
    file = tmp_path / "book"
    for content in CONTENTS:
        write_in_turn(file, content, "book")
        assert read_in_turn(file, "book") == content
        assert file.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["book"]


def test_content_that_fits_is_written_into_the_same_file(tmp_path: Path) -> None:
    file = tmp_path / "book"
    write_in_turn(file, bytes(9000), "book")
    before = file.stat()
    for number in range(4):
        write_in_turn(file, bytes([number]) * (9000 - number), "book")
    assert (file.stat().st_ino, file.stat().st_size) == (before.st_ino, before.st_size)
    assert read_in_turn(file, "book") == bytes([3]) * 8997


@pytest.mark.parametrize("written", [1, 48, 4096, 5000])
def test_a_write_that_a_crash_cut_short_leaves_the_content_before_it(
    tmp_path: Path, written: int
) -> None:
    file = tmp_path / "book"
    write_in_turn(file, b"a" * 6000, "book")
    write_in_turn(file, b"b" * 6000, "book")
    before = file.read_bytes()
    write_in_turn(file, b"c" * 6000, "book")
    after = file.read_bytes()
    changed = [at for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    torn = bytearray(before)
    torn[changed[0] : changed[0] + written] = after[changed[0] : changed[0] + written]
    file.write_bytes(torn)
    assert read_in_turn(file, "book") == b"b" * 6000
    write_in_turn(file, b"d", "book")
    assert read_in_turn(file, "book") == b"d"


def test_a_place_shares_no_block_with_the_other(tmp_path: Path) -> None:
    file = tmp_path / "book"
    states = []
    for content in (b"a" * 6000, b"b" * 6000, b"c" * 6000):
        write_in_turn(file, content, "book")
        states.append(file.read_bytes())
    blocks = [
        {at // 4096 for at in range(len(old)) if old[at] != new[at]}
        for old, new in pairwise(states)
    ]
    assert not blocks[0] & blocks[1]


def test_content_of_an_earlier_release_is_read_and_replaced(tmp_path: Path) -> None:
    file = tmp_path / "book"
    write_whole(file, b"sealed", "book")
    assert read_in_turn(file, "book") == b"sealed"
    write_in_turn(file, b"new", "book")
    assert read_in_turn(file, "book") == b"new"


def test_damage_in_both_places_is_told(tmp_path: Path) -> None:
    file = tmp_path / "book"
    write_in_turn(file, b"a" * 100, "book")
    write_in_turn(file, b"b" * 100, "book")
    file.write_bytes(file.read_bytes().replace(b"aaaa", b"aaxa").replace(b"bbbb", b"bbxb"))
    with pytest.raises(IntegrityError, match="unchanged book"):
        read_in_turn(file, "book")


def test_a_link_in_its_place_is_not_written_through(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "book"
    write_in_turn(real, b"kept", "book")
    os.symlink(real, link)
    with pytest.raises(EnvironmentProblem, match="book that skinml can write"):
        write_in_turn(link, b"new", "book")
    assert read_in_turn(real, "book") == b"kept"
