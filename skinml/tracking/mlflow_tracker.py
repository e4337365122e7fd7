"""The one door to MLflow: a parent run with one child a clinic, and the registered model."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from skinml.errors import EnvironmentProblem
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
from skinml.tracking.clinic_runs import ClinicRuns, Point, log_points, log_tags
from skinml.tracking.content import clinic_metrics, final_metrics, final_tags
from skinml.tracking.overview import GATE, experiment_tags, overview_tags
from skinml.tracking.quiet import quiet
from skinml.tracking.settings import TrackingSettings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

_SQLITE = "sqlite:///"
# MLflow takes at most 100 params or tags at once.
_PARAMS_AT_ONCE = 100
_MAX_DIGEST = 36
# Rounds are written together this often, for each write is a transaction of its own.
_FAILURE = "skinml.failure"
_FLUSH_S = 2.0


def tracking_uri(settings: TrackingSettings, folder: Path) -> str:
    """Choose the store's address.

    Args:
        settings: The settings.
        folder: The working folder.

    Returns:
        The address of the settings, or of the environment, or an SQLite file in the folder.
    """
    chosen = settings.uri or os.environ.get("MLFLOW_TRACKING_URI")
    return chosen or f"{_SQLITE}{folder.resolve() / 'mlflow.db'}"


class MlflowTracker:
    """Writes one run to MLflow.

    Neither the process's tracking address nor its active run is touched.

    Args:
        settings: The settings.
        folder: The working folder, which holds the store where no address is given.
        served_model: A script that calls `skinml.tracking.serving.serve`; None registers no model
            and keeps the bundle as a plain artifact.
    """

    def __init__(
        self, settings: TrackingSettings, folder: Path, served_model: Path | None = None
    ) -> None:
        self.uri = tracking_uri(settings, folder)
        self._settings = settings
        self._served_model = served_model
        self._experiment = ""
        self._experiment_id = ""
        self._run_id = ""
        self._points: list[Point] = []
        self._flushed = time.monotonic()
        self._children = ClinicRuns()
        self._open_client: MlflowClient | None = None

    def start(
        self,
        run: str,
        experiment: str,
        params: Mapping[str, Any],
        datasets: Sequence[DatasetRef],
        history: Sequence[Mapping[str, float]] = (),
    ) -> None:
        """Begin the parent run or go on with it, see `Tracker.start`."""
        written = checked_params(params)
        references = [checked_dataset(dataset) for dataset in datasets]
        tags = checked_tags(
            {"skinml.run": run, "skinml.experiment": experiment, "skinml.kind": "run"}
        )
        self._experiment = experiment
        with self.store() as client:
            self._experiment_id = _experiment_id(client, self._settings.experiment, self.uri)
            if history and self._go_on(client, run, history):
                return
            created = client.create_run(self._experiment_id, tags=tags, run_name=run)
            self._run_id = str(created.info.run_id)
            log_params(client, self._run_id, written)
            if references:
                client.log_inputs(self._run_id, [_dataset_input(each) for each in references])
            self._points += [
                (name, value, at)
                for at, each in enumerate(history, 1)
                for name, value in each.items()
            ]

    def _go_on(
        self, client: MlflowClient, run: str, history: Sequence[Mapping[str, float]]
    ) -> bool:
        """Take up the run that an earlier process left; tells whether there is one."""
        found = client.search_runs([self._experiment_id], f"tags.`skinml.run` = '{run}'")
        parents = [each for each in found if each.data.tags.get("skinml.kind") == "run"]
        if not parents:
            return False
        self._run_id = str(parents[0].info.run_id)
        if _FAILURE in parents[0].data.tags:
            client.delete_tag(self._run_id, _FAILURE)
        client.update_run(self._run_id, status="RUNNING")
        self._children.go_on(client, self._experiment_id, self._run_id)
        # What a killed process had not written yet.
        for name in history[0]:
            last = max((p.step for p in client.get_metric_history(self._run_id, name)), default=0)
            points = [(name, each[name], at) for at, each in enumerate(history, 1) if at > last]
            log_points(client, self._run_id, points)
        return True

    def log_round(
        self,
        round_number: int,
        metrics: Mapping[str, float],
        clinics: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Write the figures of one round, see `Tracker.log_round`."""
        checked, by_clinic = checked_round_metrics(metrics), checked_clinic_rounds(clinics or {})
        self._points += [(name, value, round_number) for name, value in checked.items()]
        self._children.add(round_number, by_clinic)
        if time.monotonic() - self._flushed >= _FLUSH_S:
            with self.store() as client:
                self._flush(client)
                if self._children.due():
                    self._children.write(client, self._experiment_id, self._run_id)

    def finish(
        self, record: RunRecord, report: Path, report_json: Path, model: Path | None
    ) -> str | None:
        """Write the outcome and end the parent run, see `Tracker.finish`."""
        metrics = final_metrics(record, self._settings.group_attributes)
        clinics, tags = clinic_metrics(record), final_tags(record)
        shown = overview_tags(record, self._settings.group_attributes)
        with self.store() as client:
            self._flush(client)
            last = len(record.participation)
            log_points(client, self._run_id, [(n, v, last) for n, v in metrics.items()])
            log_tags(client, self._run_id, tags | shown)
            self._children.end(client, self._experiment_id, self._run_id, "FINISHED", clinics)
            client.log_artifact(self._run_id, str(report), "report")
            client.log_artifact(self._run_id, str(report_json), "report")
            if model is not None:
                self._log_model(client, record, model, tags | {GATE: shown[GATE]})
            client.set_terminated(self._run_id, "FINISHED")
        return self._run_id

    def fail(self, reason: str) -> None:
        """End the parent run as failed, see `Tracker.fail`."""
        if not self._run_id:
            return
        with self.store() as client:
            self._flush(client)
            tags = checked_tags({_FAILURE: clean_reason(reason)})
            log_tags(client, self._run_id, tags)
            self._children.end(client, self._experiment_id, self._run_id, "FAILED", {})
            client.set_terminated(self._run_id, "FAILED")

    @contextmanager
    def store(self) -> Iterator[MlflowClient]:
        """Open the store, its faults told as skinml's own.

        Yields:
            The client.

        Raises:
            EnvironmentProblem: If the store cannot be read or written.
        """
        with quiet():
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
            from sqlalchemy.exc import SQLAlchemyError

            try:
                if self._open_client is None:
                    _prepare_store(self.uri)
                    self._open_client = MlflowClient(self.uri, registry_uri=self.uri)
                yield self._open_client
            except (MlflowException, SQLAlchemyError, OSError, sqlite3.Error) as error:
                raise _store_problem(error) from error

    def _flush(self, client: MlflowClient) -> None:
        log_points(client, self._run_id, self._points)
        self._points = []
        self._flushed = time.monotonic()

    def _log_model(
        self, client: MlflowClient, record: RunRecord, bundle: Path, tags: Mapping[str, str]
    ) -> None:
        if self._served_model is None or not self._settings.register_model:
            client.log_artifacts(self._run_id, str(bundle), "model")
            return
        from mlflow.entities import LoggedModelOutput

        logged = client.create_logged_model(
            self._experiment_id, name="model", source_run_id=self._run_id
        )
        with TemporaryDirectory() as folder:
            saved = Path(folder) / "model"
            _save_model(saved, self._served_model, bundle, record)
            client.log_model_artifacts(logged.model_id, str(saved))
        client.finalize_logged_model(logged.model_id, "READY")
        client.log_outputs(self._run_id, [LoggedModelOutput(logged.model_id, step=0)])
        self._register(client, logged.model_id, logged.artifact_location, tags)

    def _register(
        self, client: MlflowClient, model_id: str, location: str, tags: Mapping[str, str]
    ) -> None:
        from mlflow.exceptions import MlflowException

        name = f"skinml-{self._experiment}"
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # The model's place, not "models:/ID": MLflow would look that id up in the process's own
        # tracking store, which need not be this one.
        version = client.create_model_version(
            name, source=location, run_id=self._run_id, tags=dict(tags), model_id=model_id
        )
        link = json.dumps([{"name": name, "version": version.version}])
        client.set_logged_model_tags(model_id, {"mlflow.modelVersions": link})


