"""A manifest of very many rows: read, checked, divided and audited, in a process of its own.

    OMP_NUM_THREADS=1 python scripts/bench_manifest.py [--rows 1000000] [--json FILE]

The files are there, one a row and empty: their names are looked up, as in a run; decoding them is
another benchmark's. Digests and perceptual hashes of the leakage audit are drawn, some pairs of
them look-alikes across splits, which the audit must find. Prints seconds by stage and the most
memory that the process held.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from bench_rows import Row, Size, require_same, row

from skinml.data.cohort import build_cohort
from skinml.data.images import Inspection
from skinml.data.leakage import audit_leakage
from skinml.data.manifest import read_manifest
from skinml.data.settings import DataSettings, LeakageSettings, PartitionSettings
from skinml.seeding import Seeds

MANIFEST = "manifest.csv"
PLANTED = 50
_A_PATIENT, _A_FOLDER = 5, 1000  # rows
_HASH_BYTES = 32
_WORDS = {
    "diagnosis": ("nv", "mel", "bkl", "bcc", "akiec", "vasc", "df"),
    "sex": ("male", "female", "unknown"),
    "anatomical_site": ("back", "lower extremity", "face", "scalp", ""),
    "skin_tone": ("0", "1", "2", "3", "4", "5", ""),
    "modality": ("dermoscopic", "clinical"),
    "clinic": ("north", "south", "east", "west"),
}


@dataclass(frozen=True)
class Outcome:
    """What a process took, and what it found.

    Attributes:
        seconds: By stage.
        gib: Most memory held.
        num_images: Rows in the cohort.
        num_near_duplicates: Look-alikes across splits.
        digest: Over each row's number, patient, clinic and split.
    """

    seconds: dict[str, float]
    gib: float
    num_images: int
    num_near_duplicates: int
    digest: str


def main() -> None:
    """Lay out a manifest, go through it in a child and print what it took."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="file for the outcome")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.folder is not None:
        sys.stdout.write(json.dumps(asdict(go_through(asked.folder))) + "\n")
        return
    with tempfile.TemporaryDirectory() as place:
        lay_out(Path(place), asked.rows)
        outcome = measured(Path(place))
    for stage, seconds in outcome.seconds.items():
        sys.stdout.write(f"{stage:<24}{seconds:>9.2f} s\n")
    total = sum(outcome.seconds.values())
    sys.stdout.write(f"{'all':<24}{total:>9.2f} s, at most {outcome.gib:.2f} GiB\n")
    if asked.json:
        asked.json.write_text(json.dumps(asdict(outcome), indent=1) + "\n")


def rows(size: Size) -> list[Row]:
    """Measure the part of `scripts/bench`.

    Args:
        size: "smoke" or "full".

    Returns:
        The most memory, and seconds by stage; there is no peer.
    """
    found = []
    for count in (100_000, 1_000_000) if size == "full" else (3000,):
        with tempfile.TemporaryDirectory() as place:
            lay_out(Path(place), count)
            outcome = measured(Path(place))
        require_same("look-alikes found", outcome.num_near_duplicates, PLANTED, 0)
        words = f"manifest of {count:,} rows"
        found.append(
            row(f"{words}: most memory", [outcome.gib], goal="at most 3", size=size, unit="GiB")
        )
        stages = "; ".join(f"{stage} {took:.1f}" for stage, took in outcome.seconds.items())
        found.append(row(f"{words}: all", [sum(outcome.seconds.values())], note=stages))
    return found


def lay_out(folder: Path, count: int) -> None:
    """Write a manifest and an empty file for each of its rows.

    Args:
        folder: An empty folder.
        count: How many rows.
    """
    rng = np.random.default_rng(0)
    patients = rng.permutation(np.arange(count) // _A_PATIENT)
    images = [f"images/{row // _A_FOLDER:04d}/{row:07d}.jpg" for row in range(count)]
    for first in range(0, count, _A_FOLDER):
        (folder / images[first]).parent.mkdir(parents=True)
    for image in images:
        os.close(os.open(folder / image, os.O_CREAT | os.O_WRONLY))
    table = {
        "image": images,
        "patient_id": [f"P{patient:06d}" for patient in patients.tolist()],
        "lesion_id": [f"L{patient:06d}" for patient in patients.tolist()],
        "age": rng.integers(1, 95, count).astype(str),
        "skin_tone_scale": "milk",
        "dataset": "drawn",
        "licence": "CC BY 4.0",
    } | {name: rng.choice(words, count) for name, words in _WORDS.items()}
    pd.DataFrame(table).to_csv(folder / MANIFEST, index=False)


def measured(folder: Path) -> Outcome:
    """Go through a manifest in a fresh process, whose memory is its own.

    Args:
        folder: What `lay_out` made.

    Returns:
        What it took.
    """
    words = [sys.executable, __file__, "--folder", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)  # noqa: S603  our own
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


def go_through(folder: Path) -> Outcome:
    """Read, check, divide and audit.

    Args:
        folder: What `lay_out` made.

    Returns:
        What it took.
    """
    seconds: dict[str, float] = {}
    with timed(seconds, "read and check"):
        manifest = read_manifest(folder / MANIFEST, root=folder, name="drawn")
    settings = DataSettings(
        name="drawn",
        root=folder,
        split_key="bench",
        partition=PartitionSettings(by="random"),
        tone_scale="milk",
        groups=("skin_tone", "sex", "age_band", "clinic"),
    )
    with timed(seconds, "choose and divide"):
        cohort = build_cohort(
            manifest, settings, Seeds(0), purpose="research", day=datetime.date(2026, 1, 1)
        )
    del manifest
    splits = cohort.images["split"].to_numpy(dtype=str)
    patients = cohort.images["patient_id"].to_numpy(dtype=str)
    inspections = drawn_inspections(splits)
    with timed(seconds, "audit for leakage"):
        found = audit_leakage(
            inspections, patients, splits, LeakageSettings(near_duplicates="report")
        )
    divided = cohort.images[["row", "patient_id", "clinic", "split"]]
    return Outcome(
        seconds=seconds,
        gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        num_images=len(divided),
        num_near_duplicates=found.num_near_duplicates,
        digest=hashlib.sha256(divided.to_csv(index=False).encode()).hexdigest(),
    )


def drawn_inspections(splits: np.ndarray[tuple[int], np.dtype[np.str_]]) -> list[Inspection]:
    """Draw what a pass over the images would have told; some look alike across splits.

    Args:
        splits: (n,) the split of each image.

    Returns:
        (n,) inspections.
    """
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 256, (len(splits), _HASH_BYTES), dtype=np.uint8)
    trained, tested = np.flatnonzero(splits == "train"), np.flatnonzero(splits == "test")
    pairs = min(PLANTED, len(trained), len(tested))
    hashes[tested[:pairs]] = hashes[trained[:pairs]]
    hashes[tested[:pairs], : _HASH_BYTES // 2] ^= 1  # 16 bits differ
    return [
        Inspection(f"{number:064x}", hashes[number].tobytes(), 600, 450)
        for number in range(len(splits))
    ]


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Write down how long a block takes."""
    began = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - began


if __name__ == "__main__":
    main()
