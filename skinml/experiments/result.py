"""A finished run on disk, and the one JSON object that the command line prints of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from skinml.errors import DataError
from skinml.records import Estimate, GroupResult, Guarantee, Participation, RunRecord

RECORD_FILE = "record.json"
RESULT_FILE = "result.json"
_RECORDS = TypeAdapter(RunRecord)


def result_json(
    record: RunRecord, folder: Path, report: Path, mlflow_run: str | None
) -> dict[str, Any]:
    """Build the object of `--json`.

    Args:
        record: The run's record.
        folder: The run's folder.
        report: The HTML report.
        mlflow_run: MLflow's id of the run; None where tracking is off.

    Returns:
        Plain values; an undefined number is None, never 0.
    """
    groups: dict[str, dict[str, Any]] = {}
    for each in record.groups:
        groups.setdefault(each.attribute, {})[each.group] = _group(each)
    estimates = record.overall.estimates
    return {
        "run": record.run,
        "experiment": record.experiment,
        "seed": record.seed,
        "wall_s": record.wall_s,
        "evaluation": {"source": record.evaluation_source},
        "metrics": {
            **{name: estimates[name].value for name in ("balanced_accuracy", "auroc", "ece")},
            "n_images": record.overall.num_images,
            "n_patients": record.overall.num_patients,
        },
        "overall": _group(record.overall),
        "groups": groups,
        "gaps": None if record.gaps is None else dict(record.gaps),
        "label_sets": None if record.label_sets is None else dict(record.label_sets),
        "threshold": {"value": record.threshold, "source": record.threshold_source},
        "yardsticks": {
            each.name: {name: _estimate(value) for name, value in each.estimates.items()}
            for each in record.yardsticks
        },
        "privacy": privacy_json(record.guarantee) | {"unit_stands_for": record.data["unit"]},
        "participation": participation_json(record.participation),
        "complete": record.complete,
        "resumes": record.resumes,
        "secure_sums": secure_sums_json(record.guarantee),
        "admissions": None if record.admissions is None else asdict(record.admissions),
        "artifacts": {
            "report": str(report),
            "model": str(folder / "model"),
            "mlflow_run": mlflow_run,
        },
    }


def _group(each: GroupResult) -> dict[str, Any]:
    return {
        "n_images": each.num_images,
        "n_patients": each.num_patients,
        "n_positives": each.num_positives,
        "n_negatives": each.num_negatives,
        **{name: _estimate(value) for name, value in each.estimates.items()},
    }


def _estimate(value: Estimate) -> dict[str, Any]:
    found: dict[str, Any] = {"value": value.value, "low": value.low, "high": value.high}
    if value.reason:
        found["reason"] = value.reason
    return found


def participation_json(participation: Iterable[Participation]) -> list[dict[str, Any]]:
    """Write who took part.

    Args:
        participation: Every attempt at every round.

    Returns:
        Plain values.
    """
    return [
        {
            "round": each.round,
            "expected": list(each.expected),
            "took_part": list(each.took_part),
            "missing": dict(each.missing),
            "attempt": each.attempt,
            # Shares that add up to 1 but for the last digit of a float are 1.
            "noise": None if each.noise is None else round(each.noise, 9),
        }
        for each in participation
    ]


def privacy_json(promised: Guarantee) -> dict[str, Any]:
    """Write what is promised.

    Args:
        promised: The guarantee.

    Returns:
        Plain values; an epsilon without a guarantee is None.
    """
    return {
        "private": promised.private,
        "trust": promised.trust,
        "unit": promised.unit,
        "epsilon": promised.epsilon,
        "total_epsilon": promised.total_epsilon,
        "delta": promised.delta,
        "epsilon_across_clinics": promised.epsilon_across_clinics,
        "max_clinics": promised.max_clinics,
        "simulated": promised.simulated,
        "clinics": {
            name: {
                "epsilon": spend.epsilon,
                "total_epsilon": spend.total_epsilon,
                "events": spend.num_events,
            }
            for name, spend in promised.clinics.items()
        },
    }


def secure_sums_json(promised: Guarantee) -> dict[str, int] | None:
    """Tell who had to be there for a secure sum.

    Args:
        promised: The guarantee.

    Returns:
        Plain values; None where sums left without masks.
    """
    clinics = promised.num_clinics
    if promised.trust != "distributed" or clinics < 2:
        return None  # one clinic has nothing to hide its sum in
    return {
        "clinics": clinics,
        "threshold": clinics - promised.tolerated_dropouts,
        "colluding": promised.colluding_clinics,
    }


def write_record(record: RunRecord, folder: Path) -> None:
    """Keep a run's record, so that later commands can read it.

    Args:
        record: The record.
        folder: The run's folder.
    """
    (folder / RECORD_FILE).write_bytes(_RECORDS.dump_json(record, indent=1))


def read_record(folder: Path) -> RunRecord:
    """Read a run's record.

    Args:
        folder: The run's folder.

    Returns:
        The record.

    Raises:
        DataError: If the file is missing or of another form.
    """
    try:
        return _RECORDS.validate_json((folder / RECORD_FILE).read_bytes())
    except (OSError, ValidationError):
        raise DataError(
            rule=f"a finished run with its {RECORD_FILE}",
            got=f"folder={folder}",
            do="Give a run that this release of skinml has finished.",
        ) from None


def read_mlflow_run(folder: Path) -> str | None:
    """Find MLflow's id of a finished run.

    Args:
        folder: The run's folder.

    Returns:
        The id; None where the run was not tracked.
    """
    found = json.loads((folder / RESULT_FILE).read_text())["artifacts"]["mlflow_run"]
    return str(found) if found is not None else None
