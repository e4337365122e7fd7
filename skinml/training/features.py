"""From image files to a model's inputs, computed once and kept encrypted.

Shapes in this file: n images, u distinct images, d features, s height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skinml.data.feature_store import FeatureStore
from skinml.data.images import decode_image, resize_square
from skinml.data.sealed_images import ImageFile
from skinml.data.settings import ImageLimits
from skinml.errors import DataError, require_positive, require_same_length
from skinml.models.allocator import keep_freed_memory, release_freed_memory
from skinml.models.backbones import Backbone

Progress = Callable[[int, int], None]
PREPARATION = "centre-square"  # what `resize_square` does; part of every store's version


def extract_features(
    paths: Sequence[ImageFile],
    digests: Sequence[bytes],
    patients: Sequence[str],
    backbone: Backbone,
    store: FeatureStore,
    limits: ImageLimits,
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Compute a frozen backbone's features of images, or take them from the store.

    One thread decodes the next batch while the network works on this one. Each batch is on the
    disk before the next begins, so that an interrupted extraction goes on where it was.

    Args:
        paths: n image files.
        digests: n digests of 32 bytes, equal for equal images: each image is computed once.
        patients: The patient of each. An image that two share is kept for each, so that erasing
            one takes nothing from the other.
        backbone: The frozen network.
        store: Where features are kept, of the version `features_version(backbone)`.
        limits: What a file may be.
        batch_size: Images that pass through the network at once, above zero.
        progress: Called with the numbers of distinct images done and in all.

    Returns:
        (n, d).

    Raises:
        ConfigError: If the batch size is not above zero.
        DataError: If an image cannot be decoded, the store has another version, or a patient was
            erased while it ran.
        EnvironmentProblem: If the store or the vault cannot be written.
        IntegrityError: If another process changed the store, or the vault was changed.

    Guarantees:
        On one machine an image's features do not depend on the other images, on their order or
        on what was in the store: every batch has the same size, the last one padded.
    """
    _require_version(store, features_version(backbone))

    def features_of(images: list[Tensor]) -> NDArray[Any]:
        padding = torch.zeros((batch_size - len(images), *images[0].shape), dtype=torch.uint8)
        return backbone.extract(torch.cat([torch.stack(images), padding]))[: len(images)]

    keep_freed_memory()
    try:
        _fill(
            paths,
            digests,
            patients,
            store,
            lambda path: resize_square(decode_image(path, limits), backbone.image_size),
            features_of,
            batch_size=batch_size,
            progress=progress,
        )
    finally:
        release_freed_memory()
    if not digests:
        return np.empty((0, backbone.num_features), dtype=np.float32)
    return store.take(digests, patients)


def prepare_images(
    paths: Sequence[ImageFile],
    digests: Sequence[bytes],
    patients: Sequence[str],
    size: int,
    store: FeatureStore,
    limits: ImageLimits,
    *,
    progress: Progress | None = None,
) -> NDArray[np.uint8]:
    """Decode and resize images for end-to-end training, or take them from the store.

    Args:
        paths: n image files.
        digests: n digests of 32 bytes, equal for equal images: each image is decoded once.
        patients: The patient of each.
        size: s.
        store: Where prepared images are kept, of the version `images_version(size)`.
        limits: What a file may be.
        progress: Called with the numbers of distinct images done and in all.

    Returns:
        (n, s, s, 3) of uint8.

    Raises:
        DataError: If an image cannot be decoded, the store has another version, or a patient was
            erased while it ran.
        EnvironmentProblem: If the store or the vault cannot be written.
        IntegrityError: If another process changed the store, or the vault was changed.
    """
    _require_version(store, images_version(size))
    _fill(
        paths,
        digests,
        patients,
        store,
        lambda path: resize_square(decode_image(path, limits), size),
        lambda images: torch.stack(images).permute(0, 2, 3, 1).contiguous().numpy(),
        batch_size=256,
        progress=progress,
    )
    if not digests:
        return np.empty((0, size, size, 3), dtype=np.uint8)
    return store.take(digests, patients)


def features_version(backbone: Backbone) -> str:
    """Name the version of a backbone's features.

    Args:
        backbone: The frozen network.

    Returns:
        The version for their store: equal versions give equal features.
    """
    return f"{backbone.version}/{PREPARATION}"


def images_version(size: int) -> str:
    """Name the version of prepared images.

    Args:
        size: Height and width in pixels.

    Returns:
        The version for their store.

    >>> images_version(64)
    'images/64px/centre-square'
    """
    return f"images/{size}px/{PREPARATION}"


def _fill(
    paths: Sequence[ImageFile],
    digests: Sequence[bytes],
    patients: Sequence[str],
    store: FeatureStore,
    load: Callable[[ImageFile], Tensor],
    compute: Callable[[list[Tensor]], NDArray[Any]],
    *,
    batch_size: int,
    progress: Progress | None,
) -> None:
    """Compute the rows that the store lacks, a batch at a time."""
    require_positive(batch_size=batch_size)
    require_same_length(paths=paths, digests=digests, patients=patients)
    distinct = dict(zip(digests, paths, strict=True))
    owners = _owners_of_missing(digests, patients, store)
    missing = list(owners)
    done = len(distinct) - len(missing)
    report = progress or _say_nothing
    report(done, len(distinct))
    store.admit({patient for several in owners.values() for patient in several})
    batches = [missing[at : at + batch_size] for at in range(0, len(missing), batch_size)]
    files = [[distinct[digest] for digest in batch] for batch in batches]
    for batch, images in zip(batches, _loaded_ahead(files, load), strict=True):
        rows = compute(images)
        names = [(at, patient) for at, digest in enumerate(batch) for patient in owners[digest]]
        places = [at for at, _ in names]
        store.append([batch[at] for at in places], [each for _, each in names], rows[places])
        done += len(batch)
        report(done, len(distinct))


def _owners_of_missing(
    digests: Sequence[bytes], patients: Sequence[str], store: FeatureStore
) -> dict[bytes, list[str]]:
    """Find for each image that must be computed the patients who lack its row."""
    owners: dict[bytes, dict[str, None]] = {}
    for at in store.find_missing(digests, patients):
        owners.setdefault(digests[at], {})[patients[at]] = None
    return {digest: list(several) for digest, several in owners.items()}


def _loaded_ahead(
    batches: Sequence[Sequence[ImageFile]], load: Callable[[ImageFile], Tensor]
) -> Iterator[list[Tensor]]:
    """Load batches in order, always one ahead of the one that is being worked on."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode") as pool:

        def begin(number: int) -> Any:
            return pool.submit(lambda: [load(path) for path in batches[number]])

        upcoming = begin(0) if batches else None
        for number in range(len(batches)):
            images = upcoming.result() if upcoming else []
            upcoming = begin(number + 1) if number + 1 < len(batches) else None
            yield images


def _require_version(store: FeatureStore, version: str) -> None:
    """Refuse a store that holds other rows."""
    if store.version != version:
        raise DataError(
            rule=f"a store of version {version}",
            got=f"version={store.version}",
            do="Open the store under the version of what it shall hold.",
        )


def _say_nothing(done: int, total: int) -> None:
    """Report to nobody."""
