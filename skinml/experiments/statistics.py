"""Statistics over clinics: private counts of patients, from a config to tables."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from math import ceil
from pathlib import Path
from typing import Any

from skinml.clinic.gate import logged_run
from skinml.config import RunConfig, load_config
from skinml.data.table_settings import EXPERIMENT, USUAL_TABLES
from skinml.durable import write_whole
from skinml.experiments.approval import drafted, expected_classes
from skinml.experiments.code_version import code_versions
from skinml.experiments.guarantee import guarantee
from skinml.experiments.learners import build_learner
from skinml.experiments.progress import Progress, Silence
from skinml.experiments.released import scale_and_noise
from skinml.experiments.resuming import Checkpoints, strip_notes
from skinml.experiments.rounds import in_this_process, tally
from skinml.experiments.samples import drop_samples, store_samples
from skinml.experiments.sealed_book import SealedBook
from skinml.experiments.sites import Terms, registered_keys
from skinml.experiments.statistics_result import statistics_json
from skinml.experiments.statistics_rows import (
    Listed,
    list_patients,
    require_regions,
    require_tables,
    samples_of,
)
from skinml.experiments.statistics_tracking import track_statistics
from skinml.experiments.workspace import Workspace, new_run_id, run_folder, run_of
from skinml.fairness.statistics_tables import estimated_tables, half_width
from skinml.federated.roll_call import Record
from skinml.privacy.ledger import spent
from skinml.privacy.plan import STATISTICS, statistics_release
from skinml.records import EVERY_SPLIT, FloatArray, Guarantee, Participation, last_attempts
from skinml.reports.statistics_page import StatisticsRecord, write_statistics
from skinml.training.learner import Learner

USUAL_EPSILON = 1.0
_CONFIG = "config.json"
_VERSIONS = ("skinml", "flwr", "dp-accounting")


@dataclass(frozen=True)
class Preview:
    """What statistics would cost, before anything is asked.

    Attributes:
        tables: Names of the tables.
        num_cells: Cells of all of them.
        num_clinics: Clinics that it was worked out for.
        epsilon: Of all tables together, for each clinic's ledger.
        delta: Delta that it is read at.
        trust: The trust model.
        unit: Whose data are protected as a whole.
        std: Standard deviation of the noise in each count, in patients.
        half_width: How far an interval of a count reaches to each side, in patients.
        least_count: Cells below it are not shown.
    """

    tables: tuple[str, ...]
    num_cells: int
    num_clinics: int
    epsilon: float
    delta: float
    trust: str
    unit: str
    std: float
    half_width: float
    least_count: int


@dataclass(frozen=True)
class Counted:
    """Statistics that reached their page.

    Attributes:
        record: What may be shown.
        result: The object of `--json`.
        folder: Where page, CSV and JSON are.
    """

    record: StatisticsRecord
    result: dict[str, Any]
    folder: Path


def statistics_config(
    experiment: str,
    overrides: Sequence[str] = (),
    *,
    tables: Sequence[str] = (),
    regions: Mapping[str, Sequence[str]] | None = None,
    deployed: bool = False,
) -> RunConfig:
    """Compose the config of statistics over the data of an experiment.

    Args:
        experiment: The experiment whose section data says what is counted.
        overrides: Changes to its config. Epsilon is 1 unless they say otherwise.
        tables: What patients are counted by; empty: `table_settings.USUAL_TABLES`, unless an
            override says otherwise.
        regions: Groups of clinics, each with tables of its own.
        deployed: Whether real clinics are asked.

    Returns:
        The config.

    Raises:
        ConfigError: If a key or a value is unknown or impossible.
    """
    usual = [f"statistics.tables=[{','.join(USUAL_TABLES)}]", f"privacy.epsilon={USUAL_EPSILON:g}"]
    fixed = [f"name={EXPERIMENT}", "privacy.admissions_share=0", "fairness.evaluation=exact"]
    if tables:
        fixed.append(f"statistics.tables=[{','.join(tables)}]")
    for name, members in (regions or {}).items():
        quoted = ",".join(f"'{each}'" for each in members)
        fixed.append(f"statistics.regions.{name}=[{quoted}]")
    if deployed:
        fixed += ["federation.mode=deployed", "work_dir=.", "tracking.enabled=false"]
    return load_config(experiment, [*usual, *overrides, *fixed])


def preview(config: RunConfig, num_clinics: int) -> Preview:
    """Work out what statistics would cost, from the config alone.

    Args:
        config: The config.
        num_clinics: Clinics that would be asked.

    Returns:
        Epsilon and noise. Nothing is spent and no data are read.

    Raises:
        ConfigError: If the config's sections do not fit together.
    """
    tables, privacy = require_tables(config), config.privacy
    std = _noise(config, num_clinics, num_clinics)[1]
    plan = drafted(config, expected_classes(config), num_clinics=num_clinics, run="plan")
    return Preview(
        tables=tuple(each.name for each in tables.tables),
        num_cells=tables.num_cells,
        num_clinics=num_clinics,
        epsilon=spent(plan.entries, privacy.delta),
        delta=privacy.delta,
        trust=privacy.trust,
        unit=privacy.unit,
        std=std,
        half_width=half_width(std),
        least_count=_least(config, std),
    )


def run_statistics(config: RunConfig, *, progress: Progress | None = None) -> Counted:
    """Count patients over virtual clinics, on this machine.

    Args:
        config: The config, see `statistics_config`.
        progress: Hears how far it is.

    Returns:
        The tables and where they are.

    Raises:
        SkinmlError: For whatever keeps the counts from their page; see `skinml.errors`.

    Guarantees:
        Each clinic's ledger holds the release before it is computed. One that was broken off stays
        charged, and is begun anew.
    """
    watcher, workspace = progress or Silence(), Workspace(config.work_dir)
    began, clock = datetime.now(UTC), time.monotonic()
    name = new_run_id(EXPERIMENT, began)
    with run_folder(workspace, name, lambda _: False) as draft:
        write_whole(draft / _CONFIG, (config.model_dump_json(indent=2) + "\n").encode(), "config")
        watcher.begin("listing patients", 1)
        listed = list_patients(config, workspace, name, watcher)
        require_regions(config, tuple(listed.folders))
        record = Record()
        with logged_run(listed.folders.values(), name, simulated=True, counts=True):
            total = _counted(config, draft, listed, record, watcher)
        strip_notes(draft)
        promise = guarantee(config, name, listed.folders, _learner(config, listed), None)
        found = write_counts(
            config,
            name,
            total,
            promise,
            tuple(record.participation),
            draft,
            began=began,
            wall_s=time.monotonic() - clock,
            unit=listed.unit,
            data=listed.name,
        )
    # Whole on the disk by now: a store that fails from here on loses nothing.
    final = workspace.runs / name
    tracked = track_statistics(config.tracking, workspace.root, found, final)
    return Counted(found, statistics_json(found, final, tracked), final)


def write_counts(
    config: RunConfig,
    run: str,
    total: FloatArray,
    promise: Guarantee,
    participation: tuple[Participation, ...],
    folder: Path,
    *,
    began: datetime,
    wall_s: float,
    unit: str,
    data: str,
) -> StatisticsRecord:
    """Read the released sum, and write all that may be shown of it.

    Args:
        config: The run's config.
        run: The run's id.
        total: (cells,) the noisy sum over the clinics.
        promise: What is promised.
        participation: Every attempt.
        folder: Where page, table and JSON go.
        began: When it began.
        wall_s: How long it took, seconds.
        unit: What a patient's id stands for.
        data: The data's name.

    Returns:
        The record.
    """
    last = participation[-1]
    scale, std = _noise(config, len(last.expected), len(last.took_part))
    layout, least = require_tables(config), _least(config, std)
    found = StatisticsRecord(
        run=run,
        data=data,
        started=began.isoformat(timespec="seconds"),
        wall_s=round(wall_s, 3),
        tables=estimated_tables(total * scale, layout, std=std, least_count=least),
        regions=tuple((name, members) for name, members in layout.regions if members),
        guarantee=promise,
        unit_stands_for=unit,
        participation=participation,
        complete=all(not each.missing for each in last_attempts(participation)),
        std=std,
        half_width=half_width(std),
        least_count=least,
        plan=plan_digest(config),
        config=config.model_dump(mode="json", include={"data", "privacy", "statistics"}),
        versions=code_versions(_VERSIONS),
    )
    write_statistics(found, statistics_json(found), folder)
    return found


def plan_digest(config: RunConfig) -> str:
    """Name what was planned before anything was asked.

    Args:
        config: The run's config.

    Returns:
        SHA-256 of the tables' cells and the settings of data, privacy and statistics, but for
        where the data are on this machine, in hexadecimal.
    """
    counted = {"data", "privacy", "statistics"}
    asked = config.model_dump_json(include=counted, exclude={"data": {"root"}})
    return sha256(f"{asked} {require_tables(config)!r}".encode()).hexdigest()


def _learner(config: RunConfig, listed: Listed) -> Learner:
    return build_learner(config, listed.labels, 0, len(listed.folders))


def _counted(
    config: RunConfig, draft: Path, listed: Listed, record: Record, watcher: Progress
) -> FloatArray:
    """Seal each clinic's patients for its node, and have the clinics add up."""
    name = run_of(draft)
    terms = Terms(
        run=name,
        config=config.model_dump_json(),
        clinics=tuple(listed.folders),
        clinics_root=str(Workspace(config.work_dir).clinics.resolve()),
        classes=listed.labels,
        num_features=0,
        registered=registered_keys(config, listed.folders),
    )
    learner = _learner(config, listed)
    watcher.begin("counting", 1)
    try:
        for clinic, folder in listed.folders.items():
            samples, grounds = samples_of(config, listed, clinic, folder)
            store_samples(folder, name, {EVERY_SPLIT: samples}, {EVERY_SPLIT: grounds})
        sums = tally(
            config,
            terms,
            learner,
            Checkpoints(draft, name, learner.rounds, record),
            reach=in_this_process(terms),
        )
    finally:
        for folder in listed.folders.values():
            SealedBook(folder, name).drop()
            drop_samples(folder, name)
    watcher.reached(1)
    return sums[STATISTICS]


def _noise(config: RunConfig, num_clinics: int, num_present: int) -> tuple[float, float]:
    tables = require_tables(config)
    return scale_and_noise(
        config.privacy,
        statistics_release(config.privacy, tables.num_cells),
        len(tables.tables),
        num_clinics=num_clinics,
        num_present=num_present,
    )


def _least(config: RunConfig, std: float) -> int:
    """The least count that is shown: what the config asks for, and no less than noise alone makes.

    Both are public, and so is which one is greater.
    """
    asked = config.statistics.least_count if config.statistics else 1
    return max(asked, ceil(half_width(std)))
