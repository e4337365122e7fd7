"""What a deployed run shows: nothing but what the clinics released."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from skinml.config import RunConfig
from skinml.data.cohort import classes_of
from skinml.data.taxonomy import load_taxonomy
from skinml.errors import IntegrityError
from skinml.experiments.admissions import noised_counts
from skinml.experiments.code_version import code_versions
from skinml.experiments.guarantee import guarantee_told
from skinml.experiments.likeness import network_version
from skinml.experiments.mitigation import mitigation_values
from skinml.experiments.outcome import (
    VERSIONS,
    Origin,
    Outcome,
    answers_of,
    threshold_source,
)
from skinml.experiments.released import (
    counts_release,
    plain_counts,
    released_gaps,
    released_results,
)
from skinml.experiments.set_coverage import coverage_values
from skinml.models.backbones import load_backbone
from skinml.records import Labels, RunRecord, last_attempts
from skinml.training.features import features_version

_AT_CLINICS = "not shown: it stays at the clinics"


def public_classes(config: RunConfig) -> Labels:
    """Name a config's classes, and which are malignant, without any data.

    Args:
        config: The run's config.

    Returns:
        The classes.

    Raises:
        ConfigError: If one is no shared diagnosis.
    """
    return classes_of(config.data, load_taxonomy())


def public_width(config: RunConfig) -> tuple[int, str]:
    """Tell how many features an item has, from the backbone alone.

    Args:
        config: The run's config.

    Returns:
        The number, 0 for a network; and the version of what an item's inputs are made by.

    Raises:
        EnvironmentProblem: If the backbone is not installed.
    """
    if config.model.kind != "linear_head":
        return 0, network_version(config)
    backbone = load_backbone(config.model)
    return backbone.num_features * max(len(config.data.views), 1), features_version(backbone)


def published_record(
    config: RunConfig,
    clinics: Sequence[str],
    classes: Labels,
    outcome: Outcome,
    began: datetime,
    clock: float,
) -> RunRecord:
    """Put together what a run of real clinics shows.

    Args:
        config: The run's config.
        clinics: The run's clinics.
        classes: What the model tells apart.
        outcome: What the rounds left behind; no samples.
        began: When the run began.
        clock: The monotonic clock when this process took it up.

    Returns:
        The record, of released sums alone.

    Raises:
        IntegrityError: If the counts of test patients were not released.
    """
    plan, total = counts_release(config, tuple(clinics)), outcome.trained.test_counts
    present = outcome.participation[-1].took_part
    if plan is None or total is None:
        raise IntegrityError(
            rule="released counts of test patients, which a run of real clinics is judged by",
            got="none",
            do="Set fairness.evaluation=dp_counts and submit the run anew.",
        )
    words: Mapping[str, Any] = {
        "threshold": outcome.threshold.value,
        "classes": classes,
        "num_clinics": len(clinics),
        "num_present": len(present),
    }
    overall, groups = released_results(config, plan, total, **words)
    admissions = noised_counts(
        config, outcome.trained.admissions, num_clinics=len(clinics), num_present=len(present)
    )
    return RunRecord(
        run=outcome.run,
        experiment=config.name,
        seed=config.seed,
        started=began.isoformat(timespec="seconds"),
        wall_s=round(time.monotonic() - clock, 3),
        evaluation_source=config.fairness.evaluation,
        classes=classes,
        threshold=outcome.threshold.value,
        threshold_source=threshold_source(config, outcome.threshold),
        overall=overall,
        groups=groups,
        yardsticks=(),
        guarantee=guarantee_told(
            config, outcome.run, outcome.participation, outcome.learner, outcome.validation
        ),
        participation=outcome.participation,
        cohort_flow=(),
        cohort_table=(),
        data=_words(config),
        config=config.model_dump(mode="json"),
        versions=code_versions(VERSIONS),
        history=outcome.trained.fitted.history,
        complete=all(not each.missing for each in last_attempts(outcome.participation)),
        admissions=admissions,
        resumes=outcome.resumes,
        gaps=released_gaps(config, plan, total, **words),
        released_counts=plain_counts(total),
        mitigation=mitigation_values(
            config, outcome.run, {}, present, classes, outcome.threshold.value
        ),
        label_sets=coverage_values(
            config,
            outcome.run,
            {},
            outcome.participation[-1],
            classes,
            answers_of(config, outcome)["label_sets"],
            private=True,
        ),
    )


def public_origin(config: RunConfig) -> Origin:
    """Name where a deployed run's data come from.

    Args:
        config: The run's config.

    Returns:
        The origin, as far as the config tells it.
    """
    return Origin(config.data.name, config.data.unit, load_taxonomy().version)


def _words(config: RunConfig) -> dict[str, str]:
    return {
        "name": config.data.name,
        "unit": config.data.unit,
        "digest": _AT_CLINICS,
        "licence": _AT_CLINICS,
        "basis": "each clinic's own gate",
        "tone_scale": config.data.tone_scale or "none",
        "taxonomy": load_taxonomy().version,
        "images": _AT_CLINICS,
        "patients": _AT_CLINICS,
    }
