"""What a run promises to a patient, as the config states it. All of it is public."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from skinml.errors import ConfigError

Trust = Literal["none", "central", "distributed", "local"]
Unit = Literal["patient_within_clinic", "patient"]
Recipe = Literal["centred", "projected", "started", "preconditioned", "prototypes"]


class BudgetSettings(BaseModel):
    """Ceilings on what a clinic's ledger may ever hold; whatever is stricter wins."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epsilon: float | None = Field(
        None, gt=0, description="Greatest total epsilon of a clinic's ledger; none: no ceiling."
    )
    epsilon_per_year: float | None = Field(
        None, gt=0, description="Greatest epsilon within 365 days; none: no ceiling."
    )


class PrivacySettings(BaseModel):
    """The promise: unit, trust model, epsilon at delta, and how the recipe spends it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trust: Trust = Field("distributed", description="Who adds the noise, and so who is trusted.")
    unit: Unit = Field(
        "patient_within_clinic",
        description="Whose records are protected as a whole. 'patient' needs a public "
        "max_clinics_per_patient, by which every clip is divided.",
    )
    max_clinics_per_patient: int = Field(
        1, ge=1, le=100, description="At how many clinics one patient may be (unit 'patient')."
    )
    epsilon: float = Field(3.0, gt=0, le=50, description="Epsilon of the whole run.")
    delta: float = Field(1e-5, gt=0, le=1e-3, description="Delta that epsilon is read at.")
    recipe: Recipe = Field(
        "centred",
        description="How a linear head spends the budget, see skinml.training.recipes: it sets "
        "rounds, shares and steps where the config is silent.",
    )
    clip_norm: float = Field(
        0.5, gt=0, description="Greatest L2 norm of one patient's gradient contribution."
    )
    counts_share: float = Field(
        0.05, gt=0, lt=0.5, description="Part of mu squared spent on the label counts."
    )
    centre_share: float = Field(
        0.10, gt=0, lt=0.5, description="Part of mu squared spent on the sum of features."
    )
    admissions_share: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="Part of mu squared spent on noised counts of the patients admitted and "
        "refused; 0 releases none. Left out, it is 0.02 where data.consents names a table.",
    )
    likeness_share: float = Field(
        0.0,
        ge=0,
        le=0.9,
        description="Part of the squared sensitivity of the release about validation patients that "
        "is for the mean of a public network's features, by which a network trained end to end "
        "finds pictures of something else. 0: it finds none; else 0.01 or more.",
    )
    tolerated_dropouts: int = Field(
        0, ge=0, description="Clinics that may drop out of a distributed sum: t = clinics - this."
    )
    colluding_clinics: int = Field(
        0, ge=0, description="Clinics c that may pool what they know under 'distributed'."
    )
    budget: BudgetSettings = Field(
        default_factory=lambda: BudgetSettings(epsilon=None, epsilon_per_year=None),
        description="Ceilings over all runs.",
    )

    @model_validator(mode="after")
    def _unit_has_its_bound(self) -> PrivacySettings:
        if self.unit == "patient_within_clinic" and self.max_clinics_per_patient != 1:
            raise ConfigError(
                rule="privacy.unit=patient where max_clinics_per_patient is given",
                got=f"max_clinics_per_patient={self.max_clinics_per_patient} with "
                f"privacy.unit={self.unit}",
                do="Set privacy.unit=patient, or leave max_clinics_per_patient at 1.",
            )
        return self

    @property
    def private(self) -> bool:
        """Whether the run promises anything."""
        return self.trust != "none"
