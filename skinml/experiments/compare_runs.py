"""The runs of a comparison on disk: which are finished, and what each said of its patients."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skinml.config import RunConfig, parse_config
from skinml.errors import DataError, EnvironmentProblem
from skinml.experiments.code_version import SOURCE, source_digest
from skinml.experiments.progress import Progress
from skinml.experiments.result import RECORD_FILE, read_record
from skinml.experiments.resuming import resumable
from skinml.experiments.run import resume, run_config
from skinml.experiments.workspace import Workspace, in_work, run_of
from skinml.fairness.cells import taken
from skinml.records import Predictions, RunRecord, StrArray

CONFIG_FILE = "config.json"
# What decides nothing about a run's figures.
_BESIDE = ("work_dir", "tracking", "clinic")


@dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    Attributes:
        folder: Its folder.
        record: What it may show.
    """

    folder: Path
    record: RunRecord


def _asked(config: RunConfig) -> dict[str, Any]:
    return _deciding(json.loads(config.model_dump_json()))


def _held(path: Path) -> dict[str, Any] | None:
    try:
        told = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return _deciding(told)


def _deciding(told: dict[str, Any]) -> dict[str, Any]:
    """Leave out what decides nothing about a run's figures."""
    kept = {name: value for name, value in told.items() if name not in _BESIDE}
    federation = {k: v for k, v in dict(kept.get("federation", {})).items() if k != "cpus"}
    return kept | {"federation": federation}


def find_finished(config: RunConfig, workspace: Workspace) -> FinishedRun | None:
    """Find the first finished run of a config, made by this very code.

    Args:
        config: The config.
        workspace: Where runs are.

    Returns:
        The run that finished first: its figures have no part in the choice. None: there is none.
    """
    asked = _asked(config)
    every = (path.parent for path in workspace.runs.glob(f"{config.name}-*/{RECORD_FILE}"))
    same = [folder for folder in every if _held(folder / CONFIG_FILE) == asked]
    found = []
    for folder in same:
        try:
            record = read_record(folder)
        except DataError:  # of another release
            continue
        if record.versions.get(SOURCE) == source_digest():
            found.append(FinishedRun(folder, record))
    return min(found, key=lambda each: (each.record.started, each.record.run), default=None)


def find_broken_off(config: RunConfig, workspace: Workspace) -> str | None:
    """Find a run of a config that was broken off and can be resumed.

    Args:
        config: The config.
        workspace: Where runs are.

    Returns:
        Its id; None where there is none.

    Raises:
        EnvironmentProblem: If a process is at work on such a run.
    """
    asked = _asked(config)
    for draft in workspace.drafts:
        if _held(draft / CONFIG_FILE) != asked:
            continue
        if in_work(draft):
            raise EnvironmentProblem(
                rule="runs of this comparison that no other process works on",
                got=f"{run_of(draft)}, which another process is at",
                do="Wait for it, or stop it; then compare again.",
            )
        if resumable(draft):
            return run_of(draft)
    return None


def carried_out(config: RunConfig, workspace: Workspace, watcher: Progress) -> FinishedRun:
    """Do a run, or go on with one of its config that was broken off.

    Args:
        config: The config.
        workspace: Where runs are.
        watcher: Hears how far it is.

    Returns:
        The finished run.

    Raises:
        SkinmlError: For whatever keeps the run from its report; see `skinml.errors`.
    """
    broken_off = find_broken_off(config, workspace)
    if broken_off is not None:
        done = resume(broken_off, work_dir=workspace.root, progress=watcher)
    else:
        done = run_config(config, progress=watcher)
    return FinishedRun(done.folder, done.record)


def find_named(name: str, workspace: Workspace) -> FinishedRun:
    """Find a finished run by its id or folder.

    Args:
        name: The id, or the path of the folder.
        workspace: Where runs are.

    Returns:
        The run.

    Raises:
        DataError: If there is no such run.
    """
    folder = workspace.find_run(name)
    return FinishedRun(folder, read_record(folder))


def config_of(record: RunRecord) -> RunConfig:
    """Read the config of a finished run.

    Args:
        record: What the run may show.

    Returns:
        Its config; the policy of virtual clinics may be missing from a record and is left out.

    Raises:
        ConfigError: If it is of another release of skinml.
    """
    return parse_config(dict(record.config))


def in_common(every: Sequence[Predictions]) -> tuple[tuple[Predictions, ...], int]:
    """Keep the patients that all runs have: some may have withdrawn from one run to the next.

    Args:
        every: Each run's predictions, at least one.

    Returns:
        The predictions of patients in common, and of how many others there were some.
    """
    names = [set(each.patients.tolist()) for each in every]
    shared = set.intersection(*names)
    left_out = len(set.union(*names)) - len(shared)
    if not left_out:
        return tuple(every), 0
    keep = np.array(sorted(shared), dtype=str)
    return tuple(taken(each, np.isin(each.patients, keep)) for each in every), left_out


def in_order(predictions: Predictions) -> Predictions:
    """Sort items by patient, then label: runs over other clinics have them in another order.

    Args:
        predictions: One run's predictions.

    Returns:
        The same items.
    """
    return taken(predictions, np.lexsort((predictions.labels, predictions.patients)))


def same_items(every: Sequence[Predictions]) -> bool:
    """Tell whether runs were tested on the same items, but for patients who are gone since.

    Args:
        every: Each run's predictions, at least one.

    Returns:
        Whether the patients that all have are at least one, with the same labels and groups.
    """
    first, *others = in_common(every)[0]
    return len(first) > 0 and all(
        first.classes == each.classes
        and np.array_equal(first.patients, each.patients)
        and np.array_equal(first.labels, each.labels)
        and _groups(first).keys() <= each.groups.keys()
        and all(np.array_equal(v, each.groups[n]) for n, v in _groups(first).items())
        for each in others
    )


def _groups(predictions: Predictions) -> dict[str, StrArray]:
    """The groups that belong to a patient or an image; who holds it may change."""
    return {name: v for name, v in predictions.groups.items() if name != "clinic"}


def differing_words(records: Sequence[RunRecord]) -> Iterator[str]:
    """Say in which ways runs differ that their configs do not show.

    Args:
        records: What the runs may show.

    Yields:
        A sentence each.
    """
    if len({record.data.get("digest", "") for record in records}) > 1:
        yield "The runs did not use the same data: part of a change may come from that."
    if len({record.versions.get(SOURCE) for record in records}) > 1:
        yield "The runs were made by different code: part of a change may come from that."
    resumed = sum(record.resumes > 0 for record in records)
    if resumed:
        yield (
            f"{resumed} of {len(records)} runs went on after a stop: what was asked again was "
            "charged again, so that their epsilon is greater."
        )
    incomplete = sum(not record.complete for record in records)
    if incomplete:
        yield f"In {incomplete} of {len(records)} runs a clinic was missing from a round."
