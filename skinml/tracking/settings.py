"""Where a run writes what it saw."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

# The attributes whose groups may be named in a tracking store. None of them singles out a person.
GROUP_ATTRIBUTES = (
    "skin_tone",
    "fitzpatrick",
    "monk",
    "ita_bin",
    "sex",
    "age_band",
    "anatomical_site",
    "site",
    "clinic",
    "label",
    "diagnosis",
    "modality",
    "dataset",
    "confirmation",
)


class TrackingSettings(BaseModel):
    """Settings of experiment tracking."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(True, description="Whether the run is written to MLflow at all.")
    uri: str | None = Field(
        None,
        description="MLflow's tracking address. Empty: the environment's MLFLOW_TRACKING_URI, or "
        "else an SQLite store in the working folder.",
    )
    experiment: str = Field(
        "skinml",
        min_length=1,
        max_length=100,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_. -]*$",
        description="The MLflow experiment that the runs are put under.",
    )
    register_model: bool = Field(
        True, description="Whether the model goes into MLflow's model registry."
    )
    group_attributes: tuple[str, ...] = Field(
        GROUP_ATTRIBUTES,
        description="The attributes whose groups may be named in the store.",
    )
