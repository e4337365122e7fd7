"""Writing the manifest of a published dataset, or drawing patients that nobody is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skinml.data.readers.catalogue import DATASETS
from skinml.data.readers.prepare import prepare
from skinml.data.synthetic.cohort import write_cohort
from skinml.data.synthetic.settings import SyntheticSettings
from skinml.errors import require_in_range


def known_datasets() -> dict[str, dict[str, Any]]:
    """List the published datasets that skinml reads.

    Returns:
        For each name that `prepare_dataset` takes: title, what it is, unit, tones, tone_scale,
        licence, where it is published, and the experiments on it.
    """
    told = ("title", "what", "unit", "tones", "tone_scale", "licence", "where", "experiments")
    return {
        name: {field: getattr(each, field) for field in told} for name, each in DATASETS.items()
    }


def prepare_dataset(dataset: str, source: Path, target: Path) -> tuple[Path, int]:
    """Write a dataset's manifest.

    Args:
        dataset: The dataset's name.
        source: The folder as its publisher lays it out.
        target: Where the manifest goes.

    Returns:
        The manifest's path and its number of images.

    Raises:
        ConfigError: If the dataset is unknown.
        DataError: If the folder is not laid out as published.
        EnvironmentProblem: If the target cannot be written.
    """
    path = prepare(dataset, source, target)
    return path, _count(path)


def draw_patients(folder: Path, num_patients: int, image_size: int, seed: int) -> tuple[Path, int]:
    """Draw patients of one clinic, to try skinml with where there are no images.

    Args:
        folder: Where they shall be; must not exist yet, or be empty.
        num_patients: Patients, 1 to a million.
        image_size: Height and width of an image in pixels, 32 to 1024.
        seed: Zero or above; another one draws other patients.

    Returns:
        The manifest's path and its number of images.

    Raises:
        ConfigError: If a number lies outside its range, or the folder holds files already.
        EnvironmentProblem: If the folder cannot be written.
    """
    require_in_range(1, 1_000_000, patients=num_patients)
    require_in_range(32, 1024, size=image_size)
    drawn = SyntheticSettings(num_patients=num_patients, num_clinics=1, image_size=image_size)
    path = write_cohort(folder, drawn, seed) / "manifest.csv"
    return path, _count(path)


def _count(manifest: Path) -> int:
    with manifest.open("rb") as file:
        return sum(1 for _ in file) - 1
