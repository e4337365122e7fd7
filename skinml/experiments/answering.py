"""What a run's released scores give to answers about new images, and a saved model's tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from skinml.config import RunConfig
from skinml.experiments.learners import release_std
from skinml.experiments.likeness import likeness_of
from skinml.experiments.released import sets_layout
from skinml.fairness.label_sets import label_sets, read_label_sets, threshold_units
from skinml.fairness.model_answer import Answer, AnswerTables, answer
from skinml.fairness.recalibration import Line, line_from_counts
from skinml.fairness.thresholds import score_edges
from skinml.models.bundle import Bundle, BundleSpec, score
from skinml.models.likeness import LEAST
from skinml.privacy.quantise import GRID
from skinml.records import FloatArray


def answer_values(
    config: RunConfig, scores: FloatArray, *, num_clinics: int, num_present: int
) -> dict[str, Any]:
    """Read the released validation scores for a model's answers, which costs no privacy.

    Args:
        config: The run's config.
        scores: (2 + rows, bins) the noisy sum over the clinics.
        num_clinics: Clinics in the run.
        num_present: Clinics in the sum.

    Returns:
        "label_sets" and "calibration" of a `BundleSpec`.
    """
    layout, most = sets_layout(config), config.privacy.max_clinics_per_patient
    std = release_std(config, num_clinics=num_clinics, num_present=num_present)
    beside = config.privacy.likeness_share
    weight = threshold_units(layout.share if layout else 0.0, most, beside) * GRID
    line = line_from_counts(scores[:2] / weight, score_edges(scores.shape[1]), std / weight)
    found = None
    if layout is not None:
        coverage = config.fairness.label_sets.coverage
        found = label_sets(
            scores[2 : 2 + layout.rows], layout, std=std, coverage=coverage, max_clinics=most
        )
    return {
        "label_sets": found.values() if found else {},
        "calibration": {"intercept": line.intercept, "slope": line.slope} if line else {},
    }


def answer_tables(spec: BundleSpec) -> AnswerTables:
    """Read what a saved model answers by.

    Args:
        spec: The model's spec.

    Returns:
        The tables for `fairness.model_answer.answer`.

    Raises:
        DataError: If its label sets are of another form.
    """
    line = spec.calibration
    return AnswerTables(
        classes=spec.classes,
        threshold=spec.threshold,
        line=Line(line["intercept"], line["slope"]) if line else None,
        sets=read_label_sets(spec.label_sets),
    )


@dataclass(frozen=True)
class Answered:
    """What a saved model makes of one item.

    Attributes:
        found: The answer.
        likeness: How like the training images, 1 is usual; None where the model keeps nothing to
            tell it by.
        decision: The label that the model decides for.
    """

    found: Answer
    likeness: float | None
    decision: str


def answer_item(
    bundle: Bundle, tables: AnswerTables, inputs: NDArray[Any], group: str | None
) -> Answered:
    """Answer about one item; where that can be told, look if it is like the training images.

    Args:
        bundle: The saved model.
        tables: What its answers are made by.
        inputs: (1, ...) the item, as `models.bundle.score` takes it.
        group: Whose it is; None where nobody knows.

    Returns:
        What the model makes of it.

    Raises:
        ConfigError: If the label sets know no such group.
        DataError: If the inputs do not fit the model.
        EnvironmentProblem: If the public network that a look needs is not installed.
        IntegrityError: If that network is another than the run's.
    """
    like = likeness_of(bundle, inputs)
    (row,), (decision,) = score(bundle, inputs, batch_size=1)
    unlike = None if like is None else like < LEAST
    return Answered(answer(row, group, tables, unlike=unlike), like, bundle.spec.labels[decision])
