"""The register of imported pictures: what it remembers, and what erasing a patient takes away."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.errors import DataError, IntegrityError
from skinml.stewardship.deidentification import Box
from skinml.stewardship.pictures import PENDING, PICTURE, Picture, reviewed
from tests.clinic.rights import make

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def picture(folder: ClinicFolder, patient: str, name: str, state="accepted", **values) -> Picture:
    register = folder.pictures
    content = folder.vault.put(patient, name.encode(), kind=PICTURE)
    given = {
        "number": register.number_of(patient, name),
        "patient": patient,
        "state": state,
        "reasons": (),
        "object": content,
        "source": register.digest_of(name.encode()),
        "described": register.digest_of(b"row"),
        "fields": {"diagnosis": "mel"},
        "boxes": (Box(1, 2, 3, 4, "text"),),
        "imported": date(2026, 3, 1),
    }
    return Picture(**(given | values))


@pytest.fixture
def folder(tmp_path) -> ClinicFolder:
    return make(tmp_path)


def test_the_last_line_of_a_picture_tells_its_state_after_opening_again(folder) -> None:
    one, two = picture(folder, "ada", "1.jpg"), picture(folder, "bo", "2.jpg", "to_review")
    folder.pictures.write([one, two], now=NOW, actor="op")
    accepted = reviewed(two, "accepted", content=two.object)
    folder.pictures.write([accepted], now=NOW, actor="op")
    again = open_folder(folder.path)
    assert again.pictures.pictures() == {one.number: one, two.number: accepted}
    assert again.pictures.find(two.number).reasons == ("by a person",)
    assert again.pictures.objects() == {one.object, two.object}
    assert again.pictures.of_patient("ada") == [one]


def test_an_erased_patient_leaves_nothing_that_opens_or_names_anybody(folder) -> None:
    one, two = picture(folder, "ada-lovelace", "1.jpg"), picture(folder, "bo", "2.jpg")
    folder.pictures.write([one, two], now=NOW, actor="op")
    folder.vault.erase(["ada-lovelace"])
    assert list(folder.pictures.pictures()) == [two.number]
    with pytest.raises(DataError):
        open_folder(folder.path).pictures.find(one.number)
    assert b"ada-lovelace" not in (folder.path / "pictures.journal").read_bytes()


def test_a_line_that_waited_does_not_bring_an_erased_patient_back(folder) -> None:
    one, two = picture(folder, "ada", "1.jpg"), picture(folder, "bo", "2.jpg")
    folder.pictures.write([one, two], now=NOW, actor="op")
    folder.vault.erase(["ada"])
    folder.pictures.write([reviewed(one, "rejected", content=None), two], now=NOW, actor="op")
    assert list(folder.pictures.pictures()) == [two.number]
    folder.pictures.rewrite(lambda known: [one, two], now=NOW, actor="op")
    assert list(folder.pictures.pictures()) == [two.number]
    assert len(folder.patient_keys) == 1


def test_of_a_picture_that_is_left_out_stays_the_day_alone(folder) -> None:
    one, two = picture(folder, "ada", "1.jpg"), picture(folder, "bo", "2.jpg")
    folder.pictures.write([one, two], now=NOW, actor="op")
    for _ in range(2):  # a second rewriting keeps it
        folder.pictures.rewrite(
            lambda known: (each for each in known.values() if each == two), now=NOW, actor="op"
        )
        again = open_folder(folder.path).pictures
        assert again.ended() == {one.number: date(2026, 3, 1)}
        assert again.pictures() == {two.number: two}
        assert again.objects() == {two.object}
        with pytest.raises(DataError):
            again.find(one.number)
    folder.pictures.write([one], now=NOW, actor="op")
    assert folder.pictures.ended() == {}
    assert set(folder.pictures.pictures()) == {one.number, two.number}


def test_a_line_that_was_taken_out_or_set_back_shows(folder) -> None:
    path = folder.path / "pictures.journal"
    folder.pictures.write([picture(folder, "ada", "1.jpg")], now=NOW, actor="op")
    before = path.read_bytes()
    folder.pictures.write([picture(folder, "bo", "2.jpg")], now=NOW, actor="op")
    path.write_bytes(before)
    with pytest.raises(IntegrityError):
        open_folder(folder.path)


def test_the_same_file_has_the_same_number_here_and_another_one_elsewhere(tmp_path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    here, there = make(tmp_path / "a"), make(tmp_path / "b")
    number = here.pictures.number_of("ada", "1.jpg")
    assert open_folder(here.path).pictures.number_of("ada", "1.jpg") == number
    assert there.pictures.number_of("ada", "1.jpg") != number
    assert here.pictures.number_of("ada1", ".jpg") != number


def test_single_objects_are_listed_by_kind_and_removed(folder) -> None:
    kept, gone = (folder.vault.put("ada", b"x", kind=PENDING) for _ in range(2))
    folder.vault.put("ada", b"x", kind=PICTURE)
    assert folder.vault.listed([PENDING]) == {kept, gone}
    assert folder.vault.discard([gone, "no such"]) == 1
    assert folder.vault.listed([PENDING]) == {kept}
    assert folder.vault.read(kept) == b"x"
