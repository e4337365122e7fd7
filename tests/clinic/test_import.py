"""Importing pictures: what is kept, what nobody finds any more, and that a kill leaves no half."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from skinml.clinic.check_clinic import check_clinic
from skinml.clinic.check_machine import Moment
from skinml.clinic.consents import add_consent
from skinml.clinic.correction import correct_record
from skinml.clinic.erased import erased_among
from skinml.clinic.erasure import erase_patient
from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.clinic.imported_data import imported_manifest
from skinml.clinic.importing import ImportReport, ImportRequest, import_pictures
from skinml.clinic.importing_records import dates_of
from skinml.clinic.importing_terms import ImportTerms, read_terms
from skinml.clinic.policies import apply_change, plan_change
from skinml.clinic.retention import apply_retention
from skinml.data.deidentify import Finders
from skinml.data.foreign_pictures import open_picture
from skinml.data.settings import ImageLimits
from skinml.errors import ConfigError, DataError, EnvironmentProblem, PolicyError
from skinml.stewardship.deidentification import Box, Sighting
from skinml.stewardship.pictures import ORIGINAL, PENDING, PICTURE, SHORT, reviewed
from skinml.stewardship.pseudonyms import pseudonym
from tests.clinic.hostile_pictures import PLANTED, Hostile, dicom, jpeg, make_hostile, skin
from tests.clinic.rights import FORM, make
from tests.policy_text import policy_text
from tests.stewardship.test_vault_killed import die_at

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOTHING = Finders(lambda pixels: [], lambda pixels: [])


def bring(folder: ClinicFolder, source: Path, records: Path, **more) -> ImportReport:
    finders, now = more.pop("finders", NOTHING), more.pop("now", NOW)
    request = ImportRequest(source, records, **more)
    return import_pictures(folder, request, now=now, finders=finders)


def write_list(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def small(tmp_path) -> tuple[Path, Path]:
    """Three pictures of two patients, and their list."""
    source = tmp_path / "camera"
    source.mkdir()
    rows = []
    for number in range(3):
        (source / f"{number}.jpg").write_bytes(jpeg(skin(number)))
        rows.append(
            {
                "patient_id": ("ada", "ada", "bo")[number],
                "image": f"{number}.jpg",
                "diagnosis": ("nevus", "melanoma", "nevus")[number],
                "age": ("93", "41.5", "")[number],
                "taken": ("2024-03-07", "2024-04-06", "07.03.2024")[number],
            }
        )
    return source, write_list(tmp_path / "list.csv", rows)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def everywhere(folder: ClinicFolder) -> bytes:
    """All bytes that lie on the disk for a clinic, names of files included."""
    places = [folder.path, folder.anchors.path.parent]
    files = [path for place in places for path in sorted(place.rglob("*"))]
    return b"\n".join(
        path.name.encode() + b"\n" + (path.read_bytes() if path.is_file() else b"")
        for path in files
    )


def forms_of(word: str) -> tuple[bytes, ...]:
    return word.encode(), word.lower().encode(), word.encode("utf-16-le"), word.encode("utf-16-be")


def leaks(content: bytes, words: Sequence[str] = PLANTED) -> list[str]:
    return [word for word in words if any(form in content for form in forms_of(word))]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Hostile:
    return make_hostile(tmp_path_factory.mktemp("hostile"), 200, with_models=False)


@pytest.fixture(scope="module")
def brought(hostile, tmp_path_factory) -> tuple[ClinicFolder, ImportReport]:
    folder = make(tmp_path_factory.mktemp("clinic"))
    return folder, bring(folder, hostile.source, hostile.records)


def test_each_of_200_hostile_files_ends_in_the_state_that_its_kind_must(hostile, brought) -> None:
    folder, report = brought
    found = {}
    for row in rows_of(hostile.records):
        number = folder.pictures.number_of(row["patient_id"], row["image"])
        found[row["image"]] = folder.pictures.find(number).state
    assert len(found) == 200
    wrong = Counter(
        (hostile.kinds[image], state)
        for image, state in found.items()
        if state != hostile.expected[image]
    )
    assert wrong == {}
    assert report.states == Counter(hostile.expected.values())


def test_no_planted_identifier_is_in_any_byte_after_import_and_check(
    brought, capfd, caplog
) -> None:
    folder, report = brought
    assert leaks(json.dumps(asdict(report)).encode()) == []
    usable = [each for each in folder.pictures.pictures().values() if each.usable]
    agreed = {each.patient for each in usable[:12]}
    for patient in agreed:
        add_consent(folder, patient, FORM, now=NOW)
    checked = check_clinic(folder, None, now=datetime.now(UTC), clocks=lambda: Moment(0.0, 0.0))
    assert checked.num_images == sum(each.patient in agreed for each in usable) > 10
    assert leaks(repr(checked).encode()) == []
    assert leaks(everywhere(folder)) == []
    told = capfd.readouterr()
    assert leaks((told.out + told.err + caplog.text).encode()) == []
    # Behind the seals too: in no picture, and in what is kept beside it only the patient's own id.
    for each in folder.pictures.pictures().values():
        assert leaks(json.dumps(dict(each.fields)).encode()) == []
        if each.object:
            assert leaks(folder.vault.read(each.object)) == []


def test_what_is_kept_of_a_file_is_its_picture_as_it_is_meant_to_be_seen(hostile, brought) -> None:
    folder, _ = brought
    turned = next(image for image, kind in hostile.kinds.items() if kind == "gps")
    rows = {row["image"]: row for row in rows_of(hostile.records)}
    number = folder.pictures.number_of(rows[turned]["patient_id"], turned)
    picture = folder.pictures.find(number)
    before = open_picture((hostile.source / turned).read_bytes(), ImageLimits()).pixels
    after = open_picture(folder.vault.read(picture.object), ImageLimits()).pixels
    assert before.shape == after.shape == (picture.height, picture.width, 3) == (128, 96, 3)
    assert abs(before.astype(int) - after.astype(int)).mean() < 1.5  # the orientation is applied


def test_the_same_import_again_changes_no_byte(small, tmp_path) -> None:
    folder = make(tmp_path)
    assert bring(folder, *small).new == 3
    before = everywhere(folder)
    report = bring(folder, *small)
    assert (report.new, report.unchanged) == (0, 3)
    assert everywhere(folder) == before


def test_a_changed_row_is_told_and_keeps_what_a_person_decided(small, tmp_path) -> None:
    source, records = small
    folder = make(tmp_path)
    bring(folder, source, records)
    number = folder.pictures.number_of("bo", "2.jpg")
    picture = folder.pictures.find(number)
    folder.pictures.write([reviewed(picture, "rejected", content=None)], now=NOW, actor="op")
    records.write_text(records.read_text().replace("bo,2.jpg,nevus", "bo,2.jpg,melanoma"))
    report = bring(folder, source, records)
    assert (report.changed_rows, report.unchanged, report.new) == (1, 2, 0)
    again = folder.pictures.find(number)
    assert again.fields["diagnosis"] == "melanoma"
    assert again.state == "rejected"


def test_a_changed_file_takes_the_old_ones_place(small, tmp_path) -> None:
    source, records = small
    folder = make(tmp_path)
    bring(folder, source, records)
    number = folder.pictures.number_of("ada", "0.jpg")
    old = folder.pictures.find(number)
    (source / "0.jpg").write_bytes(jpeg(skin(9)))
    assert bring(folder, source, records).changed_files == 1
    new = folder.pictures.find(number)
    assert new.object != old.object
    assert folder.vault.listed([PICTURE]) == folder.pictures.objects()
    with pytest.raises(DataError):
        open_folder(folder.path).pictures.find("0" * 32)


def test_a_dry_run_counts_the_same_and_writes_nothing(small, tmp_path) -> None:
    folder = make(tmp_path)
    before = everywhere(folder)
    dry = bring(folder, *small, dry_run=True)
    assert everywhere(folder) == before
    wet = bring(folder, *small)
    assert replace(dry, dry_run=False, seconds={}) == replace(wet, seconds={})


def test_what_the_models_are_unsure_of_waits_sealed_and_is_used_by_nothing(small, tmp_path) -> None:
    folder = make(tmp_path)
    unsure = Sighting(Box(0, 0, 9, 9, "face"), 0.25)
    report = bring(folder, *small, finders=Finders(lambda pixels: [unsure], lambda pixels: []))
    assert report.states == {"to_review": 3}
    assert len(folder.vault.listed([PENDING])) == 3
    assert folder.vault.listed([PICTURE]) == set()
    with pytest.raises(DataError):
        imported_manifest(folder, "research", NOW.date())


def test_an_erased_patient_does_not_come_back_with_the_next_import(small, tmp_path) -> None:
    folder = make(tmp_path)
    bring(folder, *small)
    erase_patient(folder, "ada", now=NOW)
    report = bring(folder, *small)
    assert (report.erased, report.unchanged) == (2, 1)
    assert {each.patient for each in folder.pictures.pictures().values()} == {"bo"}
    add_consent(folder, "ada", FORM, now=NOW)  # who agrees anew is welcome
    assert bring(folder, *small).new == 2


def test_who_is_erased_while_an_import_goes_on_gets_no_key_by_it(small, tmp_path) -> None:
    folder = make(tmp_path)
    add_consent(folder, "ada", FORM, now=NOW)
    asked = []

    def erase_meanwhile(pixels) -> list[Sighting]:
        if not asked:
            asked.append(erase_patient(open_folder(folder.path), "ada", now=NOW))
        return []

    report = bring(folder, *small, finders=Finders(erase_meanwhile, lambda pixels: []))
    assert (report.new, report.erased) == (1, 2)
    assert folder.patient_keys.find_pseudonyms([pseudonym(folder.key, "ada")]) == {}
    assert {each.patient for each in folder.pictures.pictures().values()} == {"bo"}
    assert bring(folder, *small).erased == 2


def test_an_erasure_that_was_killed_bars_its_patient_before_the_log_says_so(
    small, tmp_path
) -> None:
    folder = make(tmp_path / "made")
    bring(folder, *small)
    for number in range(1, 120, 4):
        here = tmp_path / f"death-{number}"
        shutil.copytree(folder.path.parent, here)
        copy = open_folder(here / "north")
        assert die_at(number, lambda copy=copy: erase_patient(copy, "ada", now=NOW))
        copy = open_folder(here / "north")
        told = any(entry.event == "erasure" for entry in copy.audit.entries())
        has_key = bool(copy.patient_keys.find_pseudonyms([pseudonym(copy.key, "ada")]))
        assert erased_among(copy, ["ada", "bo"]) == (set() if has_key else {"ada"})
        shutil.rmtree(here)
        if not has_key:
            break
    assert not told  # the key is gone, and only what was written down first says whose
    assert number > 8


DAYS = "features_days: 365, predictions_days: 20, log_days: 9, by_field: {age_days: 10}"
ENDS = f"{{images_days: 30, {DAYS}}}"


def test_what_was_kept_for_its_days_does_not_come_back_as_new(small, tmp_path) -> None:
    source, records = small
    folder = make(tmp_path, retention=ENDS)
    bring(folder, source, records)
    later = NOW + timedelta(days=31)
    assert apply_retention(folder, now=later).due.pictures == 3
    rows = rows_of(records)
    (source / "3.jpg").write_bytes(jpeg(skin(3)))
    write_list(records, [*rows, rows[0] | {"image": "3.jpg"}])
    report = bring(folder, source, records, now=later)
    assert (report.new, report.ended, report.erased) == (1, 3, 0)
    (picture,) = folder.pictures.pictures().values()
    assert picture.imported == later.date()
    assert bring(folder, source, records, now=later, dry_run=True).ended == 3


def test_where_the_policy_keeps_longer_again_the_days_still_count_from_the_first_import(
    small, tmp_path
) -> None:
    folder = make(tmp_path, retention=ENDS)
    bring(folder, *small)
    later = NOW + timedelta(days=31)
    apply_retention(folder, now=later)
    text = policy_text(retention=f"{{images_days: 90, {DAYS}}}")
    apply_change(folder, plan_change(folder, text.encode()), now=later)
    longer = open_folder(folder.path)
    assert bring(longer, *small, now=later).new == 3
    pictures = longer.pictures.pictures().values()
    assert {each.imported for each in pictures} == {NOW.date()}
    assert not any("age" in each.fields for each in pictures)


def test_a_field_that_was_kept_for_its_days_does_not_come_back_with_a_changed_row_or_file(
    small, tmp_path
) -> None:
    source, records = small
    folder = make(tmp_path, retention=ENDS)
    bring(folder, source, records)
    later = NOW + timedelta(days=11)
    assert apply_retention(folder, now=later).due.fields == {"age": 2}
    records.write_text(records.read_text().replace("ada,0.jpg,nevus", "ada,0.jpg,melanoma"))
    (source / "1.jpg").write_bytes(jpeg(skin(9)))
    report = bring(folder, source, records, now=later)
    assert (report.changed_rows, report.changed_files) == (1, 1)
    pictures = list(folder.pictures.pictures().values())
    assert not any("age" in each.fields for each in pictures)
    assert {each.imported for each in pictures} == {NOW.date()}


def test_a_corrected_value_stands_against_every_later_list(small, tmp_path) -> None:
    source, records = small
    folder = make(tmp_path)
    bring(folder, source, records)
    number = folder.pictures.number_of("ada", "1.jpg")
    only = number[:SHORT]
    correct_record(folder, "ada", {"age": "61", "diagnosis": "nevus"}, now=NOW, only=only)
    rows = [row | {"sex": "female", "malignant": "1"} for row in rows_of(records)]
    write_list(records, rows)
    report = bring(folder, source, records)
    assert (report.changed_rows, report.corrected) == (3, 3)  # age, diagnosis, and what it says
    assert folder.pictures.find(number).fields["sex"] == "female"
    (source / "1.jpg").write_bytes(jpeg(skin(9)))
    assert bring(folder, source, records).changed_files == 1
    fields = open_folder(folder.path).pictures.find(number).fields
    assert (fields["age"], fields["diagnosis"]) == ("61", "nevus")
    assert "malignant" not in fields
    other = folder.pictures.find(folder.pictures.number_of("ada", "0.jpg"))
    assert (other.fields["age"], other.fields["malignant"]) == ("90", "1")


def test_the_import_says_how_many_patients_nothing_may_be_used_of(small, tmp_path) -> None:
    folder = make(tmp_path)
    assert bring(folder, *small, dry_run=True).without_consent == 2
    add_consent(folder, "ada", FORM | {"valid_from": "2026-02-01"}, now=NOW)
    assert bring(folder, *small).without_consent == 1


@pytest.mark.parametrize("step", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_point_the_same_command_goes_on(small, tmp_path, step: int) -> None:
    source, records = small
    whole = make(tmp_path, originals="keep")
    clean = tmp_path / "clean"
    shutil.copytree(tmp_path / "north", clean / "north")
    shutil.copytree(tmp_path / "anchors", clean / "anchors")
    bring(whole, source, records)
    wanted = [(p.state, dict(p.fields)) for p in whole.pictures.pictures().values()]
    number = died = 0
    alive = False
    while not alive:
        number += step
        place = tmp_path / f"try-{number}"
        shutil.copytree(clean, place)
        folder = open_folder(place / "north")
        alive = not die_at(number, lambda folder=folder: bring(folder, source, records))
        died += not alive
        again = open_folder(place / "north")  # whatever happened, nothing looks changed
        bring(again, source, records)
        there = open_folder(place / "north")
        found = there.pictures.pictures().values()
        # Dates are shifted by the clinic's key, which the copies share.
        assert [(p.state, dict(p.fields)) for p in found] == wanted
        assert there.vault.listed([PICTURE, PENDING]) == there.pictures.objects()
        assert there.vault.listed([ORIGINAL]) == there.pictures.originals()
        assert there.vault.verify() == 6
        shutil.rmtree(place)
    assert died * step > 40


def test_dates_of_a_patient_move_together_and_otherwise_at_each_clinic(tmp_path) -> None:
    days = [date(2024, 3, 7), date(2024, 4, 6)]
    shifts = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        dates = dates_of(make(tmp_path / name), ImportTerms(), NOW.date())
        moved = [date.fromisoformat(dates.coarse("ada", day)) for day in days]
        assert moved[1] - moved[0] == days[1] - days[0]
        many = [
            (date.fromisoformat(dates.coarse(f"p{number}", days[0])) - days[0]).days
            for number in range(400)
        ]
        assert 0 not in many
        assert 330 < max(many) <= 365
        assert -365 <= min(many) < -330
        shifts.add(tuple(many))  # one patient's alone would agree by chance, once in 730 times
    assert len(shifts) == 2


@pytest.mark.parametrize(("how", "kept"), [("month", "2024-03"), ("year", "2024")])
def test_dates_can_be_cut_instead(small, tmp_path, how: str, kept: str) -> None:
    folder = make(tmp_path)
    bring(folder, *small, terms=ImportTerms(dates=how))
    picture = folder.pictures.find(folder.pictures.number_of("ada", "0.jpg"))
    assert picture.fields["taken"] == kept


def test_ages_over_89_are_one_group_and_a_birth_date_becomes_an_age(tmp_path) -> None:
    source = tmp_path / "camera"
    source.mkdir()
    born = ["1930-01-01", "1935-03-08", "1936-03-07", "1990-06-01"]
    rows = []
    for number, day in enumerate(born):
        (source / f"{number}.jpg").write_bytes(jpeg(skin(number)))
        rows.append(
            {
                "patient_id": f"p{number}",
                "image": f"{number}.jpg",
                "diagnosis": "nevus",
                "DOB": day,
                "taken": "2025-03-07",
            }
        )
    folder = make(tmp_path)
    terms = ImportTerms(columns={"birth_date": "DOB"})
    report = bring(folder, source, write_list(tmp_path / "l.csv", rows), terms=terms)
    ages = [each.fields["age"] for each in folder.pictures.pictures().values()]
    assert ages == ["90", "89", "89", "34"]
    assert "birth_date" not in report.kept


def test_a_dicom_file_gives_only_the_tags_that_were_asked_for(tmp_path) -> None:
    source = tmp_path / "camera"
    source.mkdir()
    (source / "1.dcm").write_bytes(dicom(1))
    row = {"patient_id": "ada", "image": "1.dcm", "diagnosis": "nevus"}
    folder = make(tmp_path)
    terms = ImportTerms(dicom={"age": "PatientAge", "sex": "PatientSex", "taken": "ContentDate"})
    bring(folder, source, write_list(tmp_path / "l.csv", [row]), terms=terms)
    (picture,) = folder.pictures.pictures().values()
    assert (picture.fields["age"], picture.fields["sex"]) == ("90", "female")
    assert picture.fields["taken"] != "2024-03-07"
    assert set(picture.fields) == {"diagnosis", "age", "sex", "taken"}


FREE = "patient came with her sister and told that it grew since the summer"


@pytest.mark.parametrize(
    ("header", "column", "cells", "error"),
    [
        ("treatment", None, [FREE] * 3, DataError),
        ("outcome", None, ["call 0171 5550177", "good", "good"], DataError),
        ("confirmation", None, ["a@b.example", "x", "x"], DataError),
        ("BRAF status", "treatment", ["yes", "no", "no"], PolicyError),
        ("therapy", "treatment", ["p.V600E", "none", "none"], PolicyError),
        ("IBAN", "outcome", ["x", "y", "z"], PolicyError),
        ("outcome", None, ["DE02 1203 0000 0000 2020 51", "y", "z"], PolicyError),
    ],
)
def test_free_text_genes_and_money_are_refused_before_anything_is_read(
    small, tmp_path, header: str, column: str | None, cells: list[str], error
) -> None:
    source, records = small
    rows = [row | {header: cell} for row, cell in zip(rows_of(records), cells, strict=True)]
    folder = make(tmp_path)
    terms = ImportTerms(columns={column: header} if column else {})
    with pytest.raises(error) as caught:
        bring(folder, source, write_list(records, rows), terms=terms)
    assert not any(len(cell) > 3 and cell in str(caught.value) for cell in cells)
    assert folder.pictures.pictures() == {}


def test_genes_are_kept_where_the_policy_names_a_purpose(small, tmp_path) -> None:
    source, records = small
    rows = [row | {"BRAF": "wild type"} for row in rows_of(records)]
    folder = make(tmp_path, special_fields="{genetic: [care], financial: []}")
    write_list(records, rows)
    bring(folder, source, records, terms=ImportTerms(columns={"genetic": "BRAF"}))
    fields = [each.fields["genetic"] for each in folder.pictures.pictures().values()]
    assert fields == ["wild type"] * 3
    assert "genetic" not in imported_manifest(folder, "research", NOW.date()).frame


def test_many_different_sentences_are_free_text_even_if_each_is_short(tmp_path) -> None:
    rows = [
        {
            "patient_id": f"p{number}",
            "image": f"{number}.jpg",
            "diagnosis": "nevus",
            "outcome": f"saw {'abcdefghijklmnopqrstuvwxy'[number]}rnold Miller",
        }
        for number in range(25)
    ]
    with pytest.raises(DataError, match="free text"):
        bring(make(tmp_path), tmp_path, write_list(tmp_path / "l.csv", rows))


def test_an_unknown_word_that_stands_once_is_not_repeated(small, tmp_path) -> None:
    source, records = small
    records.write_text(records.read_text().replace("bo,2.jpg,nevus", "bo,2.jpg,Jane Roe"))
    with pytest.raises(DataError) as caught:
        bring(make(tmp_path), source, records)
    assert "Jane" not in repr(caught.value) + str(caught.value.details)
    assert "1 unknown words" in str(caught.value)


def test_what_the_policy_does_not_keep_stays_out(small, tmp_path) -> None:
    folder = make(tmp_path, fields="[sex]")
    report = bring(folder, *small)
    assert report.closed == ("age",)
    assert all("age" not in each.fields for each in folder.pictures.pictures().values())


def test_who_may_not_import_is_refused_and_it_is_logged(small, tmp_path) -> None:
    folder = make(tmp_path, roles='{steward: ["*"], clinician: [], operator: [], auditor: []}')
    with pytest.raises(PolicyError):
        bring(folder, *small)
    assert folder.audit.entries()[-1].event == "refusal"


@pytest.mark.parametrize(
    "text",
    [
        "columns: {patient_id: No, image: No}",
        "columns: {name: Full name}",
        "dicom: {age: PatientName}",
        "dicom: {diagnosis: PatientAge}",
        "whole: {diagnosis: nevus}",
        "pictures: {faces: keep}",
    ],
)
def test_terms_that_would_bring_in_more_than_they_may_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        read_terms(text.encode())


def test_a_missing_list_is_the_environments_fault(tmp_path) -> None:
    with pytest.raises(EnvironmentProblem):
        bring(make(tmp_path), tmp_path, tmp_path / "no.csv")


def test_pseudonyms_are_the_same_in_the_next_import_and_others_elsewhere(small, tmp_path) -> None:
    names = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        folder = make(tmp_path / name)
        bring(folder, *small)
        names.append(set(folder.patient_keys.ids().values()))
        bring(folder, *small)
        assert set(folder.patient_keys.ids().values()) == names[-1]
    assert len(names[0]) == len(names[1]) == 2
    assert not names[0] & names[1]
