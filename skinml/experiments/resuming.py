"""Where a run that was broken off stands, and how it goes on.

A run's draft folder holds its config, a count of the processes that worked on it and, from the
first whole round on, a checkpoint: the model's state, the figures of the rounds and who took part.
All of that was released before. The coordinator has no random stream of its own that a process
could lose: streams are named, and noise is never kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from skinml.attempts import first_attempt
from skinml.durable import locked, read_whole, write_whole
from skinml.errors import DataError, EnvironmentProblem, IntegrityError
from skinml.experiments.workspace import LOCK, Workspace, run_of
from skinml.federated.roll_call import Record
from skinml.training.checkpoint import Progress, history_kept, load_progress, save_progress
from skinml.training.learner import Round

_CHECKPOINT, _LIVES = "checkpoint", "lives.json"
_WHAT = "notes of a run"
_LOOK_S = 1.0


@dataclass(frozen=True)
class Life:
    """One process's turn at a run.

    Attributes:
        number: 1 for the process that began the run, one more for each that resumed it.
        began: When the first one began, with its zone.
        before_s: Seconds that the processes before it worked; of one that was killed, up to its
            last whole round.
    """

    number: int
    began: datetime
    before_s: float = 0.0

    @property
    def first_attempt(self) -> int:
        """The number of this process's first attempt at a round.

        Whatever an earlier process asked of a round that it did not finish had a lower number: a
        clinic never answers this process with what it computed for that one.
        """
        return first_attempt(self.number)


@contextmanager
def turn(draft: Path) -> Iterator[Life]:
    """Take one's turn at a run, alone.

    Args:
        draft: The run's draft folder.

    Yields:
        Which turn it is; on the disk before anything is asked.

    Raises:
        EnvironmentProblem: If another process is at it, or the folder cannot be written.
        IntegrityError: If nobody knows any more which turn it is: attempts could then have the
            numbers of earlier ones.
    """
    # Whoever looks whether somebody is at it holds the lock for a moment, too.
    with locked(draft / LOCK, f"run in {draft.name}", patience_s=_LOOK_S):
        path = draft / _LIVES
        now = datetime.now(UTC)
        life = Life(1, now)
        if path.exists():
            life = _next_life(read_whole(path, _WHAT), draft / _CHECKPOINT)
        elif resumable(draft):
            raise _unknown_turn("a checkpoint without them")
        _write_life(path, life, now)
        try:
            yield life
        finally:
            if path.exists():  # it was broken off, but how long it worked is known
                with suppress(EnvironmentProblem):  # the first error is the one to tell
                    _write_life(path, life, now, datetime.now(UTC))


def _write_life(path: Path, life: Life, turn: datetime, until: datetime | None = None) -> None:
    told = {
        "lives": life.number,
        "began": life.began.isoformat(),
        "turn": turn.isoformat(),
        "before_s": life.before_s,
        "until": until.isoformat() if until else None,
    }
    write_whole(path, json.dumps(told).encode(), _WHAT)


def _next_life(notes: bytes, checkpoint: Path) -> Life:
    try:
        known = json.loads(notes)
        turn, until = datetime.fromisoformat(known["turn"]), known["until"]
        ended = datetime.fromisoformat(until) if until else turn
        if not until and checkpoint.exists():  # it was killed
            ended = datetime.fromtimestamp(checkpoint.stat().st_mtime, UTC)
        worked = max((ended - turn).total_seconds(), 0.0)
        began, before = datetime.fromisoformat(known["began"]), float(known["before_s"])
        return Life(int(known["lives"]) + 1, began, before + worked)
    except (ValueError, KeyError, TypeError) as error:
        raise _unknown_turn("notes of another form") from error


def _unknown_turn(got: str) -> IntegrityError:
    return IntegrityError(
        rule="notes that tell how many processes worked on a run",
        got=got,
        do="Start the run anew; what its rounds spent stays in the ledgers.",
    )


@dataclass
class Checkpoints:
    """Keeps a run's checkpoint up to date.

    Attributes:
        draft: The run's draft folder.
        run: The run's id.
        rounds: The recipe's rounds.
        record: Who took part so far; filled from the checkpoint when it is read.
    """

    draft: Path
    run: str
    rounds: tuple[Round, ...]
    record: Record
    _latest: Progress | None = field(default=None)

    def load(self) -> Progress | None:
        """Read where the run stands.

        Returns:
            The progress; None before the first whole round.

        Raises:
            IntegrityError: If the checkpoint was damaged, or the config makes another schedule.
            EnvironmentProblem: If it cannot be read.
        """
        self._latest = load_progress(self.draft / _CHECKPOINT, self.run, self.rounds)
        if self._latest is not None:
            self.record.participation[:] = self._latest.participation
        return self._latest

    def keep(self, progress: Progress) -> None:
        """Write down where the run stands, after a whole round.

        Args:
            progress: What is done.

        Raises:
            EnvironmentProblem: If it cannot be written; the older checkpoint stays.
        """
        self._latest = replace(progress, participation=tuple(self.record.participation))
        save_progress(self.draft / _CHECKPOINT, self.run, self.rounds, self._latest)

    def close(self) -> None:
        """Write down who took part in attempts that led to no whole round."""
        if self._latest is not None:
            self.keep(self._latest)


def resumable(draft: Path) -> bool:
    """Tell whether a draft folder holds a run that can go on.

    Args:
        draft: The folder.

    Returns:
        Whether a whole round was kept.
    """
    return (draft / _CHECKPOINT).is_file()


def kept_history(draft: Path) -> tuple[Mapping[str, float], ...]:
    """Read the public figures of a run's whole rounds.

    Args:
        draft: The run's draft folder.

    Returns:
        One entry a round; none for a new run.

    Raises:
        IntegrityError: If the checkpoint was damaged.
        EnvironmentProblem: If it cannot be read.
    """
    return history_kept(draft / _CHECKPOINT)


def strip_notes(draft: Path) -> None:
    """Remove what a finished run needs no more.

    Args:
        draft: The run's draft folder.
    """
    for name in (_CHECKPOINT, _LIVES, LOCK):
        (draft / name).unlink(missing_ok=True)


def has_notes(folder: Path) -> bool:
    """Tell whether a run's folder still holds what is removed at its very end.

    Args:
        folder: The run's folder, a draft or under its own name.

    Returns:
        Whether the process that worked on it has not come to its end.
    """
    return (folder / _LIVES).exists()


def find_interrupted(workspace: Workspace, run: str) -> Path:
    """Find the draft folder of a run that was broken off.

    Args:
        workspace: The working folder.
        run: The run's id.

    Returns:
        The folder.

    Raises:
        DataError: If there is no such run.
    """
    draft = workspace.draft(run)
    if Path(run).name == run and resumable(draft):
        return draft
    if (workspace.runs / run).is_dir() and Path(run).name == run:
        raise DataError(
            rule="a run that was broken off",
            got=f"--resume {run}, which is finished",
            do=f"Its report is in {workspace.runs / run}.",
        )
    known = [run_of(path) for path in workspace.drafts if resumable(path)]
    raise DataError(
        rule=f"the id of a run that was broken off after its first round, in {workspace.root}",
        got=f"--resume {run}",
        do=f"To be resumed here: {', '.join(known[-5:]) or 'none'}.",
    )


def how_to_go_on(error: BaseException, workspace: Workspace, run: str) -> None:
    """Add to an error how its run goes on, where it can.

    Args:
        error: What broke the run off.
        workspace: The working folder.
        run: The run's id.
    """
    if resumable(workspace.draft(run)) and not isinstance(error, EnvironmentProblem | MemoryError):
        place = "" if workspace.root == Path() else f" work_dir={workspace.root}"
        error.add_note(f"Its whole rounds are kept. Go on: skinml run --resume {run}{place}")
