"""HAM10000: 10,015 dermoscopic images, 7 diagnoses."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from skinml.data.readers.published import manifest_columns, read_table, whole_years


def read(source: Path) -> pd.DataFrame:
    """Read the metadata as published on Harvard Dataverse.

    No patient is named: lesion_id stands for the patient. The images of both parts belong in one
    folder `images`. Later releases name the clinic in a column `dataset`.

    Args:
        source: Folder with HAM10000_metadata.csv (or the file without an ending).

    Returns:
        Rows in a manifest's columns.

    Raises:
        DataError: If the file is missing or not as published.

    Source:
        Tschandl, Rosendahl and Kittler 2018, Scientific Data 5:180161.
    """
    needed = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
    bare = (source / "HAM10000_metadata").is_file()
    table = read_table(source, "HAM10000_metadata" if bare else "HAM10000_metadata.csv", needed)
    return manifest_columns(
        len(table),
        {
            "image": "images/" + table["image_id"] + ".jpg",
            "patient_id": table["lesion_id"],
            "lesion_id": table["lesion_id"],
            "clinic": table.get("dataset", ""),
            "diagnosis": table["dx"],
            "age": whole_years(table["age"]),
            "sex": table["sex"],
            "anatomical_site": table["localization"],
            "modality": "dermoscopic",
            "confirmation": table["dx_type"],
            "dataset": "HAM10000",
            "licence": "CC BY-NC 4.0",
        },
    )
