"""From the rows of a manifest to one row a patient, by which the patient is counted."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from skinml.data.groups import age_bands
from skinml.records import UNKNOWN_GROUP

if TYPE_CHECKING:
    import pandas as pd

    from skinml.data.settings import DataSettings
    from skinml.data.taxonomy import Taxonomy

_COURSES = ("treatment", "outcome")


def with_groups(
    frame: pd.DataFrame, attributes: Sequence[str], settings: DataSettings, taxonomy: Taxonomy
) -> pd.DataFrame:
    """Name the group of each row by each attribute.

    Args:
        frame: A manifest's rows.
        attributes: Some of `skinml.data.table_settings.ATTRIBUTES`.
        settings: Bins, age bands and the scale of skin tones.
        taxonomy: The meaning of treatments and outcomes.

    Returns:
        The frame with a column `group.ATTRIBUTE` each. Whatever is in no group, such as a tone of
        another scale than the settings', is "unknown".
    """
    columns = {f"group.{name}": _groups(frame, name, settings, taxonomy) for name in attributes}
    return frame.assign(**columns)


def one_row_each(frame: pd.DataFrame, attributes: Sequence[str], split_key: str) -> pd.DataFrame:
    """Choose the row that a patient is counted by at a clinic.

    Args:
        frame: Rows with the columns of `with_groups`, patient_id, clinic, image and malignant.
        attributes: Those that are counted by.
        split_key: The public key of the hash that ends ties.

    Returns:
        One row a clinic and patient: the one that leaves fewest attributes unknown; of such, one
        of a malignant condition; of such, the first by a hash of the patient and the image.

    Guarantees:
        The choice depends on the patient's own rows alone.
    """
    known = np.array([frame[f"group.{name}"] == UNKNOWN_GROUP for name in attributes])
    ranked = frame.assign(
        unknowns=known.sum(axis=0),
        benign=~frame["malignant"].astype(bool),
        order=[
            hashlib.sha256(f"skinml row {split_key} {patient} {image}".encode()).hexdigest()
            for patient, image in zip(frame["patient_id"], frame["image"], strict=True)
        ],
    ).sort_values(["unknowns", "benign", "order"], kind="stable")
    first = ranked.drop_duplicates(["clinic", "patient_id"])
    return first.drop(columns=["unknowns", "benign", "order"]).sort_index().reset_index(drop=True)


def _groups(
    frame: pd.DataFrame, attribute: str, settings: DataSettings, taxonomy: Taxonomy
) -> Sequence[str]:
    if attribute == "age_band":
        return [str(band) for band in age_bands(frame["age"], settings.age_bands)]
    cells = frame[attribute].fillna("").astype(str)
    if attribute in _COURSES:
        return [word or UNKNOWN_GROUP for word in taxonomy.courses(attribute, cells.tolist())]
    if attribute == "skin_tone":
        cells = cells.where(frame["skin_tone_scale"] == settings.tone_scale, "")
    if attribute in settings.bins:
        bins = settings.bins[attribute]
        cells = cells.map({value: name for name, members in bins.items() for value in members})
    return [str(cell) for cell in cells.fillna("").replace("", UNKNOWN_GROUP)]
