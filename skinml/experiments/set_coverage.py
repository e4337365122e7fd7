"""How often a simulation's label sets held the truth of its test patients, by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from skinml.clinic.folder import ClinicFolder
from skinml.config import RunConfig, parse_config
from skinml.errors import DataError
from skinml.experiments.kept_predictions import kept_predictions
from skinml.experiments.learners import release_std
from skinml.experiments.released import DP_COUNTS, sets_layout
from skinml.experiments.samples import read_predictions
from skinml.experiments.yardsticks import pooled
from skinml.fairness.label_sets import (
    EVERYBODY,
    LabelSets,
    SetsLayout,
    label_sets,
    rank_noise,
    read_label_sets,
    set_table,
)
from skinml.fairness.set_coverage import (
    GroupCoverage,
    SetsCoverage,
    measured_coverage,
    sets_coverage_from,
    validation_sizes,
)
from skinml.models.bundle import load_bundle
from skinml.privacy.quantise import GRID
from skinml.records import Labels, Participation, Predictions, RunRecord

BY_GROUP = "by group"
ONE_LIMIT = "one limit for all"
_COUNTED = "it takes each test patient's set, and only counts of test patients left the clinics"
_PRIVATE = "with it anybody could tell how many validation patients there are, which stays inside"


@dataclass(frozen=True)
class _Made:
    """A run's label sets, and what they were made from."""

    sets: LabelSets
    layout: SetsLayout
    noise: float
    by: str
    max_clinics: int


def _made(config: RunConfig, told: Mapping[str, Any], last: Participation) -> _Made | None:
    layout, sets = sets_layout(config), read_label_sets(told)
    if layout is None or sets is None:
        return None
    std = release_std(config, num_clinics=len(last.expected), num_present=len(last.took_part))
    most = config.privacy.max_clinics_per_patient
    named = config.fairness.label_sets.group
    by = named if named in config.data.groups else None
    return _Made(
        sets,
        layout,
        rank_noise(layout, std, sets.coverage, most),
        sets.attribute if sets.attribute != EVERYBODY else by or EVERYBODY,
        most,
    )


def coverage_values(
    config: RunConfig,
    run: str,
    folders: Mapping[str, ClinicFolder],
    last: Participation,
    classes: Labels,
    told_sets: Mapping[str, Any],
    *,
    private: bool,
) -> Mapping[str, Any] | None:
    """Measure for a run's report how often its label sets held the truth of test patients.

    Args:
        config: The run's config.
        run: The run's id.
        folders: The clinics' folders; not read where figures come from noised counts.
        last: Who took part in the evaluation.
        classes: What the model tells apart.
        told_sets: The run's label sets as the saved model has them.
        private: Whether exact counts of the cohort stay at the clinics.

    Returns:
        Plain values for the record; None where the run has no label sets.

    Raises:
        DataError: If predictions are not usable.
        IntegrityError: If a prediction was changed.
    """
    made = _made(config, told_sets, last)
    if made is None:
        return None
    nothing = SetsCoverage(made.by, made.sets.coverage, config.fairness.level)
    counted = config.fairness.evaluation == DP_COUNTS
    if counted or private:
        return replace(nothing, left_out=_COUNTED if counted else _PRIVATE).values()
    validation, test = (
        pooled({n: read_predictions(folders[n], run, split, classes) for n in last.took_part})
        for split in ("validation", "test")
    )
    own, one = _measured(made, validation, test, config.fairness.level)
    return replace(nothing, by_group=own, one_limit=one).values()


def coverage_elsewhere(
    config: RunConfig, record: RunRecord, told_sets: Mapping[str, Any], test: Predictions
) -> Mapping[str, Any] | None:
    """Measure how often a run's label sets hold the truth of other patients.

    Args:
        config: The run's config.
        record: The run's record, which says how many validation patients are behind each limit.
        told_sets: The run's label sets as the saved model has them.
        test: What the model said of those patients.

    Returns:
        Plain values for the evaluation's record; None where the run has no label sets, or its own
        coverage was not measured.
    """
    made = _made(config, told_sets, record.participation[-1]) if record.participation else None
    if made is None or record.label_sets is None:
        return None
    ran = sets_coverage_from(record.label_sets)
    if ran.left_out:
        return ran.values()
    sizes = {each.group: each.validation for each in ran.by_group}
    own = measured_coverage(made.sets, sizes, test, noise=made.noise, by=made.by, level=ran.level)
    return replace(ran, by_group=own, one_limit=()).values()


def sets_coverage(
    record: RunRecord, folder: Path, roots: Sequence[Path], level: float = 0.95
) -> dict[str, tuple[GroupCoverage, ...]]:
    """Measure how often a simulation's label sets held the truth of its test patients.

    Args:
        record: The run's record.
        folder: The run's folder.
        roots: Folders in which its clinics' folders may be.
        level: How often each interval holds the mean coverage.

    Returns:
        The run's own sets under "by group", and under "one limit for all" what one limit, found
        exactly from the same validation patients, does in the same groups. Of both the interval
        is that of `mean_coverage_interval`; one limit promises nothing in a group, and its
        interval takes the group's patients to be as dense around the limit as all are.

    Raises:
        DataError: If the run has no label sets, or its clinics' predictions are not here.
        IntegrityError: If the model or a clinic's folder was changed.
        PolicyError: If a real clinic's folder lies where a simulated one's should.
    """
    spec, config = load_bundle(folder / "model").spec, parse_config(dict(record.config))
    made = _made(config, spec.label_sets, record.participation[-1])
    if made is None:
        raise DataError(
            rule="a run with label sets",
            got=f"run={record.run}",
            do="Set fairness.label_sets.share, such as 0.5, and run again.",
        )
    validation, test = (_kept(record, roots, split) for split in ("validation", "test"))
    own, one = _measured(made, validation, test, level)
    return {BY_GROUP: own, ONE_LIMIT: one}


def _measured(
    made: _Made, validation: Predictions, test: Predictions, level: float
) -> tuple[tuple[GroupCoverage, ...], tuple[GroupCoverage, ...]]:
    """Measure the run's own sets, and those of one limit for all without noise."""
    alone = replace(made.layout, attribute=EVERYBODY, groups=(EVERYBODY,), apart=False)
    table = GRID * set_table(validation, alone, made.max_clinics)
    coverage = made.sets.coverage
    one = label_sets(table, alone, std=0.0, coverage=coverage, max_clinics=made.max_clinics)
    own, beside = (
        measured_coverage(
            sets,
            validation_sizes(sets, validation, made.by),
            test,
            noise=noise,
            by=made.by,
            level=level,
        )
        for sets, noise in ((made.sets, made.noise), (one, 0.0))
    )
    return own, beside


def _kept(record: RunRecord, roots: Sequence[Path], split: str) -> Predictions:
    kept, why = kept_predictions(record, roots, split)
    if not kept:
        raise DataError(
            rule="a simulation on this machine that keeps its predictions",
            got=f"run={record.run}: {why}",
            do="Ask where the run was made.",
        )
    return pooled(kept)
