"""A patient's own copy: all that is there, nobody else's, and the log says who took it."""

from __future__ import annotations

import html
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from skinml.clinic.access import write_copy
from skinml.clinic.consents import COVERED, show_patient
from skinml.clinic.erasure import erase_patient
from skinml.clinic.evidence_words import STANDS
from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.clinic.requests import note_request, requests_of
from skinml.errors import ConfigError, DataError, PolicyError
from skinml.privacy.events import GaussianEvent
from skinml.stewardship.admissibility import NOT_ALLOWED
from skinml.stewardship.consent_rules import REASONS
from skinml.stewardship.deidentification import Box
from skinml.stewardship.pictures import PICTURE, Picture
from skinml.stewardship.pseudonyms import pseudonym
from skinml.stewardship.roles import os_user
from tests.clinic.rights import NOW, enrol, log_run, make, release

PATIENT, OTHER = "Ada-4711", "Bo-4712"
GRADIENT = ("gradient", "training", "train", GaussianEvent(8.0))
JPEG = b"\xff\xd8\xff\xe0 picture of "


def bring_in(folder: ClinicFolder, patient: str, *names: str, days_ago: int = 0) -> None:
    """Put pictures on record as an import does."""
    made = []
    for name in names:
        content = folder.vault.put(patient, JPEG + name.encode(), kind=PICTURE)
        number = folder.pictures.number_of(patient, name)
        tone = {"skin_tone": "4", "skin_tone_scale": "fitzpatrick"}
        fields = {"diagnosis": "naevus", "age": "54", **tone}
        day = NOW.date() - timedelta(days=days_ago)
        made.append(
            Picture(number, patient, "accepted", (), content, "s", "d", fields, imported=day)
        )
    folder.pictures.write(made, now=NOW, actor=os_user())


@pytest.fixture
def clinic(tmp_path: Path) -> ClinicFolder:
    folder = make(tmp_path / "made")
    enrol(folder, PATIENT, OTHER)
    bring_in(folder, PATIENT, "one", "two")
    bring_in(folder, OTHER, "three")
    release(folder, "run-1", 1, [GRADIENT], {"train": [PATIENT, OTHER]})
    log_run(folder, "run-1", "derm_tone")
    return folder


def test_the_copy_holds_the_patients_pictures_fields_consents_and_runs(
    clinic: ClinicFolder, tmp_path: Path
) -> None:
    done = write_copy(clinic, PATIENT, tmp_path / "copy", now=NOW)
    assert (done.pictures, done.runs) == (2, 1)
    values = json.loads((tmp_path / "copy" / "data.json").read_text())
    files = [tmp_path / "copy" / each["file"] for each in values["pictures"]]
    assert sorted(each.read_bytes() for each in files) == [JPEG + b"one", JPEG + b"two"]
    assert values["pictures"][0]["fields"]["age"] == "54"
    assert values["consents"]["today"]["federated_training"] == "covered"
    assert [each["kind"] for each in values["consents"]["changes"]] == ["consent"]
    assert values["runs"]["runs"][0]["run"] == "run-1"
    assert values["runs"]["epsilon"] > 0
    page = (tmp_path / "copy" / "summary.html").read_text()
    (first, *_) = clinic.pictures.of_patient(PATIENT)
    for words in (
        f"pictures/{first.number[:8]}.jpg",
        "naevus",
        "yes, you agreed",
        "derm_tone",
        "1 model learnt",
    ):
        assert words in page, words
    for text in (page, json.dumps(values)):
        assert OTHER not in text
        assert "<script" not in text


def test_the_copy_tells_until_when_and_holds_what_is_over_and_still_there(tmp_path: Path) -> None:
    days = "{images_days: 30, features_days: 9, predictions_days: 9, log_days: 9, by_field: "
    folder = make(tmp_path / "made", retention=days + "{age_days: 5}}")
    enrol(folder, PATIENT)
    bring_in(folder, PATIENT, "one", days_ago=6)
    write_copy(folder, PATIENT, tmp_path / "copy", now=NOW)
    (told,) = json.loads((tmp_path / "copy" / "data.json").read_text())["pictures"]
    assert set(told["fields"]) == {"diagnosis", "age", "skin_tone", "skin_tone_scale"}
    assert told["kept_until"] == str(NOW.date() + timedelta(days=24))
    assert told["used_until"]["research"] == str(NOW.date() + timedelta(days=24))


