"""`skinml run --sweep`: every combination of some values, each a run, and one table of them all."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from skinml.config import RunConfig, load_config, swept
from skinml.durable import make_folder, write_whole
from skinml.errors import ConfigError, require_positive
from skinml.experiments.code_version import code_versions
from skinml.experiments.compare_plan import (
    Charge,
    PlannedRun,
    charge_words,
    require_affordable,
    usual_attribute,
)
from skinml.experiments.compare_runs import FinishedRun, carried_out, find_finished
from skinml.experiments.outcome import VERSIONS
from skinml.experiments.progress import Progress, Silence
from skinml.experiments.result import read_mlflow_run, read_record
from skinml.experiments.samples import require_one_view
from skinml.experiments.workspace import Workspace, new_run_id
from skinml.records import Estimate, GroupResult, RunRecord
from skinml.reports.numbers import epsilon
from skinml.tracking.comparison import EVERYBODY, ArmMetric, log_comparison
from skinml.tracking.overview import estimate_words, several_note

SWEEPS = "sweeps"
_MOST_RUNS = 500
_What = TypeVar("_What")
_Done = TypeVar("_Done")
_NAMES = ("sweep.csv", "sweep.json")
_WHAT = "sweep's table"
# Choosing among runs by figures that nobody charged for tells of the patients who were looked at.
NOT_COVERED = (
    "Not covered by any epsilon: choosing among these runs by exact test figures, and whatever is "
    "told of that choice. The ledgers hold every run, also those that are not chosen."
)


@dataclass(frozen=True)
class SweepLine:
    """One run of a sweep.

    Attributes:
        changes: What this run was asked for that others were not, such as "privacy.epsilon=1".
        run: The run's id.
        seed: Its seed.
        private: Whether it promises anything.
        epsilon: What it promises; None without a promise.
        auroc: The AUROC on everybody.
        worst_group: The group of `groups` with the least AUROC; empty where none has one.
        worst: Its AUROC.
    """

    changes: str
    run: str
    seed: int
    private: bool
    epsilon: float | None
    auroc: Estimate
    worst_group: str
    worst: Estimate


@dataclass(frozen=True)
class Swept:
    """A finished sweep.

    Attributes:
        sweep: Its id.
        experiment: The experiment.
        groups: What the groups of the table are of.
        lines: The runs, in the order in which they were asked for.
        charged: What the runs of this call were charged, and how many were there already.
        reused: How many were there already.
        folder: Where the table is.
        mlflow_run: MLflow's id of the parent; None where nothing is kept there.
    """

    sweep: str
    experiment: str
    groups: str
    lines: tuple[SweepLine, ...]
    charged: Charge
    reused: int
    folder: Path
    mlflow_run: str | None

    @property
    def charged_words(self) -> tuple[str, ...]:
        """Sentences about what the runs were charged."""
        return charge_words(self.charged, reused=self.reused)

    @property
    def result(self) -> dict[str, Any]:
        """The object of `--json`."""
        return {
            "sweep": self.sweep,
            "experiment": self.experiment,
            "groups": self.groups,
            "runs": [asdict(line) for line in self.lines],
            "charged": asdict(self.charged),
            "reused": self.reused,
            "not_covered": NOT_COVERED,
            "artifacts": {
                **{name.split(".")[1]: str(self.folder / name) for name in _NAMES},
                "mlflow_run": self.mlflow_run,
            },
        }


def sweep(
    experiment: str,
    overrides: Sequence[str],
    *,
    jobs: int = 0,
    progress: Progress | None = None,
) -> Swept:
    """Run every combination of the values that an experiment's keys are to take.

    Args:
        experiment: The experiment's name.
        overrides: Changes; "privacy.epsilon=1,3,8" and "seed=range(5)" name several values.
        jobs: Runs at the same time; 0: one for each two processor cores.
        progress: Hears how far it is.

    Returns:
        The sweep. A run of the same config that was finished before by the same code is taken as
        it is, and one that was broken off goes on; after a kill the same call goes on.

    Raises:
        BudgetExceededError, PolicyError: If the clinics' policy or a budget does not allow all
            runs; told before the first one begins.
        ConfigError: If no key has several values, or a config is impossible.
        SkinmlError: For whatever keeps a run from its report; see `skinml.errors`.
    """
    began, watcher = datetime.now(UTC), progress or Silence()
    planned = _planned(experiment, overrides)
    jobs = jobs or max(1, _cores() // 2)
    require_positive(jobs=jobs)
    workspace = Workspace(planned[0].config.work_dir)
    done = [find_finished(each.config, workspace) for each in planned]
    missing = [each for each, found in zip(planned, done, strict=True) if found is None]
    charged = require_affordable(missing, experiment, workspace)
    new = _carried_out(missing, experiment, workspace, jobs, watcher)
    runs = [found or new[each.overrides] for each, found in zip(planned, done, strict=True)]
    groups = usual_attribute(planned[0].config)
    lines = tuple(
        _line(_words(each, planned), run.record, groups)
        for each, run in zip(planned, runs, strict=True)
    )
    name = new_run_id(f"{experiment}-sweep", began)
    folder = workspace.root / SWEEPS / name
    found = Swept(
        name, experiment, groups, lines, charged, len(planned) - len(missing), folder, None
    )
    _write(found)
    tracked = _tracked(found, planned[0].config, [run.folder for run in runs], began)
    if tracked is None:
        return found
    found = replace(found, mlflow_run=tracked)
    _write(found)  # now with the parent's id, which the copy in its own files cannot have
    return found


def _planned(experiment: str, overrides: Sequence[str]) -> list[PlannedRun]:
    """Compose every run's config, so that what is wrong is told before the first begins."""
    combinations = swept(overrides)
    if not 2 <= len(combinations) <= _MOST_RUNS:
        raise ConfigError(
            rule=f"keys with several values, from 2 to {_MOST_RUNS} combinations",
            got=f"{len(combinations)} combinations",
            do="Example: skinml run quickstart --sweep privacy.epsilon=1,3 'seed=range(2)'",
        )
    keys = {word.partition("=")[0] for word in combinations[0]}
    shared = [word for word in overrides if word.partition("=")[0] not in keys]
    found = []
    for each in combinations:
        words = (*shared, *each)
        config = load_config(experiment, words)
        require_one_view(config)
        arm = " ".join(word for word in each if not word.startswith("seed="))
        found.append(PlannedRun(arm or "as configured", config.seed, words, config))
    return found


