"""Restricting the use of a patient's data: nothing is used, nothing is lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from skinml.clinic.consents import show_patient, withdraw_consent
from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.clinic.opening import open_at_screen
from skinml.clinic.requests import note_request, requests_of
from skinml.clinic.restriction import restrict_patient
from skinml.errors import DataError
from skinml.stewardship.admissibility import assess
from skinml.stewardship.purposes import PURPOSES
from tests.clinic.rights import NOW, enrol, make
from tests.stewardship.test_vault_killed import die_at

PATIENT, OTHER = "Ada-4711", "Bo-4712"
DAY = NOW.date()


@pytest.fixture
def clinic(tmp_path: Path) -> ClinicFolder:
    folder = make(tmp_path / "made")
    enrol(folder, PATIENT, OTHER)
    return folder


def standing(folder: ClinicFolder, patient: str) -> dict[str, str]:
    found = open_folder(folder.path).consents
    return {purpose: str(found.verdicts([patient], purpose, DAY)[0]) for purpose in PURPOSES}


def test_every_purpose_stops_and_comes_back_as_it_was(clinic: ClinicFolder) -> None:
    before = standing(clinic, PATIENT)
    assert before["federated_training"] == before["care"] == ""
    restrict_patient(clinic, PATIENT, restricted=True, now=NOW)
    assert set(standing(clinic, PATIENT).values()) == {"restricted"}
    assert standing(clinic, OTHER) == before
    restrict_patient(clinic, PATIENT, restricted=False, now=NOW)
    assert standing(clinic, PATIENT) == before
    events = [e.fields["restricted"] for e in clinic.audit.entries() if e.event == "use restricted"]
    assert events == [True, False]


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_step_the_next_opening_ends_it_and_answers_the_request(
    clinic: ClinicFolder, tmp_path: Path, every: int
) -> None:
    note_request(clinic, PATIENT, "restrict", now=NOW)
    found = set()
    for number in range(1, 90, every):
        here = tmp_path / f"death-{number}"
        shutil.copytree(clinic.path.parent, here)

        def act(path: Path = here / "north") -> None:
            restrict_patient(open_folder(path), PATIENT, restricted=True, now=NOW)

        died = die_at(number, act)
        folder = open_at_screen(here / "north")
        events = [entry.event for entry in folder.audit.entries()]
        told = (events.count("use restricted"), events.count("request answered"))
        left = (standing(folder, PATIENT)["care"], told, len(requests_of(folder)))
        assert left in (("", (0, 0), 1), ("restricted", (1, 1), 0)), number
        found.add(left)
        shutil.rmtree(here)
        if not died:
            break
    assert not died
    assert len(found) == 2


def test_a_licence_does_not_go_before_a_restriction(clinic: ClinicFolder) -> None:
    # One whom the register does not know: what a patient answered goes before a licence.
    frame = pd.DataFrame({"patient_id": [PATIENT, "unknown-to-it"], "licence": "CC0"})
    restrict_patient(clinic, PATIENT, restricted=True, now=NOW)
    found = assess(frame, "research", DAY, clinic.consents)
    assert list(found.frame["patient_id"]) == ["unknown-to-it"]
    assert dict(found.refused) == {"restricted": 1}


def test_a_withdrawal_is_told_before_a_restriction_and_outlives_it(clinic: ClinicFolder) -> None:
    restrict_patient(clinic, PATIENT, restricted=True, now=NOW)
    withdraw_consent(clinic, PATIENT, ["federated_training"], now=NOW)
    assert standing(clinic, PATIENT)["federated_training"] == "withdrawn"
    assert standing(clinic, PATIENT)["care"] == "restricted"
    restrict_patient(clinic, PATIENT, restricted=False, now=NOW)
    assert standing(clinic, PATIENT)["federated_training"] == "withdrawn"
    kinds = [change["kind"] for change in show_patient(clinic, PATIENT, now=NOW).changes]
    assert kinds == ["consent", "restriction", "withdrawal", "restriction"]


def test_what_changes_nothing_and_whom_nobody_knows_are_refused(clinic: ClinicFolder) -> None:
    with pytest.raises(DataError, match="not restricted"):
        restrict_patient(clinic, PATIENT, restricted=False, now=NOW)
    restrict_patient(clinic, PATIENT, restricted=True, now=NOW)
    with pytest.raises(DataError, match="already"):
        restrict_patient(clinic, PATIENT, restricted=True, now=NOW)
    with pytest.raises(DataError, match="knows something"):
        restrict_patient(clinic, "Cy-1", restricted=True, now=NOW)
    restrict_patient(clinic, "Cy-1", restricted=True, now=NOW, even_if_unknown=True)
    assert standing(clinic, "Cy-1")["care"] == "restricted"
