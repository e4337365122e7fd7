"""The gate: whether a report meets the criteria in its own config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skinml.config import parse_config
from skinml.errors import DataError, RefusedError, SkinmlError
from skinml.experiments.report_anew import ANEW
from skinml.experiments.report_check import Verified, require_unchanged, verify_report
from skinml.experiments.result import RESULT_FILE, read_mlflow_run
from skinml.fairness.acceptance import Judged
from skinml.reports.kept import judged
from skinml.reports.verification import AGREES
from skinml.reports.wording import fixed_words
from skinml.tracking.registry import Staged, stage_model


@dataclass(frozen=True)
class Gated:
    """A report that met its criteria.

    Attributes:
        verified: The checks of the report itself.
        judged: The criteria.
        staged: The registered model and its aliases; None where no registry was told.
        approved: Whether it was given the alias "approved" now.
        not_staged: Why the registry of a tracked run was not told; empty where it was.
    """

    verified: Verified
    judged: tuple[Judged, ...]
    staged: Staged | None = None
    approved: bool = False
    not_staged: str = ""


def pass_gate(
    target: str,
    *,
    work_dir: Path = Path(),
    predictions: Path | None = None,
    approve: bool = False,
) -> Gated:
    """Hold a report against the criteria of its own config, and tell MLflow's registry.

    The version that the run registered gets the tag `skinml.gate` and, where it passed, the alias
    "candidate"; where it did not, it loses the aliases "candidate" and "approved".

    Args:
        target: A run's id, its folder, or a report.json.
        work_dir: The working folder.
        predictions: The predictions file of a report that was made from one.
        approve: Whether the run's registered model also gets the alias "approved".

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
        note = _noted(verified, work_dir, passed=False, words=reasons(failed))[1]
        raise RefusedError(
            rule="a model that meets its acceptance criteria",
            got=f"{len(failed)} of {len(found)} not met",
            do="The model stays unapproved.",
            details=[*reasons(failed), *([f"MLflow was not told: {note}"] if note else [])],
        )
    if approve:
        return Gated(verified, found, _approve(verified, work_dir, reasons(found)), approved=True)
    staged, note = _noted(verified, work_dir, passed=True, words=reasons(found))
    return Gated(verified, found, staged, not_staged=note)


def reasons(found: Sequence[Judged]) -> list[str]:
    """Say of each criterion what was found.

    Args:
        found: The criteria.

    Returns:
        One line each.
    """
    return [f"{each.answer}: {each.criterion}; {each.reason}" for each in found]


def _noted(
    verified: Verified, work_dir: Path, *, passed: bool, words: Sequence[str]
) -> tuple[Staged | None, str]:
    """Tell the registry of a tracked run; the gate's answer does not wait for it."""
    if _mlflow_run(verified) is None:
        return None, ""
    try:
        return _stage(verified, work_dir, passed=passed, words=words, approve=False), ""
    except SkinmlError as error:
        return None, error.got


def _approve(verified: Verified, work_dir: Path, words: Sequence[str]) -> Staged:
    anew = [each for each in verified.checks if each.what.startswith(ANEW)]
    if not any(each.outcome == AGREES for each in anew):
        raise RefusedError(
            rule="figures that were computed anew before a model is approved",
            got="; ".join(each.detail for each in anew) or "none",
            do="Approve where the run's clinics, or its released counts, are.",
        )
    return _stage(verified, work_dir, passed=True, words=words, approve=True)


def _stage(
    verified: Verified, work_dir: Path, *, passed: bool, words: Sequence[str], approve: bool
) -> Staged:
    run = _mlflow_run(verified)
    if run is None:
        raise DataError(
            rule="a run that MLflow knows, to approve its model",
            got=f"{verified.record.run}, which it does not",
            do="Only models of tracked runs are in the registry; leave out --approve.",
        )
    return stage_model(
        parse_config(dict(verified.record.config)).tracking,
        work_dir,
        run,
        verified.record,
        passed=passed,
        reasons=words,
        approve=approve,
    )


def _mlflow_run(verified: Verified) -> str | None:
    return read_mlflow_run(verified.place) if (verified.place / RESULT_FILE).is_file() else None
