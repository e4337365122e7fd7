"""A new clinic's folder: whole or none, never over anything, and no secret where others look."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend

from skinml.clinic.answers import Answers, answered, policy_of, usual_answers
from skinml.clinic.folder import open_folder
from skinml.clinic.new_clinic import make_clinic, new_passphrase, require_new
from skinml.errors import ConfigError, EnvironmentProblem, SkinmlError

PASSPHRASE = "planted words that nobody else has"  # noqa: S105  made up for these tests


def passphrase() -> str:
    return PASSPHRASE


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    usual = usual_answers(tmp_path / "north", {"XDG_STATE_HOME": str(tmp_path / "state")})
    return answered(usual, "unlock", str(tmp_path / "north.key"))


def everything(place: Path) -> set[Path]:
    return set(place.rglob("*"))


def test_a_made_folder_opens_with_the_policy_of_the_answers(
    tmp_path: Path, answers: Answers
) -> None:
    made = make_clinic(tmp_path / "north", answered(answers, "least_patients", "7"), passphrase)
    again = open_folder(tmp_path / "north", passphrase)
    assert again.key == made.folder.key
    assert again.policy == policy_of(answered(answers, "least_patients", "7"))
    assert [entry.event for entry in again.audit.entries()] == ["folder created"]
    assert made.beside
    assert list((tmp_path / "state/skinml/anchors").glob("*.json"))


def test_roles_of_names_that_the_computer_does_not_know_are_told(
    tmp_path: Path, answers: Answers
) -> None:
    assert make_clinic(tmp_path / "south", answers, passphrase).strangers == ()
    slip = answered(answered(answers, "operator", "no-such-user"), "unlock", "passphrase")
    assert make_clinic(tmp_path / "north", slip, passphrase).strangers == ("no-such-user",)


def test_a_passphrase_opens_what_it_made_and_lies_nowhere(tmp_path: Path, answers: Answers) -> None:
    make_clinic(tmp_path / "north", answered(answers, "unlock", "passphrase"), passphrase)
    folder = open_folder(tmp_path / "north", passphrase)
    for path in everything(tmp_path):
        if path.is_file():
            content = path.read_bytes()
            assert PASSPHRASE.encode() not in content, path
            assert folder.key not in content, path
    with pytest.raises(SkinmlError):
        open_folder(tmp_path / "north", lambda: "another planted passphrase")


class Memory(KeyringBackend):
    """A keyring that forgets when the process ends."""

    priority = 1  # type: ignore[assignment]  # the library's own way to say it can be used

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]


@pytest.fixture
def memory() -> Iterator[Memory]:
    before, now = keyring.get_keyring(), Memory()
    keyring.set_keyring(now)
    yield now
    keyring.set_keyring(before)


def test_two_clinics_of_one_name_have_two_entries_in_the_keyring(
    tmp_path: Path, answers: Answers, memory: Memory
) -> None:
    for place in ("first", "second"):
        make_clinic(tmp_path / place, answered(answers, "unlock", "keyring"), passphrase)
    assert len(memory.kept) == 2
    first, second = (open_folder(tmp_path / place).key for place in ("first", "second"))
    assert first != second


def test_an_empty_folder_is_used_and_a_full_one_left_alone(
    tmp_path: Path, answers: Answers
) -> None:
    full, empty = tmp_path / "full", tmp_path / "empty"
    for place in (full, empty):
        place.mkdir()
    (full / "notes.txt").write_text("mine")
    before = everything(tmp_path)
    with pytest.raises(ConfigError, match="with something in it"):
        make_clinic(full, answers, passphrase)
    assert everything(tmp_path) == before
    make_clinic(empty, answers, passphrase)
    assert open_folder(empty, passphrase).name == "north"


def test_a_clinic_is_never_made_over_another(tmp_path: Path, answers: Answers) -> None:
    made = make_clinic(tmp_path / "north", answers, passphrase)
    with pytest.raises(ConfigError):
        make_clinic(tmp_path / "north", answered(answers, "unlock", "keyring"), passphrase)
    assert open_folder(tmp_path / "north", passphrase).key == made.folder.key


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "north").write_text("in the way")
    with pytest.raises(ConfigError):
        require_new(tmp_path / "north")


def test_the_folder_that_one_stands_in_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="folder that you are in"):
        require_new(Path())
    assert require_new(Path("north")) == tmp_path.resolve() / "north"


@pytest.mark.parametrize("name", ["anchor", "unlock"])
def test_what_guards_the_folder_must_not_be_inside_it(
    tmp_path: Path, answers: Answers, name: str
) -> None:
    inside = answered(answers, name, str(tmp_path / "north" / "within"))
    with pytest.raises(ConfigError, match="outside the clinic's folder"):
        make_clinic(tmp_path / "north", inside, passphrase)
    assert everything(tmp_path) == set()


def test_a_key_file_that_is_there_is_kept_and_nothing_is_made(
    tmp_path: Path, answers: Answers
) -> None:
    (tmp_path / "north.key").write_text("somebody's")
    with pytest.raises(EnvironmentProblem):
        make_clinic(tmp_path / "north", answers, passphrase)
    assert (tmp_path / "north.key").read_text() == "somebody's"
    assert [path for path in tmp_path.iterdir() if "north" in path.name] == [tmp_path / "north.key"]


def test_a_key_file_on_a_missing_disk_is_told(tmp_path: Path, answers: Answers) -> None:
    absent = answered(answers, "unlock", str(tmp_path / "stick" / "north.key"))
    with pytest.raises(EnvironmentProblem, match="plug in the disk"):
        make_clinic(tmp_path / "north", absent, passphrase)


def test_a_short_passphrase_makes_nothing(tmp_path: Path, answers: Answers) -> None:
    with pytest.raises(ConfigError, match="12 characters"):
        make_clinic(tmp_path / "north", answered(answers, "unlock", "passphrase"), lambda: "short")
    assert not [path for path in tmp_path.iterdir() if "north" in path.name]
    assert not list(tmp_path.rglob("*.json"))


def test_an_anchor_on_another_disk_is_recognised(tmp_path: Path, answers: Answers) -> None:
    other = Path("/dev/shm")  # noqa: S108  a file system of its own, not a place for files
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine has no second file system at /dev/shm")
    place = other / f"skinml-test-{os.getpid()}"
    try:
        made = make_clinic(tmp_path / "north", answered(answers, "anchor", str(place)), passphrase)
        assert not made.beside
    finally:
        for path in place.glob("*"):
            path.unlink()
        for path in place.glob(".*"):
            path.unlink()
        place.rmdir()


def test_a_passphrase_from_a_file_is_read_once_and_not_asked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "pass"
    path.touch(mode=0o600)
    path.write_text(PASSPHRASE + "\n")
    told: list[str] = []
    source = new_passphrase({"SKINML_PASSPHRASE_FILE": str(path)}, told.append)
    assert source() == PASSPHRASE
    assert told == []


def test_the_next_clinic_of_one_computer_has_its_own_anchor(
    tmp_path: Path, answers: Answers
) -> None:
    for name in ("north", "south"):
        words = answered(answers, "unlock", str(tmp_path / f"{name}.key"))
        make_clinic(tmp_path / name, answered(words, "name", name), passphrase)
    north, south = (open_folder(tmp_path / name, passphrase) for name in ("north", "south"))
    assert north.anchors.path != south.anchors.path
