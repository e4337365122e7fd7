"""An end of retention: what goes is gone from every file, whatever interrupts it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from skinml.cli.main import main
from skinml.clinic.begun import file_of, read_begun, write_begun
from skinml.clinic.certificates import verify_certificate
from skinml.clinic.consents import add_consent
from skinml.clinic.erasure import erase_patient
from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.clinic.opening import open_at_screen
from skinml.clinic.restriction import restrict_patient
from skinml.clinic.retention import (
    apply_retention,
    finish_retention,
    made,
    note_made,
    retention_due,
)
from skinml.data.feature_store import FeatureStore
from skinml.durable import write_whole
from skinml.errors import EnvironmentProblem, IntegrityError, PolicyError
from skinml.stewardship.pictures import ORIGINAL, PENDING, PICTURE, reviewed
from skinml.stewardship.pseudonyms import pseudonym
from skinml.stewardship.vault import Vault
from tests.clinic.rights import FORM, NOW, enrol, make
from tests.clinic.test_access import JPEG, bring_in
from tests.stewardship.test_vault_killed import die_at

PATIENT, OTHER = "Ada-4711", "Bo-4712"
RETENTION = file_of("retention")
RULES = (
    "{images_days: 30, features_days: 365, predictions_days: 20, log_days: 9, "
    "by_field: {age_days: 10}}"
)
TODAY = NOW.date()


@pytest.fixture
def clinic(tmp_path: Path) -> ClinicFolder:
    folder = make(tmp_path / "made", retention=RULES)
    enrol(folder, PATIENT, OTHER)
    bring_in(folder, PATIENT, "old", days_ago=31)
    bring_in(folder, PATIENT, "middle", days_ago=15)
    bring_in(folder, OTHER, "new")
    for name in ("features/net.store", "runs/r/samples-train.sealed", "inspections.sealed"):
        (folder.path / name).parent.mkdir(exist_ok=True)
        write_whole(folder.path / name, b"computed", "test")
    note_made(folder.path / "features" / "other.store", TODAY - timedelta(days=400))
    for name, age in (("features/other.store", 0), ("runs/r/predictions-test.sealed", 21)):
        write_whole(folder.path / name, b"computed", "test")
        at = (NOW - timedelta(days=age)).timestamp()
        os.utime(folder.path / name, (at, at))
    return folder


def state(folder: ClinicFolder) -> tuple[list[bytes], list[str], int, int]:
    """Pictures that can be read, ages on record, computed files, entries of the log."""
    pictures = folder.pictures.pictures().values()
    objects = [each.object for each in pictures if each.object]
    computed = [*folder.path.glob("features/*"), *folder.path.glob("runs/*/*")]
    return (
        sorted(content.removeprefix(JPEG) for _, content in folder.vault.find(objects)),
        [each.fields["age"] for each in pictures if "age" in each.fields],
        len(computed) + folder.inspections.exists(),
        sum(entry.event == "retention" for entry in folder.audit.entries()),
    )


AFTER = ([b"middle", b"new"], ["54"], 0, 1)


def test_what_is_due_is_told_and_nothing_is_changed(clinic: ClinicFolder) -> None:
    before = state(clinic)
    due = retention_due(clinic, now=NOW)
    assert (due.pictures, due.patients, due.fields) == (1, 1, {"age": 1})
    assert (due.features, due.predictions, due.own_heads, due.keys) == (4, 1, 0, 0)
    assert state(clinic) == before == ([b"middle", b"new", b"old"], ["54"] * 3, 6, 0)


def test_the_command_counts_in_plain_words_before_and_after(
    clinic: ClinicFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, last in (((), "Nothing was removed yet."), (("--apply",), "Removed.")):
        assert main(["clinic", "retention", *words, "--folder", str(clinic.path)]) == 0
        lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
        expected = {"1 picture of 1 patient", "1 value of age", "1 file of predictions"}
        assert expected <= set(lines)
        assert any(line.startswith(last) for line in lines)
    assert main(["clinic", "retention", "--apply", "--folder", str(clinic.path)]) == 0
    assert capsys.readouterr().out.startswith("Nothing is to be removed by ")


def test_what_ended_goes_and_the_rest_stays(clinic: ClinicFolder) -> None:
    done = apply_retention(clinic, now=NOW)
    folder = open_folder(clinic.path)
    assert state(folder) == AFTER
    assert done.objects == 1
    assert len(list(folder.vault.listed(("picture",)))) == 2
    again = apply_retention(folder, now=NOW)
    assert again.due.nothing
    assert again.certificate is None


def test_no_byte_on_disk_opens_to_what_went_even_with_the_patients_key(
    clinic: ClinicFolder,
) -> None:
    """An older register's lines, each tried with every key of the clinic."""
    apply_retention(clinic, now=NOW)
    lines = (clinic.path / "pictures.journal").read_bytes().splitlines()
    assert len(lines) == 4  # what it replaces, the day of one that went, and two that stay
    (began,) = clinic.pictures.ended().values()
    assert began == TODAY - timedelta(days=31)
    assert len(json.loads(lines[1])["body"]["sealed"]) < 150  # no room for more than the day
    for line in lines[2:]:
        number = json.loads(line)["body"]["picture"]
        assert clinic.pictures.find(number).imported > TODAY - timedelta(days=30)
    objects = (clinic.path / "vault" / "objects").rglob("*")
    assert sum(path.is_file() for path in objects) == 4  # two pictures, and what `enrol` puts in


