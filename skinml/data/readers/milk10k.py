"""MILK10k: a clinical close-up and a dermoscopic image of each lesion, 11 diagnoses, skin tone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from skinml.data.readers.published import manifest_columns, one_hot, read_table, whole_years
from skinml.errors import DataError

_MODALITIES = {"clinical: close-up": "clinical_closeup", "dermoscopic": "dermoscopic"}
_CLASSES = (
    "AKIEC",
    "BCC",
    "BEN_OTH",
    "BKL",
    "DF",
    "INF",
    "MAL_OTH",
    "MEL",
    "NV",
    "SCCKA",
    "VASC",
)


def read(source: Path) -> pd.DataFrame:
    """Read the training metadata, ground truth and, where it is there, the supplement.

    No patient is named: lesion_id stands for the patient. Images lie in a folder a lesion, as
    published. Skin tone is MILK10k's own scale, 0 very dark to 5 very light.

    Args:
        source: Folder with MILK10k_Training_Metadata.csv and MILK10k_Training_GroundTruth.csv.

    Returns:
        Rows in a manifest's columns.

    Raises:
        DataError: If a file is missing or not as published, or a lesion has no ground truth.

    Source:
        MILK study team, MILK10k, ISIC Archive 2025.
    """
    needed = ("lesion_id", "image_type", "isic_id", "age_approx", "sex", "skin_tone_class", "site")
    table = read_table(source, "MILK10k_Training_Metadata.csv", needed)
    truth = read_table(source, "MILK10k_Training_GroundTruth.csv", ("lesion_id", *_CLASSES))
    diagnosis = dict(zip(truth["lesion_id"], one_hot(truth, _CLASSES), strict=True))
    unlabelled = int((~table["lesion_id"].isin(diagnosis)).sum())
    if unlabelled:
        raise DataError(
            rule="ground truth for every lesion",
            got=f"{unlabelled} images without",
            do="Use metadata and ground truth of one release.",
        )
    return manifest_columns(
        len(table),
        {
            "image": [
                f"MILK10k_Training_Input/{lesion}/{image}.jpg"
                for lesion, image in zip(table["lesion_id"], table["isic_id"], strict=True)
            ],
            "patient_id": table["lesion_id"],
            "lesion_id": table["lesion_id"],
            "diagnosis": table["lesion_id"].map(diagnosis),
            "age": whole_years(table["age_approx"]),
            "sex": table["sex"],
            "anatomical_site": table["site"],
            "skin_tone": table["skin_tone_class"],
            "skin_tone_scale": table["skin_tone_class"].map(lambda tone: "milk" if tone else ""),
            "modality": table["image_type"].map(lambda word: _MODALITIES.get(word, word)),
            "confirmation": _confirmation(source, table["isic_id"]),
            "dataset": "MILK10k",
            "licence": "CC BY-NC 4.0",
        },
    )


def _confirmation(source: Path, images: pd.Series[str]) -> pd.Series[str]:
    name = "MILK10k_Training_Supplement.csv"
    if not (source / name).is_file():
        return images.map(lambda _: "")
    table = read_table(source, name, ("isic_id", "diagnosis_confirm_type"))
    kinds = dict(zip(table["isic_id"], table["diagnosis_confirm_type"], strict=True))
    return images.map(lambda image: kinds.get(image, ""))
