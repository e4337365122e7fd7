"""Scoring a finished run's model on other images: a folder with a manifest, or single files."""

from __future__ import annotations

import datetime
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skinml.clinic.folder import open_folder
from skinml.config import RunConfig, parse_config
from skinml.data.cohort import Cohort, build_cohort, selected_rows
from skinml.data.images import inspect_images, prepare_image
from skinml.data.manifest import Manifest
from skinml.data.sealed_images import ImageFile
from skinml.data.settings import DataSettings, PartitionSettings
from skinml.data.splits import divide
from skinml.errors import DataError, IntegrityError, PolicyError
from skinml.experiments.answering import Answered, answer_item, answer_tables
from skinml.experiments.code_version import code_versions
from skinml.experiments.cohorts import open_manifest, public_digest
from skinml.experiments.compared import comparison_settings
from skinml.experiments.gates import EvaluationGates
from skinml.experiments.likeness import require_same_look
from skinml.experiments.measured import figures_of
from skinml.experiments.outcome import VERSIONS
from skinml.experiments.progress import Progress, Silence
from skinml.experiments.result import (
    RESULT_FILE,
    read_mlflow_run,
    read_record,
    result_json,
)
from skinml.experiments.set_coverage import coverage_elsewhere
from skinml.experiments.workspace import EVALUATIONS, Workspace
from skinml.models.backbones import load_backbone
from skinml.models.bundle import Bundle, load_bundle, score
from skinml.models.linear_head import item_features
from skinml.records import RunRecord, Samples
from skinml.reports.report import write_report
from skinml.seeding import Seeds
from skinml.stewardship.days import this_day
from skinml.training.evaluate import evaluate
from skinml.training.features import compute_features, features_version

_MANIFESTS = ("manifest.csv", "manifest.parquet")
_BATCH = 128
_OWN, _OTHER = "the run's own test patients", "other data"

