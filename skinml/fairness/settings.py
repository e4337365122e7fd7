"""What the statistics by group may be told: fixed in the config before the data are seen."""

from __future__ import annotations

from math import inf
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from skinml.fairness.criteria import Criterion

CROSS = " x "
"""Between the attributes of a crossing, and between the names of its groups."""
_LEAST_SHARE = 0.01  # less leaves nothing in whole numbers of what a patient at 100 clinics adds


class PrimaryComparison(BaseModel):
    """The one comparison that was named before looking; no other one is held against it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attribute: str = Field("skin_tone", description="What the groups are of.")
    metric: str = Field("auroc", description="The figure that is compared.")
    group: str | None = Field(
        None,
        description="The group that is held against the reference; null: the spread over all "
        "groups, which with two groups is their difference.",
    )


class LabelSetSettings(BaseModel):
    """Settings of the label sets that `skinml predict` gives."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(
        0.0,
        ge=0,
        le=0.9,
        description="Part of the squared sensitivity of the release about validation patients that "
        "is for label sets by group; the threshold's scores have the rest. 0: no label sets; else "
        "0.01 or more.",
    )
    coverage: float = Field(
        0.9,
        ge=0.5,
        le=0.99,
        description="Share of each group's patients whose true label is to be in the set.",
    )
    group: str | None = Field(
        "skin_tone",
        description="The attribute in whose groups the coverage is held; null, or an attribute "
        "that the data do not carry: for everybody together.",
    )
    apart: bool = Field(
        False,
        description="Whether it is held for malignant and other truths apart, too: wider sets.",
    )

    @model_validator(mode="after")
    def _large_enough(self) -> LabelSetSettings:
        if 0 < self.share < _LEAST_SHARE:
            raise ValueError(f"share is 0, or {_LEAST_SHARE} or more")
        return self


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
        description="Below this many effective patients behind a figure it is marked 'few events', "
        "and no gap that rests on it gets a verdict other than 'cannot tell'.",
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
    net_benefit_at: tuple[float, ...] = Field(
        (0.05, 0.1, 0.2),
        description="Risks from which a clinician would act; net benefit is told at each of them.",
    )
    top: tuple[int, ...] = Field(
        (3,),
        description="With many classes: how often the true one is among the k likeliest, for each "
        "k here.",
    )
    crossings: tuple[tuple[str, ...], ...] = Field(
        (),
        description="Attributes whose combinations are groups too, such as [skin_tone, sex].",
    )
    groups: tuple[str, ...] = Field(
        ("skin_tone", "sex"),
        description="Attributes whose groups are compared with one another; all of them are one "
        "family, so that each further one makes every finding harder.",
    )
    metrics: tuple[str, ...] = Field(
        ("auroc", "sensitivity", "specificity"),
        min_length=1,
        description="Figures in which groups are compared; they belong to the family too.",
    )
    primary: PrimaryComparison | None = Field(
        default=PrimaryComparison(),
        description="The comparison that was named in advance and stands outside the family.",
    )
    reference: dict[str, str] = Field(
        default_factory=dict,
        description="For each attribute, the group that the others are compared with; without an "
        "entry it is the group with most patients.",
    )
    margin: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Greatest difference between groups that counts as none, set in advance, in "
        "figures of ranking and of finding: AUROC, sensitivity, specificity, balanced accuracy, "
        "top-k. In other figures nothing is ruled out unless margins names them.",
    )
    margins: dict[str, float] = Field(
        default_factory=dict,
        description="For a figure, a margin of its own on its own scale, such as brier: 0.02; it "
        "goes before margin.",
    )
    null_draws: int = Field(
        1000,
        ge=100,
        description="Draws that show how large a gap is by chance where no true one is.",
    )
    case_mix: str = Field(
        "diagnosis",
        description="The attribute within which gaps are standardised; where the data do not "
        "carry it and the model tells diagnoses apart, the true class.",
    )
    order: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="For an attribute whose groups lie on a scale, their order; without an entry "
        "names that begin with a number or are I to VI are put in order.",
    )
    label_error: dict[str, tuple[tuple[float, ...], ...]] = Field(
        default_factory=dict,
        description="For an ordered attribute, the share of each true group (a row) that is "
        "labelled as each group (a column); an attribute on the Fitzpatrick scale without an entry "
        "has the published one.",
    )
    scale: dict[str, str] = Field(
        default_factory=dict,
        description="For an attribute, the scale that its groups are on, such as fitzpatrick; a "
        "run takes that of skin_tone from data.tone_scale.",
    )
    expected: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="For an attribute, the groups that an evaluation has to have: a criterion of "
        "every group is not met where one is absent. Without an entry its order, if there is one.",
    )
    label_sets: LabelSetSettings = Field(
        default=LabelSetSettings(), description="What label sets are made of, and what they hold."
    )
    acceptance: tuple[Criterion, ...] = Field(
        (),
        description="What a model has to show before it may be approved, see `skinml report "
        "--gate`; fixed before the data are seen.",
    )

    @model_validator(mode="after")
    def _make_sense(self) -> Self:
        if not all(0 < risk < 1 for risk in self.net_benefit_at):
            raise ValueError("net_benefit_at must hold risks between 0 and 1")
        if not all(0 < margin < inf for margin in self.margins.values()):
            raise ValueError("margins must hold numbers above 0")
        if not all(k >= 1 for k in self.top):
            raise ValueError("top must hold numbers from 1")
        for crossing in self.crossings:
            if len(set(crossing)) < max(2, len(crossing)):
                raise ValueError("a crossing needs at least two different attributes")
        for attribute, table in self.label_error.items():
            square = all(len(row) == len(table) for row in table) and len(table) > 1
            if not square or any(min(row) < 0 or abs(sum(row) - 1) > _ROUNDING for row in table):
                raise ValueError(
                    f"label_error.{attribute} must be a square table whose rows are shares that "
                    "sum to 1"
                )
        return self

    def margin_of(self, metric: str) -> float | None:
        """Look up the greatest difference in a figure that counts as none.

        Args:
            metric: The figure.

        Returns:
            Its own margin, or the general one where the figure is of ranking or of finding; None
            where nobody set one, so that nothing can be ruled out.

        >>> FairnessSettings().margin_of("sensitivity"), FairnessSettings().margin_of("brier")
        (0.05, None)
        """
        if metric in self.margins:
            return self.margins[metric]
        return self.margin if metric.startswith(_OF_FINDING) else None

    def expected_groups(self, attribute: str) -> tuple[str, ...]:
        """Name the groups that an evaluation has to have.

        Args:
            attribute: What the groups are of.

        Returns:
            Their names; empty where nobody named any.
        """
        return self.expected.get(attribute, self.order.get(attribute, ()))


# Figures that the general margin is meant for; of others its size means something else.
_OF_FINDING = (
    "auroc",
    "malignancy_auroc",
    "sensitivity",
    "specificity",
    "balanced_accuracy",
    "top_",
)
# Shares that a person typed with two or three digits.
_ROUNDING = 5e-3
