"""What of a comparison goes into the tracking store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from skinml.fairness.arm_means import SeedMean
from skinml.reports.compare_page import ComparisonFiles
from skinml.reports.compare_record import ComparisonRecord
from skinml.reports.numbers import epsilon
from skinml.tracking.comparison import EVERYBODY, ArmMetric, log_comparison
from skinml.tracking.overview import TONES, estimate_words, several_note
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
        note=_note(record),
    )


def _note(record: ComparisonRecord) -> str:
    """Write a row an arm: what it promises, and how it does overall and by skin tone."""
    shown = {
        (each.arm, each.attribute, each.group): estimate_words(each.mean.estimate)
        for each in record.found.figures
        if each.metric == "auroc" and each.attribute in (EVERYBODY, *TONES)
    }
    tones = list(dict.fromkeys(place[1:] for place in shown if place[1] != EVERYBODY))
    head = ("arm", "runs", "epsilon", "AUROC (95%)", *(" ".join(tone) for tone in tones))
    rows = [
        (
            arm.name,
            f"{len(arm.runs)}",
            "no promise" if arm.epsilon is None else epsilon(arm.epsilon),
            *(shown.get((arm.name, *at), "-") for at in ((EVERYBODY, EVERYBODY), *tones)),
        )
        for arm in record.arms
    ]
    stamp = ", SIMULATED" if record.simulated else ""
    title = f"Comparison of {record.experiment} on {record.data.get('name', 'data')}{stamp}"
    return several_note(title, head, rows, "Changes against the first arm are on the page.")


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
