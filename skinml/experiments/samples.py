"""Each clinic's samples: from its images, through its caches, sealed in its folder for a run."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skinml.clinic.folder import ClinicFolder
from skinml.clinic.retention import note_made
from skinml.config import RunConfig
from skinml.data.cohort import Cohort
from skinml.data.feature_store import FeatureStore, store_path
from skinml.data.sealed_arrays import read_patient_arrays, write_patient_arrays
from skinml.durable import make_folder, read_whole, write_whole
from skinml.errors import ConfigError
from skinml.experiments.admissions import drop_standings
from skinml.experiments.cohorts import Gathered, image_positions
from skinml.experiments.likeness import network_version
from skinml.experiments.progress import Progress
from skinml.models.backbones import Backbone, load_backbone
from skinml.models.linear_head import item_features
from skinml.records import (
    EVERY_SPLIT,
    SPLITS,
    Arrays,
    BoolArray,
    Labels,
    Predictions,
    Samples,
    StrArray,
)
from skinml.stewardship.admissibility import row_reasons
from skinml.stewardship.days import this_day
from skinml.stewardship.encryption import seal, unseal
from skinml.training.array_bytes import read_arrays, write_arrays
from skinml.training.features import (
    extract_features,
    features_version,
    images_version,
    prepare_images,
    store_version,
)

_GROUP = "group."
_GROUNDS = ("licence", "series", "kept_until")
_STORED = (*SPLITS, EVERY_SPLIT)
PERSONAL_TEST = "test-personal"
"""The name of what clinics' own heads predicted for their test patients."""

Grounds = Mapping[str, NDArray[np.str_]]
"""What `row_reasons` asks of each sample beside its patient."""


def prepare_samples(
    config: RunConfig, gathered: Gathered, progress: Progress
) -> tuple[dict[str, dict[str, Samples]], str]:
    """Turn every clinic's images into samples, from its cache where it has them.

    Args:
        config: The run's config.
        gathered: The cohort at its clinics.
        progress: Hears how far it is.

    Returns:
        Samples by clinic and split, and the version of the features.

    Raises:
        DataError: If an image cannot be decoded.
        EnvironmentProblem: If the backbone is not installed or a cache cannot be written.
        IntegrityError: If a cache was changed.
    """
    backbone = load_backbone(config.model) if config.model.kind == "linear_head" else None
    version = features_version(backbone) if backbone else network_version(config)
    progress.begin("looking at images", len(gathered.cohort.images))
    samples, done = {}, 0
    for name, folder in gathered.folders.items():
        mine = gathered.places == name
        positions = image_positions(gathered.cohort, mine)
        inputs = _inputs(config, gathered, folder, positions, backbone, progress, done)
        done += len(positions)
        samples[name] = _by_split(config, gathered.cohort, mine, positions, inputs)
    return samples, version


def _inputs(
    config: RunConfig,
    gathered: Gathered,
    folder: ClinicFolder,
    positions: Sequence[int],
    backbone: Backbone | None,
    progress: Progress,
    before: int,
) -> NDArray[np.generic]:
    """Compute the rows of one clinic's images."""
    cohort = gathered.cohort
    paths = [cohort.root / cohort.images["image"].iloc[at] for at in positions]
    digests = [gathered.digests[at] for at in positions]
    size, limits = config.model.image_size, config.data.limits
    version = store_version(backbone) if backbone else images_version(size)
    keys = folder.patient_keys
    make_folder(folder.features, "folder of features")
    place = store_path(folder.features, version)
    note_made(place, this_day())
    store = FeatureStore(place, folder.key, keys, version)
    patients = cohort.images["patient_id"].iloc[list(positions)].astype(str).tolist()

    def watch(done: int, total: int) -> None:
        del total
        progress.reached(before + done)

    if backbone is None:
        return prepare_images(paths, digests, patients, size, store, limits, progress=watch)
    return extract_features(
        paths,
        digests,
        patients,
        backbone,
        store,
        limits,
        batch_size=config.model.batch_size,
        progress=watch,
    )


