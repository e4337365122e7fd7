"""What importing costs: pictures a second on one core, by stage, beside a plain decode and encode.

From the project's folder: python scripts/bench_import.py [--images 24] [--repeats 3]
It draws JPEG pictures of 600 x 450, makes them safe with the shipped models, imports them into a
vault, and decodes and encodes the same files with Pillow alone, in turn. It prints medians and
passes whatever they are: the figures belong to the machine and to what else it does at the time.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import statistics
import tempfile
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from time import process_time

import numpy as np
from PIL import Image

from skinml.clinic.folder import ClinicFolder, create_folder
from skinml.clinic.importing import ImportRequest, import_pictures
from skinml.data.deidentify import make_safe, shipped_finders
from skinml.data.settings import ImageLimits
from skinml.stewardship.deidentification import Choices
from skinml.stewardship.policy import parse_policy

_POLICY = b"""
clinic: bench
purposes: [care]
coordinators: []
experiments: []
privacy: {least_noise_multiplier: null, max_epsilon_per_run: null, max_epsilon_per_year: null,
  max_epsilon_for_life: null, max_delta: null}
least_patients: 1
least_clinics: 1
retention: {images_days: null, features_days: null, predictions_days: null, log_days: null}
fields: []
roles: {steward: ["*"], clinician: [], operator: ["*"], auditor: []}
"""


def drawn(seed: int) -> bytes:
    """Draw a patch of skin with a spot and some hair, as a JPEG of 600 x 450."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:450, :600]
    away = np.hypot(rows - 225, columns - 300) / rng.uniform(60, 110)
    shade = 1 - 0.5 / (1 + np.exp(6 * (away - 1)))
    shade *= 1 - 0.3 * (np.abs(rows - 0.6 * columns + rng.uniform(-200, 200)) < 1.5)
    pixels = np.array((210, 160, 135)) * shade[..., None] + rng.normal(0, 4, (450, 600, 3))
    made = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(made, "JPEG", quality=92)
    return made.getvalue()


def plain(files: list[bytes]) -> float:
    """Decode and encode with Pillow alone; seconds of processor time for each."""
    start = process_time()
    for content in files:
        with Image.open(io.BytesIO(content)) as image:
            image.convert("RGB").save(io.BytesIO(), "JPEG", quality=95, subsampling=0)
    return (process_time() - start) / len(files)


def safe(files: list[bytes]) -> tuple[float, dict[str, float]]:
    """Make pictures safe; seconds of processor time for each, and by stage."""
    choices, stages = Choices(), defaultdict[str, float](float)
    finders = shipped_finders(choices)
    start = process_time()
    for content in files:
        for stage, seconds in make_safe(content, choices, finders, ImageLimits()).seconds:
            stages[stage] += seconds / len(files)
    return (process_time() - start) / len(files), stages


def imported(files: list[bytes], place: Path) -> float:
    """Import the pictures, ten a patient, into a new vault; seconds of processor time for each."""
    source = place / "camera"
    source.mkdir()
    with (place / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["patient_id", "image", "diagnosis"])
        for number, content in enumerate(files):
            (source / f"{number}.jpg").write_bytes(content)
            writer.writerow([f"p{number // 10}", f"{number}.jpg", "nevus"])
    folder = _folder(place)
    start = process_time()
    import_pictures(folder, ImportRequest(source, place / "list.csv"), now=datetime.now(UTC))
    return (process_time() - start) / len(files)


def _folder(place: Path) -> ClinicFolder:
    return create_folder(
        place / "clinic", name="bench", policy=parse_policy(_POLICY), anchors=place / "anchors"
    )


def main() -> None:
    """Measure in turn, print medians."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    words = parser.parse_args()
    files = [drawn(seed) for seed in range(words.images)]
    safe(files[:2])  # opens the models
    told = defaultdict[str, list[float]](list)
    for _ in range(words.repeats):
        told["Pillow alone"].append(plain(files))
        whole, stages = safe(files)
        told["made safe"].append(whole)
        for stage, seconds in stages.items():
            told[f"  {stage}"].append(seconds)
        with tempfile.TemporaryDirectory() as place:
            told["imported"].append(imported(files, Path(place)))
    for name, seconds in told.items():
        middle = statistics.median(seconds)
        print(f"{name:14} {1000 * middle:8.1f} ms a picture {1 / middle:8.1f} pictures a second")
    ratios = [a / b for a, b in zip(told["imported"], told["Pillow alone"], strict=True)]
    print(f"imported over Pillow alone: {statistics.median(ratios):.1f}")


if __name__ == "__main__":
    main()
