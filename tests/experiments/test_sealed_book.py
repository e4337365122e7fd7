"""What a clinic has answered: lost where that is safe, and an end to the run where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from skinml.clinic.folder import ClinicFolder
from skinml.errors import IntegrityError
from skinml.experiments.sealed_book import SealedBook
from tests.clinic.test_folder import virtual

DAMAGE = {
    "cut short": lambda held: held[: len(held) // 2],
    "empty": lambda held: b"",
    "one bit": lambda held: held[:-1] + bytes([held[-1] ^ 1]),
    "zeros": lambda held: bytes(len(held)),
}


@pytest.fixture
def folder(tmp_path: Path) -> ClinicFolder:
    return virtual(tmp_path, "north")


def damaged(book: SealedBook, kind: str) -> None:
    book.folder.run(book.run).mkdir(parents=True, exist_ok=True)
    book.save(b"answers" * 1000)
    (held,) = (p for p in book.folder.run(book.run).iterdir() if p.suffix == ".sealed")
    held.write_bytes(DAMAGE[kind](held.read_bytes()))


@pytest.mark.parametrize("plain", [True, False])
def test_what_was_saved_last_is_read_whatever_stood_there(
    folder: ClinicFolder, plain: bool
) -> None:
    book = SealedBook(folder, "run-1", plain=plain)
    folder.run("run-1").mkdir(parents=True)
    assert book.load() == b""
    for content in (b"a" * 9000, b"b" * 10, b"c" * 100_000):
        book.save(content)
        assert SealedBook(folder, "run-1", plain=plain).load() == content


@pytest.mark.parametrize("kind", DAMAGE)
def test_plain_answers_that_were_damaged_are_lost(folder: ClinicFolder, kind: str) -> None:
    book = SealedBook(folder, "run-1", plain=True)
    damaged(book, kind)
    assert book.load() == b""
    book.save(b"new")
    assert book.load() == b"new"


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_to_answers_under_masks_is_an_end(folder: ClinicFolder, kind: str) -> None:
    book = SealedBook(folder, "run-1")
    damaged(book, kind)
    with pytest.raises(IntegrityError):
        book.load()
