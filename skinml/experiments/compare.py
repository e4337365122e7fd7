"""`skinml compare`: arms of an experiment, each run with several seeds, or finished runs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isinf
from pathlib import Path
from typing import Any

from skinml.config import RunConfig
from skinml.errors import ConfigError, DataError, InputError
from skinml.experiments.code_version import SOURCE, code_versions
from skinml.experiments.compare_configs import differing, sorted_by_config, told_config
from skinml.experiments.compare_plan import (
    Arm,
    charge_words,
    plan_runs,
    require_affordable,
    usual_attribute,
)
from skinml.experiments.compare_runs import (
    FinishedRun,
    carried_out,
    config_of,
    differing_words,
    find_finished,
    find_named,
    in_common,
    in_order,
    same_items,
)
from skinml.experiments.compare_tracking import track_comparison
from skinml.experiments.compared import comparison_settings
from skinml.experiments.kept_predictions import kept_predictions
from skinml.experiments.outcome import VERSIONS
from skinml.experiments.progress import Progress, Silence
from skinml.experiments.result import read_mlflow_run
from skinml.experiments.version_changes import version_changes
from skinml.experiments.workspace import Workspace, new_run_id, require_several
from skinml.experiments.yardsticks import pooled
from skinml.fairness.arm_values import ArmComparison
from skinml.fairness.arms import BESIDE, ArmRuns, compare_arms
from skinml.fairness.settings import FairnessSettings
from skinml.fairness.side_by_side import PublishedRun, side_by_side
from skinml.records import Predictions
from skinml.reports.compare_page import ComparisonFiles, write_comparison
from skinml.reports.compare_record import (
    ArmLine,
    ComparisonRecord,
    RunLine,
    VersionChange,
    comparison_to_json,
)
from skinml.reports.compare_screen import ScreenTable, screen_tables
from skinml.seeding import Seeds

COMPARISONS = "comparisons"
SIDES = ("balanced_accuracy", "sensitivity", "specificity", "ece")
"""The figures that two versions are put side by side in, beside the primary one."""


@dataclass(frozen=True)
class Compared:
    """A finished comparison.

    Attributes:
        record: Everything that it may show.
        files: Where it was written.
        mlflow_run: MLflow's id of it; None where it was not tracked.
    """

    record: ComparisonRecord
    files: ComparisonFiles
    mlflow_run: str | None

    @property
    def result(self) -> dict[str, Any]:
        """The object of `--json`."""
        files = {name: str(path) for name, path in vars(self.files).items()}
        return comparison_to_json(self.record) | {
            "artifacts": {**files, "mlflow_run": self.mlflow_run}
        }

    @property
    def screen_tables(self) -> tuple[ScreenTable, ...]:
        """The tables of the terminal."""
        return screen_tables(self.record)


def compare_experiment(
    experiment: str,
    overrides: Sequence[str] = (),
    *,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    groups: Sequence[str] = (),
    progress: Progress | None = None,
) -> Compared:
    """Run every arm of an experiment with every seed, and compare.

    Args:
        experiment: The experiment's name.
        overrides: Changes that all arms share.
        arms: The arms; the others are held against the first.
        seeds: The seeds of each arm's runs.
        groups: Attributes whose groups are compared; empty: that of the config's primary
            comparison.
        progress: Hears how far it is.

    Returns:
        The comparison. A run of the same config that was finished before by the same code is taken
        as it is, and one that was broken off goes on; after a kill the same call goes on.

    Raises:
        BudgetExceededError, PolicyError: If the clinics' policy or a budget does not allow all
            runs; told before the first one begins.
        SkinmlError: For whatever keeps a run from its report; see `skinml.errors`.
    """
    began, clock, watcher = datetime.now(UTC), time.monotonic(), progress or Silence()
    planned = plan_runs(experiment, overrides, arms, seeds)
    attributes = _attributes(planned[0].config, groups)
    workspace = Workspace(planned[0].config.work_dir)
    done = [find_finished(run.config, workspace) for run in planned]
    missing = [run for run, found in zip(planned, done, strict=True) if found is None]
    charge = require_affordable(missing, experiment, workspace)
    by_arm: dict[str, list[FinishedRun]] = {arm.name: [] for arm in arms}
    for at, (run, found) in enumerate(zip(planned, done, strict=True), 1):
        watcher.say(f"run {at} of {len(planned)}: {run.arm}, seed {run.seed}")
        by_arm[run.arm].append(found or carried_out(run.config, workspace, watcher))
    charged = charge_words(charge, reused=len(planned) - len(missing))
    return _compared(by_arm, attributes, workspace, charged, began, clock, watcher)


def compare_finished(
    names: Sequence[str],
    *,
    work_dir: Path = Path(),
    groups: Sequence[str] = (),
    progress: Progress | None = None,
) -> Compared:
    """Compare finished runs: those whose configs differ in nothing but the seed are one arm.

    Args:
        names: Ids or folders of at least two runs; the first one's arm is the first.
        work_dir: The working folder with the runs.
        groups: As for `compare_experiment`.
        progress: Hears how far it is.

    Returns:
        The comparison. Nothing is released and no ledger is charged.

    Raises:
        ConfigError: If a run's config is of another release, or a group is not in it.
        DataError: If there is no such run, or the runs have nothing to compare.
        InputError: If there are fewer than two.
        IntegrityError: If a clinic's folder was changed.
    """
    began, clock = datetime.now(UTC), time.monotonic()
    workspace = Workspace(work_dir)
    require_several(names)
    runs = [find_named(name, workspace) for name in names]
    by_arm = sorted_by_config(runs)
    attributes = _attributes(config_of(runs[0].record), groups)
    charged = ("Charged: nothing, for the runs were there already.",)
    return _compared(by_arm, attributes, workspace, charged, began, clock, progress or Silence())


def compare_versions(
    before: str,
    after: str,
    *,
    work_dir: Path = Path(),
    groups: Sequence[str] = (),
    progress: Progress | None = None,
) -> Compared:
    """Put the reports of two versions of a model side by side, whatever they differ in.

    Args:
        before: Id or folder of the earlier run.
        after: That of the later one.
        work_dir: The working folder with the runs.
        groups: As for `compare_experiment`.
        progress: Hears how far it is.

    Returns:
        The comparison, with what changed in promise, data, code and settings. Where the test
        patients are not the same, figures stand beside each other and no difference is tested.

    Raises:
        ConfigError: If a run's config is of another release, or a group is not in it.
        DataError: If there is no such run, or the runs have nothing to compare.
        InputError: If it is one run.
        IntegrityError: If a clinic's folder was changed.
    """
    began, clock = datetime.now(UTC), time.monotonic()
    workspace = Workspace(work_dir)
    one, other = find_named(before, workspace), find_named(after, workspace)
    if one.record.run == other.record.run:
        raise InputError(
            rule="two finished runs to put side by side",
            got=f"{one.record.run} twice",
            do="Example: skinml compare --report RUN_BEFORE RUN_AFTER",
        )
    attributes = _attributes(config_of(one.record), groups)
    by_arm = {"before": [one], "after": [other]}
    charged = ("Charged: nothing, for the runs were there already.",)
    watcher = progress or Silence()
    return _compared(
        by_arm, attributes, workspace, charged, began, clock, watcher, version_changes(one, other)
    )


def _attributes(config: RunConfig, groups: Sequence[str]) -> tuple[str, ...]:
    """Settle what groups are of, and refuse early what the runs would not carry."""
    chosen = tuple(dict.fromkeys(groups)) or (usual_attribute(config),)
    missing = [name for name in chosen if name not in config.data.groups]
    if missing:
        raise ConfigError(
            rule=f"groups among those of the data ({', '.join(config.data.groups)})",
            got=f"--groups {', '.join(missing)}",
            do="Choose one of these, or add it to data.groups.",
        )
    return chosen


def _compared(
    by_arm: Mapping[str, Sequence[FinishedRun]],
    attributes: Sequence[str],
    workspace: Workspace,
    charged: tuple[str, ...],
    began: datetime,
    clock: float,
    watcher: Progress,
    changed: tuple[VersionChange, ...] = (),
) -> Compared:
    """Compute the comparison of finished runs and write it."""
    every = [run for runs in by_arm.values() for run in runs]
    first, config = every[0].record, config_of(every[0].record)
    _require_same_question(every)
    watcher.begin("comparing runs", 1)
    settings = comparison_settings(config.fairness, config.data)
    found, left_out = _found(by_arm, attributes, settings, workspace, SIDES if changed else BESIDE)
    watcher.reached(1)
    name = new_run_id(f"{first.experiment}-compare", began)
    told = {run.record.run: told_config(run) for run in every}
    own = differing(tuple(told.values()))
    record = ComparisonRecord(
        comparison=name,
        experiment=first.experiment,
        started=began.isoformat(timespec="seconds"),
        wall_s=round(time.monotonic() - clock, 3),
        arms=tuple(_arm_line(arm, runs) for arm, runs in by_arm.items()),
        found=found,
        unit_stands_for=first.data["unit"],
        data={key: first.data[key] for key in ("name", "digest") if key in first.data},
        left_out=left_out,
        charged=charged,
        notes=tuple(differing_words([run.record for run in every])),
        config={key: value for key, value in told[first.run].items() if key not in own},
        differs={
            arm: {key: str(told[runs[0].record.run].get(key, "none")) for key in own}
            for arm, runs in by_arm.items()
        },
        versions=code_versions(VERSIONS),
        changed=changed,
    )
    folder = workspace.root / COMPARISONS / name
    files = write_comparison(record, folder)
    # Whole on the disk before it is tracked: a store that fails loses nothing.
    _write_result(Compared(record, files, None), folder)
    tracked = Compared(
        record, files, track_comparison(config.tracking, workspace.root, record, files)
    )
    _write_result(tracked, folder)
    return tracked


def _write_result(found: Compared, folder: Path) -> None:
    (folder / "result.json").write_text(json.dumps(found.result, indent=1, allow_nan=False))


def _require_same_question(every: Sequence[FinishedRun]) -> None:
    classes = {run.record.classes for run in every}
    if len(classes) > 1:
        raise DataError(
            rule="runs that tell the same classes apart",
            got=f"{len(classes)} different sets of classes",
            do="Compare runs of one data.target and data.classes.",
        )


def _found(
    by_arm: Mapping[str, Sequence[FinishedRun]],
    attributes: Sequence[str],
    settings: FairnessSettings,
    workspace: Workspace,
    beside: Sequence[str],
) -> tuple[ArmComparison, int]:
    """Pair the runs where their predictions are there, or put what they published side by side."""
    every = [run for runs in by_arm.values() for run in runs]
    opened: list[Predictions] = []
    for run in every:
        places = (workspace.clinics, run.folder.parent.parent / "clinics")
        said, why = kept_predictions(run.record, places)
        if not said:
            why = f"{run.record.run}: {why}"
            return _unpaired(by_arm, attributes, settings, why, beside), 0
        opened.append(pooled(said))
    if beside == SIDES:
        opened = [in_order(each) for each in opened]
        if not same_items(opened):
            why = "the two were not tested on the same images"
            return _unpaired(by_arm, attributes, settings, why, beside), 0
    shared, left_out = in_common(opened)
    by_run = dict(zip((run.record.run for run in every), shared, strict=True))
    arms = [
        ArmRuns(
            name,
            tuple(run.record.seed for run in runs),
            tuple(by_run[run.record.run] for run in runs),
            tuple(run.record.threshold for run in runs),
        )
        for name, runs in by_arm.items()
    ]
    rng = Seeds(every[0].record.seed).stream("comparison")
    words: Mapping[str, Any] = {"attributes": attributes, "settings": settings, "beside": beside}
    by_group = beside == SIDES
    return compare_arms(arms, **words, rng=rng, by_group=by_group), left_out


def _unpaired(
    by_arm: Mapping[str, Sequence[FinishedRun]],
    attributes: Sequence[str],
    settings: FairnessSettings,
    why: str,
    beside: Sequence[str],
) -> ArmComparison:
    published = {
        name: tuple(
            PublishedRun(r.record.seed, r.record.overall, r.record.groups, r.record.gaps)
            for r in runs
        )
        for name, runs in by_arm.items()
    }
    words: Mapping[str, Any] = {"attributes": attributes, "settings": settings, "why": why}
    return side_by_side(published, **words, beside=beside)


def _arm_line(name: str, runs: Sequence[FinishedRun]) -> ArmLine:
    promises = [run.record.guarantee for run in runs]
    epsilons = [each.epsilon for each in promises]
    known = [e for e in epsilons if e is not None and not isinf(e)]
    return ArmLine(
        name=name,
        private=all(each.private for each in promises),
        trust=promises[0].trust,
        unit=promises[0].unit,
        epsilon=max(known) if len(known) == len(epsilons) else None,
        delta=promises[0].delta,
        simulated=all(each.simulated for each in promises),
        runs=tuple(
            RunLine(
                run.record.run,
                run.record.seed,
                read_mlflow_run(run.folder),
                run.record.data.get("digest", ""),
                run.record.versions.get(SOURCE, ""),
            )
            for run in runs
        ),
    )
