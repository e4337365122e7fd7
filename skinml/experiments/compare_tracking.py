"""What of a comparison goes into the tracking store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from skinml.fairness.arm_means import SeedMean
from skinml.reports.compare_page import ComparisonFiles
from skinml.reports.compare_record import ComparisonRecord
from skinml.tracking.comparison import ArmMetric, log_comparison
from skinml.tracking.settings import TrackingSettings


def track_comparison(
    settings: TrackingSettings, folder: Path, record: ComparisonRecord, files: ComparisonFiles
) -> str | None:
    """Write a comparison to MLflow, above the runs that it compares.

    Args:
        settings: Where the store is, and whether anything is written.
        folder: The working folder.
        record: What the comparison may show.
        files: Its page, plot and tables.

    Returns:
        MLflow's id of the comparison; None where nothing is kept.

    Raises:
        EnvironmentProblem: If the store cannot be written.
        PolicyError: If the allow-list refuses a name or a value.
    """
    return log_comparison(
        settings,
        folder,
        tags={
            "skinml.run": record.comparison,
            "skinml.experiment": record.experiment,
            "skinml.private": all(arm.private for arm in record.arms),
            "skinml.simulated": record.simulated,
            "skinml.started": record.started,
            "skinml.version": record.versions.get("skinml", ""),
        },
        params={"experiment": record.experiment, **record.config},
        metrics=tuple(_metrics(record)),
        runs=[run.mlflow_run for arm in record.arms for run in arm.runs if run.mlflow_run],
        files=tuple(vars(files).values()),
    )


def _metrics(record: ComparisonRecord) -> Iterator[ArmMetric]:
    found = record.found
    for figure in found.figures:
        yield ArmMetric(
            figure.arm,
            "figure",
            figure.metric,
            figure.attribute,
            figure.group,
            of_gap=False,
            values=_values(figure.mean),
        )
    for gap in found.gaps:
        values = _values(gap.mean)
        yield ArmMetric(
            gap.arm, "gap", gap.metric, gap.attribute, gap.group, of_gap=True, values=values
        )
    for change in found.changes:
        yield ArmMetric(
            change.arm,
            "change",
            change.metric,
            change.attribute,
            change.group,
            of_gap=change.question == "gap",
            values=_values(change.mean) | {"p": change.p_adjusted},
        )


def _values(mean: SeedMean) -> dict[str, float | None]:
    estimate = mean.estimate
    ends = {"low": estimate.low, "high": estimate.high, "seed_sd": mean.seed_sd}
    return {"": estimate.value, **ends}