def _carried_out(
    missing: Sequence[PlannedRun],
    experiment: str,
    workspace: Workspace,
    jobs: int,
    watcher: Progress,
) -> dict[tuple[str, ...], FinishedRun]:
    """Do the runs: the first alone, which fills the caches that the others read."""
    if not missing:
        return {}
    first, *others = missing
    watcher.say(f"run 1 of {len(missing)}: {' '.join(first.overrides)}")
    made = {first.overrides: carried_out(first.config, workspace, watcher)}
    if not others:
        return made
    watcher.begin("runs", len(missing))
    watcher.reached(1)
    cores, jobs = max(1, _cores() // jobs), min(jobs, len(others))
    with _pool(jobs) as pool:

        def begin(each: PlannedRun) -> Future[Path]:
            return pool.submit(_carry_out_beside, experiment, each.overrides, cores)

        for each, folder in as_they_end(others, begin, jobs):
            made[each.overrides] = FinishedRun(folder, read_record(folder))
            watcher.reached(len(made))
    return made


def as_they_end(
    every: Iterable[_What], begin: Callable[[_What], Future[_Done]], at_once: int
) -> Iterator[tuple[_What, _Done]]:
    """Begin some tasks at a time, and the next one when one has ended.

    Args:
        every: What is to be done.
        begin: Begins one of them.
        at_once: How many are begun at a time.

    Yields:
        Each with what came of it, in the order in which they end.

    Guarantees:
        No task lies in a pool's queue: a pool begins what is next in its queue even when it is
        told to end, and a run that begins after Ctrl-C would be charged to the patients.
    """
    waiting, running = iter(every), dict[Future[_Done], _What]()
    while True:
        for each in islice(waiting, at_once - len(running)):
            running[begin(each)] = each
        if not running:
            return
        for task in wait(running, return_when=FIRST_COMPLETED).done:
            yield running.pop(task), task.result()


@contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    # Fresh processes: a run starts threads and workers that a fork would half copy.
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), max_tasks_per_child=1)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _carry_out_beside(experiment: str, overrides: tuple[str, ...], cores: int) -> Path:
    """Do one run in a process of its own, on its share of the cores."""
    config = load_config(experiment, overrides)
    federation = config.federation.model_copy(update={"cpus": config.federation.cpus or cores})
    config = config.model_copy(update={"federation": federation})
    return carried_out(config, Workspace(config.work_dir), Silence()).folder


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _words(run: PlannedRun, planned: Sequence[PlannedRun]) -> str:
    shared = set(planned[0].overrides).intersection(*(each.overrides for each in planned))
    return " ".join(word for word in run.overrides if word not in shared)


