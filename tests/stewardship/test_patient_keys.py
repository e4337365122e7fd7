"""The keys of a clinic's patients: issued, found, erased, rewrapped, and never quietly another."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import process_time

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from skinml.errors import IntegrityError
from skinml.stewardship.anchors import Anchors
from skinml.stewardship.encryption import derive_key, keyed_digest, new_key, seal, unseal
from skinml.stewardship.patient_keys import PatientKeys
from skinml.stewardship.pseudonyms import pseudonyms

KEY = bytes(range(32))
PATIENTS = ["Adalbert", "Boadicea", "Cyrillus"]


@pytest.fixture
def anchors(tmp_path) -> Anchors:
    anchors = Anchors(tmp_path / "anchors", "north", KEY)
    anchors.create()
    return anchors


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "vault" / "keys.sealed"


@pytest.fixture
def keys(path, anchors) -> PatientKeys:
    return PatientKeys(path, KEY, anchors)


def test_each_patient_has_one_key_that_is_found_again(keys, path, anchors):
    assert keys.is_fresh()
    issued = keys.issue([*PATIENTS, "Adalbert"])
    assert list(issued) == PATIENTS
    assert len({key.id for key in issued.values()} | {key.key for key in issued.values()}) == 6
    again = PatientKeys(path, KEY, anchors)
    assert not again.is_fresh()
    assert again.issue(["Cyrillus", "Adalbert"]) == {
        "Cyrillus": issued["Cyrillus"],
        "Adalbert": issued["Adalbert"],
    }
    assert again.find([key.id for key in issued.values()]) == {
        key.id: key.key for key in issued.values()
    }
    assert again.find([bytes(16), b""]) == {}
    names = pseudonyms(KEY, PATIENTS)
    assert again.ids() == {key.id: name for key, name in zip(issued.values(), names, strict=True)}
    assert again.find_pseudonyms([names[1], "00" * 16, "no pseudonym"]) == {
        names[1]: issued["Boadicea"]
    }


def test_the_file_shows_neither_ids_nor_keys(keys, path):
    issued = keys.issue(PATIENTS)
    content = path.read_bytes()
    for patient, key in issued.items():
        assert patient.encode() not in content
        assert key.key not in content
        assert repr(key.key) not in repr(key)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_an_erased_key_is_gone_and_the_others_stay(keys, path, anchors):
    issued = keys.issue(PATIENTS)
    assert keys.erase(["Boadicea", "nobody", "Boadicea"]) == 1
    for each in (keys, PatientKeys(path, KEY, anchors)):
        assert set(each.find([key.id for key in issued.values()])) == {
            issued["Adalbert"].id,
            issued["Cyrillus"].id,
        }
        assert len(each) == 2
    assert issued["Boadicea"].id not in path.read_bytes()
    assert bytes.fromhex(pseudonyms(KEY, ["Boadicea"])[0]) not in path.read_bytes()
    assert keys.erase(["Boadicea"]) == 0


def test_who_comes_back_after_erasure_gets_a_new_key(keys):
    old = keys.issue(["Boadicea"])["Boadicea"]
    keys.erase(["Boadicea"])
    new = keys.issue(["Boadicea"])["Boadicea"]
    assert new.id != old.id
    assert new.key != old.key


def test_everybody_can_be_erased(keys, path, anchors):
    keys.issue(PATIENTS)
    assert keys.erase(PATIENTS) == 3
    again = PatientKeys(path, KEY, anchors)
    assert len(again) == 0
    assert not again.is_fresh()


def test_rotation_keeps_ids_and_keys_and_changes_every_wrapped_one(keys, path, anchors):
    issued = keys.issue(PATIENTS)
    before = path.read_bytes()
    keys.rotate()
    after = path.read_bytes()
    assert PatientKeys(path, KEY, anchors).issue(PATIENTS) == issued
    rows = [(before[at : at + 60], after[at : at + 60]) for at in range(22 + 61 + 32, 391, 92)]
    assert all(old != new for old, new in rows)
    assert len(before) == len(after) == 22 + 61 + 3 * 92 + 32


def wrapping_key(content: bytes) -> bytes:
    return unseal(derive_key(KEY, "vault"), content[22 : 22 + 61], context=content[:22])


def test_a_wrapping_key_that_was_seen_opens_nothing_after_rotation(keys, path):
    issued = keys.issue(["Adalbert"])["Adalbert"]
    seen = wrapping_key(path.read_bytes())
    row = path.read_bytes()[22 + 61 : -32]
    assert AESGCM(seen).decrypt(row[32:44], row[44:], row[:32]) == issued.key
    keys.rotate()
    row = path.read_bytes()[22 + 61 : -32]
    with pytest.raises(InvalidTag):
        AESGCM(seen).decrypt(row[32:44], row[44:], row[:32])


def test_what_another_process_wrote_is_seen(path, anchors):
    first, second = PatientKeys(path, KEY, anchors), PatientKeys(path, KEY, anchors)
    ada = first.issue(["Adalbert"])["Adalbert"]
    bo = second.issue(["Boadicea"])["Boadicea"]
    assert first.find([ada.id, bo.id]) == {ada.id: ada.key, bo.id: bo.key}
    second.erase(["Adalbert"])
    assert first.find([ada.id]) == {}
    assert first.issue(["Boadicea"])["Boadicea"] == bo


def test_issuing_at_once_gives_one_key_a_patient(path, anchors):
    def issue(number):
        return PatientKeys(path, KEY, anchors).issue([f"own {number}", "shared"])

    with ThreadPoolExecutor(6) as pool:
        issued = list(pool.map(issue, range(12)))
    assert len({each["shared"] for each in issued}) == 1
    assert len(PatientKeys(path, KEY, anchors)) == 13


def test_every_flipped_byte_is_noticed_and_names_the_vault(keys, path, anchors):
    keys.issue(PATIENTS[:2])
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(bytes(changed))
        with pytest.raises(IntegrityError, match="vault"):
            PatientKeys(path, KEY, anchors).find([])
    path.write_bytes(content)
    assert len(PatientKeys(path, KEY, anchors)) == 2


def test_an_open_vault_notices_a_change_too(keys, path):
    keys.issue(PATIENTS)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="vault"):
        keys.find([])


def test_an_older_file_and_a_missing_one_are_noticed(keys, path, anchors):
    keys.issue(PATIENTS)
    old = path.read_bytes()
    keys.erase(["Adalbert"])
    path.write_bytes(old)
    with pytest.raises(IntegrityError, match="vault"):
        keys.issue(PATIENTS)
    path.unlink()
    with pytest.raises(IntegrityError, match="vault"):
        PatientKeys(path, KEY, anchors).is_fresh()


def test_a_file_that_was_put_there_is_noticed(keys, path, tmp_path):
    keys.issue(PATIENTS)
    other = Anchors(tmp_path / "others", "north", KEY)
    other.create()
    with pytest.raises(IntegrityError, match="vault"):
        PatientKeys(path, KEY, other).find([])


def reseal(path: Path, anchors: Anchors, body: bytes, key: bytes = KEY) -> None:
    """Write a file as somebody could who can move the anchors but not make the digest."""
    digest = keyed_digest(key, body)
    anchors.replace(path, body + bytes.fromhex(digest), "vault's keys")


def test_the_files_own_digest_holds_where_the_anchors_were_made_anew(keys, path, anchors):
    keys.issue(PATIENTS)
    content = path.read_bytes()
    reseal(path, anchors, content[:-32], new_key())
    with pytest.raises(IntegrityError, match="vault"):
        PatientKeys(path, KEY, anchors).find([])
    without_a_row = content[: 22 + 61] + content[22 + 61 + 92 :]
    anchors.replace(path, without_a_row, "vault's keys")
    with pytest.raises(IntegrityError, match="vault"):
        PatientKeys(path, KEY, anchors).find([])


def test_another_clinics_key_is_refused(keys, path, anchors):
    keys.issue(PATIENTS)
    with pytest.raises(IntegrityError, match="vault"):
        PatientKeys(path, new_key(), anchors).find([])


def test_a_key_in_another_patients_row_does_not_open(keys, path, anchors):
    """Even the holder of the clinic's key cannot give one patient's key to another by mistake."""
    keys.issue(PATIENTS[:2])
    body = bytearray(path.read_bytes()[:-32])
    first, second = slice(22 + 61, 22 + 61 + 32), slice(22 + 61 + 92, 22 + 61 + 92 + 32)
    body[first], body[second] = body[second], body[first]
    reseal(path, anchors, bytes(body), derive_key(KEY, "vault"))
    with pytest.raises(IntegrityError, match="another patient's row"):
        PatientKeys(path, KEY, anchors).issue(["Adalbert"])


def test_what_was_sealed_before_rotation_opens_after_it(keys, path, anchors):
    key = keys.issue(["Adalbert"])["Adalbert"]
    sealed = seal(key.key, b"lesion", context=b"")
    keys.rotate()
    found = PatientKeys(path, KEY, anchors).find([key.id])[key.id]
    assert unseal(found, sealed, context=b"") == b"lesion"


def test_an_old_copy_still_opens_with_the_clinics_key_as_the_module_says(
    keys, path, anchors, tmp_path
):
    """The limit of erasure, stated and so tested: a backup of both files brings the key back."""
    key = keys.issue(["Adalbert"])["Adalbert"]
    shutil.copy(path, tmp_path / "copy")
    kept = anchors.path.read_bytes()
    keys.erase(["Adalbert"])
    shutil.copy(tmp_path / "copy", path)
    anchors.path.write_bytes(kept)
    assert PatientKeys(path, KEY, anchors).find([key.id]) == {key.id: key.key}


@pytest.mark.parametrize("change", ["erase", "rotate"])
def test_the_file_that_was_replaced_is_overwritten_with_zeros(keys, path, change):
    keys.issue(PATIENTS)
    size = path.stat().st_size
    with path.open("rb") as old:
        keys.erase(["Boadicea"]) if change == "erase" else keys.rotate()
        assert old.read() == bytes(size)
    assert len(keys) == (2 if change == "erase" else 3)


def test_a_hard_linked_copy_is_somebody_elses_and_stays(keys, path, tmp_path):
    keys.issue(PATIENTS)
    content = path.read_bytes()
    (tmp_path / "copy").hardlink_to(path)
    keys.erase(["Boadicea"])
    assert (tmp_path / "copy").read_bytes() == content


def test_processes_that_issue_at_once_agree(path, anchors):
    children = []
    for number in range(3):
        child = os.fork()
        if child == 0:
            try:
                for step in range(5):
                    PatientKeys(path, KEY, anchors).issue([f"own {number} {step}", f"all {step}"])
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert len(PatientKeys(path, KEY, anchors)) == 20


@pytest.mark.slow
def test_ten_times_the_patients_take_about_ten_times_as_long(keys, path, anchors):
    took = []
    for count in (10_000, 100_000):
        patients = [f"patient {count} {number}" for number in range(count)]
        start = process_time()
        issued = keys.issue(patients)
        again = PatientKeys(path, KEY, anchors)
        assert len(again.find([key.id for key in issued.values()])) == count
        assert again.erase(patients[:100]) == 100
        took.append(process_time() - start)
    assert took[1] < 30 * took[0]
