"""Statistics as plain values: the JSON beside the page, and what the command line prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skinml.experiments.result import participation_json, privacy_json, secure_sums_json
from skinml.fairness.statistics_tables import LEVEL, StatisticsTable
from skinml.records import Estimate
from skinml.reports.statistics_page import CSV, JSON, PAGE, StatisticsRecord

FORMAT = "skinml-statistics-1"


def statistics_json(
    record: StatisticsRecord, folder: Path | None = None, mlflow_run: str | None = None
) -> dict[str, Any]:
    """Write statistics as plain values.

    Args:
        record: What may be shown.
        folder: Where page, CSV and JSON are; None leaves their paths out.
        mlflow_run: MLflow's id of them; None where tracking is off.

    Returns:
        The object of `--json`; a count that is not shown is None, never 0.
    """
    values: dict[str, Any] = {
        "format": FORMAT,
        "run": record.run,
        "data": record.data,
        "started": record.started,
        "wall_s": record.wall_s,
        "privacy": privacy_json(record.guarantee) | {"unit_stands_for": record.unit_stands_for},
        "noise": {"std": record.std, "half_width": record.half_width, "level": LEVEL},
        "least_count": record.least_count,
        "regions": {name: list(members) for name, members in record.regions},
        "tables": [_table(each) for each in record.tables],
        "participation": participation_json(record.participation),
        "complete": record.complete,
        "secure_sums": secure_sums_json(record.guarantee),
        "plan": record.plan,
        "config": dict(record.config),
        "versions": dict(record.versions),
    }
    if folder is not None:
        names = {"page": PAGE, "csv": CSV, "json": JSON}
        values["artifacts"] = {
            **{kind: str(folder / name) for kind, name in names.items()},
            "mlflow_run": mlflow_run,
        }
    return values


def _table(table: StatisticsTable) -> dict[str, Any]:
    return {
        "table": table.name,
        "region": table.region or None,
        "attributes": list(table.attributes),
        "total": _estimate(table.total),
        "suppressed": table.num_suppressed,
        "cells": [
            {"groups": list(cell.groups), **_estimate(cell.count), "suppressed": cell.suppressed}
            for cell in table.cells
        ],
    }


def _estimate(value: Estimate) -> dict[str, Any]:
    return {"patients": value.value, "low": value.low, "high": value.high}
