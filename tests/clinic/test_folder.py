"""A clinic's folder: made once, closed to others, refused where it is damaged."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from skinml.clinic.folder import open_folder
from skinml.errors import DataError, EnvironmentProblem, IntegrityError


def test_opening_twice_gives_the_same_key(tmp_path: Path) -> None:
    first, second = (open_folder(tmp_path, "north") for _ in range(2))
    assert first.key == second.key
    assert len(first.key) == 32
    assert first.path == tmp_path / "north"


def test_two_clinics_have_two_keys(tmp_path: Path) -> None:
    assert open_folder(tmp_path, "north").key != open_folder(tmp_path, "south").key


def test_the_folder_and_its_key_are_closed_to_others(tmp_path: Path) -> None:
    folder = open_folder(tmp_path, "north")
    for path in (folder.path, folder.features, folder.path / "runs"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder.path / "key").stat().st_mode) == 0o600


def test_a_folder_that_was_opened_to_others_is_closed_again(tmp_path: Path) -> None:
    folder = open_folder(tmp_path, "north")
    folder.path.chmod(0o755)
    open_folder(tmp_path, "north")
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "name", ["", "..", ".hidden", "a/b", "../up", "a\0b", "a\nb", "-", "x" * 65, "ü"]
)
def test_names_that_could_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="clinic names"):
        open_folder(tmp_path, name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["north", "St. Mary-2", "vidir_modern", "7"])
def test_ordinary_names_are_folders(tmp_path: Path, name: str) -> None:
    assert open_folder(tmp_path, name).path == tmp_path / name


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_damaged_key_is_noticed_and_never_replaced(tmp_path: Path, content: bytes) -> None:
    folder = open_folder(tmp_path, "north")
    (folder.path / "key").write_bytes(content)
    with pytest.raises(IntegrityError):
        open_folder(tmp_path, "north")
    assert (folder.path / "key").read_bytes() == content


def test_a_file_in_the_way_is_the_environments_fault(tmp_path: Path) -> None:
    (tmp_path / "north").write_text("in the way")
    with pytest.raises(EnvironmentProblem):
        open_folder(tmp_path, "north")


def test_secret_numbers_repeat_for_a_purpose_and_differ_between_purposes_and_clinics(
    tmp_path: Path,
) -> None:
    north, south = open_folder(tmp_path, "north"), open_folder(tmp_path, "south")
    numbers = [north.secret_number("a"), north.secret_number("b"), south.secret_number("a")]
    assert len(set(numbers)) == 3
    assert north.secret_number("a") == numbers[0]
    assert all(0 <= number < 2**128 for number in numbers)


def test_the_ledger_belongs_to_the_clinic(tmp_path: Path) -> None:
    folder = open_folder(tmp_path, "north")
    assert folder.ledger.path == folder.path / "ledger.jsonl"
    assert folder.ledger.entries() == ()