def test_the_certificate_says_what_went_and_only_the_clinic_can_sign_it(
    clinic: ClinicFolder,
) -> None:
    done = apply_retention(clinic, now=NOW)
    assert done.certificate is not None
    key, path = clinic.identity.public_key, done.certificate.path
    says = verify_certificate(path, key)["says"]
    expected = {"pictures": 1, "patients": 1, "fields": {"age": 1}, "features": 4, "predictions": 1}
    expected |= {"originals": 0, "own_heads": 0, "keys": 0, "orphans": 0}
    assert says["removed"] == expected
    assert PATIENT not in path.read_text()
    path.write_text(path.read_text().replace('"pictures": 1', '"pictures": 2'))
    with pytest.raises(IntegrityError, match="as this clinic signed it"):
        verify_certificate(path, key)


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_step_the_next_opening_ends_it(
    clinic: ClinicFolder, tmp_path: Path, every: int
) -> None:
    begun = 0
    for number in range(1, 120, every):
        here = tmp_path / f"death-{number}"
        shutil.copytree(clinic.path.parent, here)

        def act(path: Path = here / "north") -> None:
            apply_retention(open_folder(path), now=NOW)

        died = die_at(number, act)
        begun += (here / "north" / RETENTION).exists()
        folder = open_at_screen(here / "north")
        if state(folder) != AFTER:
            assert state(folder)[0] == [b"middle", b"new", b"old"]  # it had not begun
            apply_retention(folder, now=NOW)
        assert state(open_folder(here / "north")) == AFTER
        assert not (here / "north" / RETENTION).exists()
        shutil.rmtree(here)
        if not died:
            break
    assert not died
    assert begun > 10 / every


LAST = "Cy-4713"


def with_one_whose_last_picture_goes(clinic: ClinicFolder) -> bytes:
    """Bring in a patient of whom nothing but an old picture is there; give the key's id."""
    add_consent(clinic, LAST, FORM, now=NOW)
    bring_in(clinic, LAST, "last", days_ago=40)
    write_whole(clinic.path / "runs" / "r" / "personal-head.sealed", b"a head", "test")
    return clinic.patient_keys.issue([LAST])[LAST].id


def copied(folder: ClinicFolder) -> Path:
    """Copy the vault's objects and the register, as a backup of the two would."""
    copy = folder.path.parent / "copy"
    shutil.copytree(folder.path / "vault" / "objects", copy / "objects")
    shutil.copy(folder.path / "pictures.journal", copy)
    return copy


