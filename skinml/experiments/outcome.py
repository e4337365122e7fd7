"""What came out of a run's rounds, turned into its record and its saved model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any

from skinml.config import RunConfig
from skinml.data.settings import DataSettings
from skinml.errors import IntegrityError
from skinml.experiments.admissions import noised_counts
from skinml.experiments.answering import answer_values
from skinml.experiments.code_version import code_versions
from skinml.experiments.cohorts import Gathered
from skinml.experiments.compared import comparison_settings
from skinml.experiments.guarantee import guarantee
from skinml.experiments.learners import model_spec
from skinml.experiments.likeness import centre_arrays
from skinml.experiments.measured import Figures, figures_of
from skinml.experiments.mitigation import mitigation_values
from skinml.experiments.personal import personal_heads
from skinml.experiments.released import (
    counts_release,
    plain_counts,
    released_gaps,
    released_results,
)
from skinml.experiments.rounds import Trained
from skinml.experiments.samples import read_predictions
from skinml.experiments.set_coverage import coverage_values
from skinml.experiments.yardsticks import pooled, yardsticks
from skinml.fairness.thresholds import ThresholdChoice
from skinml.models.bundle import Bundle
from skinml.privacy.plan import Release
from skinml.records import (
    ADMISSION_CELLS,
    NoisedCounts,
    Participation,
    PersonalHead,
    Predictions,
    RunRecord,
    Samples,
    Yardstick,
    last_attempts,
)
from skinml.seeding import Seeds
from skinml.stewardship.admissibility import under_licence
from skinml.training.learner import Learner

_NOT_SHOWN = "not shown: exact counts stay at the clinics"
_DRAWN = " (drawn pictures, no real patient)"
VERSIONS = ("skinml", "torch", "torchvision", "flwr", "opacus", "dp-accounting", "scikit-learn")


@dataclass(frozen=True)
class Outcome:
    """What the rounds left behind.

    Attributes:
        run: The run's id.
        samples: Samples by clinic and split.
        features_version: What the samples' inputs were made by.
        learner: The recipe.
        validation: The release of validation scores.
        trained: The model, its history and the released validation scores.
        threshold: The threshold from those scores.
        participation: Who took part, an attempt each.
        resumes: How often the run was resumed.
    """

    run: str
    samples: Mapping[str, Mapping[str, Samples]]
    features_version: str
    learner: Learner
    validation: Release
    trained: Trained
    threshold: ThresholdChoice
    participation: tuple[Participation, ...]
    resumes: int = 0


def run_record(
    config: RunConfig, gathered: Gathered, outcome: Outcome, began: datetime, clock: float
) -> RunRecord:
    """Compute all figures of a run.

    Args:
        config: The run's config.
        gathered: The cohort at its clinics.
        outcome: What the rounds left behind.
        began: When the run began.
        clock: The monotonic clock at that moment.

    Returns:
        The record.

    Raises:
        DataError: If there is nothing to compute figures from.
        IntegrityError: If a ledger or a prediction was changed.
    """
    cohort, seeds = gathered.cohort, Seeds(config.seed)
    exact = config.fairness.evaluation == "exact"
    figures, counts = _results(config, gathered, outcome), outcome.trained.test_counts
    present = outcome.participation[-1].took_part
    admissions = noised_counts(
        config,
        outcome.trained.admissions,
        num_clinics=len(gathered.folders),
        num_present=len(present),
    )
    # Both need predictions, which nobody sees where figures come from released counts.
    beside: tuple[Yardstick, ...] = ()
    own_heads: tuple[PersonalHead, ...] = ()
    if exact:
        beside = yardsticks(outcome.samples, present, cohort.labels, config.fairness, seeds)
        own_heads = personal_heads(config, outcome.run, gathered.folders, present, cohort.labels)
    promised = guarantee(config, outcome.run, gathered.folders, outcome.learner, outcome.validation)
    return RunRecord(
        run=outcome.run,
        experiment=config.name,
        seed=config.seed,
        started=began.isoformat(timespec="seconds"),
        wall_s=round(time.monotonic() - clock, 3),
        evaluation_source=config.fairness.evaluation,
        classes=cohort.labels,
        threshold=outcome.threshold.value,
        threshold_source=threshold_source(config, outcome.threshold),
        overall=figures.overall,
        groups=figures.groups,
        yardsticks=beside,
        guarantee=promised,
        participation=outcome.participation,
        cohort_flow=cohort.flow if exact else (),
        cohort_table=cohort.table if exact else (),
        data=_data_words(config, gathered, admissions),
        config=config.model_dump(mode="json"),
        versions=code_versions(VERSIONS),
        history=outcome.trained.fitted.history,
        complete=all(not each.missing for each in last_attempts(outcome.participation)),
        admissions=admissions,
        resumes=outcome.resumes,
        personal_heads=own_heads,
        gaps=figures.gaps,
        curves=figures.curves,
        released_counts=None if exact or counts is None else plain_counts(counts),
        mitigation=mitigation_values(
            config,
            outcome.run,
            gathered.folders,
            present,
            cohort.labels,
            outcome.threshold.value,
        ),
        label_sets=_coverage(config, gathered, outcome),
    )


def _coverage(config: RunConfig, gathered: Gathered, outcome: Outcome) -> Mapping[str, Any] | None:
    """Measure how often the run's label sets held the truth."""
    return coverage_values(
        config,
        outcome.run,
        gathered.folders,
        outcome.participation[-1],
        gathered.cohort.labels,
        answers_of(config, outcome)["label_sets"],
        private=gathered.cohort.private,
    )


