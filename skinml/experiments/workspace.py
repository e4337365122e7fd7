"""The working folder of a run: where everything that it writes goes.

WORK_DIR/
  runs/RUN/          result.json, report.html, report.json, config.json, model/
  runs/.RUN.draft/   a run that grows, or that was broken off and can be resumed
  clinics/NAME/      each virtual clinic's folder, with the ledger that outlives runs
  anchors/           what virtual clinics' files looked like last
  audits/            audits' pages, one folder each
  cohorts/           synthetic cohorts, one folder for each settings
  mlflow.db, mlartifacts/
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from skinml.durable import locked
from skinml.errors import DataError, EnvironmentProblem, InputError

_MOST_RUNS = 500

LOCK = ".lock"
"""The file in a run's draft folder that whoever is at the run has locked."""
TERMS = "terms.json"
"""The file in a real clinic's folder of a run, there while the clinic is ready for it."""


EVALUATIONS = "evaluations"
"""The folder in a finished run's folder that holds its evaluations."""


@dataclass(frozen=True)
class Workspace:
    """The folders of one working folder.

    Attributes:
        root: The working folder.
    """

    root: Path

    @property
    def runs(self) -> Path:
        """Finished runs."""
        return self.root / "runs"

    def draft(self, run: str) -> Path:
        """Name the folder in which a run grows.

        Args:
            run: The run's id.

        Returns:
            The folder, beside the finished runs.
        """
        return self.runs / f".{run}.draft"

    @property
    def drafts(self) -> tuple[Path, ...]:
        """The folders of runs that grow or were broken off."""
        return tuple(sorted(self.runs.glob(".*.draft")))

    @property
    def clinics(self) -> Path:
        """Folders of virtual clinics."""
        return self.root / "clinics"

    @property
    def anchors(self) -> Path:
        """Anchors of virtual clinics."""
        return self.root / "anchors"

    @property
    def cohorts(self) -> Path:
        """Synthetic cohorts."""
        return self.root / "cohorts"

    def find_run(self, run: str) -> Path:
        """Find a finished run by its id or its folder.

        Args:
            run: The id, or the path of its folder.

        Returns:
            The run's folder.

        Raises:
            DataError: If there is no such run.
        """
        for folder in (self.runs / run, Path(run)):
            if (folder / "model" / "bundle.json").is_file():
                return folder
        known = sorted(path.name for path in self.runs.glob("*/") if not path.name.startswith("."))
        raise DataError(
            rule="the id or the folder of a finished run",
            got=f"run={run}",
            do=f"Finished here: {', '.join(known[-5:]) or 'none yet'}.",
        )


def require_several(runs: Sequence[str]) -> None:
    """Refuse runs that cannot be compared because they are too few, too many or the same.

    Args:
        runs: Their ids or folders.

    Raises:
        InputError: If they are not from 2 to 500 different ones.
    """
    if not 2 <= len(set(runs)) == len(runs) <= _MOST_RUNS:
        raise InputError(
            rule=f"an experiment, or from 2 to {_MOST_RUNS} different finished runs",
            got=f"{runs[0]} alone, which is no experiment"
            if len(runs) == 1
            else f"{len(runs)} runs, {len(set(runs))} of them different",
            do="Example: skinml compare quickstart --epsilon none,3 --seeds 0,1",
        )


def home_of(folder: Path) -> Path:
    """Find the run that a report is of.

    Args:
        folder: The report's folder: the run's own, or one of its evaluations.

    Returns:
        The run's folder.
    """
    return folder.parent.parent if folder.parent.name == EVALUATIONS else folder


def new_run_id(experiment: str, now: datetime) -> str:
    """Name a run.

    Args:
        experiment: The experiment's name.
        now: When it begins.

    Returns:
        A name that no other run has.
    """
    return f"{experiment}-{now.astimezone(UTC):%Y%m%d-%H%M%S}-{os.urandom(2).hex()}"


def run_of(draft: Path) -> str:
    """Read a run's id from the folder in which it grows.

    Args:
        draft: The folder.

    Returns:
        The id.
    """
    return draft.name.removeprefix(".").removesuffix(".draft")


def in_work(draft: Path) -> bool:
    """Tell whether a process is at a run at this moment.

    Args:
        draft: The run's draft folder.

    Returns:
        Whether somebody's turn has not ended.
    """
    if not (draft / LOCK).exists():
        return False
    try:
        with locked(draft / LOCK, f"run in {draft.name}", patience_s=0):
            return False
    except EnvironmentProblem:
        return True


@contextmanager
def run_folder(workspace: Workspace, run: str, keep: Callable[[Path], bool]) -> Iterator[Path]:
    """Make a run's folder that appears whole or not at all, or go on with its draft.

    Args:
        workspace: Where.
        run: The run's id.
        keep: Tells of a draft whose block did not end well whether it is worth keeping.

    Yields:
        A draft folder, renamed to the run's when the block ends well; when not, it is removed
        unless it is worth keeping.

    Raises:
        EnvironmentProblem: If the working folder cannot be written.
    """
    draft = workspace.draft(run)
    try:
        draft.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentProblem(
            rule="a working folder that can be written",
            got=f"{workspace.root} ({error.strerror})",
            do="Check its permissions and the space on the disk, or choose another work_dir.",
        ) from error
    try:
        yield draft
        draft.rename(workspace.runs / run)
    finally:
        if draft.is_dir() and not keep(draft):
            shutil.rmtree(draft, ignore_errors=True)
