"""What Python prints of a value, in a traceback or a log, names no patient."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from skinml.clinic.consents import Ending
from skinml.clinic.releases import Contribution
from skinml.data.cohort import Cohort
from skinml.data.images import Inspection
from skinml.data.manifest import Manifest
from skinml.data.patient_rows import PatientRows
from skinml.data.taxonomy import load_taxonomy
from skinml.experiments.cohorts import Gathered
from skinml.records import Labels, Predictions, Samples
from skinml.stewardship.admissibility import Admission
from skinml.stewardship.consent import Consent, ConsentRecord, RegisterLine

PLANTED = "Planted-77"
DAY = datetime.date(2026, 3, 1)
FRAME = pd.DataFrame({"patient_id": [PLANTED], "image": [f"{PLANTED}.png"]})
NAMES, ONE = np.array([PLANTED]), np.zeros(1, dtype=np.int64)
CLASSES = Labels(("benign", "malignant"), (False, True))
FORM = Consent(
    purposes=("research",), valid_from=DAY, form_version="1", how="paper", given_by="patient"
)
ADMISSION = Admission(FRAME, "", 0)
COHORT = Cohort(
    images=FRAME,
    items=FRAME,
    views=ONE[:, None],
    labels=CLASSES,
    unit="patient",
    root=Path(),
    flow=(),
    table=(),
    name="data",
    digest="",
    tone_scale=None,
    admissions={"north": ADMISSION},
    private=True,
)


@pytest.mark.parametrize(
    "value",
    [
        Samples(ONE, ONE, NAMES, {"clinic": NAMES}),
        Predictions(CLASSES, ONE, np.ones((1, 2)), ONE, NAMES),
        PatientRows([PLANTED], [b"k"], {}),
        Inspection(PLANTED, b"", 1, 1),
        Manifest(FRAME, Path(), "patient", "data", "", load_taxonomy()),
        ADMISSION,
        COHORT,
        Gathered(COHORT, NAMES, {}, (), "", "", ""),
        ConsentRecord(PLANTED, FORM),
        RegisterLine("", "ada", "granted", ((PLANTED, FORM),), None),
        Contribution(1, 1, (0,), {"train": (PLANTED,)}),
        Ending(PLANTED, ("research",), DAY),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_value_prints_its_patients(value: object) -> None:
    assert PLANTED not in f"{value!r} {[value]} {value}"
