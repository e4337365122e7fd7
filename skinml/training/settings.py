"""How a model is trained. Every figure is public and fixed before the data are seen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from skinml.errors import ConfigError

_ADAPTIVE = (
    "an adaptive norm is read from the patients, and no event of the ledger records what that "
    "costs."
)


class HeadSettings(BaseModel):
    """The recipe of the linear head: centred gradient descent with a prior offset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rounds: int = Field(100, ge=2, le=10_000, description="Gradient rounds T.")
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="Step for T = 30 rounds, scaled by 30 / T; none: read from "
        "learning_rate_by_mu at the run's mu.",
    )
    learning_rate_by_mu: tuple[tuple[float, float], ...] = Field(
        ((0.1422, 1.5), (0.2681, 3.0), (0.7191, 12.0), (1.666, 24.0)),
        min_length=1,
        description="Pairs (mu, step), rising; between them straight lines of the logarithms, "
        "below the first in proportion to mu, above the last its step.",
    )
    reference_patients: int = Field(
        6000,
        gt=0,
        description="Training patients that learning_rate_by_mu was chosen with; fewer patients "
        "count as a smaller mu.",
    )
    averaged: float = Field(
        0.5, gt=0, le=1, description="Last part of the rounds whose weights are averaged."
    )
    public_images: Path | None = Field(
        None,
        description="Public images of nobody in the cohort: a folder, or a CSV file with a column "
        "image of paths beside it and, for privacy.recipe=started, a column label.",
    )
    centring: Literal["paid", "public"] = Field(
        "paid",
        description="Where the features' centre comes from: paid, a noisy sum, drawn to the mean "
        "of public images where there are some; public, their mean alone, and centre_share goes "
        "to the later rounds.",
    )
    public_axes: int = Field(
        400, ge=1, description="Directions kept of the public images, for each view."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Heavy-ball momentum.")
    least_count: float = Field(
        15.0, gt=0, description="Floor of a released label count; keeps the offset finite."
    )
    bias_input: float = Field(0.1, gt=0, description="Constant behind the features.")
    clipping: Literal["flat", "by_class"] = Field(
        "flat",
        description="How a patient's gradient is clipped: flat, by privacy.clip_norm as a whole; "
        "by_class, each class's column by a bound of its own, whose squares add up to the same.",
    )
    class_clip_weights: dict[str, Annotated[float, Field(ge=0.001, le=1000)]] = Field(
        default_factory=dict,
        description="Public weights of the classes' bounds under clipping=by_class; 1 for classes "
        "without one.",
    )

    @field_validator("clipping", mode="before")
    @classmethod
    def _clipping_is_charged(cls, value: Any) -> Any:
        if value not in ("flat", "by_class"):
            raise ConfigError(
                rule="training.head.clipping=flat or by_class",
                got=f"clipping={value}",
                do=f"Choose one of the two: {_ADAPTIVE}",
            )
        return value

    @model_validator(mode="after")
    def _weights_have_their_use(self) -> HeadSettings:
        if self.class_clip_weights and self.clipping != "by_class":
            raise ConfigError(
                rule="training.head.class_clip_weights only where clipping is by_class",
                got=f"class_clip_weights of {len(self.class_clip_weights)} classes with "
                f"clipping={self.clipping}",
                do="Set training.head.clipping=by_class, or leave the weights out.",
            )
        return self


class NetworkSettings(BaseModel):
    """End-to-end DP-SGD, a few local steps a round."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rounds: int = Field(10, ge=1, le=10_000, description="Rounds of averaging.")
    steps_per_round: int = Field(
        5,
        ge=1,
        description="Local noisy steps in each round; 1 where the noise is shared or central: the "
        "clinics' clipped sums then make one global step.",
    )
    sampling_prob: float = Field(
        0.2, gt=0, le=1, description="Chance of each training patient to be in a step's sample."
    )
    expected_patients: float = Field(
        100,
        gt=0,
        description="Public figure of training patients a clinic; with sampling_prob "
        "it gives the divisor of a step.",
    )
    learning_rate: float = Field(0.5, gt=0, description="Step of plain gradient descent.")
    max_images_per_patient: int = Field(
        4, ge=1, description="Images of a patient that are averaged before the clip."
    )
    augmentations: int = Field(
        0,
        ge=0,
        le=64,
        description="Random flips, turns and shifts of each sampled image that are averaged before "
        "the clip, at no cost in privacy; 0 takes the image as it is.",
    )
    loss: Literal["cross_entropy", "focal"] = Field(
        "cross_entropy", description="Loss of an image; focal turns to the rare and difficult."
    )
    clipping: str = Field(
        "flat", description="How a patient's gradient is clipped: flat, by one public norm."
    )
    gradient_mode: Literal["auto", "bookkeeping", "hooks", "functorch", "ew", "ghost", "alone"] = (
        Field(
            "auto",
            description="How clipped sums are computed; all give the same. auto tries them on "
            "drawn images, takes the fastest and remembers it on this machine; without a promise "
            "it is hooks, so that seeds repeat. Noise "
            "shared by clinics needs alone, one patient at a time.",
        )
    )

    @field_validator("clipping", mode="before")
    @classmethod
    def _clipping_is_charged(cls, value: Any) -> Any:
        if value != "flat":
            raise ConfigError(
                rule="training.network.clipping=flat",
                got=f"clipping={value}",
                do=f"Keep it flat: {_ADAPTIVE}",
            )
        return value


class PersonalHeadSettings(BaseModel):
    """A head of its own that each clinic makes from the run's model and keeps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep: bool = Field(
        False,
        description="Whether each clinic fits the run's head to its own training patients after "
        "the last round. Such a head has no noise and never leaves the clinic.",
    )
    pull: float = Field(
        0.001, gt=0, description="How strongly it is held to the run's model (skinml.training)."
    )


