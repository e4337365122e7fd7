"""Patients' requests: their last day, what closes them, and that the list names nobody."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from skinml.clinic.erasure import erase_patient
from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.clinic.requests import (
    close_request,
    log_requests,
    note_request,
    requests_of,
    whose,
)
from skinml.clinic.restriction import restrict_patient
from skinml.errors import ConfigError, DataError, IntegrityError, PolicyError
from skinml.stewardship.pseudonyms import pseudonym
from tests.clinic.rights import NOW, enrol, make
from tests.stewardship.test_vault_killed import die_at

PATIENT, OTHER = "Ada-4711", "Bo-4712"
TODAY = NOW.date()


@pytest.fixture
def clinic(tmp_path: Path) -> ClinicFolder:
    folder = make(tmp_path / "made")
    enrol(folder, PATIENT, OTHER)
    return folder


def test_a_request_is_due_the_policys_days_after_it_came(clinic: ClinicFolder) -> None:
    came = TODAY - timedelta(days=40)
    late = note_request(clinic, PATIENT, "access", now=NOW, received=came)
    fresh = note_request(clinic, OTHER, "erase", now=NOW)
    assert (late.due, fresh.due) == (came + timedelta(days=30), TODAY + timedelta(days=30))
    assert (late.days_left(TODAY), fresh.days_left(TODAY)) == (-10, 30)
    assert requests_of(open_folder(clinic.path)) == (late, fresh)


def test_what_is_done_closes_the_patients_own_requests_of_that_kind_alone(
    clinic: ClinicFolder,
) -> None:
    for patient, right in ((PATIENT, "restrict"), (OTHER, "restrict"), (PATIENT, "erase")):
        note_request(clinic, patient, right, now=NOW)
    restrict_patient(clinic, PATIENT, restricted=True, now=NOW)
    assert [each.number for each in requests_of(clinic)] == [2, 3]
    erase_patient(clinic, PATIENT, now=NOW)
    assert [each.number for each in requests_of(clinic)] == [2]
    told = {each.number: each.outcome for each in requests_of(clinic, also_closed=True)}
    assert told == {1: "done", 2: None, 3: "done"}
    answers = [e.fields for e in clinic.audit.entries() if e.event == "request answered"]
    name = pseudonym(clinic.key, PATIENT)
    assert answers == [
        {"answer": "yes", "count": 1, "patient": name, "right": "restrict"},
        {"answer": "yes", "count": 3, "patient": name, "right": "erase"},
    ]


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_between_list_and_log_leaves_no_request_unlogged(
    clinic: ClinicFolder, tmp_path: Path, every: int
) -> None:
    note_request(clinic, OTHER, "access", now=NOW)
    found = set()
    for number in range(1, 60, every):
        here = tmp_path / f"death-{number}"
        shutil.copytree(clinic.path.parent, here)

        def act(path: Path = here / "north") -> None:
            folder = open_folder(path)
            note_request(folder, PATIENT, "object", now=NOW)
            close_request(folder, 2, "refused", now=NOW)

        died = die_at(number, act)
        folder = open_folder(here / "north")
        log_requests(folder, now=NOW)
        listed = requests_of(folder, also_closed=True)
        events = [entry.event for entry in folder.audit.entries()]
        assert events.count("request received") == len(listed)
        assert events.count("request answered") == sum(each.closed is not None for each in listed)
        assert log_requests(folder, now=NOW) == 0
        found.add((len(listed), events.count("request answered")))
        shutil.rmtree(here)
        if not died:
            break
    assert not died
    assert found == {(1, 0), (2, 0), (2, 1)}


def test_a_refusal_is_written_down_and_a_number_is_closed_once(clinic: ClinicFolder) -> None:
    note_request(clinic, PATIENT, "object", now=NOW)
    assert close_request(clinic, 1, "refused", now=NOW).outcome == "refused"
    for number in (1, 2, 0):
        with pytest.raises(DataError, match="number of an open request"):
            close_request(clinic, number, "done", now=NOW)


def test_nobody_is_named_in_the_file_and_who_asks_for_names_is_in_the_log(
    clinic: ClinicFolder,
) -> None:
    note_request(clinic, PATIENT, "access", now=NOW)
    file = clinic.path / "requests.sealed"
    assert PATIENT.encode() not in file.read_bytes()
    assert pseudonym(clinic.key, PATIENT).encode() not in file.read_bytes()
    assert whose(clinic, requests_of(clinic), now=NOW) == {1: PATIENT}
    assert clinic.audit.entries()[-1].fields == {"kind": "requests", "patients": 1}


def test_an_older_list_that_is_put_back_is_noticed(clinic: ClinicFolder) -> None:
    note_request(clinic, PATIENT, "access", now=NOW)
    before = (clinic.path / "requests.sealed").read_bytes()
    note_request(clinic, PATIENT, "erase", now=NOW)
    (clinic.path / "requests.sealed").write_bytes(before)
    with pytest.raises(IntegrityError):
        requests_of(clinic)


@pytest.mark.parametrize(("right", "ahead"), [("forget", 0), ("access", 1)])
def test_an_unknown_right_and_a_day_ahead_are_refused(
    clinic: ClinicFolder, right: str, ahead: int
) -> None:
    with pytest.raises(ConfigError, match="a right: access" if right == "forget" else "came today"):
        note_request(clinic, PATIENT, right, now=NOW, received=TODAY + timedelta(days=ahead))
    assert requests_of(clinic) == ()


@pytest.mark.parametrize(
    ("word", "right"),
    [("rectification", "correct"), ("Erasure", "erase"), ("restriction", "restrict")],
)
def test_a_laws_word_for_a_right_is_understood(clinic: ClinicFolder, word: str, right: str) -> None:
    assert note_request(clinic, PATIENT, word, now=NOW).right == right


def test_who_has_no_role_writes_nothing_down(tmp_path: Path) -> None:
    folder = make(tmp_path, roles="{steward: [nobody], clinician: [], operator: [], auditor: []}")
    with pytest.raises(PolicyError):
        note_request(folder, PATIENT, "access", now=NOW)