def answers_of(config: RunConfig, outcome: Outcome) -> dict[str, Any]:
    """Read what the released validation scores give to the saved model's answers.

    Args:
        config: The run's config.
        outcome: What the rounds left behind.

    Returns:
        "label_sets" and "calibration" of its spec.
    """
    last = outcome.participation[-1]
    return answer_values(
        config,
        outcome.trained.scores,
        num_clinics=len(last.expected),
        num_present=len(last.took_part),
    )


@dataclass(frozen=True)
class Origin:
    """Where a model's data come from, as a bundle names it.

    Attributes:
        name: The data's name.
        unit: What stands for a patient.
        taxonomy_version: What the diagnoses were translated with.
        manifest_digest: Digest of the manifest; empty where each clinic has its own.
    """

    name: str
    unit: str
    taxonomy_version: str
    manifest_digest: str = ""


def origin_of(gathered: Gathered) -> Origin:
    """Name where a gathered cohort comes from.

    Args:
        gathered: The cohort at its clinics.

    Returns:
        Its origin.
    """
    cohort = gathered.cohort
    return Origin(cohort.name, cohort.unit, gathered.taxonomy_version, gathered.manifest_digest)


def run_bundle(config: RunConfig, origin: Origin, outcome: Outcome, record: RunRecord) -> Bundle:
    """Put the saved model together.

    Args:
        config: The run's config.
        origin: Where the data come from.
        outcome: What the rounds left behind.
        record: The run's record.

    Returns:
        The bundle; all in it that comes from private data was a charged release.
    """
    promised, last = record.guarantee, outcome.participation[-1]
    centre = centre_arrays(
        config,
        outcome.trained.scores,
        num_clinics=len(last.expected),
        num_present=len(last.took_part),
    )
    looked = config.model.kind == "linear_head" or centre
    spec = model_spec(config, record.classes).model_copy(
        update={
            "backbone_version": outcome.features_version if looked else "",
            "taxonomy_version": origin.taxonomy_version,
            "threshold": record.threshold,
            "threshold_source": record.threshold_source,
            **answers_of(config, outcome),
            "guarantee": {
                "private": promised.private,
                "trust": promised.trust,
                "unit": promised.unit,
                "epsilon": promised.epsilon,
                "delta": promised.delta,
                "simulated": promised.simulated,
            },
            "provenance": {
                "run": record.run,
                "skinml": version("skinml"),
                "created": record.started,
                "data": origin.name,
                "unit": origin.unit,
                "manifest": origin.manifest_digest,
            },
        }
    )
    return Bundle(spec, {**outcome.trained.fitted.arrays, **centre})


