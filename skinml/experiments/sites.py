"""Each clinic's part of a run: its samples, sealed in its folder, and how a node opens them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.config import RunConfig, parse_config
from skinml.data.cohort import Cohort
from skinml.data.feature_store import (
    FeatureStore,
    read_sealed_arrays,
    store_path,
    write_sealed_arrays,
)
from skinml.errors import ConfigError
from skinml.experiments.cohorts import Gathered, image_positions
from skinml.experiments.learners import (
    build_learner,
    clinic_mechanism,
    predictor,
    split_key_id,
    validation_release,
)
from skinml.experiments.progress import Progress
from skinml.federated.clinic import Clinic, ClinicSetup
from skinml.models.backbones import Backbone, load_backbone
from skinml.models.linear_head import item_features
from skinml.records import SPLITS, Labels, Predictions, Samples
from skinml.seeding import Seeds
from skinml.training.features import (
    extract_features,
    features_version,
    images_version,
    prepare_images,
)

_GROUP = "group."


@dataclass(frozen=True)
class Terms:
    """What every node of a run needs to know; travels to worker processes as plain values.

    Attributes:
        run: The run's id.
        config: The run's config as JSON.
        clinics: The clinics' names in the order of the nodes.
        clinics_root: The folder of all clinics of this machine.
        classes: What the model tells apart.
        num_features: Features of an item; 0 for networks.
    """

    run: str
    config: str
    clinics: tuple[str, ...]
    clinics_root: str
    classes: Labels
    num_features: int


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
    progress.begin("looking at images", len(gathered.cohort.images))
    samples, done = {}, 0
    for name, folder in gathered.folders.items():
        mine = gathered.places == name
        positions = image_positions(gathered.cohort, mine)
        inputs = _inputs(config, gathered, folder, positions, backbone, progress, done)
        done += len(positions)
        samples[name] = _by_split(config, gathered.cohort, mine, positions, inputs)
    size = config.model.image_size
    return samples, features_version(backbone) if backbone else images_version(size)


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
    version = features_version(backbone) if backbone else images_version(size)
    store = FeatureStore(store_path(folder.features, version), folder.key, version)

    def watch(done: int, total: int) -> None:
        del total
        progress.reached(before + done)

    if backbone is None:
        return prepare_images(paths, digests, size, store, limits, progress=watch)
    return extract_features(
        paths,
        digests,
        backbone,
        store,
        limits,
        batch_size=config.model.batch_size,
        progress=watch,
    )


def _by_split(
    config: RunConfig,
    cohort: Cohort,
    mine: NDArray[np.bool_],
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


def store_samples(folder: ClinicFolder, run: str, samples: Mapping[str, Samples]) -> None:
    """Seal a clinic's samples for its node.

    Args:
        folder: The clinic's folder.
        run: The run's id.
        samples: Samples by split.

    Raises:
        EnvironmentProblem: If the folder cannot be written.
    """
    place = folder.run(run)
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    for split, part in samples.items():
        arrays = {"inputs": part.inputs, "labels": part.labels, "patients": part.patients}
        arrays |= {_GROUP + name: values for name, values in part.groups.items()}
        write_sealed_arrays(_samples_file(place, split), folder.key, arrays, f"samples {split}")


def drop_samples(folder: ClinicFolder, run: str) -> None:
    """Remove a clinic's samples of a run; its caches and predictions stay.

    Args:
        folder: The clinic's folder.
        run: The run's id.
    """
    for split in SPLITS:
        _samples_file(folder.run(run), split).unlink(missing_ok=True)
    with suppress(OSError):  # a folder that holds predictions stays
        folder.run(run).rmdir()


def read_predictions(folder: ClinicFolder, run: str, split: str, classes: Labels) -> Predictions:
    """Read what a clinic predicted: only a simulation may, for it is the clinic.

    Args:
        folder: The clinic's folder.
        run: The run's id.
        split: Which split.
        classes: What the model tells apart.

    Returns:
        The predictions.

    Raises:
        IntegrityError: If the file was changed.
    """
    path = folder.run(run) / f"predictions-{split}.sealed"
    arrays = read_sealed_arrays(path, folder.key, f"predictions {split}")
    return Predictions(
        classes=classes,
        labels=arrays["labels"],
        probabilities=arrays["probabilities"],
        decisions=arrays["decisions"],
        patients=arrays["patients"],
        groups=_groups(arrays),
    )


@dataclass(frozen=True)
class Opener:
    """Opens clinics for one run: the callable that travels to worker processes.

    Flower pickles it anew for every message; two copies are equal where their terms are, so that
    a worker that has opened a clinic knows it again.

    Attributes:
        terms: What every node of the run knows.
    """

    terms: Terms

    def __call__(self, node: Mapping[str, object]) -> Clinic:
        """Open the clinic of one node, see `open_clinic`."""
        return open_clinic(self.terms, node)


def open_clinic(terms: Terms, node: Mapping[str, object]) -> Clinic:
    """Open the clinic of one node.

    Args:
        terms: What every node of the run knows.
        node: The node's config: its partition's number, or its clinic's name.

    Returns:
        The clinic, ready to answer.

    Raises:
        ConfigError: If the node belongs to no clinic of the run.
        IntegrityError: If its samples were changed.
    """
    config = parse_config(json.loads(terms.config))
    folder = open_folder(Path(terms.clinics_root), _clinic_of(terms, node))
    place, count = folder.run(terms.run), len(terms.clinics)
    samples = {split: _read_samples(folder, place, split) for split in SPLITS}
    return Clinic(
        ClinicSetup(
            name=folder.name,
            run=terms.run,
            participants=terms.clinics,
            learner=build_learner(config, terms.classes, terms.num_features, count),
            validation=validation_release(config),
            samples=samples,
            predict=predictor(config, terms.classes),
            keep=partial(_keep, folder, place),
            ledger=folder.ledger,
            mechanism=clinic_mechanism(config, count),
            privacy=config.privacy,
            split_key_id=split_key_id(config.data),
            sampling_root=sampling_root(config, folder),
            simulated=True,
        )
    )


def sampling_root(config: RunConfig, folder: ClinicFolder) -> int:
    """Choose the seed of a clinic's sampling streams.

    Amplification by sampling holds only while the sample is secret, so that a clinic with real
    images derives it from its key. Drawn patients have no secrets, and without a promise there is
    nothing to keep: there the samples follow from the run's seed and repeat.

    Args:
        config: The run's config.
        folder: The clinic's folder.

    Returns:
        The seed.
    """
    if config.privacy.private and config.data.source != "synthetic":
        return folder.secret_number("sampling")
    return Seeds(config.seed).integer(f"sampling/{folder.name}")


def _clinic_of(terms: Terms, node: Mapping[str, object]) -> str:
    name, place = node.get("clinic"), node.get("partition-id")
    if isinstance(name, str) and name in terms.clinics:
        return name
    if isinstance(place, int) and 0 <= place < len(terms.clinics):
        return terms.clinics[place]
    raise ConfigError(
        rule="a node of one of the run's clinics",
        got=f"clinic={name}, partition-id={place}",
        do="Start one node for each clinic of the run.",
    )


def _read_samples(folder: ClinicFolder, place: Path, split: str) -> Samples:
    arrays = read_sealed_arrays(_samples_file(place, split), folder.key, f"samples {split}")
    return Samples(arrays["inputs"], arrays["labels"], arrays["patients"], _groups(arrays))


def _keep(folder: ClinicFolder, place: Path, split: str, predictions: Predictions) -> None:
    arrays = {
        "labels": predictions.labels,
        "probabilities": predictions.probabilities,
        "decisions": predictions.decisions,
        "patients": predictions.patients,
    }
    arrays |= {_GROUP + name: values for name, values in predictions.groups.items()}
    path = place / f"predictions-{split}.sealed"
    write_sealed_arrays(path, folder.key, arrays, f"predictions {split}")


def _groups(arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.str_]]:
    return {
        name.removeprefix(_GROUP): values.astype(str)
        for name, values in arrays.items()
        if name.startswith(_GROUP)
    }


def _samples_file(place: Path, split: str) -> Path:
    return place / f"samples-{split}.sealed"