Mitigation = Literal["none", "reweigh", "balanced_sampling", "group_dro", "qfedavg"]


class MitigationSettings(BaseModel):
    """What is tried against gaps between groups, in training and after it. Off by default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Mitigation = Field(
        "none",
        description="In training: reweigh and group_dro for a linear head, balanced_sampling for "
        "a network, qfedavg (between clinics) where privacy.trust is none.",
    )
    group: str = Field("skin_tone", description="The attribute in data.groups that is meant.")
    weights: dict[str, Annotated[float, Field(ge=0.001, le=1000)]] = Field(
        default_factory=dict,
        description="Public weight of a patient of each group, their mean for others; empty: "
        "reweigh takes what makes groups count alike, from the noised counts that training begins "
        "with.",
    )
    greatest_ratio: float = Field(
        4.0,
        ge=1,
        le=100,
        description="How many times as much a patient of one group may count as one of another, "
        "where that follows from counts. Each patient is a part of at most 1 of what it else is.",
    )
    dro_step: float = Field(
        0.1, gt=0, le=10, description="group_dro: step of the groups' shares in each round."
    )
    losses_share: float = Field(
        0.1,
        gt=0,
        lt=0.5,
        description="group_dro: part of mu squared spent on the sums of losses by group.",
    )
    greatest_loss: float = Field(
        2.0, gt=0, le=16, description="group_dro: a patient's larger loss counts as this one."
    )
    analysis: bool = Field(
        True,
        description="Whether the report of a simulation tells what a threshold of each group's "
        "own, and a recalibration of each group, would change. No model is changed.",
    )

    @field_validator("weights", mode="before")
    @classmethod
    def _groups_are_words(cls, value: Any) -> Any:
        """On a command line a group such as 3 is a number."""
        return (
            {str(name): each for name, each in value.items()} if isinstance(value, dict) else value
        )


class TrainingSettings(BaseModel):
    """Both recipes; the model's kind says which one is used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    head: HeadSettings = Field(default=HeadSettings(), description="For model.kind linear_head.")
    network: NetworkSettings = Field(
        default=NetworkSettings(), description="For model.kind network."
    )
    personal_head: PersonalHeadSettings = Field(
        default=PersonalHeadSettings(),
        description="A clinic's own head, for model.kind linear_head.",
    )
