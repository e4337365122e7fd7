"""Runs that are not over: whether somebody is at them, how far they are and how fast."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from skinml.deployment.federation_folder import FederationFolder
from skinml.deployment.flower_runs import FlowerRun
from skinml.deployment.progress import Pace, pace_of
from skinml.deployment.standing import STANDING, Standing, read_standing
from skinml.errors import EnvironmentProblem
from skinml.experiments.workspace import LOCK, Workspace, in_work, run_of

State = Literal["going", "starting", "broken off", "failed", "finished"]


@dataclass(frozen=True)
class OpenRun:
    """A run as it stands at this moment.

    Attributes:
        run: Its id.
        state: going (a process is at it), starting (Flower is about to start one), broken off
            (nobody is at it, and it can be resumed), failed or finished.
        standing: What was written down last.
        pace: How fast it is.
        at: When this was found.
    """

    run: str
    state: State
    standing: Standing
    pace: Pace
    at: datetime

    @property
    def over(self) -> bool:
        """Whether it waits for nothing but people."""
        return self.state not in ("going", "starting")

    def values(self) -> dict[str, object]:
        """Write it as JSON.

        Returns:
            Plain values. `left_s` and `end` are null unless it is going and a round is whole;
            `saved_unknown` counts rounds of which nobody can know what was saved.
        """
        end = self.pace.end(self.at) if self.state == "going" else None
        return {
            "state": self.state,
            **asdict(self.standing),
            "pace": {
                "round_s": self.pace.round_s,
                "left_s": self.pace.left_s if self.state == "going" else None,
                "end": end.isoformat() if end else None,
                "saved_s": round(self.pace.saved_s, 3),
                "saved_unknown": self.pace.unknown,
            },
        }


def open_runs(
    folder: FederationFolder,
    flower: Sequence[FlowerRun],
    now: datetime,
    also: Iterable[str] = (),
) -> tuple[OpenRun, ...]:
    """Look at the runs that are not finished.

    Args:
        folder: The federation's folder.
        flower: Flower's runs, as far as the SuperLink answers.
        now: The time, with its zone.
        also: Runs to be shown in any case, finished or not.

    Returns:
        The runs in the order of their ids.

    Raises:
        IntegrityError: If what was written about one is of another form.
    """
    workspace = Workspace(folder.path)
    wanted = {run_of(path) for path in workspace.drafts if (path / STANDING).is_file()} | {*also}
    # With its report, and not all clinics told: whoever is at it takes its lock away at the end.
    wanted |= {path.parent.name for path in workspace.runs.glob(f"[!.]*/{LOCK}")}
    starting = {each.run for each in flower if not each.over}
    found = []
    for run in sorted(wanted):
        for place in (workspace.draft(run), workspace.runs / run):  # it may be finishing just now
            standing = _standing(place)
            if standing is not None:
                state = _state(place, standing, run in starting)
                pace = pace_of(standing.course, standing.round, standing.rounds, now)
                found.append(OpenRun(run, state, standing, pace, now))
                break
    return tuple(found)


def _standing(place: Path) -> Standing | None:
    if not (place / STANDING).is_file():
        return None
    try:
        return read_standing(place)
    except EnvironmentProblem:  # it was renamed in this moment
        return None


def _state(place: Path, standing: Standing, starting: bool) -> State:
    if in_work(place):
        return "going"
    if standing.stage == "finished":
        return "finished"
    if standing.stage == "failed":
        return "failed"
    return "starting" if starting else "broken off"