def test_the_copy_says_what_is_not_the_real_day_in_words_and_what_is_covered(
    clinic: ClinicFolder, tmp_path: Path
) -> None:
    first, second = clinic.pictures.of_patient(PATIENT)
    raw = {"diagnosis": "bcc", "age": "90", "skin_tone": "5", "skin_tone_scale": "fitzpatrick"}
    box = (Box(0, 0, 4, 4, "text"),)
    moved = replace(first, fields=raw | {"taken": "2024-03-07"}, state="masked", boxes=box)
    cut = replace(second, fields={"diagnosis": "nevus", "taken": "2024-03"})
    clinic.pictures.write([moved, cut], now=NOW, actor=os_user())
    write_copy(clinic, PATIENT, tmp_path / "copy", now=NOW)
    told = {
        each["number"]: each
        for each in json.loads((tmp_path / "copy" / "data.json").read_text())["pictures"]
    }
    assert told[first.number[:8]]["moved_days"] == ["taken"]
    assert told[second.number[:8]]["moved_days"] == []
    assert [told[each.number[:8]]["covered"] for each in (first, second)] == [1, 0]
    page = html.unescape((tmp_path / "copy" / "summary.html").read_text())
    for words in (
        "taken: 2024-03-07 (moved by a secret number of days)",
        "taken: 2024-03 ",
        "basal cell carcinoma (written: bcc)",
        "age: 90 or older",
        "skin tone: 5 on Fitzpatrick's scale",
        "something is covered",
        "In 1 of them something is covered by one colour or cut away",
    ):
        assert words in page.replace("2024-03<", "2024-03 <"), words


def test_the_log_says_who_took_it_and_the_next_copy_shows_that(
    clinic: ClinicFolder, tmp_path: Path
) -> None:
    note_request(clinic, PATIENT, "access", now=NOW)
    note_request(clinic, OTHER, "access", now=NOW)
    assert write_copy(clinic, PATIENT, tmp_path / "one", now=NOW).closed == 1
    assert [each.number for each in requests_of(clinic)] == [2]
    name = pseudonym(clinic.key, PATIENT)
    (told,) = (entry for entry in clinic.audit.entries() if entry.event == "export")
    assert told.fields == {"kind": "records", "objects": 2, "patient": name, "patients": 1}
    write_copy(clinic, PATIENT, tmp_path / "two", now=NOW)
    looked = json.loads((tmp_path / "two" / "data.json").read_text())["who_looked"]
    assert {"event": "export", "kind": "records"}.items() <= looked[-1].items()


def test_after_an_erasure_the_copy_holds_the_runs_and_no_picture(
    clinic: ClinicFolder, tmp_path: Path
) -> None:
    erase_patient(clinic, PATIENT, now=NOW)
    done = write_copy(open_folder(clinic.path), PATIENT, tmp_path / "copy", now=NOW)
    assert (done.pictures, done.runs) == (0, 1)
    page = (tmp_path / "copy" / "summary.html").read_text()
    assert "Those that were here have been deleted" in page
    assert "no, you said no" in page
    assert "The pictures came from" not in page


def test_every_way_that_a_use_can_stand_has_words_for_the_patient() -> None:
    told_of_purposes = {*REASONS, COVERED} - {"", "kept too long", NOT_ALLOWED}  # of rows
    assert set(STANDS) == told_of_purposes
    assert [words.startswith("yes") for words in STANDS.values()].count(True) == 1


def test_a_value_with_markup_is_shown_as_text(clinic: ClinicFolder, tmp_path: Path) -> None:
    (first, *_) = clinic.pictures.of_patient(PATIENT)
    odd = replace(first, fields={"diagnosis": "<script>alert(1)</script>|x\n# y [a](javascript:b)"})
    clinic.pictures.write([odd], now=NOW, actor=os_user())
    write_copy(clinic, PATIENT, tmp_path / "copy", now=NOW)
    page = (tmp_path / "copy" / "summary.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert 'href="javascript' not in page


def test_two_copies_do_not_mix_and_who_may_not_gets_none(
    clinic: ClinicFolder, tmp_path: Path
) -> None:
    write_copy(clinic, PATIENT, tmp_path / "copy", now=NOW)
    with pytest.raises(ConfigError, match="not there yet, or is empty"):
        write_copy(clinic, OTHER, tmp_path / "copy", now=NOW)
    with pytest.raises(DataError, match="knows something"):
        write_copy(clinic, "Cy-1", tmp_path / "new", now=NOW)
    nobody = "{steward: [nobody], clinician: [], operator: [], auditor: []}"
    closed = make(tmp_path / "x", roles=nobody)
    with pytest.raises(PolicyError):
        write_copy(closed, PATIENT, tmp_path / "new", now=NOW)
    assert not (tmp_path / "new").exists()


def test_who_reads_consents_does_not_write_out_whole_records(tmp_path: Path) -> None:
    words = "{steward: [nobody], clinician: ['*'], operator: [], auditor: []}"
    folder = make(tmp_path / "x", roles=words)
    enrol(folder, PATIENT)
    assert show_patient(folder, PATIENT, now=NOW).purposes["care"] == "covered"
    with pytest.raises(PolicyError, match="write out a patient's whole record: steward"):
        write_copy(folder, PATIENT, tmp_path / "new", now=NOW)
    assert not (tmp_path / "new").exists()
