"""DDI, Diverse Dermatology Images: 656 biopsied lesions in three pairs of Fitzpatrick types."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from skinml.data.readers.published import manifest_columns, read_table


def read(source: Path) -> pd.DataFrame:
    """Read the metadata as published by Stanford.

    No patient is named, so each image is its own unit. Skin tone is a pair of Fitzpatrick types:
    12, 34 or 56, written 1-2, 3-4 or 5-6 in a manifest.

    Args:
        source: Folder with ddi_metadata.csv.

    Returns:
        Rows in a manifest's columns.

    Raises:
        DataError: If the file is missing or not as published.

    Source:
        Daneshjou et al. 2022, Science Advances 8:eabq6147.
    """
    needed = ("DDI_ID", "DDI_file", "skin_tone", "malignant", "disease")
    table = read_table(source, "ddi_metadata.csv", needed)
    return manifest_columns(
        len(table),
        {
            "image": "images/" + table["DDI_file"],
            "patient_id": "DDI_" + table["DDI_ID"],
            "diagnosis": table["disease"],
            "malignant": table["malignant"].str.lower(),
            "skin_tone": ["-".join(pair) for pair in table["skin_tone"]],
            "skin_tone_scale": "fitzpatrick",
            "modality": "clinical",
            "confirmation": "histopathology",
            "dataset": "DDI",
            "licence": "research only (Stanford University DDI agreement)",
        },
    )
