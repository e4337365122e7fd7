"""`skinml report verify`: a report held against itself and against what it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skinml.errors import DataError, IntegrityError, SkinmlError
from skinml.experiments.code_version import SOURCE, source_digest
from skinml.experiments.predictions_report import KIND
from skinml.experiments.report_anew import checks_from_file, checks_of_run
from skinml.experiments.result import RECORD_FILE, read_record
from skinml.experiments.workspace import Workspace
from skinml.records import RunRecord
from skinml.reports.document import record_to_json
from skinml.reports.verification import (
    DIFFERS,
    Check,
    check_page,
    compare,
    read_document,
)

REPORT = "report.json"
PAGE = "report.html"
_OTHER_CODE = "Other code of skinml made it and may compute otherwise: check it with that code."
_DO = "Do not rely on this report; make it anew from the run or the predictions."


@dataclass(frozen=True)
class Verified:
    """A report that was looked at.

    Attributes:
        record: What the report says it was made from.
        place: The report's folder.
        checks: What was looked at, in this order.
        same_code: Whether this is the code that made the report.
    """

    record: RunRecord
    place: Path
    checks: tuple[Check, ...]
    same_code: bool

    @property
    def differs(self) -> tuple[Check, ...]:
        """The checks that found something else."""
        return tuple(each for each in self.checks if each.outcome == DIFFERS)


def find_report(target: str, workspace: Workspace) -> Path:
    """Find a report by a run's id, its folder or its report.json.

    Args:
        target: The id or the path.
        workspace: Where runs are.

    Returns:
        The path of report.json.

    Raises:
        DataError: If there is none.
    """
    path = Path(target)
    for found in (path, path / REPORT, workspace.runs / target / REPORT):
        if found.is_file():
            return found
    raise DataError(
        rule=f"a run's id, its folder, or a {REPORT}",
        got=target,
        do="Run ids are the names of the folders in runs/.",
    )


def verify_report(
    target: str, *, work_dir: Path = Path(), predictions: Path | None = None
) -> Verified:
    """Check every number of a report as far as this machine can.

    Args:
        target: A run's id, its folder, or a report.json.
        work_dir: The working folder with runs and virtual clinics.
        predictions: The predictions file of a report that was made from one.

    Returns:
        What was looked at. Nothing is written.

    Raises:
        DataError: If there is no such report.
    """
    path = find_report(target, Workspace(work_dir))
    document = read_document(path.read_text(encoding="utf-8", errors="replace"))
    page = path.with_name(PAGE)
    same_code = document.get("record", {}).get("versions", {}).get(SOURCE) == source_digest()
    record, checks = check_page(
        document, page.read_bytes() if page.is_file() else None, same_code=same_code
    )
    found = [*checks, *_kept_record(path.parent, document)]
    if record.kind == KIND:
        found += checks_from_file(record, document["record"], predictions, path.parent)
    else:
        clinics = Workspace(work_dir).clinics
        found += checks_of_run(record, document["record"], path.parent, clinics)
    return Verified(record, path.parent, tuple(found), same_code)


def require_unchanged(verified: Verified) -> None:
    """Refuse a report that is not what it was.

    Args:
        verified: The checks.

    Raises:
        IntegrityError: If one of them found something else.
    """
    if verified.differs:
        raise IntegrityError(
            rule="a report whose numbers are those that were computed",
            got=f"{len(verified.differs)} of {len(verified.checks)} checks that differ",
            do=_DO if verified.same_code else f"{_OTHER_CODE} {_DO}",
            details=[f"{each.what}: {each.detail}" for each in verified.differs],
        )


def _kept_record(folder: Path, document: Mapping[str, Any]) -> list[Check]:
    if not (folder / RECORD_FILE).is_file():
        return []
    what = f"{RECORD_FILE}, which the run keeps beside its report"
    try:
        kept = record_to_json(read_record(folder))["record"]
    except SkinmlError as error:
        return [Check(what, DIFFERS, str(error))]
    return [compare(what, document["record"], kept)]


def checks_json(verified: Verified) -> str:
    """Write what was looked at for `--json`.

    Args:
        verified: The checks.

    Returns:
        One JSON object.
    """
    return json.dumps(
        {
            "run": verified.record.run,
            "report": str(verified.place / REPORT),
            "checks": [asdict(each) for each in verified.checks],
        }
    )
