"""A report on any model, from a file of its predictions: the same figures, the same page."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from skinml.errors import ConfigError
from skinml.experiments.code_version import code_versions
from skinml.experiments.measured import Figures, figures_of
from skinml.experiments.predictions_file import (
    FilePredictions,
    PredictionsSettings,
    read_predictions_file,
)
from skinml.experiments.table_batches import digest_of
from skinml.fairness.catalogue import figure_names
from skinml.fairness.cells import overall_cell
from skinml.fairness.settings import FairnessSettings, PrimaryComparison
from skinml.records import CohortCell, CohortStage, Guarantee, Predictions, RunRecord
from skinml.reports.report import ReportFiles, write_report
from skinml.reports.wording import GIVEN_THRESHOLD
from skinml.seeding import Seeds

KIND = "predictions"
VERSIONS = ("skinml", "numpy", "scipy", "pyarrow")
NOT_KNOWN = "not known"
# What needs a decision, which a score without a threshold is not.
_DECIDED = ("sensitivity", "specificity", "ppv", "npv", "balanced_accuracy")
_ALARMS = _DECIDED[:4]
NO_THRESHOLD = "none was given, so that figures of alarms are left out"
OWN_DECISIONS = "none: alarms are the model's own decisions, as the file has them"


@dataclass(frozen=True)
class Reported:
    """A report on a predictions file.

    Attributes:
        record: What the report was made from.
        files: Where the report is.
    """

    record: RunRecord
    files: ReportFiles


def report_predictions(
    settings: PredictionsSettings,
    folder: Path,
    *,
    fairness: FairnessSettings | None = None,
    name: str = "",
    threshold_source: str = "",
    seed: int = 0,
) -> Reported:
    """Write the report of a predictions file.

    Args:
        settings: The file and its columns.
        folder: Where report.html and report.json go.
        fairness: Intervals, comparisons and margins; None: the defaults, on the file's groups.
        name: What the model is called on the page; empty: as the file.
        threshold_source: Where the threshold comes from, in words for the reader.
        seed: Root of the streams that intervals are drawn from.

    Returns:
        The report.

    Raises:
        ConfigError: If the settings name a group that the file does not have.
        DataError: If the file is not what the settings say.
        EnvironmentProblem: If the report cannot be written.

    Guarantees:
        No patient's id is in the report; nothing is sent anywhere.
    """
    record = predictions_record(
        settings, fairness=fairness, name=name, threshold_source=threshold_source, seed=seed
    )
    return Reported(record, write_report(record, folder))


def predictions_record(
    settings: PredictionsSettings,
    *,
    fairness: FairnessSettings | None = None,
    name: str = "",
    threshold_source: str = "",
    seed: int = 0,
) -> RunRecord:
    """Compute what a report of a predictions file shows, see `report_predictions`.

    Args:
        settings: The file and its columns.
        fairness: Intervals, comparisons and margins.
        name: What the model is called.
        threshold_source: Where the threshold comes from.
        seed: Root of the streams.

    Returns:
        The record; the same file and settings give the same figures.

    Raises:
        ConfigError: If the settings name a group that the file does not have.
        DataError: If the file is not what the settings say.
    """
    clock, began = time.monotonic(), datetime.now(UTC)
    read, digest = read_predictions_file(settings), digest_of(settings.path)
    chosen = fairness or usual_settings(read.predictions)
    figures = figures_of(
        read.predictions,
        threshold=settings.threshold,
        settings=chosen,
        seeds=Seeds(seed),
        figures=_wanted(read, chosen),
    )
    return RunRecord(
        run=f"{KIND}-{digest.removeprefix('sha256:')[:12]}",
        experiment=name or settings.path.stem,
        seed=seed,
        started=began.isoformat(timespec="seconds"),
        wall_s=round(time.monotonic() - clock, 3),
        evaluation_source="exact",
        classes=read.predictions.classes,
        threshold=settings.threshold,
        threshold_source=_source(settings, threshold_source),
        overall=figures.overall,
        groups=figures.groups,
        yardsticks=(),
        guarantee=_no_guarantee(),
        participation=(),
        cohort_flow=_flow(read),
        cohort_table=_table(figures),
        data=_data_words(settings, read, digest),
        config={
            "seed": seed,
            "fairness": chosen.model_dump(mode="json"),
            "predictions": settings.model_dump(mode="json") | {"path": settings.path.name},
        },
        versions=code_versions(VERSIONS),
        history=(),
        complete=True,
        gaps=figures.gaps,
        kind=KIND,
        curves=figures.curves,
    )


def usual_settings(predictions: Predictions) -> FairnessSettings:
    """Choose settings for predictions of which nothing else is known.

    Args:
        predictions: What a model said.

    Returns:
        The defaults, with all attributes compared, the clinic aside, and the first of them named
        as the primary comparison where there is no skin tone.
    """
    usual = FairnessSettings()
    names = tuple(name for name in predictions.groups if name != "clinic")
    primary = usual.primary
    if primary is not None and primary.attribute not in names:
        primary = PrimaryComparison(attribute=names[0]) if names else None
    return FairnessSettings(groups=names, primary=primary)


def read_settings(path: Path) -> FairnessSettings:
    """Read settings of the statistics from a YAML file, as under `fairness` in a run's config.

    Args:
        path: The file.

    Returns:
        The settings.

    Raises:
        ConfigError: If the file is missing, is no YAML, or has an unknown or impossible setting.
    """
    try:
        plain: Any = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        inner = plain.get("fairness", plain) if isinstance(plain, dict) else plain
        return FairnessSettings.model_validate(inner)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise ConfigError(
            rule="settings as under fairness in a run's config",
            got=f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}",
            do="See configs/fairness/default.yaml.",
        ) from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            rule="a YAML file with settings",
            got=f"{path.name} ({type(error).__name__})",
            do="See configs/fairness/default.yaml.",
        ) from None


def _wanted(read: FilePredictions, settings: FairnessSettings) -> list[str] | None:
    if read.decided:
        return None
    # With several classes the likeliest one is the decision, but an alarm still needs a threshold.
    two = len(read.predictions.classes.names) == 2
    names = figure_names(overall_cell(read.predictions, threshold=None), settings)
    return [name for name in names if name not in (_DECIDED if two else _ALARMS)]


def _source(settings: PredictionsSettings, words: str) -> str:
    if settings.prediction is not None:
        return OWN_DECISIONS
    return NO_THRESHOLD if settings.threshold is None else (words or GIVEN_THRESHOLD)


def _no_guarantee() -> Guarantee:
    return Guarantee(
        private=False,
        trust=NOT_KNOWN,
        unit="patient",
        epsilon=None,
        total_epsilon=None,
        epsilon_across_clinics=None,
        max_clinics=0,
        delta=0.0,
        simulated=False,
        clinics={},
    )


def _flow(read: FilePredictions) -> tuple[CohortStage, ...]:
    rows, patients = len(read.predictions), len(set(read.predictions.patients.tolist()))
    note = ""
    if read.num_alike:
        note = (
            f"rows that equal an earlier one in patient, label, scores and groups: "
            f"{read.num_alike}; they were kept"
        )
    return (CohortStage("rows of the predictions file", rows, patients, note),)


def _table(figures: Figures) -> tuple[CohortCell, ...]:
    return tuple(
        CohortCell(
            each.attribute, each.group, {"test": each.num_patients}, {"test": each.num_positives}
        )
        for each in figures.groups
    )


def _data_words(
    settings: PredictionsSettings, read: FilePredictions, digest: str
) -> dict[str, str]:
    return {
        "name": settings.path.name,
        "unit": "patient",
        "digest": digest,
        "evaluated_on": "a predictions file",
        "positive": ", ".join(read.positive),
        "images": str(len(read.predictions)),
    }
