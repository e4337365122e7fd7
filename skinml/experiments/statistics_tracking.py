"""What of statistics over clinics goes into the tracking store: what the page shows, no more."""

from __future__ import annotations

from pathlib import Path

from skinml.fairness.statistics_tables import StatisticsTable
from skinml.reports.numbers import epsilon
from skinml.reports.statistics_page import CSV, JSON, PAGE, StatisticsRecord
from skinml.tracking.comparison import log_comparison
from skinml.tracking.overview import several_note
from skinml.tracking.settings import TrackingSettings


def track_statistics(
    settings: TrackingSettings, work_dir: Path, record: StatisticsRecord, folder: Path
) -> str | None:
    """Write statistics to MLflow: a run with a note, and page, table and JSON as its files.

    Args:
        settings: Where the store is, and whether anything is written.
        work_dir: The working folder, which holds the store where no address is given.
        record: What may be shown.
        folder: Where page, CSV and JSON are.

    Returns:
        MLflow's id of it; None where nothing is kept.

    Raises:
        EnvironmentProblem: If the store cannot be written.
        PolicyError: If the allow-list refuses a name or a value.

    Guarantees:
        No count is a metric, and the note holds totals alone: what is hidden on the page is
        nowhere.
    """
    promise = record.guarantee
    return log_comparison(
        settings,
        work_dir,
        tags={
            "skinml.run": record.run,
            "skinml.experiment": "statistics",
            "skinml.data": record.data,
            "skinml.private": promise.private,
            "skinml.promise": _promise(record),
            "skinml.trust": promise.trust,
            "skinml.unit": promise.unit,
            "skinml.simulated": promise.simulated,
            "skinml.complete": record.complete,
            "skinml.started": record.started,
            "skinml.version": record.versions.get("skinml", ""),
        },
        params={"experiment": "statistics", "privacy": record.config["privacy"]},
        metrics=(),
        runs=(),
        files=[folder / name for name in (PAGE, CSV, JSON)],
        note=_note(record),
        kind="statistics",
    )


def _promise(record: StatisticsRecord) -> str:
    promise = record.guarantee
    if not promise.private:
        return "nothing: exact counts"
    return f"epsilon {epsilon(promise.epsilon)} at delta {promise.delta:g}"


def _note(record: StatisticsRecord) -> str:
    stamps = [
        *(["NOT PRIVATE"] if not record.guarantee.private else []),
        *(["SIMULATED"] if record.guarantee.simulated else []),
        *(["INCOMPLETE"] if not record.complete else []),
    ]
    title = ", ".join([f"Counts of {record.people} of {record.data}", _promise(record), *stamps])
    head = (f"{record.people} by", "region", "in all, about", "groups shown", "not shown")
    words = f"Groups below {record.least_count} are not shown. The tables are in Artifacts."
    if record.guarantee.private:
        reach = f"95 of 100 counts are off by {record.half_width:.0f} or less."
        words = f"{reach} {words}"
    return several_note(title, head, [_row(each) for each in record.tables], words)


def _row(table: StatisticsTable) -> tuple[str, ...]:
    total = "-" if table.total.value is None else f"{max(table.total.value, 0):.0f}"
    by = " and ".join(name.replace("_", " ") for name in table.attributes)
    shown = len(table.cells) - table.num_suppressed
    return by, table.region or "all clinics", total, f"{shown}", f"{table.num_suppressed}"
