"""`skinml report verify`: a report held against itself and against what it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from skinml.clinic.folder import open_folder
from skinml.config import RunConfig, parse_config
from skinml.errors import ConfigError, DataError, IntegrityError, SkinmlError
from skinml.experiments.code_version import SOURCE, source_digest
from skinml.experiments.compared import comparison_settings
from skinml.experiments.measured import Figures, figures_of
from skinml.experiments.predictions_file import PredictionsSettings
from skinml.experiments.predictions_report import KIND, predictions_record
from skinml.experiments.released import counts_release, released_gaps, released_results
from skinml.experiments.result import RECORD_FILE, read_record
from skinml.experiments.samples import read_predictions
from skinml.experiments.table_batches import digest_of
from skinml.experiments.workspace import Workspace
from skinml.experiments.yardsticks import pooled
from skinml.fairness.settings import FairnessSettings
from skinml.records import RunRecord
from skinml.reports.document import record_to_json
from skinml.reports.verification import (
    AGREES,
    DIFFERS,
    NOT_CHECKED,
    Check,
    check_page,
    compare,
    read_document,
)
from skinml.seeding import Seeds

REPORT = "report.json"
PAGE = "report.html"
ANEW = "figures computed anew"
# What of a record follows from predictions, or from released counts.
_COMPUTED = ("overall", "groups", "gaps", "curves")


@dataclass(frozen=True)
class Verified:
    """A report that was looked at.

    Attributes:
        record: What the report says it was made from.
        place: The report's folder.
        checks: What was looked at, in this order.
    """

    record: RunRecord
    place: Path
    checks: tuple[Check, ...]

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
    told = document.get("record", {}).get("versions", {}).get(SOURCE)
    record, checks = check_page(
        document, page.read_bytes() if page.is_file() else None, same_code=told == source_digest()
    )
    found = [*checks, *_kept_record(path.parent, document)]
    if record.kind == KIND:
        found += _from_file(record, document, predictions, path.parent)
    elif record.released_counts is not None:
        found.append(_from_counts(record, document))
    else:
        found.append(_from_clinics(record, document, path.parent, Workspace(work_dir)))
    return Verified(record, path.parent, tuple(found))


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
            do="Do not rely on this report; make it anew from the run or the predictions.",
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


def _computed(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: document["record"][name] for name in _COMPUTED}


def _plain(figures: Figures, record: RunRecord) -> dict[str, Any]:
    """Write figures as report.json does."""
    plain = record_to_json(
        RunRecord(**{**vars(record), **{name: getattr(figures, name) for name in _COMPUTED}})
    )
    return _computed(plain)


def _from_file(
    record: RunRecord, document: Mapping[str, Any], given: Path | None, folder: Path
) -> list[Check]:
    columns = record.config.get("predictions", {})
    name = str(columns.get("path", ""))
    what = f"the predictions file {name}"
    places = [given] if given is not None else [Path(name), folder / name, folder.parent / name]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        hint = "it is not here: name it with --predictions"
        return [Check(what, NOT_CHECKED, hint), Check(ANEW, NOT_CHECKED, hint)]
    digest = digest_of(path)
    if digest != record.data.get("digest"):
        return [
            Check(what, DIFFERS, f"its digest is {digest[:19]}"),
            Check(ANEW, NOT_CHECKED, "the file is another one"),
        ]
    try:
        settings = PredictionsSettings.model_validate({**columns, "path": path})
        fairness = FairnessSettings.model_validate(record.config.get("fairness", {}))
        anew = predictions_record(settings, fairness=fairness, seed=record.seed)
    except (SkinmlError, ValidationError) as error:
        return [Check(ANEW, DIFFERS, f"{type(error).__name__} with the report's settings")]
    return [
        Check(what, AGREES, digest[:19]),
        compare(ANEW, _computed(document), _computed(record_to_json(anew))),
    ]


def _config(record: RunRecord) -> RunConfig | None:
    try:
        return parse_config(dict(record.config))
    except ConfigError:
        return None


def _from_counts(record: RunRecord, document: Mapping[str, Any]) -> Check:
    what, config = f"{ANEW} from the released counts", _config(record)
    if config is None:
        return Check(what, NOT_CHECKED, "its config is of another release of skinml")
    clinics = tuple(sorted({name for each in record.participation for name in each.expected}))
    plan = counts_release(config, clinics)
    if plan is None or record.threshold is None or not record.participation:
        return Check(what, NOT_CHECKED, "the config names no release of counts")
    total = np.asarray(record.released_counts)
    words: Mapping[str, Any] = {
        "threshold": record.threshold,
        "classes": record.classes,
        "num_clinics": len(clinics),
        "num_present": len(record.participation[-1].took_part),
    }
    overall, groups = released_results(config, plan, total, **words)
    gaps = released_gaps(config, plan, total, **words)
    found = _plain(Figures(overall, groups, gaps, ()), record)
    return compare(what, _computed(document), found)


def _from_clinics(
    record: RunRecord, document: Mapping[str, Any], folder: Path, workspace: Workspace
) -> Check:
    """Compute the figures of a simulation from the predictions that its clinics keep sealed."""
    what, config = f"{ANEW} from the clinics' predictions", _config(record)
    if folder.parent.name == "evaluations":
        return Check(what, NOT_CHECKED, "an evaluation keeps no predictions")
    if config is None:
        return Check(what, NOT_CHECKED, "its config is of another release of skinml")
    places = [workspace.clinics, folder.parent.parent / "clinics"]
    present = record.participation[-1].took_part if record.participation else ()
    parts = {}
    for name in present:
        place = next((at / name for at in places if (at / name / "clinic.json").is_file()), None)
        if place is None:
            return Check(what, NOT_CHECKED, "the clinics' folders are not here: name --work-dir")
        try:
            parts[name] = read_predictions(open_folder(place), record.run, "test", record.classes)
        except OSError:
            return Check(what, NOT_CHECKED, f"{name} no longer keeps this run's predictions")
    if not parts:
        return Check(what, NOT_CHECKED, "nobody took part")
    predictions = pooled(parts)
    num = len(set(predictions.patients.tolist()))
    if num != record.overall.num_patients:
        return Check(
            what,
            NOT_CHECKED,
            f"predictions of {num:,} of {record.overall.num_patients:,} patients are still there: "
            "others were erased since",
        )
    found = figures_of(
        predictions,
        threshold=record.threshold,
        settings=comparison_settings(config.fairness, config.data),
        seeds=Seeds(config.seed),
    )
    return compare(what, _computed(document), _plain(found, record))


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
