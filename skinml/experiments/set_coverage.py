"""How often a simulation's label sets held the truth of its test patients, by group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from skinml.config import RunConfig, parse_config
from skinml.errors import DataError
from skinml.experiments.answering import release_std
from skinml.experiments.kept_predictions import kept_predictions
from skinml.experiments.released import sets_layout
from skinml.experiments.yardsticks import pooled
from skinml.fairness.label_sets import EVERYBODY, label_sets, read_label_sets, set_table
from skinml.fairness.set_coverage import GroupCoverage, measured_coverage
from skinml.models.bundle import load_bundle
from skinml.privacy.quantise import GRID
from skinml.records import Predictions, RunRecord

BY_GROUP = "by group"
ONE_LIMIT = "one limit for all"


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
    layout, sets = sets_layout(config), read_label_sets(spec.label_sets)
    if layout is None or sets is None:
        raise DataError(
            rule="a run with label sets",
            got=f"run={record.run}",
            do="Set fairness.label_sets.share, such as 0.5, and run again.",
        )
    validation, test = (_kept(record, roots, split) for split in ("validation", "test"))
    attribute = _attribute(config, sets.attribute)
    last, most = record.participation[-1], config.privacy.max_clinics_per_patient
    std = release_std(config, num_clinics=len(last.expected), num_present=len(last.took_part))
    own = measured_coverage(
        sets, layout, validation, test, std=std, max_clinics=most, attribute=attribute, level=level
    )
    alone = replace(layout, attribute=EVERYBODY, groups=(EVERYBODY,), apart=False)
    table = GRID * set_table(validation, alone, most)
    one = label_sets(table, alone, std=0.0, coverage=sets.coverage, max_clinics=most)
    beside = measured_coverage(
        one, alone, validation, test, std=0.0, attribute=attribute, level=level
    )
    return {BY_GROUP: own, ONE_LIMIT: beside}


def _attribute(config: RunConfig, named: str) -> str:
    """What to part test patients by: what the sets are held in, or else what was asked for."""
    return named if named != EVERYBODY else config.fairness.label_sets.group or named


def _kept(record: RunRecord, roots: Sequence[Path], split: str) -> Predictions:
    kept, why = kept_predictions(record, roots, split)
    if not kept:
        raise DataError(
            rule="a simulation on this machine that keeps its predictions",
            got=f"run={record.run}: {why}",
            do="Ask where the run was made.",
        )
    return pooled(kept)