def _by_split(
    config: RunConfig,
    cohort: Cohort,
    mine: BoolArray,
    positions: Sequence[int],
    inputs: NDArray[np.generic],
) -> dict[str, Samples]:
    """Put a clinic's items together from its images' rows."""
    items = cohort.items[mine]
    rows = np.searchsorted(np.asarray(positions), cohort.views[mine])
    if config.model.kind == "linear_head":
        ready: NDArray[np.generic] = item_features(inputs[rows].astype(np.float32))
    else:
        ready = inputs[rows[:, 0]]
    everything = Samples(
        inputs=ready,
        labels=items["label"].to_numpy(dtype=np.int64),
        patients=items["patient_id"].to_numpy(dtype=str),
        groups={name: items[name].to_numpy(dtype=str) for name in config.data.groups},
    )
    splits = items["split"].to_numpy(dtype=str)
    return {split: everything.take(splits == split) for split in SPLITS}


def grounds_by_split(
    cohort: Cohort, mine: BoolArray, purpose: str, licences: Collection[str]
) -> dict[str, Grounds]:
    """Say on what each of a clinic's items may be used.

    Args:
        cohort: The cohort.
        mine: (items,) mask of the clinic's items.
        purpose: What they are used for.
        licences: The licences that the clinic's policy names.

    Returns:
        By split and item: `licence`, (n, views), that of each of the item's images, empty where it
        is none of these; `series`, filled where an image is one of a pair; and `kept_until`, the
        first day that one of its images ends, empty where none does.
    """
    found = {}
    for name in _GROUNDS:
        cells = cohort.images[name].fillna("").astype(str).to_numpy(dtype=str)
        found[name] = cells[cohort.views[mine]]
    named, places = found["licence"], found["series"]
    # A licence has no last day: any will do, and no register is asked.
    licensed = row_reasons(cohort.images, purpose, datetime.date.min, None, licences) == ""
    grounds = {
        "licence": np.where(licensed[cohort.views[mine]], named, ""),
        "series": np.where((places != "").any(axis=1), "pair", ""),
        "kept_until": _first_day(found["kept_until"]),
    }
    splits = cohort.items["split"].to_numpy(dtype=str)[mine]
    return {
        split: {name: cells[splits == split] for name, cells in grounds.items()} for split in SPLITS
    }


def grounds_of_rows(frame: pd.DataFrame, purpose: str, licences: Collection[str]) -> Grounds:
    """Say on what each of a clinic's rows may be used, as `grounds_by_split` does for items.

    Args:
        frame: Rows of a manifest.
        purpose: What they are used for.
        licences: The licences that the clinic's policy names.

    Returns:
        Its columns, one a row.
    """
    cells = {name: frame[name].fillna("").astype(str).to_numpy(dtype=str) for name in _GROUNDS}
    licensed = row_reasons(frame, purpose, datetime.date.min, None, licences) == ""
    pairs = np.where(cells["series"] != "", "pair", "")
    named = np.where(licensed, cells["licence"], "")[:, None]
    return cells | {"licence": named, "series": pairs}


def _first_day(days: StrArray) -> StrArray:
    """Find the first of each row's days, YYYY-MM-DD; empty where there is none."""
    first = np.sort(np.where(days == "", "9999-12-31", days), axis=1)[:, 0]
    return np.where(first == "9999-12-31", "", first)


def require_one_view(config: RunConfig) -> None:
    """Refuse items of several images where the model looks at one.

    Args:
        config: The run's config.

    Raises:
        ConfigError: If a network is asked to look at items of several views.
    """
    if config.model.kind == "network" and len(config.data.views) > 1:
        raise ConfigError(
            rule="one view an item for a network trained end to end",
            got=f"data.views={', '.join(config.data.views)}",
            do="Set data.views=[] or use model=efficientnet_lite0_head.",
        )


