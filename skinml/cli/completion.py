"""What the shell offers behind a command, beyond options and commands' names."""

from __future__ import annotations

from pathlib import Path


def experiment_names(incomplete: str) -> list[str]:
    """List experiments that can be run here.

    Args:
        incomplete: What has been typed of the name.

    Returns:
        Their names.
    """
    from skinml.config import experiments

    return [name for name in experiments() if name.startswith(incomplete)]


def finished_runs(incomplete: str) -> list[str]:
    """List finished runs of this working folder, the latest first.

    Args:
        incomplete: What has been typed of the run's id.

    Returns:
        Their ids.
    """
    found = sorted(Path("runs").glob(f"{incomplete}*/record.json"), reverse=True)
    return [path.parent.name for path in found]


def experiments_and_runs(incomplete: str) -> list[str]:
    """List experiments and finished runs.

    Args:
        incomplete: What has been typed of the name.

    Returns:
        Their names.
    """
    return [*experiment_names(incomplete), *finished_runs(incomplete)]


def unfinished_runs(incomplete: str) -> list[str]:
    """List runs of this working folder that can be resumed.

    Args:
        incomplete: What has been typed of the run's id.

    Returns:
        Their ids.
    """
    from skinml.experiments.workspace import Workspace

    names = [path.name[1 : -len(".draft")] for path in Workspace(Path()).drafts]
    return [name for name in names if name.startswith(incomplete)]
