"""How far a run of real clinics is, written down in its folder by whoever drives it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from skinml.deployment.federation_folder import FederationFolder
from skinml.deployment.progress import Course, entered, taken_up
from skinml.durable import read_whole, write_whole
from skinml.errors import IntegrityError
from skinml.experiments.workspace import Workspace, run_of

STANDING = "standing.json"
_WHAT = "standing of a run"


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
