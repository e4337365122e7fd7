"""PAD-UFES-20: 2,298 smartphone photographs of 1,373 patients, 6 diagnoses, Fitzpatrick type."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from skinml.data.readers.published import manifest_columns, read_table, whole_years


def read(source: Path) -> pd.DataFrame:
    """Read the metadata as published on Mendeley Data; it names patients.

    The images of the three published archives belong in one folder `images`. A lesion's number
    is joined with its patient's, since numbers alone are not promised to be unique.

    Args:
        source: Folder with PAD-UFES-20_metadata.csv (or metadata.csv).

    Returns:
        Rows in a manifest's columns.

    Raises:
        DataError: If the file is missing or not as published.

    Source:
        Pacheco et al. 2020, Data in Brief 32:106221.
    """
    needed = (
        "patient_id",
        "lesion_id",
        "age",
        "gender",
        "fitspatrick",
        "region",
        "diagnostic",
        "img_id",
        "biopsed",
    )
    short = (source / "metadata.csv").is_file()
    table = read_table(source, "metadata.csv" if short else "PAD-UFES-20_metadata.csv", needed)
    tones = whole_years(table["fitspatrick"])
    return manifest_columns(
        len(table),
        {
            "image": "images/" + table["img_id"],
            "patient_id": table["patient_id"],
            "lesion_id": table["patient_id"] + "_" + table["lesion_id"],
            "diagnosis": table["diagnostic"],
            "age": whole_years(table["age"]),
            "sex": table["gender"].str.lower(),
            "anatomical_site": table["region"].str.lower(),
            "skin_tone": tones,
            "skin_tone_scale": ["fitzpatrick" if tone else "" for tone in tones],
            "modality": "clinical_closeup",
            "confirmation": table["biopsed"].map({"True": "histopathology"}).fillna("clinical"),
            "dataset": "PAD-UFES-20",
            "licence": "CC BY 4.0",
        },
    )
