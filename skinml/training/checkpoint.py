"""Where a training run stands, on the disk after each round.

A round is the smallest thing that is resumed. What a clinic had computed of an interrupted round
is lost with it: the round is asked again, each clinic's ledger charges it again, and sample and
noise are drawn anew. So a checkpoint holds nothing but what the clinics had already released.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skinml.durable import read_whole, write_whole
from skinml.errors import IntegrityError
from skinml.records import Arrays, Participation
from skinml.training.array_bytes import read_arrays, write_arrays
from skinml.training.learner import Round

_WHAT = "checkpoint of the run"
_HEADER = "header"
_ARRAY = "array/"


@dataclass(frozen=True)
class Progress:
    """What is left of the rounds so far.

    Attributes:
        rounds_done: How many rounds are in the state; 0 before the first.
        state: The learner's state after them.
        history: Their public figures.
        participation: Who took part in them.
    """

    rounds_done: int
    state: Arrays
    history: tuple[Mapping[str, float], ...] = ()
    participation: tuple[Participation, ...] = ()


def schedule_digest(rounds: Sequence[Round]) -> str:
    """Name a schedule: two that plan the same releases in the same order share it.

    Args:
        rounds: The recipe's rounds.

    Returns:
        A short digest.
    """
    return hashlib.sha256(repr(tuple(rounds)).encode()).hexdigest()[:32]


def save_progress(path: Path, run: str, rounds: Sequence[Round], progress: Progress) -> None:
    """Write down where a run stands.

    Args:
        path: The checkpoint's file; its folder must exist.
        run: The run's id.
        rounds: The recipe's rounds.
        progress: What is done.

    Raises:
        EnvironmentProblem: If it cannot be written; an older checkpoint stays.

    Guarantees:
        At any moment the file holds one whole checkpoint, the old one or the new one.
    """
    arrays = {_ARRAY + name: values for name, values in progress.state.items()}
    header: dict[str, Any] = {
        "run": run,
        "schedule": schedule_digest(rounds),
        "rounds_done": progress.rounds_done,
        "history": [dict(figures) for figures in progress.history],
        "participation": [asdict(each) for each in progress.participation],
    }
    body = write_arrays({_HEADER: np.array(json.dumps(header)), **arrays})
    write_whole(path, hashlib.sha256(body).digest() + body, _WHAT)


def load_progress(path: Path, run: str, rounds: Sequence[Round]) -> Progress | None:
    """Read where a run stands.

    Args:
        path: The checkpoint's file.
        run: The run's id.
        rounds: The recipe's rounds.

    Returns:
        The progress; none where there is no checkpoint yet.

    Raises:
        IntegrityError: If the file was damaged, or is of another run or schedule.
        EnvironmentProblem: If it cannot be read.
    """
    if not path.exists():
        return None
    try:
        held = read_arrays(_body(path))
        header = json.loads(str(held[_HEADER]))
        state = {n.removeprefix(_ARRAY): held[n] for n in held if n != _HEADER}
        rows = tuple(_participation(row) for row in header["participation"])
        progress = Progress(int(header["rounds_done"]), state, tuple(header["history"]), rows)
        same = (header["run"], header["schedule"]) == (run, schedule_digest(rounds))
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise _unusable("a file of another form") from error
    if not same or not 0 <= progress.rounds_done <= len(rounds):
        raise _unusable("a checkpoint of another run or of another schedule")
    return progress


def history_kept(path: Path) -> tuple[Mapping[str, float], ...]:
    """Read the rounds' public figures from a checkpoint, whatever their schedule.

    Args:
        path: The checkpoint's file.

    Returns:
        One entry a whole round; none where there is no checkpoint.

    Raises:
        IntegrityError: If the file was damaged.
        EnvironmentProblem: If it cannot be read.
    """
    if not path.exists():
        return ()
    try:
        return tuple(json.loads(str(read_arrays(_body(path))[_HEADER]))["history"])
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise _unusable("a file of another form") from error


def _body(path: Path) -> bytes:
    content = read_whole(path, _WHAT)
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        raise _unusable("a file with another digest")
    return content[32:]


def _participation(row: dict[str, Any]) -> Participation:
    lists = {name: tuple(row[name]) for name in ("expected", "took_part")}
    return Participation(**{**row, **lists})


def _unusable(got: str) -> IntegrityError:
    return IntegrityError(
        rule="the checkpoint that this run wrote",
        got=got,
        do="Start the run anew; what its rounds spent stays in the ledgers.",
    )
