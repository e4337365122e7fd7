"""A drawn list of patients for statistics, and the same counts by pandas alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

CLINICS = ("east", "north", "west")
_DIAGNOSES = ("melanoma", "nevus", "bcc", "eczema")
_TREATMENTS = ("", "excision", "cryotherapy", "topical steroid", "a word of nobody's")
_OUTCOMES = ("", "healed", "better", "recurred")
# What the words above mean: written down here once more, apart from the taxonomy.
MEANINGS = {
    "diagnosis": {
        "bcc": "basal_cell_carcinoma",
        "eczema": "inflammatory_or_infectious",
    },
    "treatment": {
        "": "unknown",
        "excision": "surgery",
        "cryotherapy": "physical",
        "topical steroid": "topical",
        "a word of nobody's": "other",
    },
    "outcome": {"": "unknown", "healed": "cleared", "better": "improved", "recurred": "worse"},
}


def write_list(folder: Path, num_patients: int = 240) -> pd.DataFrame:
    """Write a manifest of one row a patient, with files that are no pictures.

    Args:
        folder: Where; made.
        num_patients: How many.

    Returns:
        What was written.
    """
    rng = np.random.default_rng(5)
    (folder / "images").mkdir(parents=True)
    rows = pd.DataFrame(
        {
            "image": [f"images/{number}.jpg" for number in range(num_patients)],
            "patient_id": [f"P-{number}" for number in range(num_patients)],
            "clinic": rng.choice(CLINICS, num_patients),
            "diagnosis": rng.choice(_DIAGNOSES, num_patients, p=[0.2, 0.4, 0.3, 0.1]),
            "age": rng.integers(0, 95, num_patients),
            "skin_tone": rng.integers(1, 7, num_patients),
            "skin_tone_scale": "fitzpatrick",
            "treatment": rng.choice(_TREATMENTS, num_patients),
            "outcome": rng.choice(_OUTCOMES, num_patients),
            "licence": "CC0-1.0",
        }
    )
    for image in rows["image"]:
        (folder / image).write_bytes(b"no picture: nothing may open it")
    rows.to_csv(folder / "manifest.csv", index=False)
    return rows


def meant(rows: pd.DataFrame) -> pd.DataFrame:
    """Put the public groups in the place of the words.

    Args:
        rows: What `write_list` gave.

    Returns:
        A column an attribute.
    """
    found = pd.DataFrame(
        {
            name: rows[name].map(lambda word, own=own: own.get(word, word))
            for name, own in MEANINGS.items()
        }
    )
    found["skin_tone"] = pd.cut(rows["skin_tone"], [0, 2, 4, 6], labels=["1-2", "3-4", "5-6"])
    found["age_band"] = pd.cut(
        rows["age"], [-1, 29, 49, 69, 200], labels=["0-29", "30-49", "50-69", "70+"]
    )
    return found.astype(str)