def store_samples(
    folder: ClinicFolder, run: str, samples: Mapping[str, Samples], grounds: Mapping[str, Grounds]
) -> None:
    """Seal a clinic's samples for its node, each under its patient's key.

    Args:
        folder: The clinic's folder.
        run: The run's id.
        samples: Samples by split.
        grounds: On what each sample of a split may be used.

    Raises:
        EnvironmentProblem: If the folder cannot be written.
        IntegrityError: If the vault was changed.
    """
    place = folder.run(run)
    make_folder(place, "folder of a run")
    for split, part in samples.items():
        arrays = {"inputs": part.inputs, "labels": part.labels}
        arrays |= {_GROUP + name: values for name, values in part.groups.items()}
        arrays |= {name: grounds[split][name] for name in _GROUNDS}
        _write(folder, _samples_file(place, split), arrays, part.patients, f"samples {run} {split}")


def open_samples(folder: ClinicFolder, run: str, split: str) -> tuple[Samples, Grounds]:
    """Open a clinic's samples of a run; those of patients erased since are gone.

    Args:
        folder: The clinic's folder.
        run: The run's id.
        split: Which split.

    Returns:
        The samples, and on what each may be used.

    Raises:
        EnvironmentProblem: If they cannot be read.
        IntegrityError: If they were changed.
    """
    path = _samples_file(folder.run(run), split)
    patients, arrays = read_patient_arrays(
        path, folder.key, folder.patient_keys, f"samples {run} {split}"
    )
    grounds = {name: arrays[name].astype(str) for name in _GROUNDS}
    return Samples(arrays["inputs"], arrays["labels"], patients, _groups(arrays)), grounds


def admitted(
    folder: ClinicFolder, samples: Samples, grounds: Grounds, purpose: str, day: datetime.date
) -> BoolArray:
    """Tell which samples may be used now: consents and policies change while a run goes on.

    Args:
        folder: The clinic's folder.
        samples: The samples.
        grounds: On what each may be used.
        purpose: What they are used for.
        day: The day of use.

    Returns:
        (n,) mask; of an item of several images each of them must be admitted.

    Raises:
        IntegrityError: If the register of consents was changed.
    """
    named = grounds["licence"]
    named = named if named.ndim == 2 else named[:, None]  # one an item in runs of older releases
    once = {"patient_id": samples.patients} | {name: grounds[name] for name in _GROUNDS[1:]}
    rows = {name: np.repeat(cells, named.shape[1]) for name, cells in once.items()}
    frame = pd.DataFrame({**rows, "licence": named.ravel()})
    reasons = row_reasons(frame, purpose, day, folder.consents, folder.policy.licences)
    return np.asarray((reasons == "").reshape(named.shape).all(axis=1), dtype=bool)


def still_admitted(folder: ClinicFolder, run: str, purpose: str) -> dict[str, Samples]:
    """Open a run's samples again, without those of patients who withdrew or were erased since.

    Args:
        folder: The clinic's folder.
        run: The run's id.
        purpose: What they are used for.

    Returns:
        The samples by split.

    Raises:
        EnvironmentProblem: If they cannot be read.
        IntegrityError: If they, or the register of consents, were changed.
    """
    today, kept = this_day(), {}
    for split in SPLITS:
        samples, grounds = open_samples(folder, run, split)
        kept[split] = samples.take(admitted(folder, samples, grounds, purpose, today))
    return kept


def has_samples(folder: ClinicFolder, run: str) -> bool:
    """Tell whether a clinic keeps samples of a run.

    Args:
        folder: The clinic's folder.
        run: The run's id.

    Returns:
        Whether there is one at least.
    """
    return any(_samples_file(folder.run(run), split).exists() for split in _STORED)


