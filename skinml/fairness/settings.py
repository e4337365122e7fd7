"""What the statistics by group may be told: fixed in the config before the data are seen."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class FairnessSettings(BaseModel):
    """Settings of the estimates by group."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    evaluation: Literal["exact", "dp_counts"] = Field(
        "exact",
        description="Where the test figures come from: exact predictions, which only a simulation "
        "can see, or noised counts of test patients, which every run may publish.",
    )
    replicates: int = Field(
        2000, ge=100, description="Bootstrap replicates; each draws every patient's weight once."
    )
    level: float = Field(0.95, gt=0.5, lt=1, description="Nominal coverage of every interval.")
    min_events: int = Field(
        30,
        ge=1,
        description="Below this many effective patients behind a figure it is marked 'few events'.",
    )
    exact_below: int = Field(
        15,
        ge=2,
        description="Below this many effective patients behind a figure, or right or wrong in a "
        "proportion, an exact or score interval replaces the bootstrap.",
    )
    calibration_bins: int = Field(
        10, ge=2, description="Greatest number of equal-mass bins of the calibration error."
    )
    reference: dict[str, str] = Field(
        default_factory=dict,
        description="For each attribute, the group that the others are compared with.",
    )
    margin: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Greatest difference between groups that counts as none, set in advance.",
    )
