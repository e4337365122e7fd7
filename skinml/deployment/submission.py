"""A run that a coordinator hands in: written down before any clinic is asked.

FEDERATION/runs/.RUN.draft/
  config.json      the whole config
  proposal.json    what the clinics are asked, word for word, also after a restart
  standing.json    how far the run is, for `skinml federation status`
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from skinml.config import RunConfig, load_config, require_trained
from skinml.deployment import bundle
from skinml.deployment.federation_folder import FederationFolder
from skinml.deployment.run_proposal import RunProposal, parse_proposal
from skinml.deployment.standing import Standing as Standing  # others read it through this door
from skinml.deployment.standing import read_standing as read_standing
from skinml.deployment.standing import standings as standings
from skinml.deployment.standing import take_up as take_up
from skinml.deployment.standing import write_standing as write_standing
from skinml.durable import make_folder, read_whole, write_whole
from skinml.errors import ConfigError, DataError
from skinml.experiments.approval import drafted
from skinml.experiments.published import public_classes
from skinml.experiments.released import require_publishable
from skinml.experiments.resuming import has_notes
from skinml.experiments.statistics_rows import require_regions
from skinml.experiments.workspace import Workspace, new_run_id, run_of

CONFIG, PROPOSAL = "config.json", "proposal.json"
_WHAT = "run that was submitted"


def submit(
    folder: FederationFolder,
    experiment: str,
    overrides: Sequence[str] = (),
    *,
    clinics: Sequence[str] = (),
    within: timedelta = timedelta(days=7),
    now: datetime | None = None,
) -> str:
    """Write a run down, for the clinics to be asked.

    Args:
        folder: The federation's folder.
        experiment: The experiment's name.
        overrides: Changes to its config.
        clinics: Who is asked; by default all that have joined and may be asked for its purpose.
        within: How long a clinic may take to answer.
        now: The time, with its zone; by default the clock's.

    Returns:
        The run's id.

    Raises:
        ConfigError: If the config does not fit, no real clinics could run it, or a clinic has not
            joined.
        EnvironmentProblem: If it cannot be written.
    """
    fixed = ("federation.mode=deployed", "fairness.evaluation=dp_counts", "work_dir=.")
    config = load_config(experiment, [*overrides, *fixed])
    require_trained(config)
    require_publishable(config)
    return hand_in(folder, config, clinics=clinics, within=within, now=now)


def hand_in(
    folder: FederationFolder,
    config: RunConfig,
    *,
    clinics: Sequence[str] = (),
    within: timedelta = timedelta(days=7),
    now: datetime | None = None,
) -> str:
    """Write a run down by its config: a training, or statistics.

    Args:
        folder: The federation's folder.
        config: The config, for real clinics.
        clinics: As for `submit`.
        within: As for `submit`.
        now: As for `submit`.

    Returns:
        The run's id.

    Raises:
        ConfigError: If no real clinics could run it, or a clinic has not joined.
        EnvironmentProblem: If it cannot be written.
    """
    at, classes = now or datetime.now(UTC), public_classes(config)
    asked = _asked(folder, config, clinics)
    if config.statistics is not None:
        require_regions(config, asked)
    name = new_run_id(config.name, at)
    drafted(config, classes, num_clinics=len(asked), run=name)
    text = config.model_dump_json()
    proposal = RunProposal(
        run=name,
        experiment=config.name,
        purpose=config.purpose,
        config=text,
        coordinator=folder.name,
        expires=at + within,
        bundle=bundle.digest(),
        clinics=asked,
    )
    draft = Workspace(folder.path).draft(name)
    make_folder(draft, _WHAT)
    write_whole(draft / CONFIG, text.encode(), _WHAT)
    write_whole(draft / PROPOSAL, proposal.content(), _WHAT)
    write_standing(draft, Standing("proposed", dict.fromkeys(asked, "not asked yet")))
    return name


def _asked(folder: FederationFolder, config: RunConfig, clinics: Sequence[str]) -> tuple[str, ...]:
    joined = {
        name
        for name, each in folder.enrolments().items()
        if each.state == "joined" and config.purpose in each.purposes
    }
    strangers = sorted(set(clinics) - joined)
    if strangers or not joined:
        raise ConfigError(
            rule=f"clinics that have joined and may be asked for purpose={config.purpose}",
            got=", ".join(strangers) or "none",
            do="See who they are: skinml federation status",
        )
    return tuple(sorted(set(clinics) or joined))


def read_proposal(draft: Path) -> RunProposal:
    """Read what the clinics are asked.

    Args:
        draft: The run's draft folder.

    Returns:
        The proposal.

    Raises:
        ConfigError, EnvironmentProblem: If it cannot be read.
    """
    return parse_proposal(read_whole(draft / PROPOSAL, _WHAT))


def find_submitted(folder: FederationFolder, run: str) -> Path:
    """Find a run that is not finished.

    Args:
        folder: The federation's folder.
        run: The run's id.

    Returns:
        Its draft folder; that under its own name, where the report is there and the clinics have
        not been told.

    Raises:
        DataError: If there is none.
    """
    workspace = Workspace(folder.path)
    draft, final = workspace.draft(run), workspace.runs / run
    if Path(run).name == run and (draft / PROPOSAL).is_file():
        return draft
    if Path(run).name == run and (final / PROPOSAL).is_file() and has_notes(final):
        return final
    known = [run_of(path) for path in workspace.drafts]
    raise DataError(
        rule="a submitted run that is not finished",
        got=f"run={run}",
        do=f"There are: {', '.join(known) or 'none'}.",
    )
