"""A run that a coordinator hands in: written down before any clinic is asked.

FEDERATION/runs/.RUN.draft/
  config.json      the whole config
  proposal.json    what the clinics are asked, word for word, also after a restart
  standing.json    how far the run is, for `skinml federation status`
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from skinml.config import RunConfig, load_config
from skinml.deployment import bundle
from skinml.deployment.federation_folder import FederationFolder
from skinml.deployment.progress import Course, entered, taken_up
from skinml.deployment.run_proposal import RunProposal, parse_proposal
from skinml.durable import make_folder, read_whole, write_whole
from skinml.errors import ConfigError, DataError, IntegrityError
from skinml.experiments.approval import drafted
from skinml.experiments.published import public_classes
from skinml.experiments.released import require_publishable
from skinml.experiments.resuming import has_notes
from skinml.experiments.workspace import Workspace, new_run_id, run_of

CONFIG, PROPOSAL, STANDING = "config.json", "proposal.json", "standing.json"
_WHAT = "run that was submitted"


@dataclass(frozen=True)
class Standing:
    """How far a run is.

    Attributes:
        stage: proposed, preparing, round, evaluating, finished or failed.
        clinics: Each clinic that was asked, and where it stands.
        round: The last whole round.
        rounds: Rounds in all, the evaluation included; 0 before they are known.
        changed: When this was written, ISO 8601, UTC.
        problem: What went wrong, in words; empty where nothing did.
        course: The times of it all; `write_standing` keeps them.
    """

    stage: str
    clinics: Mapping[str, str] = field(default_factory=dict)
    round: int = 0
    rounds: int = 0
    changed: str = ""
    problem: str = ""
    course: Course = field(default_factory=Course)


_STANDINGS = TypeAdapter(Standing)


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
    at = now or datetime.now(UTC)
    fixed = ("federation.mode=deployed", "fairness.evaluation=dp_counts", "work_dir=.")
    config = load_config(experiment, [*overrides, *fixed])
    require_publishable(config)
    classes = public_classes(config)
    asked = _asked(folder, config, clinics)
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


def write_standing(draft: Path, standing: Standing, *, course: Course | None = None) -> Standing:
    """Write down how far a run is.

    Args:
        draft: The run's draft folder.
        standing: How far; its own course does not count. A failed run need not say how far it
            was.
        course: The times so far; None: those on the disk.

    Returns:
        What was written: with the times, and that of this change.

    Raises:
        EnvironmentProblem: If it cannot be written.
        IntegrityError: If what was written before is of another form.
    """
    now = datetime.now(UTC)
    before = read_standing(draft) if (draft / STANDING).exists() else Standing(standing.stage)
    if standing.stage == "failed":
        standing = replace(standing, round=before.round, rounds=before.rounds)
    course = entered(before.course if course is None else course, standing.stage, now)
    return _written(draft, replace(standing, course=course), now)


def take_up(draft: Path, life: int) -> None:
    """Write down that a process takes its turn at a run.

    Args:
        draft: The run's draft folder.
        life: Which process it is, from 1.

    Raises:
        EnvironmentProblem: If it cannot be written.
        IntegrityError: If what was written before is of another form.
    """
    before = read_standing(draft)
    course = taken_up(before.course, life, before.changed)
    _written(draft, replace(before, course=course), datetime.now(UTC))


def _written(draft: Path, standing: Standing, now: datetime) -> Standing:
    told = replace(standing, changed=now.isoformat(timespec="seconds"))
    write_whole(draft / STANDING, json.dumps(asdict(told)).encode() + b"\n", _WHAT)
    return told


def read_standing(folder: Path) -> Standing:
    """Read how far a run is.

    Args:
        folder: The run's folder, a draft or finished.

    Returns:
        How far.

    Raises:
        EnvironmentProblem: If it cannot be read.
        IntegrityError: If it is of another form.
    """
    try:
        return _STANDINGS.validate_json(read_whole(folder / STANDING, _WHAT))
    except ValidationError as error:
        raise IntegrityError(
            rule=f"a {STANDING} of this release of skinml",
            got="one of another form",
            do="Restore it from a backup, or submit the run anew.",
        ) from error


def standings(folder: FederationFolder) -> dict[str, Standing]:
    """List a federation's runs.

    Args:
        folder: The federation's folder.

    Returns:
        By run id how far each is; drafts behind the finished ones.

    Raises:
        EnvironmentProblem: If one cannot be read.
    """
    workspace = Workspace(folder.path)
    done = [p for p in sorted(workspace.runs.glob("[!.]*")) if (p / STANDING).is_file()]
    growing = [p for p in workspace.drafts if (p / STANDING).is_file()]
    return {path.name: read_standing(path) for path in done} | {
        run_of(path): read_standing(path) for path in growing
    }


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