Scorer = Callable[[list[bytes], list[str | None]], list[dict[str, Any]]]
Embed = Callable[[Sequence[ImageFile]], NDArray[Any]]


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation.

    Attributes:
        record: The run's record with this evaluation's figures.
        result: The object of `--json`.
        folder: Where the evaluation's report is.
    """

    record: RunRecord
    result: dict[str, Any]
    folder: Path


def evaluate_run(
    run: str, data: Path, *, work_dir: Path = Path(), progress: Progress | None = None
) -> Evaluated:
    """Score a finished run's model on a folder with a manifest.

    Every row counts as a test row, but in the manifest that the run itself has learnt from: there
    only its test patients do. The run's classes, views and kind of picture apply; clinics are
    read from the manifest and may be unknown to the run.

    Args:
        run: The run's id or folder.
        data: A folder with manifest.csv or manifest.parquet and the images that it names.
        work_dir: The working folder of the run.
        progress: Hears how far it is.

    Returns:
        The evaluation; its report is below the run's folder.

    Raises:
        DataError: If the run or the data are at fault.
        EnvironmentProblem: If the backbone is not installed or the report cannot be written.
        IntegrityError: If the model or a clinic's folder was changed, or the backbone is another.
        PolicyError: If no row may be used, or a clinic's policy says no.
    """
    clock, began = time.monotonic(), datetime.datetime.now(UTC)
    watcher = progress or Silence()
    workspace = Workspace(work_dir)
    folder = workspace.find_run(run)
    bundle = load_bundle(folder / "model")
    config = parse_config(bundle.spec.config)
    cohort, settings, own = _cohort(config, bundle, folder.name, data, workspace, watcher)
    inputs = _inputs(config, bundle, cohort, watcher)
    items = cohort.items
    samples = Samples(
        inputs,
        items["label"].to_numpy(dtype=np.int64),
        items["patient_id"].to_numpy(dtype=str),
        {name: items[name].to_numpy(dtype=str) for name in settings.groups},
    )
    predictions = evaluate(lambda rows: score(bundle, rows), bundle.spec.classes, samples)
    figures = figures_of(
        predictions,
        threshold=bundle.spec.threshold,
        settings=comparison_settings(config.fairness, settings),
        seeds=Seeds(config.seed),
    )
    ran = read_record(folder)
    record = replace(
        ran,
        started=began.isoformat(timespec="seconds"),
        evaluation_source="exact",
        overall=figures.overall,
        groups=figures.groups,
        yardsticks=(),
        cohort_flow=cohort.flow,
        cohort_table=cohort.table,
        data={
            **{k: v for k, v in ran.data.items() if own or k != "leak"},
            "name": f"{cohort.name} ({_OWN if own else _OTHER})",
            **({} if own else {"evaluated_on": _OTHER}),
            "unit": cohort.unit,
            "digest": "" if cohort.private else cohort.digest,
            "basis": cohort.basis,
            "images": str(len(cohort.images)),
            "patients": str(figures.overall.num_patients),
        },
        wall_s=round(time.monotonic() - clock, 3),
        versions=code_versions(VERSIONS),
        admissions=None,
        gaps=figures.gaps,
        curves=figures.curves,
        released_counts=None,
        mitigation=None,
        label_sets=coverage_elsewhere(config, ran, bundle.spec.label_sets, predictions),
    )
    place = folder / EVALUATIONS / f"{began:%Y%m%d-%H%M%S-%f}"
    files = write_report(record, place)
    result = result_json(record, folder, files.html, read_mlflow_run(folder))
    (place / RESULT_FILE).write_text(json.dumps(result, indent=1))
    return Evaluated(record, result, place)


def _cohort(
    config: RunConfig,
    bundle: Bundle,
    run: str,
    data: Path,
    workspace: Workspace,
    progress: Progress,
) -> tuple[Cohort, DataSettings, bool]:
    name = next((name for name in _MANIFESTS if (data / name).is_file()), None)
    if name is None:
        raise DataError(
            rule=f"a folder with {' or '.join(_MANIFESTS)}",
            got=f"data={data}",
            do="Give the folder that holds the manifest and the images.",
        )
    settings = config.data.model_copy(
        update={
            "source": "manifest",
            "root": data,
            "manifest": name,
            "partition": PartitionSettings(by="column", column="clinic"),
        }
    )
    manifest = open_manifest(settings, workspace, progress)
    own = _is_own(bundle, manifest, workspace)
    if own:
        # Its patients are at the clinics where the run had them: those know who withdrew.
        settings = settings.model_copy(update={"partition": config.data.partition})
        manifest = _unseen(manifest, config.data)
    settings = _fitted(settings, manifest)
    today = this_day()
    gates = EvaluationGates(config, workspace, run, own, today)
    try:
        cohort = build_cohort(
            manifest,
            settings,
            Seeds(settings.seed),
            purpose=config.purpose,
            day=today,
            doors=gates.door,
            labels=bundle.spec.classes,
            split=False,
        )
    except PolicyError:
        gates.refuse()
        raise
    gates.log(cohort.admissions)
    return cohort, settings, own


def _is_own(bundle: Bundle, manifest: Manifest, workspace: Workspace) -> bool:
    """Whether the manifest is the one that the run learnt from, by plain or by keyed digest."""
    learnt = bundle.spec.provenance.get("manifest")
    folders = (open_folder(path.parent) for path in workspace.clinics.glob("*/clinic.json"))
    keys = (None, *(folder.key for folder in folders))
    return any(learnt == public_digest(manifest.digest, key) for key in keys)


def _unseen(manifest: Manifest, settings: DataSettings) -> Manifest:
    """Keep the patients that the run kept for testing: it has learnt from the others."""
    frame = manifest.frame
    if settings.split == "published":
        frame = selected_rows(frame, settings, strict=False)  # other rows may be in no part
    return replace(manifest, frame=frame[divide(frame, settings) == "test"].reset_index(drop=True))


def _fitted(settings: DataSettings, manifest: Manifest) -> DataSettings:
    """Keep of the run's choice of rows what other data can answer.

    The kind of picture that the model knows stays a condition where the manifest tells it; which
    dataset or clinic the run learnt from does not. Tones on another scale stay unbinned, for
    scales never mix.
    """
    told = manifest.frame["modality"].notna().any()
    kept = {name: words for name, words in settings.where.items() if name == "modality" and told}
    changes: dict[str, object] = {"where": kept}
    scales = set(manifest.frame["skin_tone_scale"].dropna())
    if scales and scales != {settings.tone_scale}:
        changes["bins"] = {name: v for name, v in settings.bins.items() if name != "skin_tone"}
        changes["tone_scale"] = None
    return settings.model_copy(update=changes)


def _inputs(config: RunConfig, bundle: Bundle, cohort: Cohort, progress: Progress) -> NDArray[Any]:
    embed = embedder(config, bundle)
    images = cohort.images["image"].tolist()
    # One more look at each file, so that all broken ones are told at once and by their rows.
    progress.begin("reading images", len(images))
    inspect_images(
        images,
        cohort.root,
        config.data.limits,
        progress=progress.reached,
        rows=cohort.images["row"].tolist(),
    )
    paths = [cohort.root / image for image in images]
    progress.begin("looking at images", len(paths))
    rows = []
    for start in range(0, len(paths), _BATCH):
        rows.append(embed(paths[start : start + _BATCH]))
        progress.reached(min(start + _BATCH, len(paths)))
    by_image = np.concatenate(rows)
    if bundle.spec.kind == "linear_head":
        return item_features(by_image[cohort.views])
    return np.asarray(by_image[cohort.views[:, 0]])


def embedder(config: RunConfig, bundle: Bundle) -> Embed:
    """Open what stands between image files and a bundle's model.

    Args:
        config: The run's config.
        bundle: The model.

    Returns:
        From image files to one row each: features for a head, pixels for a network.

    Raises:
        EnvironmentProblem: If the backbone is not installed.
        IntegrityError: If the backbone is not the one that the model was trained on.
    """
    import torch

    size, limits = bundle.spec.image_size, config.data.limits

    def pixels(paths: Sequence[ImageFile]) -> torch.Tensor:
        return torch.stack([prepare_image(path, limits, size) for path in paths])

    if bundle.spec.kind == "network":
        return lambda paths: np.ascontiguousarray(pixels(paths).permute(0, 2, 3, 1).numpy())
    backbone = load_backbone(config.model)
    if features_version(backbone) != bundle.spec.backbone_version:
        raise IntegrityError(
            rule=f"the backbone {bundle.spec.backbone_version} that the model was trained on",
            got=features_version(backbone),
            do="Install the same weights as the run used.",
        )
    return lambda paths: compute_features(
        paths, backbone, limits, batch_size=config.model.batch_size
    )


def load_scorer(folder: Path) -> Scorer:
    """Open a bundle for MLflow's model server: from the bytes of image files to answers.

    Args:
        folder: The bundle's folder.

    Returns:
        From files' bytes, and whose group each is where somebody knows, to the answer about each:
        the classes' calibrated probabilities by name, "decision", "label_set", "cannot_tell",
        "reasons", "alarm", "likeness_checked" and "who_decides", see
        `fairness.model_answer.Answer`.

    Raises:
        DataError: If the model needs several views of a lesion at once.
        EnvironmentProblem: If a backbone that it needs is not installed.
        IntegrityError: If the bundle was changed, or a backbone is another.
    """
    bundle = load_bundle(folder)
    config = parse_config(bundle.spec.config)
    if len(bundle.spec.views) > 1:
        raise DataError(
            rule="a model that looks at one image at a time",
            got=f"views={', '.join(bundle.spec.views)}",
            do="Score lesions of several views with `skinml evaluate`.",
        )
    require_same_look(bundle)
    embed = embedder(config, bundle)

    tables = answer_tables(bundle.spec)

    def scorer(images: list[bytes], groups: list[str | None]) -> list[dict[str, Any]]:
        with tempfile.TemporaryDirectory() as place:
            paths = [Path(place) / str(number) for number in range(len(images))]
            for path, content in zip(paths, images, strict=True):
                path.write_bytes(content)
            rows = embed(paths)
        inputs = item_features(rows[:, None]) if bundle.spec.kind == "linear_head" else rows
        return [
            _served(answer_item(bundle, tables, inputs[at : at + 1], group))
            for at, group in enumerate(groups)
        ]

    return scorer


def _served(said: Answered) -> dict[str, Any]:
    told = said.found.values()
    return {
        **told.pop("probabilities"),
        "decision": said.decision,
        **{name: told[name] for name in ("label_set", "cannot_tell", "reasons", "alarm")},
        "likeness_checked": told["likeness_checked"],
        "who_decides": told["who_decides"],
    }
