"""One run from config to report: the wiring of all rooms, in the order of the path."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from skinml.config import RunConfig, load_config
from skinml.errors import SkinmlError
from skinml.experiments.cohorts import Gathered, gather
from skinml.experiments.guarantee import guarantee
from skinml.experiments.learners import (
    build_learner,
    model_spec,
    split_key_id,
    validation_release,
)
from skinml.experiments.progress import Progress, Silence
from skinml.experiments.result import RESULT_FILE, result_json, write_record
from skinml.experiments.rounds import Trained, num_rounds, train
from skinml.experiments.sites import (
    Terms,
    drop_samples,
    prepare_samples,
    read_predictions,
    require_one_view,
    store_samples,
)
from skinml.experiments.workspace import Workspace, new_run_id, run_folder
from skinml.experiments.yardsticks import pooled, yardsticks
from skinml.fairness.groups import evaluate_groups
from skinml.fairness.thresholds import ThresholdChoice, choose_threshold, score_edges
from skinml.federated.clinic import SCORE_BINS, require_budget
from skinml.federated.coordinator import Record
from skinml.models.bundle import Bundle, save_bundle
from skinml.privacy.plan import Release
from skinml.records import Predictions, RunRecord, Samples
from skinml.reports.report import ReportFiles, write_report
from skinml.seeding import Seeds
from skinml.tracking.tracker import DatasetRef, Tracker, make_tracker
from skinml.training.learner import Learner

_SERVED_MODEL = Path(__file__).with_name("served_model.py")
_VERSIONS = ("skinml", "torch", "torchvision", "flwr", "opacus", "dp-accounting", "scikit-learn")


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
    watcher = progress or Silence()
    workspace = Workspace(config.work_dir)
    began, clock = datetime.now(UTC), time.monotonic()
    require_one_view(config)
    name = new_run_id(config.name, began)
    with run_folder(workspace, name) as draft:
        (draft / "config.json").write_text(config.model_dump_json(indent=2) + "\n")
        gathered = gather(config, workspace, watcher)
        _require_budgets(config, gathered, name)
        tracker = make_tracker(config.tracking, workspace.root, _SERVED_MODEL)
        tracker.start(name, config.name, config.model_dump(mode="json"), [_dataset(gathered)])
        try:
            record, bundle = _Work(config, name, gathered, tracker, watcher).do(began, clock)
            _write(draft, record, bundle)
        except (SkinmlError, KeyboardInterrupt, OSError) as error:
            with suppress(SkinmlError):  # the first error is the one to tell
                tracker.fail(type(error).__name__)
            raise
    # The run is whole on the disk by now: a store that fails from here on loses nothing.
    final = workspace.runs / name
    files = ReportFiles(final / "report.html", final / "report.json")
    mlflow_run = tracker.finish(record, files.html, files.json, final / "model")
    return Finished(record, _write_result(final, record, files.html, mlflow_run), final)


def _write(folder: Path, record: RunRecord, bundle: Bundle) -> None:
    write_report(record, folder)
    save_bundle(folder / "model", bundle)
    write_record(record, folder)
    _write_result(folder, record, folder / "report.html", None)


def _write_result(
    folder: Path, record: RunRecord, report: Path, mlflow_run: str | None
) -> dict[str, Any]:
    result = result_json(record, folder, report, mlflow_run)
    (folder / RESULT_FILE).write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


def _require_budgets(config: RunConfig, gathered: Gathered, name: str) -> None:
    """Refuse a run that any clinic cannot afford, before anything is computed."""
    if config.privacy.budget.epsilon is None:
        return
    # Noise and events do not depend on the features' number: any will do for a plan.
    learner = build_learner(config, gathered.cohort.labels, 1, len(gathered.folders))
    for folder in gathered.folders.values():
        require_budget(
            folder.ledger,
            learner,
            validation_release(config),
            config.privacy,
            run=name,
            split_key_id=split_key_id(config.data.split_key),
            from_round=1,
        )


@dataclass(frozen=True)
class _Work:
    """The middle of a run: from checked images to a record and a model."""

    config: RunConfig
    name: str
    gathered: Gathered
    tracker: Tracker
    progress: Progress

    def do(self, began: datetime, clock: float) -> tuple[RunRecord, Bundle]:
        config, gathered = self.config, self.gathered
        samples, features_version = prepare_samples(config, gathered, self.progress)
        terms = self._terms(samples)
        learner = build_learner(config, terms.classes, terms.num_features, len(terms.clinics))
        validation, rounds = validation_release(config), Record()
        trained = self._train(terms, learner, validation, samples, rounds)
        threshold = choose_threshold(trained.scores, score_edges(SCORE_BINS))
        self.progress.begin("comparing groups", 1)
        predictions = pooled(
            {
                name: read_predictions(folder, self.name, "test", terms.classes)
                for name, folder in gathered.folders.items()
            }
        )
        record = self._record(
            began, clock, predictions, samples, threshold, trained, rounds, learner, validation
        )
        spec = model_spec(config, terms.classes).model_copy(
            update={
                "backbone_version": features_version if config.model.kind == "linear_head" else "",
                "taxonomy_version": record.data["taxonomy"],
                "threshold": threshold.value,
                "threshold_source": record.threshold_source,
                "guarantee": _guarantee_words(record),
                "provenance": {
                    "run": self.name,
                    "skinml": version("skinml"),
                    "created": record.started,
                    "data": gathered.cohort.name,
                    "unit": gathered.cohort.unit,
                },
            }
        )
        return record, Bundle(spec, trained.fitted.arrays)

    def _terms(self, samples: Mapping[str, Mapping[str, Samples]]) -> Terms:
        inputs = next(iter(samples.values()))["train"].inputs
        return Terms(
            run=self.name,
            config=self.config.model_dump_json(),
            clinics=tuple(self.gathered.folders),
            clinics_root=str(Workspace(self.config.work_dir).clinics.resolve()),
            classes=self.gathered.cohort.labels,
            num_features=inputs.shape[1] if inputs.ndim == 2 else 0,
        )

    def _train(
        self,
        terms: Terms,
        learner: Learner,
        validation: Release,
        samples: Mapping[str, Mapping[str, Samples]],
        rounds: Record,
    ) -> Trained:
        self.progress.begin("rounds", num_rounds(learner))

        def on_round(number: int, figures: Mapping[str, float]) -> None:
            self.progress.reached(number)
            self.tracker.log_round(number, figures)

        try:
            for name, folder in self.gathered.folders.items():
                store_samples(folder, self.name, samples[name])
            return train(self.config, terms, learner, validation, rounds, on_round)
        finally:
            for folder in self.gathered.folders.values():
                drop_samples(folder, self.name)

    def _record(
        self,
        began: datetime,
        clock: float,
        predictions: Predictions,
        samples: Mapping[str, Mapping[str, Samples]],
        threshold: ThresholdChoice,
        trained: Trained,
        rounds: Record,
        learner: Learner,
        validation: Release,
    ) -> RunRecord:
        config, cohort = self.config, self.gathered.cohort
        seeds = Seeds(config.seed)
        overall, groups = evaluate_groups(
            predictions,
            threshold=threshold.value,
            settings=config.fairness,
            rng=seeds.stream("bootstrap"),
        )
        promised = guarantee(config, self.name, self.gathered.folders, learner, validation)
        beside = yardsticks(samples, cohort.labels, config.fairness, seeds)
        return RunRecord(
            run=self.name,
            experiment=config.name,
            seed=config.seed,
            started=began.isoformat(timespec="seconds"),
            wall_s=round(time.monotonic() - clock, 3),
            evaluation_source="exact",
            classes=cohort.labels,
            threshold=threshold.value,
            threshold_source=_threshold_source(config, threshold),
            overall=overall,
            groups=groups,
            yardsticks=beside,
            guarantee=promised,
            participation=tuple(rounds.participation),
            cohort_flow=cohort.flow,
            cohort_table=cohort.table,
            data=_data_words(self.gathered),
            config=config.model_dump(mode="json"),
            versions={package: version(package) for package in _VERSIONS},
            history=trained.fitted.history,
            complete=all(not each.missing for each in rounds.participation),
        )


def _threshold_source(config: RunConfig, threshold: ThresholdChoice) -> str:
    how = "with noise" if config.privacy.private else "without noise"
    return f"{threshold.source}; from the validation patients' scores, released {how}"


def _guarantee_words(record: RunRecord) -> dict[str, object]:
    promised = record.guarantee
    return {
        "private": promised.private,
        "trust": promised.trust,
        "unit": promised.unit,
        "epsilon": promised.epsilon,
        "delta": promised.delta,
        "simulated": promised.simulated,
    }


def _dataset(gathered: Gathered) -> DatasetRef:
    cohort = gathered.cohort
    return DatasetRef(
        name=cohort.name,
        digest=cohort.digest,
        source=cohort.name,
        num_patients=int(cohort.items["patient_id"].nunique()),
    )


def _data_words(gathered: Gathered) -> dict[str, str]:
    cohort = gathered.cohort
    licences = sorted(cohort.images["licence"].dropna().astype(str).unique())
    return {
        "name": cohort.name,
        "unit": cohort.unit,
        "digest": cohort.digest,
        "licence": ", ".join(licences),
        "tone_scale": cohort.tone_scale or "none",
        "taxonomy": gathered.taxonomy_version,
        "images": str(len(cohort.images)),
        "patients": str(cohort.items["patient_id"].nunique()),
    }
