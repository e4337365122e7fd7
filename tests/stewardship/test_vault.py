"""The vault: what is put in comes back, nothing changes unseen, and the erased is erased."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from skinml.errors import ConfigError, DataError, IntegrityError
from skinml.stewardship.anchors import Anchors
from skinml.stewardship.encryption import PIECE_BYTES, new_key
from skinml.stewardship.patient_keys import PatientKeys
from skinml.stewardship.pseudonyms import pseudonym
from skinml.stewardship.vault import Erasure, Vault

KEY = bytes(range(32))


@pytest.fixture
def anchors(tmp_path) -> Anchors:
    anchors = Anchors(tmp_path / "anchors", "north", KEY)
    anchors.create()
    return anchors


def opened(tmp_path: Path, anchors: Anchors, key: bytes = KEY) -> Vault:
    folder = tmp_path / "vault"
    return Vault(folder, PatientKeys(folder / "keys.sealed", key, anchors))


@pytest.fixture
def vault(tmp_path, anchors) -> Vault:
    return opened(tmp_path, anchors)


def files(vault: Vault) -> list[Path]:
    return sorted(path for path in vault.folder.glob("objects/*/*") if path.is_file())


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, PIECE_BYTES + 1], ids=str)
def test_what_is_put_in_comes_back_after_opening_again(vault, tmp_path, anchors, size):
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    name = vault.put("Ada Lovelace", content, kind="image")
    again = opened(tmp_path, anchors)
    assert again.read(name) == content
    assert again.objects("Ada Lovelace") == [name]
    assert again.verify() == 1


def test_the_folder_shows_neither_patients_nor_content(vault):
    vault.enrol({"Ada Lovelace": {"born": "1815"}})
    vault.put("Ada Lovelace", b"a lesion of the forearm", kind="image")
    for path in vault.folder.rglob("*"):
        assert "Ada" not in path.name
        assert path.stat().st_mode & 0o077 == 0
        if path.is_file():
            content = path.read_bytes()
            for planted in (b"Ada", b"Lovelace", b"1815", b"forearm"):
                assert planted not in content


def test_objects_are_listed_by_patient_and_kind(vault):
    images = vault.put_all(["Ada", "Bo", "Ada"], [b"1", b"2", b"3"], kind="image")
    note = vault.put("Ada", b"4", kind="note")
    assert vault.objects("Ada") == sorted([images[0], images[2], note])
    assert vault.objects("Ada", kind="image") == sorted([images[0], images[2]])
    assert vault.objects("Bo", kind="note") == []
    assert vault.objects("nobody") == []
    assert dict(vault.find([images[1], note])) == {images[1]: b"2", note: b"4"}


def test_a_pseudonym_leads_back_to_the_patient_inside_the_clinic(vault, tmp_path, anchors):
    vault.put("Ada", b"1", kind="image")
    vault.enrol({"Bo": {"born": "1920"}, "Cy": {}})
    again = opened(tmp_path, anchors)
    assert [again.identify(pseudonym(KEY, name)) for name in ("Ada", "Bo", "Cy")] == [
        "Ada",
        "Bo",
        "Cy",
    ]
    assert again.identify(pseudonym(KEY, "nobody")) is None
    assert again.identify("no pseudonym") is None
    found = again.look_up(pseudonym(KEY, "Bo"))
    assert found is not None
    assert found.fields == {"born": "1920"}
    assert "Bo" not in repr(found)
    again.put("Bo", b"2", kind="image")
    again.enrol({"Ada": {"born": "1815"}})
    assert vault.look_up(pseudonym(KEY, "Bo")).fields == {"born": "1920"}
    assert vault.look_up(pseudonym(KEY, "Ada")).fields == {"born": "1815"}


def test_who_is_erased_is_gone_and_the_others_stay(vault, tmp_path, anchors):
    names = vault.put_all(["Ada", "Bo", "Ada"], [b"1", b"2", b"3"], kind="image")
    assert vault.erase(["Ada", "nobody"]) == Erasure(patients=1, objects=2)
    again = opened(tmp_path, anchors)
    for each in (vault, again):
        assert dict(each.find(names)) == {names[1]: b"2"}
        assert each.objects("Ada") == []
        assert each.identify(pseudonym(KEY, "Ada")) is None
        assert each.identify(pseudonym(KEY, "Bo")) == "Bo"
        with pytest.raises(DataError, match="erased"):
            each.read(names[0])
    assert [path.name for path in files(vault)] == [names[1]]
    assert vault.erase(["Ada"]) == Erasure(0, 0)


def test_a_file_whose_key_is_gone_is_erased_and_never_changed(vault):
    name = vault.put("Ada", b"lesion", kind="image")
    kept = files(vault)[0]
    content = kept.read_bytes()
    vault.keys.erase(["Ada"])
    assert kept.exists()
    assert list(vault.find([name])) == []
    kept.write_bytes(content[:-1])
    with pytest.raises(DataError, match="erased"):
        vault.read(name)
    assert vault.verify() == 0
    assert vault.sweep() == 1
    assert files(vault) == []


def test_who_comes_back_does_not_bring_the_erased_back(vault):
    old = vault.put("Ada", b"old", kind="image")
    vault.erase(["Ada"])
    new = vault.put("Ada", b"new", kind="image")
    assert vault.objects("Ada") == [new]
    assert list(vault.find([old, new])) == [(new, b"new")]
    assert vault.identify(pseudonym(KEY, "Ada")) == "Ada"


def test_rotation_touches_no_object(vault, tmp_path, anchors):
    names = vault.put_all(["Ada", "Bo"], [b"1", b"2"], kind="image")
    before = [(path, path.read_bytes(), path.stat().st_mtime_ns) for path in files(vault)]
    vault.keys.rotate()
    assert [(path, path.read_bytes(), path.stat().st_mtime_ns) for path in files(vault)] == before
    again = opened(tmp_path, anchors)
    assert dict(again.find(names)) == {names[0]: b"1", names[1]: b"2"}
    assert again.identify(pseudonym(KEY, "Bo")) == "Bo"


def test_every_flipped_byte_of_every_file_is_noticed_and_names_the_vault(vault, tmp_path, anchors):
    name = vault.put("Ada", b"lesion", kind="image")
    ada = pseudonym(KEY, "Ada")
    changed_files = [*files(vault), *vault.folder.glob("*.sealed")]
    assert len(changed_files) == 3
    for path in changed_files:
        content = path.read_bytes()
        for place in range(len(content)):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            again = opened(tmp_path, anchors)
            with pytest.raises(IntegrityError, match="vault"):
                (again.identify(ada), again.read(name))
        path.write_bytes(content)
    assert vault.read(name) == b"lesion"
    assert vault.identify(ada) == "Ada"


def test_a_cut_an_exchanged_and_a_missing_object_are_noticed(vault):
    first, second = vault.put_all(["Ada", "Ada"], [bytes(PIECE_BYTES + 9), b"2"], kind="image")
    places = {path.name: path for path in files(vault)}
    content = places[first].read_bytes()
    one_piece = content[: -(9 + 29 + 9)]
    other = places[second].read_bytes()
    for wrong in (content[:-1], one_piece, other, b"", b"\n", content + b"0"):
        places[first].write_bytes(wrong)
        with pytest.raises(IntegrityError, match="vault"):
            vault.read(first)
    places[first].unlink()
    with pytest.raises(IntegrityError, match="missing file"):
        vault.read(first)
    assert vault.read(second) == b"2"


def test_an_object_passed_off_as_another_kind_is_noticed(vault):
    name = vault.put("Ada", b"lesion", kind="image")
    path = files(vault)[0]
    path.write_bytes(path.read_bytes().replace(b"image", b"notes", 1))
    with pytest.raises(IntegrityError, match="vault"):
        vault.read(name)
    with pytest.raises(IntegrityError, match="vault"):
        vault.objects("Ada", kind="notes")


def test_an_older_table_of_pseudonyms_is_noticed(vault, tmp_path, anchors):
    vault.enrol({"Ada": {}})
    table = vault.folder / "patients.sealed"
    old = table.read_bytes()
    vault.enrol({"Ada": {"born": "1815"}})
    table.write_bytes(old)
    with pytest.raises(IntegrityError, match="vault"):
        opened(tmp_path, anchors).identify(pseudonym(KEY, "Ada"))


@pytest.mark.parametrize("name", ["keys.sealed", "patients.sealed"])
def test_keys_and_table_are_verified_without_reading_objects(vault, tmp_path, anchors, name):
    opened(tmp_path, anchors).require_intact()
    vault.put("Ada", b"lesion", kind="image")
    files(vault)[0].write_bytes(b"")
    opened(tmp_path, anchors).require_intact()
    path = vault.folder / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="vault"):
        opened(tmp_path, anchors).require_intact()


def test_another_clinics_key_opens_nothing(vault, tmp_path, anchors):
    name = vault.put("Ada", b"lesion", kind="image")
    with pytest.raises(IntegrityError):
        opened(tmp_path, anchors, new_key()).read(name)


def test_a_vault_without_its_keys_file_removes_nothing(vault, tmp_path):
    vault.put("Ada", b"lesion", kind="image")
    fresh = Anchors(tmp_path / "fresh", "north", KEY)
    fresh.create()
    (vault.folder / "keys.sealed").unlink()
    assert opened(tmp_path, fresh).sweep() == 0
    assert len(files(vault)) == 1


@pytest.mark.parametrize("name", ["", "../keys.sealed", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_what_is_no_objects_id_is_never_looked_for(vault, name):
    vault.put("Ada", b"lesion", kind="image")
    with pytest.raises(DataError):
        vault.read(name)


@pytest.mark.parametrize("kind", ["", "Image", "an image", "x" * 33, "image\n"])
def test_a_kind_is_one_word(vault, kind):
    with pytest.raises(ConfigError, match="kind"):
        vault.put("Ada", b"lesion", kind=kind)
    assert not vault.folder.exists()


def test_an_error_names_no_patient(vault):
    name = vault.put("Ada Lovelace", b"lesion", kind="image")
    files(vault)[0].write_bytes(b"")
    with pytest.raises(IntegrityError) as caught:
        vault.read(name)
    said = f"{caught.value} {caught.value.details}"
    assert "Ada" not in said
    assert name not in said


def test_putting_and_erasing_at_once_leaves_the_vault_whole(tmp_path, anchors):
    def work(number: int) -> None:
        own = opened(tmp_path, anchors)
        own.put_all(["shared", f"own {number}"], [b"1", b"2"], kind="image")
        own.erase([f"own {number}"])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
    vault = opened(tmp_path, anchors)
    assert len(vault.objects("shared")) == vault.verify() == len(files(vault)) == 8
    assert vault.identify(pseudonym(KEY, "shared")) == "shared"
    assert vault.identify(pseudonym(KEY, "own 3")) is None
    assert json.loads(anchors.path.read_bytes())["state"]["files"].keys() == {
        "keys.sealed",
        "patients.sealed",
    }


def test_remembering_a_patient_keeps_the_fields_that_are_known(vault: Vault) -> None:
    vault.enrol({"P1": {"born": "1961"}})
    vault.remember(["P1", "P2"])
    for patient, fields in (("P1", {"born": "1961"}), ("P2", {})):
        known = vault.look_up(vault.keys.pseudonyms([patient])[0])
        assert known is not None
        assert (known.patient, dict(known.fields)) == (patient, fields)
