"""From image files to a model's inputs, computed once and kept encrypted.

Shapes in this file: n images, u distinct images, d features, s height and width in pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from skinml.data.feature_store import FeatureStore
from skinml.data.images import PREPARATION, prepare_image
from skinml.data.sealed_images import ImageFile
from skinml.data.settings import ImageLimits
from skinml.errors import DataError, require_positive, require_same_length
from skinml.models.allocator import keep_freed_memory, release_freed_memory
from skinml.models.backbones import Backbone

Progress = Callable[[int, int], None]
_BYTES_PER_PIXEL = 512  # of a batch's layers under way; ResNet-50 and EfficientNet need less
_PREPARED_AT_ONCE = 64


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

    Each processor reads, decodes and passes a batch through the network by itself. A batch is on
    the disk as soon as it and those before it are computed, so that an interrupted extraction goes
    on where it was.

    Args:
        paths: n image files.
        digests: n digests of 32 bytes, equal for equal images: each image is computed once.
        patients: The patient of each. An image that two share is kept for each, so that erasing
            one takes nothing from the other.
        backbone: The frozen network.
        store: Where features are kept, of the version `store_version(backbone)`.
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
        On one machine an image's features do not depend on the other images, on their order, on
        what was in the store or on the number of threads: every batch has the same size, the last
        one padded, and is one thread's. To the last bit with EfficientNet-Lite0; other backbones'
        products of matrices (squeeze-and-excitation) may round by an image's place in a batch,
        which moves features by about a millionth. Machines with other processors agree to about a
        millionth in single precision, to a thousandth in two precisions; with
        `model.precision=auto` they may compute in another precision, which moves features by 1.4%.
    """
    _require_version(store, store_version(backbone))

    require_positive(batch_size=batch_size)
    with _memory_kept():
        _fill(
            paths,
            digests,
            patients,
            store,
            lambda files: _features(files, backbone, limits, batch_size)[: len(files)],
            batch_size=batch_size,
            num_workers=_num_workers(batch_size, backbone.image_size),
            progress=progress,
        )
    if not digests:
        return np.empty((0, backbone.num_features), dtype=np.float32)
    return store.take(digests, patients)


def compute_features(
    paths: Sequence[ImageFile], backbone: Backbone, limits: ImageLimits, *, batch_size: int = 16
) -> NDArray[np.float32]:
    """Compute features that are not kept, as fast as `extract_features`.

    Args:
        paths: n image files, at least one.
        backbone: The frozen network.
        limits: What a file may be.
        batch_size: Images that pass through the network at once at most, above zero.

    Returns:
        (n, d).

    Raises:
        ConfigError: If the batch size is not above zero, or there is no file.
        DataError: If an image cannot be decoded.
    """
    require_positive(batch_size=batch_size, num_images=len(paths))
    batches = [paths[at : at + batch_size] for at in range(0, len(paths), batch_size)]
    num_workers = min(len(batches), _num_workers(batch_size, backbone.image_size))
    with _memory_kept():
        rows = _side_by_side(
            lambda files: _features(files, backbone, limits, len(files)), batches, num_workers
        )
        return np.concatenate(list(rows))


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

    def pixels_of(files: Sequence[ImageFile]) -> NDArray[Any]:
        images = torch.stack([prepare_image(file, limits, size) for file in files])
        return images.permute(0, 2, 3, 1).contiguous().numpy()

    _fill(
        paths,
        digests,
        patients,
        store,
        pixels_of,
        batch_size=_PREPARED_AT_ONCE,
        num_workers=torch.get_num_threads(),
        progress=progress,
    )
    if not digests:
        return np.empty((0, size, size, 3), dtype=np.uint8)
    return store.take(digests, patients)


def features_version(backbone: Backbone) -> str:
    """Name what a model's features are: a model fits features of one version.

    Args:
        backbone: The frozen network.

    Returns:
        The version; it does not tell how the network computed, on which clinics may differ.
    """
    return f"{backbone.version}/{PREPARATION}"


def store_version(backbone: Backbone) -> str:
    """Name what a store of features holds, so that those computed in two ways never mix.

    Args:
        backbone: The frozen network.

    Returns:
        The version, with the precision.
    """
    return f"{features_version(backbone)}/{backbone.precision}"


def images_version(size: int) -> str:
    """Name the version of prepared images.

    Args:
        size: Height and width in pixels.

    Returns:
        The version for their store.

    >>> images_version(64)
    'images/64px/centre-square-2'
    """
    return f"images/{size}px/{PREPARATION}"


def _fill(
    paths: Sequence[ImageFile],
    digests: Sequence[bytes],
    patients: Sequence[str],
    store: FeatureStore,
    compute: Callable[[Sequence[ImageFile]], NDArray[Any]],
    *,
    batch_size: int,
    num_workers: int,
    progress: Progress | None,
) -> None:
    """Compute the rows that the store lacks, and keep each batch as soon as it is there."""
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
    with closing(_side_by_side(compute, files, num_workers)) as computed:
        for batch, rows in zip(batches, computed, strict=True):
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


@contextmanager
def _memory_kept() -> Iterator[None]:
    """Reuse freed memory for a while, and give it back."""
    keep_freed_memory()
    try:
        yield
    finally:
        release_freed_memory()


def _features(
    files: Sequence[ImageFile], backbone: Backbone, limits: ImageLimits, num_rows: int
) -> NDArray[np.float32]:
    """Pass one batch through the network, with empty pictures behind it if need be."""
    size = backbone.image_size
    images = torch.zeros((num_rows, size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    for place, file in enumerate(files):
        images[place] = prepare_image(file, limits, size)
    return backbone.extract(images)


def _side_by_side(
    compute: Callable[[Sequence[ImageFile]], NDArray[Any]],
    batches: Sequence[Sequence[ImageFile]],
    num_workers: int,
) -> Generator[NDArray[Any], None, None]:
    """Compute batches in threads of one processor each, and give them back in order.

    Threads that each have an image of their own never wait for one another, as those do that share
    the parts of one layer; the layers' results stay in the caches of one processor; and reading
    and decoding fill what would be pauses.
    """
    num_threads = torch.get_num_threads()
    upcoming = iter(batches)
    try:
        with ThreadPoolExecutor(
            num_workers,
            thread_name_prefix="features",
            initializer=torch.set_num_threads,
            initargs=(1,),
        ) as pool:
            waiting = deque(
                pool.submit(compute, batch) for batch in islice(upcoming, 2 * num_workers)
            )
            try:
                while waiting:
                    rows = waiting.popleft().result()
                    waiting.extend(pool.submit(compute, batch) for batch in islice(upcoming, 1))
                    yield rows
            finally:
                for each in waiting:
                    each.cancel()
    finally:
        torch.set_num_threads(num_threads)


def _num_workers(batch_size: int, image_size: int) -> int:
    """Tell how many batches may be under way at once: one a processor, within half the memory."""
    batch_bytes = batch_size * image_size**2 * _BYTES_PER_PIXEL
    free_bytes = psutil.virtual_memory().available // 2
    return max(1, min(torch.get_num_threads(), free_bytes // batch_bytes))


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