def test_no_key_that_is_left_opens_a_copy_of_what_a_patient_had_whose_last_picture_went(
    clinic: ClinicFolder,
) -> None:
    old = with_one_whose_last_picture_goes(clinic)
    mark = clinic.pictures.of_patient(LAST)[0]
    copy, name = copied(clinic), pseudonym(clinic.key, LAST)
    journal = (copy / "pictures.journal").read_text()
    lines = [json.loads(line)["body"] for line in journal.splitlines()]
    assert old.hex() in {body["key"] for body in lines}
    done = apply_retention(clinic, now=NOW)
    assert (done.due.keys, done.due.own_heads) == (1, 1)
    assert done.certificate is not None
    assert done.certificate.says["says"]["removed"]["keys"] == 1
    folder = open_folder(clinic.path)
    # What the copies hold is under the old key alone, and that is there no more.
    assert any(path.name.startswith(old.hex()) for path in (copy / "objects").rglob("*"))
    assert folder.patient_keys.find([old]) == {}
    (key,) = folder.patient_keys.find_pseudonyms([name]).values()
    assert key.id != old
    # Who the patient is, what was agreed to, and when the picture's time began, are there.
    assert folder.vault.identify(name) == LAST
    assert str(folder.consents.verdicts([LAST], "care", TODAY)[0]) == ""
    assert folder.pictures.ended()[mark.number] == TODAY - timedelta(days=40)
    assert state(folder) == AFTER
    assert len(folder.patient_keys) == 3


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_step_a_key_is_renewed_once_and_nothing_of_the_patient_is_lost(
    clinic: ClinicFolder, tmp_path: Path, every: int
) -> None:
    old = with_one_whose_last_picture_goes(clinic)
    name = pseudonym(clinic.key, LAST)
    for number in range(1, 200, every):
        here = tmp_path / f"death-{number}"
        shutil.copytree(clinic.path.parent, here)

        def act(path: Path = here / "north") -> None:
            apply_retention(open_folder(path), now=NOW)

        died = die_at(number, act)
        open_at_screen(here / "north")
        apply_retention(open_folder(here / "north"), now=NOW)
        folder = open_folder(here / "north")
        assert state(folder) == AFTER
        assert folder.patient_keys.find([old]) == {}
        assert folder.vault.identify(name) == LAST
        assert (TODAY - timedelta(days=40)) in folder.pictures.ended().values()
        assert len(folder.patient_keys) == 3
        shutil.rmtree(here)
        if not died:
            break
    assert not died


def end_all_as_an_older_build(clinic: ClinicFolder) -> None:
    """End all pictures as a build did that renewed no keys, and remove what was computed."""
    clinic.pictures.rewrite(lambda known: (), now=NOW, actor="op")
    clinic.vault.discard(clinic.vault.listed((PICTURE,)))
    for path in [*clinic.features.iterdir(), *clinic.path.glob("runs/*/*"), clinic.inspections]:
        path.unlink()


@pytest.mark.parametrize("restricted", [False, True])
def test_a_key_that_an_older_build_left_is_renewed_once_and_not_of_who_wants_it_kept(
    clinic: ClinicFolder, restricted: bool
) -> None:
    old = with_one_whose_last_picture_goes(clinic)
    number = clinic.pictures.of_patient(LAST)[0].number
    end_all_as_an_older_build(clinic)
    if restricted:
        restrict_patient(clinic, LAST, restricted=True, now=NOW)
    due = retention_due(clinic, now=NOW)
    # Of the others `enrol` put objects into the vault that are no pictures: their keys stay.
    assert (due.pictures, due.keys, due.nothing) == (0, not restricted, restricted)
    done = apply_retention(clinic, now=NOW)
    assert (done.certificate is None) == restricted
    folder = open_folder(clinic.path)
    assert (folder.patient_keys.find([old]) == {}) != restricted
    assert folder.pictures.ended()[number] == TODAY - timedelta(days=40)
    assert folder.vault.identify(pseudonym(folder.key, LAST)) == LAST
    assert retention_due(folder, now=NOW + timedelta(days=9)).nothing


def test_what_a_killed_import_left_is_counted_and_goes_though_nothing_else_is_due(
    tmp_path: Path,
) -> None:
    folder = make(tmp_path / "made", retention=RULES)
    enrol(folder, PATIENT)
    bring_in(folder, PATIENT, "one")
    for kind in (PICTURE, PENDING, ORIGINAL):
        folder.vault.put(PATIENT, JPEG + b"never put on record", kind=kind)
    assert retention_due(folder, now=NOW).orphans == 3
    done = apply_retention(folder, now=NOW)
    assert (done.due.orphans, done.objects) == (3, 3)
    assert done.certificate is not None
    assert done.certificate.says["says"]["removed"]["orphans"] == 3
    assert folder.vault.listed((PICTURE, PENDING, ORIGINAL)) == folder.pictures.objects()
    assert len(folder.pictures.objects()) == 1
    assert retention_due(folder, now=NOW).nothing


