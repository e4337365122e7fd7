"""Fitzpatrick17k: 16,577 clinical photographs of 114 conditions with a Fitzpatrick type."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from skinml.data.readers.published import manifest_columns, read_table

_UNKNOWN_TONE = "-1"


def read(source: Path) -> pd.DataFrame:
    """Read the annotation table as published on GitHub.

    No patient and no lesion is named, so each image is its own unit: pictures of one patient may
    fall on both sides of a split, which only the leakage audit can see. Images are downloaded by
    the user and named by their MD5. Whether a condition counts as malignant is the source's own
    three-way label, which files actinic keratosis under malignant.

    Args:
        source: Folder with fitzpatrick17k.csv.

    Returns:
        Rows in a manifest's columns.

    Raises:
        DataError: If the file is missing or not as published.

    Source:
        Groh et al. 2021, arXiv:2104.09957.
    """
    needed = ("md5hash", "fitzpatrick_scale", "label", "three_partition_label")
    table = read_table(source, "fitzpatrick17k.csv", needed)
    tones = ["" if tone == _UNKNOWN_TONE else tone for tone in table["fitzpatrick_scale"]]
    return manifest_columns(
        len(table),
        {
            "image": "images/" + table["md5hash"] + ".jpg",
            "patient_id": table["md5hash"],
            "diagnosis": table["label"],
            "malignant": (table["three_partition_label"] == "malignant").map(
                {True: "1", False: "0"}
            ),
            "skin_tone": tones,
            "skin_tone_scale": ["fitzpatrick" if tone else "" for tone in tones],
            "modality": "clinical",
            "dataset": "Fitzpatrick17k",
            "licence": "CC BY-NC-SA 3.0",
        },
    )
