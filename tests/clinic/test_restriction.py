"""Restricting the use of a patient's data: nothing is used, nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from skinml.clinic.consents import show_patient, withdraw_consent
from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.clinic.restriction import restrict_patient
from skinml.errors import DataError
from skinml.stewardship.admissibility import assess
from skinml.stewardship.purposes import PURPOSES
from tests.clinic.rights import NOW, enrol, make

PATIENT, OTHER = "Ada-4711", "Bo-4712"
DAY = NOW.date()


@pytest.fixture
def clinic(tmp_path: Path) -> ClinicFolder:
    folder = make(tmp_path)
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


def test_a_licence_does_not_go_before_a_restriction(clinic: ClinicFolder) -> None:
    frame = pd.DataFrame({"patient_id": [PATIENT, OTHER], "licence": "CC0"})
    restrict_patient(clinic, PATIENT, restricted=True, now=NOW)
    found = assess(frame, "research", DAY, clinic.consents)
    assert list(found.frame["patient_id"]) == [OTHER]
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
