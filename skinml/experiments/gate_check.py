"""The gate: whether a report meets the criteria in its own config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skinml.config import parse_config
from skinml.errors import DataError, RefusedError
from skinml.experiments.report_anew import ANEW
from skinml.experiments.report_check import Verified, require_unchanged, verify_report
from skinml.experiments.result import RESULT_FILE, read_mlflow_run
from skinml.fairness.acceptance import Judged
from skinml.reports.kept import judged
from skinml.reports.verification import AGREES
from skinml.reports.wording import fixed_words
from skinml.tracking.registry import Approved, approve_model


@dataclass(frozen=True)
class Gated:
    """A report that met its criteria.

    Attributes:
        verified: The checks of the report itself.
        judged: The criteria.
        approved: The registered model that has the alias now; None where none was asked for.
    """

    verified: Verified
    judged: tuple[Judged, ...]
    approved: Approved | None = None


def pass_gate(
    target: str,
    *,
    work_dir: Path = Path(),
    predictions: Path | None = None,
    approve: bool = False,
) -> Gated:
    """Hold a report against the criteria of its own config.

    Args:
        target: A run's id, its folder, or a report.json.
        work_dir: The working folder.
        predictions: The predictions file of a report that was made from one.
        approve: Whether the run's registered model gets the alias "approved".

    Returns:
        The criteria, all of them met.

    Raises:
        DataError: If there is no such report, or no registered model to approve.
        EnvironmentProblem: If the tracking store cannot be written.
        IntegrityError: If the report is not what was computed.
        RefusedError: If a criterion is not met, one reason a line; if there is none; or if figures
            that are to be approved cannot be computed anew here.
    """
    verified = verify_report(target, work_dir=work_dir, predictions=predictions)
    require_unchanged(verified)
    found = judged(verified.record)
    if not found:
        raise RefusedError(
            rule=f"acceptance criteria that were fixed {fixed_words(verified.record.kind)}",
            got="none in this report's config",
            do="Set fairness.acceptance and run anew.",
        )
    failed = [each for each in found if not each.accepted]
    if failed:
        raise RefusedError(
            rule="a model that meets its acceptance criteria",
            got=f"{len(failed)} of {len(found)} not met",
            do="The model stays unapproved.",
            details=reasons(failed),
        )
    return Gated(verified, found, _approve(verified, work_dir) if approve else None)


def reasons(found: Sequence[Judged]) -> list[str]:
    """Say of each criterion what was found.

    Args:
        found: The criteria.

    Returns:
        One line each.
    """
    return [f"{each.answer}: {each.criterion}; {each.reason}" for each in found]


def _approve(verified: Verified, work_dir: Path) -> Approved:
    anew = [each for each in verified.checks if each.what.startswith(ANEW)]
    if not any(each.outcome == AGREES for each in anew):
        raise RefusedError(
            rule="figures that were computed anew before a model is approved",
            got="; ".join(each.detail for each in anew) or "none",
            do="Approve where the run's clinics, or its released counts, are.",
        )
    run = read_mlflow_run(verified.place) if (verified.place / RESULT_FILE).is_file() else None
    if run is None:
        raise DataError(
            rule="a run that MLflow knows, to approve its model",
            got=verified.record.run,
            do="Only models of tracked runs are in the registry; leave out --approve.",
        )
    return approve_model(parse_config(dict(verified.record.config)).tracking, work_dir, run)
