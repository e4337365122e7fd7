"""An experiment held against a clinic's policy before any data are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from skinml.clinic.opening import open_at_screen
from skinml.clinic.policies import Comparison, compare_proposal
from skinml.config import RunConfig, load_config
from skinml.errors import ConfigError
from skinml.experiments.approval import drafted, expected_classes, propose


def compare_experiment(
    folder: Path, experiment: str, overrides: Sequence[str], *, num_clinics: int | None = None
) -> Comparison:
    """Say where an experiment stays within a clinic's policy and where it does not.

    Args:
        folder: The clinic's folder.
        experiment: The experiment's name.
        overrides: Changes such as "privacy.epsilon=1".
        num_clinics: Clinics in the run; None: as many as the experiment itself says.

    Returns:
        The comparison; the patients are not counted in it.

    Raises:
        ConfigError: If the experiment, a key or a value is unknown or impossible, or nobody says
            how many clinics there are.
        EnvironmentProblem: If the folder cannot be opened.
        IntegrityError: If the folder was changed.
        PolicyError: If the user may not read the policy.
    """
    config = load_config(experiment, overrides)
    clinics = require_clinics(config, num_clinics)
    opened = open_at_screen(folder)
    draft = drafted(config, expected_classes(config), num_clinics=clinics, run="comparison")
    return compare_proposal(opened, propose(draft, opened, num_patients=None))


def require_clinics(config: RunConfig, num_clinics: int | None) -> int:
    """Settle how many clinics a run that is only thought of has.

    Args:
        config: The config.
        num_clinics: What the user says; None: as the config says.

    Returns:
        The number.

    Raises:
        ConfigError: If nobody says it.
    """
    clinics = planned_clinics(config) if num_clinics is None else num_clinics
    if clinics is None:
        raise ConfigError(
            rule="the number of clinics in the run, which this experiment leaves to its data",
            got="none",
            do="Give --clinics.",
        )
    return clinics


def planned_clinics(config: RunConfig) -> int | None:
    """Tell how many clinics an experiment trains at, as far as its config says.

    Args:
        config: The config.

    Returns:
        The number; None where only the data know.
    """
    partition = config.data.partition
    if config.federation.mode == "centralised" or partition.by == "pooled":
        return 1
    if partition.by in ("random", "dirichlet"):
        return partition.num_clinics
    if partition.by == "column" and config.data.synthetic is not None:
        return config.data.synthetic.num_clinics
    return None
