"""A small clinic whose ledger, records and log tell of runs, written through the real doors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from skinml.clinic.consents import add_consent
from skinml.clinic.folder import ClinicFolder, create_folder, open_folder
from skinml.clinic.releases import ReleaseRecord
from skinml.privacy.events import Event
from skinml.privacy.ledger import Binding
from skinml.stewardship.policy import parse_policy
from skinml.stewardship.pseudonyms import pseudonyms
from skinml.stewardship.roles import os_user
from tests.policy_text import policy_text

NOW = datetime.now(UTC).replace(microsecond=0)
FORM = {
    "purposes": ("care", "federated_training"),
    "form_version": "v2",
    "how": "paper",
    "given_by": "patient",
    "valid_from": (NOW.date() - timedelta(days=9)).isoformat(),
}
Release = tuple[str, str, str, Event]


def make(place: Path, **lines: str) -> ClinicFolder:
    """Make a clinic whose steward is whoever runs the test."""
    policy = parse_policy(policy_text(**lines).encode())
    create_folder(
        place / "north", name="north", policy=policy, anchors=place / "anchors", virtual=True
    )
    return open_folder(place / "north")


def enrol(folder: ClinicFolder, *patients: str) -> None:
    """Record consents and put a picture of each patient into the vault."""
    for patient in patients:
        add_consent(folder, patient, FORM, now=NOW)
    folder.vault.put_all(patients, [b"picture of " + p.encode() for p in patients], kind="image")


def release(
    folder: ClinicFolder,
    run: str,
    number: int,
    releases: Sequence[Release],
    patients: Mapping[str, Sequence[str]],
    counted: Sequence[str] = (),
) -> None:
    """Do what a clinic does in a round before it computes anything."""
    binding = Binding(run, number, 1, ("north",), "local", "patient_within_clinic", "k", True)
    entries = folder.ledger.reserve(binding, releases)
    named = {"all": pseudonyms(folder.key, counted)} if counted else {}
    ReleaseRecord(folder, run, os_user()).note(entries, patients, named)


def log_run(folder: ClinicFolder, run: str, experiment: str, outcome: str = "completed") -> None:
    """Write a run's beginning and end into the log."""
    folder.audit.write("run approved", os_user(), now=NOW, run=run, experiment=experiment)
    folder.audit.write("run ended", os_user(), now=NOW, run=run, outcome=outcome)