@contextmanager
def opened_store(settings: TrackingSettings, folder: Path) -> Iterator[tuple[MlflowClient, str]]:
    """Open the store for something beside a run.

    Args:
        settings: The settings.
        folder: The working folder, which holds the store where no address is given.

    Yields:
        The client, and MLflow's id of the experiment that the settings name.

    Raises:
        EnvironmentProblem: If the store cannot be read or written.
    """
    tracker = MlflowTracker(settings, folder)
    with tracker.store() as client:
        yield client, _experiment_id(client, settings.experiment, tracker.uri)


def _prepare_store(uri: str) -> None:
    """Make an SQLite store, or find out early that it cannot be written.

    MLflow by itself would try a broken store again for minutes, and would put the path of the
    folder that the process happens to be in into a new one.
    """
    if not uri.startswith(_SQLITE):
        return
    path = Path(uri.removeprefix(_SQLITE)).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
        return
    with TemporaryDirectory(prefix=".mlflow-", dir=path.parent) as folder:
        draft = Path(folder) / "mlflow.db"
        _create_store(f"{_SQLITE}{draft}", artifact_root(uri))
        if not path.exists():
            draft.replace(path)


def _create_store(uri: str, artifact_root: str) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def relax(connection: sqlite3.Connection, _: object) -> None:
        # The draft is worth nothing until it is whole, so nothing waits for the disk: the
        # migrations' seventy commits would.
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", relax)
    try:
        SqlAlchemyStore(uri, artifact_root).engine.dispose()
    finally:
        event.remove(Engine, "connect", relax)