def _results(config: RunConfig, gathered: Gathered, outcome: Outcome) -> Figures:
    """Compute the test figures from what the run may see: predictions, or released counts."""
    counts, total = counts_release(config, tuple(gathered.folders)), outcome.trained.test_counts
    if counts is None:
        return figures_of(
            _test_predictions(gathered, outcome),
            threshold=outcome.threshold.value,
            settings=comparison_settings(config.fairness, config.data),
            seeds=Seeds(config.seed),
        )
    if total is None:
        raise IntegrityError(
            rule=f"the released {counts.release.name} that this run's figures are computed from",
            got="none",
            do="Start the run anew.",
        )
    words: Mapping[str, Any] = {
        "threshold": outcome.threshold.value,
        "classes": gathered.cohort.labels,
        "num_clinics": len(gathered.folders),
        "num_present": len(outcome.participation[-1].took_part),
    }
    overall, groups = released_results(config, counts, total, **words)
    return Figures(overall, groups, released_gaps(config, counts, total, **words), ())


def _test_predictions(gathered: Gathered, outcome: Outcome) -> Predictions:
    """Join the predictions of the clinics that took part in the evaluation."""
    classes = gathered.cohort.labels
    return pooled(
        {
            name: read_predictions(gathered.folders[name], outcome.run, "test", classes)
            for name in outcome.participation[-1].took_part
        }
    )


def threshold_source(config: RunConfig, threshold: ThresholdChoice) -> str:
    """Say where a threshold comes from.

    Args:
        config: The run's config.
        threshold: The choice.

    Returns:
        Words for the report.
    """
    how = "with noise" if config.privacy.private else "without noise"
    why = ""
    if threshold.fallback and config.privacy.private:
        why = ". Where patients are few noise alone can do that; alarms may then be all or none"
    return f"{threshold.source}; from the validation patients' scores, released {how}{why}"


def split_words(settings: DataSettings, unit: str, num_shared: int) -> dict[str, str]:
    """Say of a published split that it was used, and of one with units in both parts that it leaks.

    Args:
        settings: The data section.
        unit: What a patient_id stands for.
        num_shared: Units in two splits.

    Returns:
        Entries of a record's data; none where patients are split by the keyed hash.
    """
    if settings.split != "published":
        return {}
    left_out = settings.leakage.shared_units == "leave_out"
    words = (
        f"published, without training images of a {unit} that is tested"
        if left_out
        else "published"
    )
    if not num_shared:
        return {"split": words}
    units = unit if num_shared == 1 else f"{unit}s"
    leak = f"{num_shared} {units} with images in training or validation and in testing"
    return {"split": words, "leak": leak}


def _data_words(
    config: RunConfig, gathered: Gathered, admissions: NoisedCounts | None
) -> dict[str, str]:
    cohort = gathered.cohort
    images, patients = str(len(cohort.images)), str(cohort.items["patient_id"].nunique())
    if cohort.private or config.fairness.evaluation != "exact":
        images = patients = _NOT_SHOWN
    if cohort.private and admissions is not None:
        about = admissions.counts[ADMISSION_CELLS[0]]
        patients = f"about {about} admitted (noise with standard deviation {admissions.std:.1f})"
    # What else stands in that column is a clinic's own note.
    known = cohort.images["licence"][under_licence(cohort.images)]
    return split_words(config.data, cohort.unit, gathered.num_shared) | {
        "name": cohort.name + _DRAWN * (config.data.source == "synthetic"),
        "unit": cohort.unit,
        "digest": gathered.digest,
        "licence": ", ".join(sorted(known.astype(str).unique())),
        "basis": cohort.basis,
        "tone_scale": cohort.tone_scale or "none",
        "taxonomy": gathered.taxonomy_version,
        "images": images,
        "patients": patients,
    }
