"""Scoring a finished model asks the clinics again: who withdrew, and for what their data are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from skinml.clinic.folder import ClinicFolder
from skinml.clinic.virtual import virtual_folder
from skinml.config import RunConfig, load_config
from skinml.errors import ConfigError, PolicyError
from skinml.experiments.gates import EvaluationGates, Gates
from skinml.experiments.workspace import Workspace
from skinml.stewardship.consent import Consent

NOW = datetime.now(UTC)
PATIENTS = ("agreed", "withdrew", "unknown")


def config(place: Path, *more: str) -> RunConfig:
    return load_config("quickstart", (f"work_dir={place}", *more))


def form(settings: RunConfig, days_ago: int = 0) -> Consent:
    return Consent(
        purposes=("care", settings.purpose),
        valid_from=NOW.date() - timedelta(days=days_ago),
        form_version="v1",
        how="paper",
        given_by="patient",
    )


def clinic(settings: RunConfig, name: str) -> ClinicFolder:
    """A clinic where one patient agreed and another took it back."""
    workspace = Workspace(settings.work_dir)
    folder = virtual_folder(workspace.clinics, workspace.anchors, name, settings.clinic.policy)
    for patient in PATIENTS[:2]:
        folder.consents.grant(patient, form(settings, 9), now=NOW, actor="ada")
    folder.consents.withdraw(PATIENTS[1], now=NOW, actor="ada")
    return folder


def gates(settings: RunConfig, *, own: bool) -> EvaluationGates:
    workspace = Workspace(settings.work_dir)
    return EvaluationGates(settings, workspace, "quickstart-1", own, NOW.date())


@pytest.mark.parametrize(
    ("own", "expected"),
    [(True, ["", "withdrawn", "no consent"]), (False, ["no consent", "withdrawn", "no consent"])],
)
def test_a_place_that_pooled_all_data_answers_for_all_clinics(
    tmp_path: Path, own: bool, expected: list[str]
) -> None:
    settings = config(tmp_path, "federation=centralised")
    clinic(settings, "pooled")
    door = gates(settings, own=own).door("north", PATIENTS)
    assert door.consents is not None
    found = door.consents.verdicts(PATIENTS, settings.purpose, NOW.date())
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("said_at", "federation"), [("north", "centralised"), ("pooled", "simulation")]
)
def test_who_withdrew_at_a_clinic_is_not_pooled_and_the_reverse(
    tmp_path: Path, said_at: str, federation: str
) -> None:
    """The run's own place has every patient's consent on record, and not that one took it back."""
    settings = config(tmp_path, f"federation={federation}")
    here = clinic(settings, "pooled" if federation == "centralised" else "north")
    clinic(settings, said_at)
    again = form(settings)
    here.consents.grant(PATIENTS[1], again, now=NOW, actor="ada")
    here.consents.grant(PATIENTS[2], again, now=NOW, actor="ada")
    run = Gates(settings, Workspace(tmp_path), "quickstart-2", tmp_path, NOW.date())
    for gate in (run, gates(settings, own=True)):
        consents = gate.door("north", PATIENTS).consents
        assert consents is not None
        found = consents.verdicts(PATIENTS, settings.purpose, NOW.date())
        assert found.tolist() == ["", "withdrawn", ""]
        alone = here.consents.verdicts(PATIENTS, settings.purpose, NOW.date())
        assert alone.tolist() == ["", "", ""]


def test_a_policy_that_allows_the_purpose_no_more_closes_the_door_and_says_so(
    tmp_path: Path,
) -> None:
    settings = config(tmp_path)
    folder = clinic(settings, "north")
    assert gates(settings, own=True).door("north", PATIENTS).consents is not None
    stricter = settings.clinic.policy.model_copy(update={"purposes": ("research",)})
    workspace = Workspace(tmp_path)
    folder = virtual_folder(workspace.clinics, workspace.anchors, "north", stricter)
    asked = gates(settings, own=True)
    with pytest.raises(PolicyError, match="purpose"):
        asked.door("north", PATIENTS)
    asked.refuse()
    told = folder.audit.entries()[-1]
    assert (told.event, told.fields["reason"]) == ("refusal", "policy")


@pytest.mark.parametrize(
    ("federation", "purpose"),
    [
        ("simulation", "care"),
        ("simulation", "research"),
        ("simulation", "publication_of_images"),
        ("centralised", "care"),
        ("centralised", "federated_training"),
    ],
)
def test_a_run_cannot_call_itself_what_patients_agreed_to(federation: str, purpose: str) -> None:
    """Care goes on for who withdrew from all else: a run in its name would use their data."""
    with pytest.raises(ConfigError, match="purpose"):
        load_config("quickstart", (f"federation={federation}", f"data.purpose={purpose}"))