def drop_samples(folder: ClinicFolder, run: str) -> None:
    """Remove a clinic's samples of a run; its caches and predictions stay.

    Args:
        folder: The clinic's folder.
        run: The run's id.
    """
    for split in _STORED:
        _samples_file(folder.run(run), split).unlink(missing_ok=True)
    drop_standings(folder, run)
    with suppress(OSError):  # a folder that holds predictions stays
        folder.run(run).rmdir()


def keep_predictions(folder: ClinicFolder, run: str, split: str, predictions: Predictions) -> None:
    """Seal what a clinic predicted, each under its patient's key.

    Args:
        folder: The clinic's folder.
        run: The run's id.
        split: Which split.
        predictions: The predictions.

    Raises:
        EnvironmentProblem: If the folder cannot be written.
        IntegrityError: If the vault was changed.
    """
    arrays: dict[str, NDArray[np.generic]] = {
        "labels": predictions.labels,
        "probabilities": predictions.probabilities,
        "decisions": predictions.decisions,
    }
    arrays |= {_GROUP + name: values for name, values in predictions.groups.items()}
    path = _predictions_file(folder.run(run), split)
    _write(folder, path, arrays, predictions.patients, f"predictions {run} {split}")


def read_predictions(folder: ClinicFolder, run: str, split: str, classes: Labels) -> Predictions:
    """Read what a clinic predicted: only a simulation may, for it is the clinic.

    Args:
        folder: The clinic's folder.
        run: The run's id.
        split: Which split.
        classes: What the model tells apart.

    Returns:
        The predictions for patients who were not erased since.

    Raises:
        IntegrityError: If the file was changed.
    """
    path = _predictions_file(folder.run(run), split)
    patients, arrays = read_patient_arrays(
        path, folder.key, folder.patient_keys, f"predictions {run} {split}"
    )
    return Predictions(
        classes=classes,
        labels=arrays["labels"],
        probabilities=arrays["probabilities"],
        decisions=arrays["decisions"],
        patients=patients,
        groups=_groups(arrays),
    )


def keep_personal_head(
    folder: ClinicFolder, run: str, head: Arrays, predictions: Predictions
) -> None:
    """Seal a clinic's own head, and what it predicted for its test patients.

    Args:
        folder: The clinic's folder.
        run: The run's id.
        head: The head's arrays.
        predictions: The predictions.

    Raises:
        EnvironmentProblem: If the folder cannot be written.
        IntegrityError: If the vault was changed.
    """
    sealed = seal(folder.key, write_arrays(head), context=f"personal head {run}".encode())
    write_whole(folder.run(run) / "personal-head.sealed", sealed, "personal head")
    keep_predictions(folder, run, PERSONAL_TEST, predictions)


def read_personal_head(folder: ClinicFolder, run: str) -> Arrays:
    """Open a clinic's own head.

    Args:
        folder: The clinic's folder.
        run: The run's id.

    Returns:
        The head's arrays.

    Raises:
        EnvironmentProblem: If it cannot be read.
        IntegrityError: If it was changed.
    """
    sealed = read_whole(folder.run(run) / "personal-head.sealed", "personal head")
    return read_arrays(unseal(folder.key, sealed, context=f"personal head {run}".encode()))


def _write(
    folder: ClinicFolder,
    path: Path,
    arrays: Mapping[str, NDArray[np.generic]],
    patients: NDArray[np.str_],
    context: str,
) -> None:
    keys = folder.patient_keys
    # Who was erased while the run went on gets no new key.
    write_patient_arrays(path, folder.key, keys, arrays, patients, context)


def _groups(arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.str_]]:
    return {
        name.removeprefix(_GROUP): values.astype(str)
        for name, values in arrays.items()
        if name.startswith(_GROUP)
    }


def _samples_file(place: Path, split: str) -> Path:
    return place / f"samples-{split}.sealed"


def _predictions_file(place: Path, split: str) -> Path:
    return place / f"predictions-{split}.sealed"
