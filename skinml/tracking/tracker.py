"""The tracker that a run writes to, and the two that need no MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from skinml.records import RunRecord
from skinml.tracking.allowlist import (
    DatasetRef,
    checked_clinic_rounds,
    checked_dataset,
    checked_params,
    checked_round_metrics,
    checked_tags,
    clean_reason,
)
from skinml.tracking.content import clinic_metrics, final_metrics, final_tags
from skinml.tracking.overview import overview_tags
from skinml.tracking.settings import TrackingSettings

__all__ = ["DatasetRef", "MemoryTracker", "NullTracker", "Tracker", "make_tracker"]


class Tracker(Protocol):
    """Where one run writes what it saw: start, then rounds, then finish or fail."""

    def start(
        self,
        run: str,
        experiment: str,
        params: Mapping[str, Any],
        datasets: Sequence[DatasetRef],
        history: Sequence[Mapping[str, float]] = (),
    ) -> None:
        """Begin a run, or go on with one that was broken off.

        Args:
            run: The run's id.
            experiment: The experiment's name, such as "derm_malignancy".
            params: The whole config, nested or flattened.
            datasets: The data used, by digest.
            history: The public figures of the rounds that are done, of a run that is resumed.

        Raises:
            PolicyError: If the allow-list refuses a name or a value.
            ConfigError: If a dataset's digest is not one.
            EnvironmentProblem: If the store cannot be written.
        """
        ...

    def log_round(
        self,
        round_number: int,
        metrics: Mapping[str, float],
        clinics: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Write the public figures of one round.

        Args:
            round_number: The round's number, from 1.
            metrics: The figures by name.
            clinics: By clinic what the round tells about it, see `content.clinic_rounds`.

        Raises:
            PolicyError: If the allow-list refuses a name.
            EnvironmentProblem: If the store cannot be written.
        """
        ...

    def finish(
        self, record: RunRecord, report: Path, report_json: Path, model: Path | None
    ) -> str | None:
        """End a run that reached its report.

        Args:
            record: What the run may show.
            report: The HTML report.
            report_json: The JSON under it.
            model: The folder of the model bundle; None where none was saved.

        Returns:
            MLflow's id of the run; None where nothing is kept.

        Raises:
            PolicyError: If the allow-list refuses a name or a value.
            EnvironmentProblem: If the store cannot be written.
        """
        ...

    def fail(self, reason: str) -> None:
        """End a run that did not reach its report.

        Args:
            reason: What went wrong; withheld where it seems to point at a patient.

        Raises:
            EnvironmentProblem: If the store cannot be written.
        """
        ...


class NullTracker:
    """Keeps nothing."""

    def start(
        self,
        run: str,
        experiment: str,
        params: Mapping[str, Any],
        datasets: Sequence[DatasetRef],
        history: Sequence[Mapping[str, float]] = (),
    ) -> None:
        """Do nothing, see `Tracker.start`."""

    def log_round(
        self,
        round_number: int,
        metrics: Mapping[str, float],
        clinics: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Do nothing, see `Tracker.log_round`."""

    def finish(
        self, record: RunRecord, report: Path, report_json: Path, model: Path | None
    ) -> str | None:
        """Keep nothing, see `Tracker.finish`."""
        return None

    def fail(self, reason: str) -> None:
        """Do nothing, see `Tracker.fail`."""


@dataclass
class MemoryTracker:
    """Keeps a run in memory, behind the same allow-list as MLflow. For tests and notebooks.

    Attributes:
        settings: The attributes whose groups may be named.
        status: "new", "running", "finished" or "failed".
        params: The config as text.
        datasets: The data used.
        rounds: The figures of each round by its number.
        clinic_rounds: The figures of each clinic in each round by its number.
        metrics: The final figures.
        clinics: The final figures of each clinic.
        tags: The tags.
        artifacts: The files and folders handed over.
    """

    settings: TrackingSettings = field(default_factory=TrackingSettings)
    status: str = "new"
    params: dict[str, str] = field(default_factory=dict)
    datasets: list[DatasetRef] = field(default_factory=list)
    rounds: dict[int, dict[str, float]] = field(default_factory=dict)
    clinic_rounds: dict[int, dict[str, dict[str, float]]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    clinics: dict[str, dict[str, float]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    artifacts: list[Path] = field(default_factory=list)

    def start(
        self,
        run: str,
        experiment: str,
        params: Mapping[str, Any],
        datasets: Sequence[DatasetRef],
        history: Sequence[Mapping[str, float]] = (),
    ) -> None:
        """Begin a run, see `Tracker.start`."""
        self.params = checked_params(params)
        self.datasets = [checked_dataset(dataset) for dataset in datasets]
        self.tags = checked_tags({"skinml.run": run, "skinml.experiment": experiment})
        self.rounds = {n: checked_round_metrics(each) for n, each in enumerate(history, start=1)}
        self.status = "running"

    def log_round(
        self,
        round_number: int,
        metrics: Mapping[str, float],
        clinics: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Keep the figures of one round, see `Tracker.log_round`."""
        self.rounds[round_number] = checked_round_metrics(metrics)
        self.clinic_rounds[round_number] = checked_clinic_rounds(clinics or {})

    def finish(
        self, record: RunRecord, report: Path, report_json: Path, model: Path | None
    ) -> str | None:
        """End a run, see `Tracker.finish`."""
        self.metrics = final_metrics(record, self.settings.group_attributes)
        self.clinics = clinic_metrics(record)
        self.tags |= final_tags(record) | overview_tags(record, self.settings.group_attributes)
        self.artifacts = [path for path in (report, report_json, model) if path is not None]
        self.status = "finished"
        return None

    def fail(self, reason: str) -> None:
        """End a run that failed, see `Tracker.fail`."""
        self.tags |= checked_tags({"skinml.failure": clean_reason(reason)})
        self.status = "failed"


def make_tracker(
    settings: TrackingSettings, folder: Path, served_model: Path | None = None
) -> Tracker:
    """Choose the tracker that the settings ask for.

    Args:
        settings: The settings.
        folder: The working folder, which holds the store where no address is given.
        served_model: A script that calls `skinml.tracking.serving.serve`, by which MLflow loads
            the registered model; None registers no model.

    Returns:
        A tracker; one that keeps nothing where tracking is off.
    """
    if not settings.enabled:
        return NullTracker()
    from skinml.tracking.mlflow_tracker import MlflowTracker

    return MlflowTracker(settings, folder, served_model)
