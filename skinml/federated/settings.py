"""How rounds are run."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class FederationSettings(BaseModel):
    """How the clinics of a run are reached and what happens when one is missing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["simulation", "centralised"] = Field(
        "simulation",
        description="simulation: one Flower node a clinic on this machine; centralised: all "
        "patients at one clinic called 'pooled' and no wire.",
    )
    allowed_missing: int = Field(
        0, ge=0, description="Clinics that a round may go on without; more end the run (exit 4)."
    )
    round_deadline_s: float = Field(
        600.0, gt=0, description="Seconds after which a silent clinic counts as missing."
    )
    cpus: int = Field(
        0, ge=0, description="Processor cores for the simulation; 0 takes all there are, at most 8."
    )
