"""What a comparison of arms found, as plain values that may be shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter

from skinml.fairness.arm_means import SeedMean
from skinml.fairness.gaps import Reference
from skinml.fairness.verdicts import CANNOT_TELL

Question = Literal["overall", "group", "gap"]


@dataclass(frozen=True)
class GroupCount:
    """How many stand behind the figures of a group.

    Attributes:
        attribute: What the group is of; "overall" for everybody.
        group: Its name.
        num_images: Items; None where only patients were counted.
        num_patients: Patients.
        num_positives: Malignant items, or patients where only they were counted.
        num_negatives: The others.
    """

    attribute: str
    group: str
    num_images: int | None
    num_patients: int
    num_positives: int
    num_negatives: int


@dataclass(frozen=True)
class ArmFigure:
    """A figure of an arm for a group.

    Attributes:
        arm: The arm.
        attribute: What the group is of; "overall" for everybody.
        group: Its name.
        metric: The figure.
        mean: Its mean over the runs.
    """

    arm: str
    attribute: str
    group: str
    metric: str
    mean: SeedMean


@dataclass(frozen=True)
class ArmGap:
    """How much a group's figure lies above that of its reference, in an arm.

    Attributes:
        arm: The arm.
        attribute: What the groups are of.
        group: The group.
        reference: What it is held against.
        metric: The figure.
        mean: The group's less the reference's, its mean over the runs.
    """

    arm: str
    attribute: str
    group: str
    reference: str
    metric: str
    mean: SeedMean


@dataclass(frozen=True)
class Change:
    """What an arm changed against the first one.

    Attributes:
        arm: The arm.
        base: The first arm.
        question: What was asked: of everybody, of a group, or of the gap between a group and its
            reference. The change of a gap says on whom the arm falls harder: below 0 it costs the
            group more than the reference, where more of the figure is better.
        attribute: What the group is of; "overall" for everybody.
        group: Its name.
        reference: What the group is held against; empty where the question is not of a gap.
        metric: The figure.
        mean: The arm's less the first arm's.
        margin: Greatest change in this figure that counts as none; None: nobody set one, so that
            nothing is ruled out.
        detectable: The smallest true change that would have been shown four times in five, however
            the other answers to this question came out; None: not even the greatest one.
        p_value: Of no change.
        p_adjusted: The same, corrected over the answers to this question in this figure.
        margin_p: Of a change as large as the margin.
        margin_p_adjusted: The same, corrected.
        verdict: One of the three answers of `skinml.fairness.verdicts`.
        within_margin: Whether a change that is shown also lies inside the margin.
        one_seed: Whether an arm has a single run: the answer is then of these very models, and
            not of what such a run does in general.
        reason: Why the answer is "cannot tell" for another cause than the interval.
    """

    arm: str
    base: str
    question: Question
    attribute: str
    group: str
    reference: str
    metric: str
    mean: SeedMean
    margin: float | None = None
    detectable: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    margin_p: float | None = None
    margin_p_adjusted: float | None = None
    verdict: str = CANNOT_TELL
    within_margin: bool = False
    one_seed: bool = False
    reason: str = ""


@dataclass(frozen=True)
class ArmComparison:
    """Arms beside each other.

    Attributes:
        arms: Their names, the first one first.
        metric: The figure that groups and gaps are compared in.
        metrics: All figures that are shown.
        references: For each attribute, the group that others are held against.
        level: Coverage of the intervals; one less it is what corrected p-values are held against.
        margin: Greatest change in that figure that counts as none, fixed in the config; None:
            nobody set one.
        min_events: Effective patients below which there is no answer.
        replicates: Resamples of the patients; 0 where nothing could be resampled.
        counts: How many stand behind the figures.
        figures: Of each arm, for everybody and for each group.
        gaps: Of each arm.
        worst: Of each arm and attribute, the group with the worst figure.
        changes: Against the first arm; none where runs could not be paired.
        families: For each question and figure, how many answers were corrected together.
        unpaired: Why nothing is paired; empty where it is.
        not_compared: What was asked for and the data do not allow, each with the reason.
    """

    arms: tuple[str, ...]
    metric: str
    metrics: tuple[str, ...]
    references: Mapping[str, Reference]
    level: float
    margin: float | None
    min_events: int
    replicates: int
    counts: tuple[GroupCount, ...]
    figures: tuple[ArmFigure, ...]
    gaps: tuple[ArmGap, ...]
    worst: tuple[ArmFigure, ...]
    changes: tuple[Change, ...] = ()
    families: Mapping[str, int] = field(default_factory=dict)
    unpaired: str = ""
    not_compared: Mapping[str, str] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """Give plain values for JSON; an undefined number is None, never 0."""
        found: dict[str, Any] = _COMPARISONS.dump_python(self, mode="json")
        return found

    def figure(self, arm: str, attribute: str, group: str, metric: str) -> SeedMean:
        """Look a figure up.

        Args:
            arm: The arm.
            attribute: What the group is of.
            group: The group.
            metric: The figure.

        Returns:
            Its mean over the runs.

        Raises:
            KeyError: If there is none.
        """
        found = {(e.arm, e.attribute, e.group, e.metric): e.mean for e in self.figures}
        return found[arm, attribute, group, metric]


_COMPARISONS = TypeAdapter(ArmComparison)


def comparison_from(values: Mapping[str, Any]) -> ArmComparison:
    """Read what `ArmComparison.values` wrote.

    Args:
        values: The plain values.

    Returns:
        The comparison.
    """
    return _COMPARISONS.validate_python(values)
