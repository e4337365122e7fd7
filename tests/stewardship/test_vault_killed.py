"""`kill -9` before each thing that a change of the vault does to the disk, and at any moment.

A forked child counts the interpreter's audit events for making, renaming and removing files and for
making folders, and kills itself at the n-th; n rises until the child survives.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from skinml.errors import DataError
from skinml.stewardship.anchors import Anchors
from skinml.stewardship.patient_keys import PatientKeys
from skinml.stewardship.pseudonyms import pseudonym
from skinml.stewardship.vault import Vault

KEY = bytes(range(32))
CHANGES = {"os.rename", "os.remove", "os.mkdir"}


@dataclass(frozen=True)
class Place:
    """A clinic's vault and its anchors."""

    path: Path

    def keys(self) -> PatientKeys:
        anchors = Anchors(self.path / "anchors", "north", KEY)
        return PatientKeys(self.path / "vault" / "keys.sealed", KEY, anchors)

    def vault(self) -> Vault:
        return Vault(self.path / "vault", self.keys())


@pytest.fixture
def made(tmp_path) -> Callable[..., Place]:
    """Make a place with an image of each named patient, to be copied for each death."""

    def make(*patients: str) -> Place:
        place = Place(tmp_path / "made")
        place.path.mkdir()
        Anchors(place.path / "anchors", "north", KEY).create()
        if patients:
            contents = [patient.encode() for patient in patients]
            place.vault().put_all(patients, contents, kind="image")
        return place

    return make


def die_at(event_number: int, change: Callable[[], object]) -> bool:
    """Run a change in a child that kills itself; tell whether it did."""
    child = os.fork()
    if child == 0:
        seen = 0

        def count(event: str, values: tuple) -> None:
            nonlocal seen
            if event in CHANGES or (event == "open" and values[2] & (os.O_TRUNC | os.O_EXCL)):
                seen += 1
                if seen == event_number:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(count)
            change()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def deaths(made: Place, change: Callable[[Place], object]) -> Iterator[Place]:
    """Give the place as each death of a change left it, and at last as the change did."""
    for event_number in range(1, 500):
        place = Place(made.path.with_name("copy"))
        shutil.rmtree(place.path, ignore_errors=True)
        shutil.copytree(made.path, place.path)
        died = die_at(event_number, lambda place=place: change(place))
        yield place
        if not died:
            assert event_number > 5
            return
    pytest.fail("the change never came to its end")


def contents(vault: Vault, patient: str) -> list[bytes]:
    return sorted(content for _, content in vault.find(vault.objects(patient)))


@pytest.mark.parametrize("there", [(), ("Ada",)], ids=["the first key", "one more key"])
def test_issuing_is_whole_or_not_at_all(made, there):
    start = made(*there)
    old = start.keys().issue(["Ada"]) if there else {}
    states = set()
    for place in deaths(start, lambda place: place.keys().issue(["Bo", "Cy"])):
        keys = place.keys()
        states.add(len(keys))
        assert keys.find([key.id for key in old.values()]) == {
            key.id: key.key for key in old.values()
        }
        assert len(keys.issue(["Ada", "Bo", "Cy"])) == len(keys) == 3
    assert states == {len(there), len(there) + 2}


def test_putting_leaves_whole_objects_only(made):
    start = made("Ada")
    num_seen = set()
    change = ["Ada", "Bo"], [b"second of Ada", b"of Bo"]
    for place in deaths(start, lambda place: place.vault().put_all(*change, kind="image")):
        vault = place.vault()
        assert contents(vault, "Ada") in ([b"Ada"], [b"Ada", b"second of Ada"])
        assert contents(vault, "Bo") in ([], [b"of Bo"])
        num_seen.add(vault.verify())
        assert vault.sweep() == 0
        assert not list(vault.folder.rglob("*/.*.partial"))
        vault.put("Bo", b"again", kind="image")
        assert vault.identify(pseudonym(KEY, "Bo")) == "Bo"
    assert num_seen == {1, 2, 3}


def test_rotation_killed_keeps_every_key(made):
    start = made("Ada", "Bo")
    issued = start.keys().issue(["Ada", "Bo"])
    for place in deaths(start, lambda place: place.keys().rotate()):
        assert place.keys().issue(["Ada", "Bo"]) == issued
        assert contents(place.vault(), "Bo") == [b"Bo"]
        place.keys().rotate()
        assert place.keys().issue(["Ada", "Bo"]) == issued


def test_erasure_killed_is_undone_or_is_final_and_is_finished_by_the_next(made):
    start = made("Ada", "Bo")
    (ada,) = start.vault().objects("Ada")
    states = set()
    for place in deaths(start, lambda place: place.vault().erase(["Ada"])):
        vault = place.vault()
        there = contents(vault, "Ada")
        states.add(len(there))
        assert there in ([], [b"Ada"])
        assert vault.identify(pseudonym(KEY, "Ada")) == ("Ada" if there else None)
        assert contents(vault, "Bo") == [b"Bo"]
        vault.erase(["Ada"])
        with pytest.raises(DataError, match="erased"):
            vault.read(ada)
        assert [path.name for path in vault.folder.glob("objects/*/*")] == vault.objects("Bo")
        assert contents(vault, "Bo") == [b"Bo"]
        assert vault.identify(pseudonym(KEY, "Bo")) == "Bo"
    assert states == {0, 1}


def test_enrolling_killed_leaves_the_old_row_or_the_new(made):
    start = made("Ada")
    start.vault().enrol({"Ada": {"born": "1815"}})
    born = set()
    for place in deaths(start, lambda place: place.vault().enrol({"Ada": {"born": "1816"}})):
        found = place.vault().look_up(pseudonym(KEY, "Ada"))
        assert found is not None
        assert found.patient == "Ada"
        born.add(found.fields["born"])
    assert born == {"1815", "1816"}


def test_killed_at_any_moment_whatever_it_was_doing_the_vault_goes_on(made):
    place = made("Ada")
    ada = place.keys().issue(["Ada"])["Ada"]
    for life in range(12):
        child = os.fork()
        if child == 0:
            try:
                live(place.vault(), f"of life {life}")
            finally:
                os._exit(1)
        time.sleep(0.005 * 1.25**life)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        vault = place.vault()
        assert place.keys().issue(["Ada"])["Ada"] == ada
        assert b"Ada" in contents(vault, "Ada")
        assert vault.identify(pseudonym(KEY, "Ada")) == "Ada"
        vault.sweep()
        assert vault.verify() == len(list(vault.folder.glob("objects/*/*")))


def live(vault: Vault, name: str) -> None:
    """Change the vault until the end."""
    while True:
        vault.put_all([name, "Ada", "Bo"], [b"1", b"2", bytes(10_000)], kind="image")
        vault.keys.rotate()
        vault.enrol({name: {"born": "1900"}})
        vault.erase([name, "Bo"])
