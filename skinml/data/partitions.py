"""Which clinic holds which patient, where the data do not come with clinics or shall be redealt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from skinml.data.splits import keyed_uniforms
from skinml.errors import ConfigError
from skinml.records import UNKNOWN_GROUP, IntArray, StrArray

if TYPE_CHECKING:
    import pandas as pd

    from skinml.data.settings import PartitionSettings
    from skinml.seeding import Seeds


def assign_clinics(frame: pd.DataFrame, settings: PartitionSettings, seeds: Seeds) -> StrArray:
    """Name the clinic of each row.

    Random and Dirichlet partitions deal whole patients, each by a hash of the id, with shares
    that are drawn once a label: adding or removing a patient moves nobody else.

    Args:
        frame: (n) rows with `patient_id`; with the named column for "column",
            `anatomical_site` for "site", and `label` (0, 1, ...) for "dirichlet".
        settings: How to divide.
        seeds: The root of the data's random streams.

    Returns:
        (n,) clinic names; "unknown" where the column says none.

    Raises:
        ConfigError: If the manifest lacks the named column.

    Guarantees:
        The same seed, settings and patient give the same clinic.

    Source:
        The Dirichlet label skew is that of Hsu, Qi and Brown 2019, arXiv:1909.06335.
    """
    if settings.by == "pooled":
        return np.full(len(frame), settings.prefix, dtype=np.str_)
    if settings.by in ("column", "site"):
        return _named(frame, settings.column if settings.by == "column" else "anatomical_site")
    patients = frame["patient_id"].astype(str).tolist()
    uniforms = keyed_uniforms(patients, f"partition/{seeds.integer('partition')}")
    if settings.by == "random":
        chosen: IntArray = np.floor(uniforms * settings.num_clinics).astype(np.int64)
    else:
        chosen = np.empty(len(frame), dtype=np.int64)
        labels = patient_labels(frame)
        for label in np.unique(labels):
            stream = seeds.stream(f"partition/dirichlet/{label}")
            shares = stream.dirichlet(np.full(settings.num_clinics, settings.alpha))
            rows = labels == label
            limits = np.cumsum(shares)[:-1]
            chosen[rows] = np.searchsorted(limits, uniforms[rows], side="right")
    return np.asarray([f"{settings.prefix}-{clinic + 1}" for clinic in chosen], dtype=np.str_)


def patient_labels(frame: pd.DataFrame) -> IntArray:
    """Give each row its patient's commonest label; the higher one where two are as common.

    Args:
        frame: (n) rows with `patient_id` and `label`.

    Returns:
        (n,) labels, one value a patient.
    """
    counts = frame.groupby(["patient_id", "label"]).size().reset_index(name="count")
    ranked = counts.sort_values(["count", "label"]).drop_duplicates("patient_id", keep="last")
    modal = ranked.set_index("patient_id")["label"]
    return np.asarray(frame["patient_id"].map(modal), dtype=np.int64)


def _named(frame: pd.DataFrame, column: str) -> StrArray:
    if column not in frame.columns:
        raise ConfigError(
            rule="partition.column one of the manifest's columns",
            got=f"column={column}",
            do=f"Choose among {', '.join(frame.columns)}.",
        )
    return np.asarray(frame[column].fillna(UNKNOWN_GROUP).astype(str), dtype=np.str_)
