"""Writing the manifest of a published dataset."""

from __future__ import annotations

from pathlib import Path

from skinml.data.readers.prepare import prepare


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
    with path.open("rb") as file:
        return path, sum(1 for _ in file) - 1
