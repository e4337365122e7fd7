"""ISIC 2019 challenge: 25,331 dermoscopic training images, 8 diagnoses."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from skinml.data.readers.published import manifest_columns, one_hot, read_table, whole_years
from skinml.errors import DataError

CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
"""The diagnoses in the order of their numbers in the ground truth."""


def read(source: Path) -> pd.DataFrame:
    """Read the training metadata and ground truth as published by the ISIC challenge.

    No patient is named: the lesion stands for the patient, and where a row has no lesion_id
    either, the image. It holds HAM10000: do not use both as if they were different patients.

    Args:
        source: Folder with ISIC_2019_Training_Metadata.csv and ISIC_2019_Training_GroundTruth.csv.

    Returns:
        Rows in a manifest's columns.

    Raises:
        DataError: If a file is missing or not as published, or an image has no ground truth.

    Source:
        ISIC 2019 challenge; Combalia et al. 2019, arXiv:1908.02288; Codella et al. 2018;
        Tschandl et al. 2018.
    """
    needed = ("image", "age_approx", "anatom_site_general", "lesion_id", "sex")
    table = read_table(source, "ISIC_2019_Training_Metadata.csv", needed)
    truth = read_table(source, "ISIC_2019_Training_GroundTruth.csv", ("image", *CLASSES))
    diagnosis = dict(zip(truth["image"], one_hot(truth, CLASSES), strict=True))
    unlabelled = int((~table["image"].isin(diagnosis)).sum())
    if unlabelled:
        raise DataError(
            rule="ground truth for every image",
            got=f"{unlabelled} images without",
            do="Use metadata and ground truth of one release.",
        )
    lesions = table["lesion_id"]
    return manifest_columns(
        len(table),
        {
            "image": "ISIC_2019_Training_Input/" + table["image"] + ".jpg",
            "patient_id": lesions.where(lesions != "", table["image"]),
            "lesion_id": lesions,
            "diagnosis": table["image"].map(diagnosis),
            "age": whole_years(table["age_approx"]),
            "sex": table["sex"],
            "anatomical_site": table["anatom_site_general"],
            "modality": "dermoscopic",
            "dataset": "ISIC2019",
            "licence": "CC BY-NC 4.0",
        },
    )
