"""Correcting a record: the right value is read, the wrong one is gone, others are untouched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from skinml.clinic.begun import file_of
from skinml.clinic.correction import correct_record
from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.clinic.imported_data import imported_manifest
from skinml.clinic.opening import open_at_screen
from skinml.clinic.requests import note_request, requests_of
from skinml.errors import ConfigError, DataError, SkinmlError
from skinml.stewardship.pseudonyms import pseudonym
from tests.clinic.rights import NOW, enrol, make
from tests.clinic.test_access import bring_in
from tests.stewardship.test_vault_killed import die_at

PATIENT, OTHER = "Ada-4711", "Bo-4712"


@pytest.fixture
def clinic(tmp_path: Path) -> ClinicFolder:
    folder = make(tmp_path / "made")
    enrol(folder, PATIENT, OTHER)
    bring_in(folder, PATIENT, "one", "two")
    bring_in(folder, OTHER, "three")
    return folder


def ages(folder: ClinicFolder) -> dict[str, list[float]]:
    frame = imported_manifest(folder, "research", NOW.date()).frame
    return {str(name): rows["age"].tolist() for name, rows in frame.groupby("patient_id")}


def test_the_right_value_is_read_and_the_old_line_is_gone(clinic: ClinicFolder) -> None:
    before = (clinic.path / "pictures.journal").read_bytes().splitlines()
    note_request(clinic, PATIENT, "correct", now=NOW)
    done = correct_record(clinic, PATIENT, {"age": "61"}, now=NOW)
    assert (done.pictures, done.closed) == (2, 1)
    assert ages(open_folder(clinic.path)) == {PATIENT: [61, 61], OTHER: [54]}
    after = (clinic.path / "pictures.journal").read_bytes().splitlines()
    old = {json.loads(line)["body"]["sealed"] for line in before}
    new = {json.loads(line)["body"].get("sealed") for line in after}
    assert not old & new
    assert requests_of(clinic) == ()
    name = pseudonym(clinic.key, PATIENT)
    told = [each.fields for each in clinic.audit.entries() if each.event == "correction"]
    assert told == [{"patient": name, "rows": 2}]


def test_one_picture_by_its_number_and_a_value_taken_away(clinic: ClinicFolder) -> None:
    second = clinic.pictures.of_patient(PATIENT)[1].number[:8]
    assert correct_record(clinic, PATIENT, {"age": "61"}, now=NOW, only=second).pictures == 1
    assert ages(clinic)[PATIENT] == [54, 61]
    correct_record(clinic, PATIENT, {"skin_tone": ""}, now=NOW)
    assert all("skin_tone" not in each.fields for each in clinic.pictures.of_patient(PATIENT))


def test_ages_over_89_stay_one_group(clinic: ClinicFolder) -> None:
    correct_record(clinic, PATIENT, {"age": "97"}, now=NOW)
    assert ages(clinic)[PATIENT] == [90, 90]


@pytest.mark.parametrize(
    "changes",
    [
        {"age": "young"},
        {"age": "-3"},
        {"sex": "unheard of"},
        {"malignant": "perhaps"},
        {"malignant": "1"},
        {"diagnosis": ""},
        {"diagnosis": "seen by Dr Miller on 2026-01-02, see letter"},
        {"name": "Ada"},
        {"lesion_id": "x"},
        {"age": "54"},
        {},
    ],
)
def test_what_a_manifest_may_not_have_changes_nothing(
    clinic: ClinicFolder, changes: dict[str, str]
) -> None:
    before = (clinic.path / "pictures.journal").read_bytes()
    with pytest.raises(SkinmlError) as caught:
        correct_record(clinic, PATIENT, changes, now=NOW)
    assert isinstance(caught.value, ConfigError | DataError)
    assert "Miller" not in str(caught.value)
    assert (clinic.path / "pictures.journal").read_bytes() == before


@pytest.mark.parametrize("number", ["", "1", "0123abcd"])
def test_a_picture_that_the_patient_has_not_is_refused(clinic: ClinicFolder, number: str) -> None:
    with pytest.raises(DataError, match="such a picture"):
        correct_record(clinic, PATIENT, {"age": "61"}, now=NOW, only=number)


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_step_all_is_corrected_or_nothing(
    clinic: ClinicFolder, tmp_path: Path, every: int
) -> None:
    note_request(clinic, PATIENT, "correct", now=NOW)
    found = set()
    for number in range(1, 90, every):
        here = tmp_path / f"death-{number}"
        shutil.copytree(clinic.path.parent, here)

        def act(path: Path = here / "north") -> None:
            correct_record(open_folder(path), PATIENT, {"age": "61"}, now=NOW)

        died = die_at(number, act)
        folder = open_at_screen(here / "north")
        read = ages(folder)
        assert read[OTHER] == [54]
        logged = [each.event for each in folder.audit.entries()]
        told = (logged.count("correction"), logged.count("request answered"))
        left = (tuple(read[PATIENT]), told, len(requests_of(folder)))
        assert left in (((54, 54), (0, 0), 1), ((61, 61), (1, 1), 0)), number
        assert not (folder.path / file_of("correction")).exists()
        found.add(left)
        shutil.rmtree(here)
        if not died:
            break
    assert not died
    assert len(found) == 2


def test_a_diagnosis_and_what_it_says_of_cancer_are_corrected_together(
    clinic: ClinicFolder,
) -> None:
    both = {"diagnosis": "melanoma", "malignant": "1"}
    correct_record(clinic, PATIENT, both, now=NOW)
    with pytest.raises(ConfigError, match="together"):
        correct_record(clinic, PATIENT, {"diagnosis": "naevus"}, now=NOW)
    correct_record(clinic, OTHER, {"diagnosis": "melanoma"}, now=NOW)  # nothing beside it


def test_one_correction_does_not_answer_two_questions(clinic: ClinicFolder) -> None:
    for _ in range(2):
        note_request(clinic, PATIENT, "correct", now=NOW)
    assert correct_record(clinic, PATIENT, {"age": "61"}, now=NOW).closed == 0
    assert len(requests_of(clinic)) == 2


def test_a_clinics_own_words_are_known_to_its_corrections(
    clinic: ClinicFolder, tmp_path: Path
) -> None:
    words = tmp_path / "words.yaml"
    words.write_text("diagnoses: {melanoma: {malignant: true, words: [schwarzer Hautkrebs]}}\n")
    wrong = {"diagnosis": "schwarzer Hautkrebs"}
    with pytest.raises(DataError, match="--taxonomy"):
        correct_record(clinic, PATIENT, wrong, now=NOW)
    assert correct_record(clinic, PATIENT, wrong, now=NOW, taxonomy=words).pictures == 2