def killed_before_its_end(clinic: ClinicFolder, here: Path) -> ClinicFolder:
    """Leave a removal that was written down and of which nothing is done."""
    for number in range(1, 60):
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(clinic.path.parent, here)
        folder = open_folder(here / "north")
        assert die_at(number, lambda folder=folder: apply_retention(folder, now=NOW))
        if (folder.path / RETENTION).exists():
            break
    return open_folder(here / "north")


def test_a_patient_who_was_erased_meanwhile_gets_no_new_key(
    clinic: ClinicFolder, tmp_path: Path
) -> None:
    with_one_whose_last_picture_goes(clinic)
    folder = killed_before_its_end(clinic, tmp_path / "death")
    erase_patient(folder, LAST, now=NOW)
    assert finish_retention(folder)
    assert folder.patient_keys.find_pseudonyms([pseudonym(folder.key, LAST)]) == {}
    assert len(folder.patient_keys) == 2


def test_a_key_under_which_something_was_brought_in_meanwhile_stays(
    clinic: ClinicFolder, tmp_path: Path
) -> None:
    old = with_one_whose_last_picture_goes(clinic)
    folder = killed_before_its_end(clinic, tmp_path / "death")
    bring_in(folder, LAST, "fresh")
    assert finish_retention(folder)
    assert set(folder.patient_keys.find([old])) == {old}
    assert state(folder)[0] == [b"fresh", b"middle", b"new"]


@pytest.mark.parametrize("version", ["stays", "nothing said", 5])
def test_what_another_release_began_is_ended_as_it_meant_it_or_refused(
    clinic: ClinicFolder, tmp_path: Path, version: object
) -> None:
    folder = killed_before_its_end(clinic, tmp_path / "death")
    plan = read_begun(folder, "retention") or {}
    for new in ("version", "renewal", "logged"):
        del plan[new]
    plan["files"] += plan.pop("stores")
    if version == "stays":  # fields that stay, and objects by name
        kept = ["diagnosis", "skin_tone", "skin_tone_scale"]
        plan |= {"fields": dict.fromkeys(plan["fields"], kept), "objects": ["an object"]}
    elif version == 5:
        plan["version"] = 5
    write_begun(folder, "retention", plan)
    if version == 5:
        with pytest.raises(EnvironmentProblem, match="later release, version=5"):
            open_at_screen(folder.path)
        return
    found = open_at_screen(folder.path)
    assert state(found) == AFTER
    assert not (folder.path / RETENTION).exists()
    tones = [each.fields["skin_tone"] for each in found.pictures.pictures().values()]
    assert tones == ["4", "4"]


def test_what_a_patient_wants_kept_is_kept_and_told(clinic: ClinicFolder) -> None:
    restrict_patient(clinic, PATIENT, restricted=True, now=NOW)
    due = retention_due(clinic, now=NOW)
    assert (due.pictures, due.fields, due.restricted) == (
        0,
        {},
        2,
    )  # one over, and one of which a field is
    apply_retention(clinic, now=NOW)
    assert state(clinic)[:2] == ([b"middle", b"new", b"old"], ["54"] * 3)
    restrict_patient(clinic, PATIENT, restricted=False, now=NOW)
    assert retention_due(clinic, now=NOW).pictures == 1


def test_a_field_that_is_over_goes_from_what_was_computed_too(tmp_path: Path) -> None:
    folder = make(tmp_path / "made", retention=RULES)
    enrol(folder, PATIENT)
    bring_in(folder, PATIENT, "middle", days_ago=15)
    for name in ("runs/r/samples-train.sealed", "runs/r/predictions-test.sealed"):
        (folder.path / name).parent.mkdir(exist_ok=True)
        write_whole(folder.path / name, b"with its groups", "test")
    write_whole(folder.path / "features" / "net.store", b"of pixels alone", "test")
    apply_retention(folder, now=NOW)
    left = [
        path.name for place in ("runs/r", "features") for path in (folder.path / place).iterdir()
    ]
    assert left == ["net.store"]


