"""Public images of nobody in the cohort: what a coordinator may know before any release.

What is computed here never meets a patient's data inside a clinic. It shapes sums that already
have their noise, which is post-processing and costs nothing.

Shapes in this file: n public images, v views of an item, f features of a view, m directions of a
view, d = v * f features of an item, k classes.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skinml.data.settings import ImageLimits
from skinml.durable import make_folder
from skinml.errors import DataError
from skinml.models.backbones import Backbone, load_backbone
from skinml.models.linear_head import head_inputs, item_features, softmax
from skinml.models.settings import ModelSettings
from skinml.records import FloatArray, IntArray
from skinml.training.features import compute_features, store_version

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}
_LEAST_IMAGES = 50
NO_LABEL = -1
# How far a cohort's mean lies from the public mean, as a part of the public variance: a public
# guess that only weighs the two means against each other.
_MEANS_APART = 0.25
# Plain gradient descent on public images; nothing here depends on a patient.
_START_STEPS, _START_RATE, _START_MOMENTUM = 300, 3.0, 0.9


@dataclass(frozen=True, eq=False)
class PublicImages:
    """What the coordinator knows from public images.

    Attributes:
        features: (n, f) each image's own feature vector of norm 1.
        labels: (n,) index of the class, -1 where there is none.
        num_views: v; every view of an item is described by the same public images.
        num_axes: At most how many directions of a view are kept.
    """

    features: FloatArray
    labels: IntArray
    num_views: int
    num_axes: int

    @cached_property
    def mean(self) -> FloatArray:
        """The mean of the features, for all views: (d,)."""
        one = self.features.mean(axis=0) / np.sqrt(self.num_views)
        return np.tile(one, self.num_views)

    @cached_property
    def _axes(self) -> tuple[FloatArray, FloatArray]:
        """Compute the directions in which public images differ, and their variances."""
        inputs = head_inputs(self.features, self.features.mean(axis=0))[:, :-1].astype(np.float64)
        values, vectors = np.linalg.eigh(inputs.T @ inputs / len(inputs))
        kept = min(self.num_axes, len(inputs) - 1, len(values))
        return vectors[:, ::-1][:, :kept], np.maximum(values[::-1][:kept], 0.0)

    @property
    def variances(self) -> FloatArray:
        """The variance of unit vectors along each direction of a view: (m,), falling."""
        return self._axes[1]

    def shaped(self, rows: FloatArray, factors: FloatArray | None = None) -> FloatArray:
        """Keep of some vectors what lies in the public directions.

        Args:
            rows: (d, k) columns in the space of items.
            factors: (m,) by how much each direction is stretched; by default not at all.

        Returns:
            (d, k) the projected columns.
        """
        axes = self._axes[0]
        blocks = rows.reshape(self.num_views, axes.shape[0], -1)
        inside = axes.T @ blocks
        if factors is not None:
            inside = inside * factors[:, None]
        return np.asarray((axes @ inside).reshape(rows.shape))

    def centre(self, noisy: FloatArray, std: float) -> FloatArray:
        """Draw a noisy mean towards the public mean, the more where noise dominates.

        Args:
            noisy: (d,) the cohort's mean with noise.
            std: The noise's standard deviation in each coordinate.

        Returns:
            (d,).
        """
        spread = _MEANS_APART * self.variances
        trust = spread / np.maximum(spread + std**2, np.finfo(np.float64).tiny)
        return self.mean + self.shaped((noisy - self.mean)[:, None], trust)[:, 0]

    def start(self, centre: FloatArray, bias_input: float, num_classes: int) -> FloatArray:
        """Train a head on the labelled public images.

        Args:
            centre: (d,) the centre that the run uses.
            bias_input: Constant behind the features.
            num_classes: k.

        Returns:
            (d + 1, k) weights.

        Raises:
            DataError: If fewer than two classes have a public image.
        """
        known = self.labels != NO_LABEL
        labels = self.labels[known]
        counts = np.bincount(labels, minlength=num_classes)
        if np.count_nonzero(counts) < 2:  # one class teaches nothing
            raise DataError(
                rule="public images of at least two of the run's classes, for privacy.recipe="
                "started",
                got=f"classes with a public image={np.count_nonzero(counts)}",
                do="Give training.head.public_images a CSV file with a column label, or choose "
                "privacy.recipe=projected.",
            )
        views = np.tile(self.features[known] / np.sqrt(self.num_views), self.num_views)
        inputs = head_inputs(views, centre, bias_input)
        offset = np.log(np.maximum(counts, 1) / counts.mean())
        targets = np.eye(num_classes)[labels]
        weight = np.zeros((inputs.shape[1], num_classes), np.float32)
        velocity = np.zeros_like(weight)
        for _ in range(_START_STEPS):
            errors = (softmax(inputs @ weight + offset) - targets).astype(np.float32)
            velocity = _START_MOMENTUM * velocity + inputs.T @ errors / np.float32(len(labels))
            weight -= np.float32(_START_RATE) * velocity
        return weight


def public_images(
    path: Path,
    classes: Sequence[str],
    model: ModelSettings,
    limits: ImageLimits,
    cache: Path,
    *,
    num_axes: int,
    num_features: int,
) -> PublicImages:
    """Compute the features of public images, or read them from the cache.

    Args:
        path: A folder of images, or a CSV file with a column `image`, paths beside the file, and
            perhaps a column `label` of class names; other names stand for no class of the run.
        classes: The run's class names.
        model: The backbone.
        limits: What an image file may be.
        cache: Folder in which the features are kept.
        num_axes: At most how many directions of a view are kept.
        num_features: d of the run's items, a multiple of the backbone's features.

    Returns:
        What the coordinator knows.

    Raises:
        ConfigError, EnvironmentProblem, UnsupportedModelError: As `load_backbone` says.
        DataError: If there are fewer than 50 images, one cannot be decoded, or the file lacks its
            column.

    Guarantees:
        No patient's data are read. Equal files and backbones give equal features.
    """
    files, words = _listed(path)
    if len(files) < _LEAST_IMAGES:
        raise DataError(
            rule=f"at least {_LEAST_IMAGES} public images",
            got=f"training.head.public_images={path} with {len(files)}",
            do="Name a folder, or a CSV file with a column image, of more images.",
        )
    backbone = load_backbone(model)
    make_folder(cache, "cache of public features")
    features = _kept(files, backbone, cache, lambda: compute_features(files, backbone, limits))
    index = {name: number for number, name in enumerate(classes)}
    labels = np.array([index.get(word, NO_LABEL) for word in words], dtype=np.int64)
    views = num_features // backbone.num_features
    return PublicImages(item_features(features[:, None]), labels, views, num_axes)


def _listed(path: Path) -> tuple[list[Path], list[str]]:
    """Find the image files and the words of their labels."""
    if path.is_dir():
        found = sorted(each for each in path.rglob("*") if each.suffix.lower() in _SUFFIXES)
        return found, [""] * len(found)
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            rule="a folder of images or a CSV file that can be read",
            got=f"training.head.public_images={path} ({type(error).__name__})",
            do="Check the path.",
        ) from error
    if rows and "image" not in rows[0]:
        raise DataError(
            rule="a column image in the list of public images",
            got=f"columns={', '.join(rows[0])}",
            do="Name the column of paths image, and that of classes label.",
        )
    return [path.parent / row["image"] for row in rows], [row.get("label") or "" for row in rows]


def _kept(
    files: Sequence[Path],
    backbone: Backbone,
    cache: Path,
    compute: Callable[[], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """Read features from the cache, or compute and keep them: public, so in the clear."""
    place = cache / f"{_digest(files, store_version(backbone))}.npy"
    try:
        kept: NDArray[np.float32] = np.load(place, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        kept = compute()
        partial = place.with_suffix(".part.npy")
        np.save(partial, kept)
        partial.replace(place)
    return kept


def _digest(files: Sequence[Path], version: str) -> str:
    """Name the features of some files under a backbone."""
    digest = hashlib.sha256(version.encode())
    for number, path in enumerate(files, start=1):
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise DataError(
                rule="public images that can be read",
                got=f"image {number} of training.head.public_images ({type(error).__name__})",
                do="Check the paths: those of a CSV file are beside it.",
            ) from error
    return digest.hexdigest()[:32]
