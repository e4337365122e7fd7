"""The words of consents and policies: what data may be used for, and which data."""

from __future__ import annotations

from typing import Literal, get_args

Purpose = Literal[
    "care", "research", "teaching", "federated_training", "publication_of_images", "statistics"
]
"""What a patient's data are used for. `research` is any study at the clinic that holds the data or
with data brought together in one place; `federated_training` is training with other clinics where
only protected sums leave; `statistics` is counting patients over several clinics, of which only
protected counts leave."""

DataKind = Literal["images", "records", "before_and_after_images"]
"""Which of a patient's data: photographs; what the manifest says beside them, such as age and
diagnosis; pairs of photographs of a treatment's course, which show more of a person and their
history and therefore need a consent of their own."""

PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
DATA_KINDS: tuple[DataKind, ...] = get_args(DataKind)