def test_what_was_put_in_the_place_of_what_goes_goes_too(
    clinic: ClinicFolder, tmp_path: Path
) -> None:
    """A review and an import that come between the beginning of an end and its finish."""
    folder = killed_before_its_end(clinic, tmp_path / "death")
    old, middle, _ = folder.pictures.pictures().values()
    content = folder.vault.put(PATIENT, JPEG + b"covered", kind="picture")
    changed = reviewed(old, "masked", content=content)
    more = replace(middle, fields={**middle.fields, "sex": "female"})
    folder.pictures.write([changed, more], now=NOW, actor="op")
    assert finish_retention(folder)
    assert state(folder)[:2] == AFTER[:2]
    assert folder.vault.listed(("picture",)) == folder.pictures.objects()
    assert folder.pictures.find(middle.number).fields["sex"] == "female"


def test_what_went_stays_away_through_later_ends_and_is_erased_with_its_patient(
    clinic: ClinicFolder,
) -> None:
    apply_retention(clinic, now=NOW)
    apply_retention(clinic, now=NOW + timedelta(days=20))
    days = sorted((TODAY - day).days for day in open_folder(clinic.path).pictures.ended().values())
    assert days == [15, 31]
    Vault(clinic.path / "vault", clinic.patient_keys).erase([PATIENT])
    assert clinic.pictures.ended() == {}


def test_a_picture_of_an_erased_patient_is_no_obstacle(clinic: ClinicFolder) -> None:
    Vault(clinic.path / "vault", clinic.patient_keys).erase([PATIENT])
    due = retention_due(clinic, now=NOW)
    assert (due.pictures, due.fields) == (0, {})
    assert apply_retention(clinic, now=NOW).certificate is not None  # of the computed files
    assert state(clinic)[0] == [b"new"]


def test_a_store_that_is_added_to_does_not_become_younger(clinic: ClinicFolder) -> None:
    path = clinic.path / "features" / "other.store"
    note_made(path, TODAY)
    assert made(path) == TODAY - timedelta(days=400)


def test_only_who_may_erase_removes(tmp_path: Path) -> None:
    roles = '{steward: [nobody], clinician: [], operator: ["*"], auditor: []}'
    folder = make(tmp_path / "made", retention=RULES, roles=roles)
    assert retention_due(folder, now=NOW).nothing
    with pytest.raises(PolicyError):
        apply_retention(folder, now=NOW)


def test_rows_of_pictures_that_stay_are_not_computed_again(clinic: ClinicFolder) -> None:
    """Whatever version a store is of; the row of the picture that went is in none."""
    pictures = {
        name: (hashlib.sha256(JPEG + name.encode()).digest(), patient)
        for name, patient in (("old", PATIENT), ("middle", PATIENT), ("new", OTHER))
    }
    digests, patients = map(list, zip(*pictures.values(), strict=True))
    path = clinic.features / "real.store"
    rows = np.eye(3, dtype=np.float32)
    FeatureStore(path, clinic.key, clinic.patient_keys, "v").append(digests, patients, rows)
    note_made(path, TODAY)
    apply_retention(clinic, now=NOW)
    assert [each.name for each in clinic.features.glob("*.store")] == ["real.store"]
    assert made(path) == TODAY
    left = FeatureStore(path, clinic.key, clinic.patient_keys, "v")
    assert left.find_missing(digests, patients) == [0]
    assert np.array_equal(left.take(digests[1:], patients[1:]), rows[1:])
    assert len(left) == 2


@pytest.mark.parametrize("lost", [False, True])
def test_a_damaged_picture_that_stays_is_no_obstacle(clinic: ClinicFolder, lost: bool) -> None:
    """What is over goes all the same; the picture's row goes too, and the others stay."""
    (stays,) = (p for p in clinic.pictures.pictures().values() if p.patient == OTHER)
    names = {"middle": PATIENT, "new": OTHER}
    digests = [hashlib.sha256(JPEG + name.encode()).digest() for name in names]
    path = clinic.features / "real.store"
    store = FeatureStore(path, clinic.key, clinic.patient_keys, "v")
    store.append(digests, list(names.values()), np.eye(2, dtype=np.float32))
    (place,) = (clinic.path / "vault" / "objects").rglob(str(stays.object))
    damaged = place.read_bytes()[:-1]
    place.unlink()
    if not lost:
        place.write_bytes(damaged)
    apply_retention(clinic, now=NOW)
    assert not retention_due(open_at_screen(clinic.path), now=NOW).pictures
    left = FeatureStore(path, clinic.key, clinic.patient_keys, "v")
    assert left.find_missing(digests, list(names.values())) == [1]
