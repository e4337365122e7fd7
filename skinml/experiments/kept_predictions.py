"""What the virtual clinics of a simulation keep sealed of a run's test and validation patients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from skinml.clinic.folder import ClinicFolder
from skinml.clinic.virtual import find_virtual_among
from skinml.config import parse_config
from skinml.errors import ConfigError, EnvironmentProblem
from skinml.experiments.samples import read_predictions
from skinml.fairness.cells import taken
from skinml.records import Predictions, RunRecord
from skinml.stewardship.days import this_day


def kept_predictions(
    record: RunRecord, roots: Sequence[Path], split: str = "test"
) -> tuple[dict[str, Predictions], str]:
    """Open what a simulation's virtual clinics keep of a run's test or validation patients.

    Args:
        record: The run's record.
        roots: Folders in which the clinics' folders may be.
        split: "test" or "validation".

    Returns:
        The predictions by clinic, without those of patients who withdrew or were erased since; or
        none and the reason.

    Raises:
        IntegrityError: If a clinic's folder was changed.
        PolicyError: If one of the folders is a real clinic's, which no simulation wrote.
    """
    if record.evaluation_source != "exact":
        return {}, "its figures come from noised counts: no prediction left a clinic"
    if not record.guarantee.simulated:
        return {}, "it is a run of real clinics: predictions stay with them"
    present = record.participation[-1].took_part if record.participation else ()
    parts = {}
    for name in sorted(present):
        folder = find_virtual_among(roots, name)
        if folder is None:
            return {}, "the folders of its virtual clinics are not here"
        try:
            said = read_predictions(folder, record.run, split, record.classes)
        except (OSError, EnvironmentProblem):
            return {}, f"{name} no longer keeps its predictions"
        parts[name] = _without_withdrawn(said, folder, record)
    return parts, "" if parts else "nobody took part in it"


def _without_withdrawn(said: Predictions, folder: ClinicFolder, record: RunRecord) -> Predictions:
    """Leave out who withdrew since: to look at them again is a use of its own."""
    if not len(said):
        return said
    try:
        purpose = parse_config(dict(record.config)).purpose
    except ConfigError:
        purpose = "research"
    told = folder.consents.verdicts(said.patients.tolist(), purpose, this_day())
    return taken(said, np.asarray(told != "withdrawn", dtype=bool))
