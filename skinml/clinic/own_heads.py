"""Heads that a clinic keeps to itself, and which of them were fitted to a patient."""

from __future__ import annotations

from pathlib import Path

from skinml.clinic.folder import ClinicFolder
from skinml.clinic.releases import read_contributions
from skinml.stewardship.pseudonyms import pseudonym

PATTERN = "*/personal-head*"
"""Where they lie, below the folder of the runs."""


def heads_of(folder: ClinicFolder, patient: str) -> list[Path]:
    """Find the clinic's own heads that were fitted to a patient, or may have been.

    Args:
        folder: The clinic's folder.
        patient: The patient's id.

    Returns:
        Their files: of runs that trained on the patient, and of those whose record of whom they
        read is gone.

    Raises:
        EnvironmentProblem: If a record cannot be read.
        IntegrityError: If one was changed.
    """
    name = pseudonym(folder.key, patient)
    return [path for path in _heads(folder) if _may_hold(folder, path.parent.name, name)]


def _heads(folder: ClinicFolder) -> list[Path]:
    return sorted((folder.path / "runs").glob(PATTERN))


def _may_hold(folder: ClinicFolder, run: str, name: str) -> bool:
    rounds = read_contributions(folder, run)
    return not rounds or any(name in each.patients.get("train", ()) for each in rounds)