def _line(changes: str, record: RunRecord, groups: str) -> SweepLine:
    of_groups = [each for each in record.groups if each.attribute == groups]
    worst = _worst(of_groups)
    missing = Estimate(None, reason="no group has one")
    return SweepLine(
        changes=changes,
        run=record.run,
        seed=record.seed,
        private=record.guarantee.private,
        epsilon=record.guarantee.epsilon,
        auroc=record.overall.estimates["auroc"],
        worst_group=worst.group if worst else "",
        worst=worst.estimates["auroc"] if worst else missing,
    )


def _worst(groups: Sequence[GroupResult]) -> GroupResult | None:
    known = [each for each in groups if each.estimates["auroc"].value is not None]
    return min(known, key=lambda each: each.estimates["auroc"].value or 0.0, default=None)


def _write(found: Swept) -> None:
    rows = [
        {
            "changes": line.changes,
            "run": line.run,
            "seed": line.seed,
            "private": line.private,
            "epsilon": line.epsilon,
            "auroc": line.auroc.value,
            "auroc_low": line.auroc.low,
            "auroc_high": line.auroc.high,
            "worst_group": line.worst_group,
            "worst_auroc": line.worst.value,
            "worst_auroc_low": line.worst.low,
            "worst_auroc_high": line.worst.high,
        }
        for line in found.lines
    ]
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    make_folder(found.folder, "folder of the sweep")
    write_whole(found.folder / _NAMES[0], text.getvalue().encode(), _WHAT)
    document = json.dumps(found.result, indent=1, allow_nan=False)
    write_whole(found.folder / _NAMES[1], f"{document}\n".encode(), _WHAT)


def _tracked(
    found: Swept, config: RunConfig, folders: Sequence[Path], began: datetime
) -> str | None:
    """Write the parent of the runs to the tracking store."""
    runs = [read_mlflow_run(folder) for folder in folders]
    return log_comparison(
        config.tracking,
        Path(config.work_dir),
        tags={
            "skinml.run": found.sweep,
            "skinml.experiment": found.experiment,
            "skinml.private": all(line.private for line in found.lines),
            "skinml.simulated": True,
            "skinml.started": began.isoformat(timespec="seconds"),
            "skinml.version": code_versions(VERSIONS).get("skinml", ""),
        },
        params={"experiment": found.experiment},
        metrics=[metric for line in found.lines for metric in _metrics(line, found.groups)],
        runs=[run for run in runs if run],
        files=[found.folder / name for name in _NAMES],
        note=_note(found, config),
        kind="sweep",
    )


def _note(found: Swept, config: RunConfig) -> str:
    head = ("asked for", "epsilon", "AUROC (95%)", f"lowest by {found.groups}", "its AUROC (95%)")
    rows = [
        (
            line.changes,
            "no promise" if line.epsilon is None else epsilon(line.epsilon),
            estimate_words(line.auroc),
            line.worst_group or "-",
            estimate_words(line.worst),
        )
        for line in found.lines
    ]
    title = f"Sweep of {found.experiment} on {config.data.name}: {len(rows)} runs, SIMULATED"
    words = "The lowest of several groups is low by chance alone."
    if any(line.private for line in found.lines):
        words = f"{words} {NOT_COVERED}"
    return several_note(title, head, rows, words)


def _metrics(line: SweepLine, groups: str) -> Iterator[ArmMetric]:
    def values(each: Estimate) -> dict[str, float | None]:
        return {"": each.value, "low": each.low, "high": each.high}

    yield ArmMetric(
        line.changes,
        "figure",
        "auroc",
        EVERYBODY,
        EVERYBODY,
        of_gap=False,
        values=values(line.auroc),
    )
    if line.worst_group:
        yield ArmMetric(
            line.changes,
            "figure",
            "auroc",
            groups,
            line.worst_group,
            of_gap=False,
            values=values(line.worst),
        )
