"""The alias "approved" in MLflow's model registry: set by the gate and by nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skinml.errors import DataError, EnvironmentProblem
from skinml.tracking.allowlist import clean_reason
from skinml.tracking.mlflow_tracker import tracking_uri
from skinml.tracking.quiet import quiet
from skinml.tracking.settings import TrackingSettings

ALIAS = "approved"


@dataclass(frozen=True)
class Approved:
    """A version of a registered model that has the alias.

    Attributes:
        name: The model's name in the registry.
        version: The version.
        replaced: The version that had the alias before; empty where none had.
    """

    name: str
    version: str
    replaced: str = ""


def approve_model(settings: TrackingSettings, folder: Path, mlflow_run: str) -> Approved:
    """Give a run's registered model the alias "approved".

    Args:
        settings: Where the store is.
        folder: The working folder, which holds the store where no address is given.
        mlflow_run: MLflow's id of the run.

    Returns:
        The version that has the alias now. Whoever calls this has held the run to its criteria.

    Raises:
        DataError: If the run registered no model.
        EnvironmentProblem: If the store cannot be read or written.
    """
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
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            found = client.search_model_versions(f"run_id='{mlflow_run}'")
            if not found:
                raise DataError(
                    rule="a run whose model is in the registry",
                    got="no registered model of this run",
                    do="Set tracking.register_model=true and run anew.",
                )
            version = max(found, key=lambda each: int(each.version))
            before = str(client.get_registered_model(version.name).aliases.get(ALIAS, ""))
            client.set_registered_model_alias(version.name, ALIAS, version.version)
        except MlflowException as error:
            raise EnvironmentProblem(
                rule="a tracking store that can be read and written",
                got=clean_reason(str(error).splitlines()[0]),
                do="Check tracking.uri and the working folder.",
            ) from error
    replaced = "" if before == str(version.version) else before
    return Approved(str(version.name), str(version.version), replaced)
