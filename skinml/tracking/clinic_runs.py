"""The child runs in MLflow, one a clinic, updated while the parent run goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from skinml.tracking.allowlist import checked_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow takes at most 1000 metrics at once.
_METRICS_AT_ONCE = 1000
# A write for each clinic: with hundreds of them it takes seconds, and shall not take over the run.
_LEAST_GAP = 20.0

Point = tuple[str, float, int]
"""A metric's name, its value, its step."""


class ClinicRuns:
    """What rounds tell about clinics, until it is written, and where it goes."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}
        self._points: dict[str, list[Point]] = {}
        self._next = 0.0

    def add(self, round_number: int, clinics: Mapping[str, Mapping[str, float]]) -> None:
        """Take what a round tells.

        Args:
            round_number: The round's number, from 1.
            clinics: By clinic its figures, checked.
        """
        for clinic, figures in clinics.items():
            points = self._points.setdefault(clinic, [])
            points += [(name, value, round_number) for name, value in figures.items()]

    def due(self) -> bool:
        """Tell whether it is time to write.

        Returns:
            Whether writing would take less than a twentieth of the time.
        """
        return time.monotonic() >= self._next

    def write(self, client: MlflowClient, experiment: str, parent: str) -> None:
        """Write what was taken; a clinic's run is made when there is something about it.

        Args:
            client: MLflow's client.
            experiment: The experiment's id.
            parent: The parent run's id.
        """
        start = time.monotonic()
        for clinic, points in self._points.items():
            if points:
                log_points(client, self._run(client, experiment, parent, clinic), points)
        self._points = {}
        self._next = time.monotonic() + _LEAST_GAP * (time.monotonic() - start)

    def go_on(self, client: MlflowClient, experiment: str, parent: str) -> None:
        """Take up the runs that an earlier process left.

        Args:
            client: MLflow's client.
            experiment: The experiment's id.
            parent: The parent run's id.
        """
        ours = f"tags.`mlflow.parentRunId` = '{parent}'"
        page = ""
        while page is not None:
            found = client.search_runs([experiment], ours, page_token=page or None)
            for each in found:
                self._ids[str(each.data.tags["skinml.clinic"])] = str(each.info.run_id)
                client.update_run(each.info.run_id, status="RUNNING")
            page = found.token

    def end(
        self,
        client: MlflowClient,
        experiment: str,
        parent: str,
        status: str,
        clinics: Mapping[str, Mapping[str, float]],
    ) -> None:
        """Write the last figures and end the clinics' runs.

        Args:
            client: MLflow's client.
            experiment: The experiment's id.
            parent: The parent run's id.
            status: FINISHED or FAILED.
            clinics: By clinic its last figures.
        """
        self.write(client, experiment, parent)
        for clinic, figures in clinics.items():
            points = [(name, value, 0) for name, value in figures.items()]
            log_points(client, self._run(client, experiment, parent, clinic), points)
        for each in self._ids.values():
            client.set_terminated(each, status)

    def _run(self, client: MlflowClient, experiment: str, parent: str, clinic: str) -> str:
        if clinic not in self._ids:
            tags = checked_tags(
                {
                    "mlflow.parentRunId": parent,
                    "skinml.clinic": clinic,
                    "skinml.kind": "clinic",
                }
            )
            made = client.create_run(experiment, tags=tags, run_name=clinic)
            self._ids[clinic] = str(made.info.run_id)
        return self._ids[clinic]


def log_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Write tags.

    Args:
        client: MLflow's client.
        run_id: The run's id.
        tags: The tags, checked.
    """
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])


def log_points(client: MlflowClient, run_id: str, points: Sequence[Point]) -> None:
    """Write figures.

    Args:
        client: MLflow's client.
        run_id: The run's id.
        points: The figures, checked.
    """
    from mlflow.entities import Metric

    now = int(1000 * time.time())
    every = [Metric(name, value, now, step) for name, value, step in points]
    for first in range(0, len(every), _METRICS_AT_ONCE):
        client.log_batch(run_id, metrics=every[first : first + _METRICS_AT_ONCE])
