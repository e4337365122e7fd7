"""What the gate says of a registered model, as tags and aliases of MLflow's model registry.

A version has the tag `skinml.gate` from the day that it is registered. Its stages are aliases:
"candidate" is the last version that met its criteria, "approved" the one that somebody approved on
top of that. Both are given by the gate and by nothing else in skinml, and a version that does not
meet its criteria loses them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skinml.errors import DataError, EnvironmentProblem
from skinml.records import RunRecord
from skinml.tracking.allowlist import clean_reason
from skinml.tracking.clinic_runs import log_tags
from skinml.tracking.mlflow_tracker import tracking_uri
from skinml.tracking.overview import GATE, GATE_REASON, gate_tags
from skinml.tracking.quiet import quiet
from skinml.tracking.settings import TrackingSettings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CANDIDATE, APPROVED = "candidate", "approved"


@dataclass(frozen=True)
class Staged:
    """What the registry says of a run's model now.

    Attributes:
        name: The model's name in the registry.
        version: The version.
        aliases: The aliases that this version has, "approved", "candidate" or neither.
        replaced: The version that had the highest of these aliases before; empty where none had.
    """

    name: str
    version: str
    aliases: tuple[str, ...] = ()
    replaced: str = ""


def stage_model(
    settings: TrackingSettings,
    folder: Path,
    mlflow_run: str,
    record: RunRecord,
    *,
    passed: bool,
    reasons: Sequence[str],
    approve: bool = False,
) -> Staged:
    """Write what the gate said to a run and its registered model.

    Args:
        settings: Where the store is.
        folder: The working folder, which holds the store where no address is given.
        mlflow_run: MLflow's id of the run.
        record: What the run may show.
        passed: Whether every criterion is met. Whoever calls this has held the run to them.
        reasons: A line a criterion that is not met; where all are, a line each.
        approve: Whether the version also gets the alias "approved"; only where it passed.

    Returns:
        The version and its aliases.

    Raises:
        DataError: If there is no such store, the run there is another one, or it registered no
            model.
        EnvironmentProblem: If the store cannot be read or written.
        PolicyError: If the allow-list refuses a word.
    """
    tags = gate_tags(record, settings.group_attributes, passed=passed, reasons=reasons)
    with _registry(settings, folder) as client:
        _require_same_run(client, mlflow_run, record)
        version = _version(client, mlflow_run)
        log_tags(client, mlflow_run, tags)
        for tag in (GATE, GATE_REASON):
            client.set_model_version_tag(version.name, version.version, tag, tags[tag])
        wanted = [CANDIDATE, *([APPROVED] if approve else [])] if passed else []
        replaced = _give(client, version, wanted)
        if not passed:
            _take(client, version)
        now = _aliases(client, version.name)
    own = tuple(sorted(alias for alias, number in now.items() if number == str(version.version)))
    return Staged(str(version.name), str(version.version), own, replaced)


@contextmanager
def _registry(settings: TrackingSettings, folder: Path) -> Iterator[MlflowClient]:
    """Open the registry of a store that is there, its faults told as skinml's own."""
    uri = tracking_uri(settings, folder)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        # MLflow would make an empty store.
        raise DataError(
            rule="the tracking store of the run",
            got="no such file",
            do="Name the run's working folder with --work-dir.",
        )
    with quiet():
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            yield MlflowClient(tracking_uri=uri, registry_uri=uri)
        except MlflowException as error:
            raise EnvironmentProblem(
                rule="a tracking store that can be read and written",
                got=clean_reason(str(error).splitlines()[0]),
                do="Check tracking.uri and the working folder.",
            ) from error


def _require_same_run(client: MlflowClient, mlflow_run: str, record: RunRecord) -> None:
    """Refuse to write to another run than the one that was held to its criteria."""
    known = client.get_run(mlflow_run).data.tags.get("skinml.run")
    if known != record.run:
        raise DataError(
            rule=f"the run {record.run} under its own number in MLflow",
            got=f"another run, {known or 'which is none of skinml'}",
            do="Use the folder of the run as it was written.",
        )


def _version(client: MlflowClient, mlflow_run: str) -> ModelVersion:
    found = client.search_model_versions(f"run_id='{mlflow_run}'")
    if not found:
        raise DataError(
            rule="a run whose model is in the registry",
            got="no registered model of this run",
            do="Set tracking.register_model=true and run anew.",
        )
    return max(found, key=lambda each: int(each.version))


def _give(client: MlflowClient, version: ModelVersion, wanted: Sequence[str]) -> str:
    """Give a version its aliases; tells which version had the last of them before."""
    before = _aliases(client, version.name).get(wanted[-1], "") if wanted else ""
    for alias in wanted:
        client.set_registered_model_alias(version.name, alias, version.version)
    return "" if before == str(version.version) else before


def _take(client: MlflowClient, version: ModelVersion) -> None:
    for alias, number in _aliases(client, version.name).items():
        if alias in (CANDIDATE, APPROVED) and number == str(version.version):
            client.delete_registered_model_alias(version.name, alias)


def _aliases(client: MlflowClient, name: str) -> dict[str, str]:
    found = client.get_registered_model(name).aliases
    return {str(alias): str(number) for alias, number in found.items()}
