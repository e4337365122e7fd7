"""What encryption costs: feature extraction with the sealed store against one in clear.

From the project's folder: python scripts/bench_encryption.py [--images 96] [--repeats 5]
It draws images, extracts their features with both stores in turn, and writes and opens 10,000 rows
of 1,280 features with both. It prints medians and ratios and passes whatever they are: the figures
belong to the machine and to what else it does at the time.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import perf_counter
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from skinml.data.feature_store import FeatureStore
from skinml.data.settings import ImageLimits
from skinml.data.synthetic.cohort import write_cohort
from skinml.data.synthetic.settings import SyntheticSettings
from skinml.models.backbones import Backbone, load_backbone
from skinml.models.settings import ModelSettings
from skinml.stewardship.anchors import Anchors
from skinml.stewardship.encryption import new_key
from skinml.stewardship.patient_keys import PatientKeys
from skinml.training.features import extract_features, store_version

NUM_ROWS, NUM_FEATURES, BLOCK = 10_000, 1280, 16


class ClearStore:
    """What `FeatureStore` would be without encryption: the same blocks, on the disk each time."""

    def __init__(self, path: Path, version: str) -> None:
        self.path = path
        self.version = version
        self._rows: dict[tuple[bytes, str], NDArray[np.float32]] = {}
        if path.exists():
            with path.open("rb") as file:
                while size := int.from_bytes(file.read(8), "little"):
                    digests = [file.read(32) for _ in range(size)]
                    patients = file.readline().decode().split()
                    content = file.read(size * 4 * NUM_FEATURES)
                    rows = np.frombuffer(content, np.float32).reshape(size, -1)
                    self._rows.update(zip(zip(digests, patients, strict=True), rows, strict=True))

    def find_missing(self, digests: Sequence[bytes], patients: Sequence[str]) -> list[int]:
        """See `FeatureStore.find_missing`."""
        names = zip(digests, patients, strict=True)
        return [place for place, name in enumerate(names) if name not in self._rows]

    def admit(self, patients: Iterable[str]) -> None:
        """Give nobody a key."""

    def append(
        self, digests: Sequence[bytes], patients: Sequence[str], rows: NDArray[np.float32]
    ) -> None:
        """See `FeatureStore.append`."""
        names = b"".join(digests) + " ".join(patients).encode() + b"\n"
        with self.path.open("ab") as file:
            file.write(len(digests).to_bytes(8, "little") + names + rows.tobytes())
            file.flush()
            os.fsync(file.fileno())
        self._rows.update(zip(zip(digests, patients, strict=True), rows, strict=True))

    def take(self, digests: Sequence[bytes], patients: Sequence[str]) -> NDArray[np.float32]:
        """See `FeatureStore.take`."""
        return np.stack([self._rows[name] for name in zip(digests, patients, strict=True)])


def open_sealed(folder: Path, key: bytes, version: str, patients: list[str]) -> FeatureStore:
    """Open a sealed store in a folder, with a vault of the patients' keys where there is none."""
    anchors = Anchors(folder / "anchors", "bench", key)
    keys = PatientKeys(folder / "vault" / "keys.sealed", key, anchors)
    if not anchors.path.exists():
        anchors.create()
        keys.issue(patients)
    return FeatureStore(folder / "sealed.store", key, keys, version)


def time_extraction(images: list[Path], backbone: Backbone, repeats: int) -> dict[str, list[float]]:
    """Extract the features of all images with each store in turn, each time anew."""
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in images]
    patients = [f"patient-{number}" for number in range(len(images))]
    version = store_version(backbone)
    seconds: dict[str, list[float]] = {"clear": [], "sealed": []}
    for number in range(repeats + 1):
        for kind in ("clear", "sealed") if number % 2 else ("sealed", "clear"):
            with tempfile.TemporaryDirectory() as name:
                start = perf_counter()
                store = (
                    open_sealed(Path(name), new_key(), version, patients)
                    if kind == "sealed"
                    else ClearStore(Path(name) / "clear.store", version)
                )
                like = cast(FeatureStore, store)
                extract_features(images, digests, patients, backbone, like, ImageLimits())
                if number:  # the first round warms up
                    seconds[kind].append(perf_counter() - start)
    return seconds


def time_store(repeats: int) -> dict[str, list[float]]:
    """Write rows in blocks as an extraction does and open them again, with each store in turn."""
    rows = np.random.default_rng(0).random((NUM_ROWS, NUM_FEATURES), dtype=np.float32)
    patients = [f"patient-{number}" for number in range(NUM_ROWS)]
    digests = [hashlib.sha256(patient.encode()).digest() for patient in patients]
    seconds: dict[str, list[float]] = {
        f"{what} {kind}": [] for what in ("write", "open") for kind in ("clear", "sealed")
    }
    key = new_key()
    for _ in range(repeats):
        for kind in ("clear", "sealed"):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)

                def opened(kind: str = kind, folder: Path = folder) -> FeatureStore | ClearStore:
                    if kind == "sealed":
                        return open_sealed(folder, key, "bench", patients)
                    return ClearStore(folder / "clear.store", "bench")

                start = perf_counter()
                store = opened()
                store.admit(patients)
                for at in range(0, NUM_ROWS, BLOCK):
                    here = slice(at, at + BLOCK)
                    store.append(digests[here], patients[here], rows[here])
                written = perf_counter()
                taken = opened().take(digests, patients)
                seconds[f"write {kind}"].append(written - start)
                seconds[f"open {kind}"].append(perf_counter() - written)
                if not np.array_equal(taken, rows):
                    raise SystemExit("the rows that came back are others")
    return seconds


def say(what: str, clear: list[float], sealed: list[float], per: int) -> None:
    """Write one line: medians in milliseconds an image, their ratio, and the spread."""
    medians = statistics.median(clear), statistics.median(sealed)
    spread = [later / earlier for earlier, later in zip(clear, sealed, strict=True)]
    sys.stdout.write(
        f"{what:<26}{1e3 * medians[0] / per:>10.3f}{1e3 * medians[1] / per:>10.3f}"
        f"{medians[1] / medians[0]:>9.3f}   {min(spread):.3f} to {max(spread):.3f}\n"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=96, help="how many images to draw")
    parser.add_argument("--repeats", type=int, default=5, help="how often each store is measured")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        write_cohort(
            Path(name) / "drawn", SyntheticSettings(num_patients=max(12, chosen.images)), seed=0
        )
        images = sorted((Path(name) / "drawn").rglob("*.jpg"))[: chosen.images]
        if not images:
            raise SystemExit("no images were drawn")
        extraction = time_extraction(images, load_backbone(ModelSettings()), chosen.repeats)
    store = time_store(chosen.repeats)
    heading = "milliseconds an image"
    sys.stdout.write(f"{heading:<26}{'clear':>10}{'sealed':>10}{'ratio':>9}   in the turns\n")
    say(f"extraction ({len(images)})", extraction["clear"], extraction["sealed"], len(images))
    say(f"writing rows ({NUM_ROWS})", store["write clear"], store["write sealed"], NUM_ROWS)
    say(f"opening rows ({NUM_ROWS})", store["open clear"], store["open sealed"], NUM_ROWS)
    added = sum(
        sign * statistics.median(store[f"{what} {kind}"])
        for what in ("write", "open")
        for sign, kind in ((-1, "clear"), (1, "sealed"))
    )
    share = added / NUM_ROWS / (statistics.median(extraction["clear"]) / len(images))
    sys.stdout.write(
        f"what sealing, writing and opening add to an image's extraction: {share:.2%}\n"
    )


if __name__ == "__main__":
    main()
