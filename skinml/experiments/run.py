"""One run from config to report: the wiring of all rooms, in the order of the path."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from skinml.clinic.gate import logged_run
from skinml.config import RunConfig, load_config, parse_config, require_trained
from skinml.durable import read_whole
from skinml.errors import SkinmlError
from skinml.experiments.admissions import store_standings
from skinml.experiments.cohorts import Gathered, gather
from skinml.experiments.learners import build_learner, validation_release
from skinml.experiments.outcome import Outcome, origin_of, run_bundle, run_record
from skinml.experiments.progress import Progress, Silence
from skinml.experiments.released import run_threshold
from skinml.experiments.result import RESULT_FILE, result_json, write_record
from skinml.experiments.resuming import (
    Checkpoints,
    Life,
    find_interrupted,
    how_to_go_on,
    kept_history,
    resumable,
    strip_notes,
    turn,
)
from skinml.experiments.rounds import num_rounds, train
from skinml.experiments.samples import (
    drop_samples,
    grounds_by_split,
    prepare_samples,
    require_one_view,
    still_admitted,
    store_samples,
)
from skinml.experiments.sealed_book import SealedBook
from skinml.experiments.sites import Terms, registered_keys
from skinml.experiments.workspace import Workspace, new_run_id, run_folder, run_of
from skinml.federated.answer_times import Stopwatch
from skinml.federated.roll_call import Record
from skinml.models.bundle import Bundle, save_bundle
from skinml.privacy.plan import admissions_release
from skinml.records import RunRecord, Samples
from skinml.reports.card import write_card
from skinml.reports.report import ReportFiles, write_report
from skinml.tracking.content import clinic_rounds
from skinml.tracking.tracker import DatasetRef, Tracker, make_tracker

_CONFIG = "config.json"
SERVED_MODEL = Path(__file__).with_name("served_model.py")


@dataclass(frozen=True)
class Finished:
    """A run that reached its report.

    Attributes:
        record: Everything that it may show.
        result: The object of `--json`.
        folder: Its folder.
    """

    record: RunRecord
    result: dict[str, Any]
    folder: Path


def run(
    experiment: str, overrides: Sequence[str] = (), *, progress: Progress | None = None
) -> Finished:
    """Train, evaluate, report and track an experiment.

    Args:
        experiment: The experiment's name.
        overrides: Changes to its config, such as "privacy.epsilon=1".
        progress: Hears how far it is.

    Returns:
        The finished run.

    Raises:
        SkinmlError: For whatever keeps the run from its report; see `skinml.errors`.

    Guarantees:
        The same seed and config give the same metrics under trust "none". Under the others the
        samplings and the initial weights repeat in a fresh working folder, the noise never.
    """
    return run_config(load_config(experiment, overrides), progress=progress)


def run_config(config: RunConfig, *, progress: Progress | None = None) -> Finished:
    """Train, evaluate, report and track by a config.

    Args:
        config: The config.
        progress: Hears how far it is.

    Returns:
        The finished run.

    Raises:
        SkinmlError: For whatever keeps the run from its report; see `skinml.errors`.
    """
    require_trained(config)
    require_one_view(config)
    name = new_run_id(config.name, datetime.now(UTC))
    return _carried(config, Workspace(config.work_dir), name, progress or Silence())


def told_config(config: RunConfig) -> dict[str, Any]:
    """Write what a tracking store may be told of a training's config.

    Args:
        config: The config.

    Returns:
        Plain values; policies name users of computers, and stay at the clinics.
    """
    return config.model_dump(mode="json", exclude={"clinic", "statistics"})


def resume(run: str, *, work_dir: Path = Path(), progress: Progress | None = None) -> Finished:
    """Go on with a run that was broken off, from its last whole round.

    Args:
        run: The run's id.
        work_dir: The working folder that it began in.
        progress: Hears how far it is.

    Returns:
        The finished run.

    Raises:
        DataError: If there is no such run to be resumed.
        EnvironmentProblem: If it is not broken off but still going on.
        IntegrityError: If its checkpoint was damaged.
        SkinmlError: For whatever else keeps the run from its report.

    Guarantees:
        What a clinic released for the round that was broken off stays charged, and is never added
        to a later attempt: that round is asked for again, with fresh noise, and charged again.
        Without noise, the model is that of a run that was not broken off.
    """
    workspace = Workspace(work_dir)
    draft = find_interrupted(workspace, run)
    held = json.loads(read_whole(draft / _CONFIG, "config of the run"))
    config = parse_config(held | {"work_dir": str(work_dir)})
    return _carried(config, workspace, run, progress or Silence())


def _carried(config: RunConfig, workspace: Workspace, name: str, watcher: Progress) -> Finished:
    """Bring a run, new or broken off, to its report."""
    clock = time.monotonic()
    with run_folder(workspace, name, resumable) as draft, turn(draft) as life:
        if life.number == 1:
            (draft / _CONFIG).write_text(config.model_dump_json(indent=2) + "\n")
        history = kept_history(draft)
        gathered = gather(config, workspace, name, watcher, from_round=len(history) + 1)
        tracker = make_tracker(config.tracking, workspace.root, SERVED_MODEL)
        tracker.start(name, config.name, told_config(config), [_dataset(gathered)], history)
        try:
            with logged_run(gathered.folders.values(), name, simulated=True):
                outcome = _work(config, draft, life, gathered, tracker, watcher)
            record = run_record(config, gathered, outcome, life.began, clock - life.before_s)
            write_run(draft, record, run_bundle(config, origin_of(gathered), outcome, record))
            strip_notes(draft)
        except (SkinmlError, KeyboardInterrupt, OSError) as error:
            with suppress(SkinmlError):  # the first error is the one to tell
                tracker.fail(type(error).__name__)
            how_to_go_on(error, workspace, name)
            raise
    # The run is whole on the disk by now: a store that fails from here on loses nothing.
    final = workspace.runs / name
    files = ReportFiles(final / "report.html", final / "report.json")
    mlflow_run = tracker.finish(record, files.html, files.json, final / "model")
    return Finished(record, write_result(final, record, files.html, mlflow_run), final)


def write_run(folder: Path, record: RunRecord, bundle: Bundle) -> None:
    """Write everything that a finished run shows.

    Args:
        folder: Its folder.
        record: What it may show.
        bundle: Its model.

    Raises:
        EnvironmentProblem: If it cannot be written.
    """
    write_report(record, folder)
    save_bundle(folder / "model", bundle)
    write_card(record, folder / "model")
    write_record(record, folder)
    write_result(folder, record, folder / "report.html", None)


def write_result(
    folder: Path, record: RunRecord, report: Path, mlflow_run: str | None
) -> dict[str, Any]:
    """Write the object of `--json`.

    Args:
        folder: The run's folder.
        record: What it may show.
        report: Where its report is.
        mlflow_run: MLflow's id of it; None where nothing is kept there.

    Returns:
        The object.
    """
    result = result_json(record, folder, report, mlflow_run)
    (folder / RESULT_FILE).write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


def _work(
    config: RunConfig,
    draft: Path,
    life: Life,
    gathered: Gathered,
    tracker: Tracker,
    progress: Progress,
) -> Outcome:
    """Do the middle of a run: from checked images to a model and its predictions."""
    name = run_of(draft)
    samples, features_version = prepare_samples(config, gathered, progress)
    terms = _terms(config, name, gathered, samples)
    learner = build_learner(config, terms.classes, terms.num_features, len(terms.clinics))
    validation = validation_release(config)
    checkpoints = Checkpoints(draft, name, learner.rounds, Record())
    counted, watch = admissions_release(config.privacy) is not None, Stopwatch()
    progress.begin("rounds", num_rounds(learner))

    def on_round(number: int, figures: Mapping[str, float]) -> None:
        progress.reached(number)
        entries = checkpoints.record.participation
        tracker.log_round(number, figures, clinic_rounds(entries, watch.times.answers))

    try:
        for clinic, folder in gathered.folders.items():
            mine = gathered.places == clinic
            grounds = grounds_by_split(
                gathered.cohort, mine, config.purpose, folder.policy.licences
            )
            store_samples(folder, name, samples[clinic], grounds)
            if counted:
                admissions, mode = gathered.cohort.admissions, config.federation.mode
                store_standings(folder, name, admissions, mode)
        trained = train(
            config,
            terms,
            learner,
            validation,
            checkpoints,
            on_round,
            first_attempt=life.first_attempt,
            watch=watch,
            folder=next(iter(gathered.folders.values())),
        )
        samples = {
            clinic: still_admitted(folder, name, config.purpose)
            for clinic, folder in gathered.folders.items()
        }
    finally:
        for folder in gathered.folders.values():
            SealedBook(folder, name).drop()
            drop_samples(folder, name)
    progress.begin("comparing groups", 1)
    return Outcome(
        run=name,
        samples=samples,
        features_version=features_version,
        learner=learner,
        validation=validation,
        trained=trained,
        threshold=run_threshold(config, trained.scores),
        participation=tuple(checkpoints.record.participation),
        resumes=life.number - 1,
    )


def _terms(
    config: RunConfig,
    name: str,
    gathered: Gathered,
    samples: Mapping[str, Mapping[str, Samples]],
) -> Terms:
    inputs = next(iter(samples.values()))["train"].inputs
    return Terms(
        run=name,
        config=config.model_dump_json(),
        clinics=tuple(gathered.folders),
        clinics_root=str(Workspace(config.work_dir).clinics.resolve()),
        classes=gathered.cohort.labels,
        num_features=inputs.shape[1] if inputs.ndim == 2 else 0,
        registered=registered_keys(config, gathered.folders),
    )


def _dataset(gathered: Gathered) -> DatasetRef:
    cohort = gathered.cohort
    return DatasetRef(
        name=cohort.name,
        digest=gathered.digest,
        source=cohort.name,
        num_patients=None if cohort.private else int(cohort.items["patient_id"].nunique()),
    )
