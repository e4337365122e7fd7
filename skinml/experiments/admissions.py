"""Counts of who was admitted at the gates: exact inside a clinic, noised beyond it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np

from skinml.clinic.folder import ClinicFolder
from skinml.config import RunConfig
from skinml.durable import make_folder, write_whole
from skinml.errors import IntegrityError
from skinml.experiments.gates import POOLED
from skinml.privacy.plan import admissions_release
from skinml.privacy.trust import noise_rule
from skinml.records import ADMISSION_CELLS, FloatArray, IntArray, NoisedCounts
from skinml.stewardship.admissibility import Admission
from skinml.stewardship.encryption import derive_key, seal, unseal
from skinml.stewardship.pseudonyms import pseudonyms

_ADMITTED = ADMISSION_CELLS[0]
# The best thing that became of a patient counts: whoever was admitted for one image is in the run.
_RANKS = {cell: rank for rank, cell in enumerate(ADMISSION_CELLS)}


@dataclass(frozen=True, repr=False)
class Standings:
    """What became of each patient of a clinic at its gate. Per patient: never log.

    Attributes:
        cells: Positions in `records.ADMISSION_CELLS` by the patient's pseudonym.
    """

    cells: Mapping[str, int]

    @property
    def counts(self) -> IntArray:
        """(cells,) how many patients are in each cell, each patient in one."""
        return np.bincount(list(self.cells.values()), minlength=len(ADMISSION_CELLS))


def store_standings(
    folder: ClinicFolder, run: str, admissions: Mapping[str, Admission], mode: str
) -> None:
    """Seal in a clinic's folder what became of its patients at its gate.

    Args:
        folder: The clinic's folder.
        run: The run's id.
        admissions: What each clinic of the manifest admitted.
        mode: federation.mode: centralised joins the clinics of the manifest.

    Raises:
        EnvironmentProblem: If the folder cannot be written.
    """
    found: dict[str, int] = {}
    for clinic, admission in admissions.items():
        if folder.name != (POOLED if mode == "centralised" else clinic):
            continue
        named = pseudonyms(folder.key, list(admission.standings))
        for name, reason in zip(named, admission.standings.values(), strict=True):
            rank = _RANKS[reason or _ADMITTED]
            found[name] = min(rank, found.get(name, rank))
    make_folder(folder.run(run), "folder of a run")
    content = seal(_key(folder), json.dumps(found).encode(), context=run.encode())
    write_whole(_file(folder, run), content, "counts of admissions")


def read_standings(folder: ClinicFolder, run: str) -> Standings:
    """Read what became of a clinic's patients at its gate.

    Args:
        folder: The clinic's folder.
        run: The run's id.

    Returns:
        The standings.

    Raises:
        IntegrityError: If they are not there or were changed.
    """
    try:
        content = _file(folder, run).read_bytes()
    except OSError as error:
        raise IntegrityError(
            rule=f"the counts of admissions that the run {run} began with at clinic {folder.name}",
            got=f"none ({error.strerror})",
            do="Start the run anew.",
        ) from None
    return Standings(json.loads(unseal(_key(folder), content, context=run.encode())))


def drop_standings(folder: ClinicFolder, run: str) -> None:
    """Remove what became of a clinic's patients at its gate; the audit log keeps the counts.

    Args:
        folder: The clinic's folder.
        run: The run's id.
    """
    _file(folder, run).unlink(missing_ok=True)


def noised_counts(
    config: RunConfig, total: FloatArray | None, *, num_clinics: int, num_present: int
) -> NoisedCounts | None:
    """Read the released counts.

    Args:
        config: The run's config.
        total: (cells,) the noisy sum over the clinics; None where none was released.
        num_clinics: Clinics in the run.
        num_present: Clinics in the sum.

    Returns:
        The rounded counts with the standard deviation of their noise; None without a release.
    """
    release = admissions_release(config.privacy)
    if total is None or release is None:
        return None
    rule, scale = noise_rule(config.privacy, num_clinics), config.privacy.max_clinics_per_patient
    alone = sqrt(num_present * rule.clinic**2 + rule.coordinator**2)
    return NoisedCounts(
        counts={
            cell: round(scale * float(value))
            for cell, value in zip(ADMISSION_CELLS, total, strict=True)
        },
        std=scale * alone * release.noise_multiplier * release.sensitivity,
    )


def _file(folder: ClinicFolder, run: str) -> Path:
    return folder.run(run) / "admissions.sealed"


def _key(folder: ClinicFolder) -> bytes:
    return derive_key(folder.key, "admissions")