def artifact_root(uri: str) -> str:
    """Say where the artifacts of an SQLite store are.

    Args:
        uri: The store's address.

    Returns:
        The address of the folder `mlartifacts` beside the file.
    """
    return (Path(uri.removeprefix(_SQLITE)).resolve().parent / "mlartifacts").as_uri()


def _store_problem(error: Exception) -> EnvironmentProblem:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return EnvironmentProblem(
        rule="a tracking store that can be written",
        got=clean_reason(lines[0].strip().rstrip(".")),
        do="Check tracking.uri and the working folder, or set tracking.enabled=false.",
    )


def _experiment_id(client: MlflowClient, name: str, uri: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    # By itself MLflow would put artifacts below whatever folder the process is in.
    place = artifact_root(uri) if uri.startswith(_SQLITE) else None
    tags = experiment_tags()
    return str(client.create_experiment(name, artifact_location=place, tags=tags))


def _dataset_input(dataset: DatasetRef) -> DatasetInput:
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import DatasetInput, InputTag

    known = {"source": dataset.source, "digest": dataset.digest}
    if dataset.num_patients is not None:
        known["num_patients"] = str(dataset.num_patients)
    described = MetaDataset(
        CodeDatasetSource(tags=known), name=dataset.name, digest=dataset.digest[:_MAX_DIGEST]
    )
    return DatasetInput(
        described._to_mlflow_entity(), tags=[InputTag("mlflow.data.context", "experiment")]
    )


def log_params(client: MlflowClient, run_id: str, params: Mapping[str, str]) -> None:
    """Write params, as many at once as MLflow takes.

    Args:
        client: The open store.
        run_id: MLflow's id of the run.
        params: The params, already checked.
    """
    from mlflow.entities import Param

    every = [Param(name, value) for name, value in params.items()]
    for first in range(0, len(every), _PARAMS_AT_ONCE):
        client.log_batch(run_id, params=every[first : first + _PARAMS_AT_ONCE])


def _save_model(folder: Path, script: Path, bundle: Path, record: RunRecord) -> None:
    import mlflow.pyfunc

    from skinml.tracking.serving import signature

    version = record.versions.get("skinml", "")
    mlflow.pyfunc.save_model(
        folder,
        python_model=str(script),
        artifacts={"bundle": str(bundle)},
        signature=signature(record.classes),
        # Named outright, or MLflow would load the model in another process to find out.
        pip_requirements=[f"skinml=={version}" if version else "skinml"],
    )
