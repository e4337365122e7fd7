"""From a published dataset's folder to a manifest that skinml reads."""

from __future__ import annotations

import difflib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from skinml.data.readers.catalogue import DATASETS
from skinml.data.taxonomy import load_taxonomy
from skinml.errors import ConfigError, DataError, EnvironmentProblem

if TYPE_CHECKING:
    import pandas as pd


def prepare(dataset: str, source: Path, target: Path) -> Path:
    """Write the manifest of a published dataset, and a sidecar with what is true of all of it.

    The images are not needed and not touched: their paths are those of the published layout,
    below the target folder.

    Args:
        dataset: One of `skinml.data.readers.catalogue.DATASETS`.
        source: The folder of the published metadata.
        target: The folder to write `manifest.csv` and `manifest.yaml` into; it is made if needed.

    Returns:
        The manifest's path.

    Raises:
        ConfigError: If skinml knows no dataset of this name.
        DataError: If the metadata are not as published, or have a diagnosis, site or tone that
            the taxonomy does not map.
        EnvironmentProblem: If the target cannot be written.

    Guarantees:
        Each file is either complete or not there; an error leaves none half-written.
    """
    if dataset not in DATASETS:
        nearest = difflib.get_close_matches(dataset.lower(), DATASETS, n=1)
        raise ConfigError(
            rule=f"a dataset among {', '.join(DATASETS)}",
            got=f"dataset={dataset}",
            do=f"Did you mean {nearest[0]}?" if nearest else "Choose one of these names.",
        )
    known = DATASETS[dataset]
    frame = known.read(source)
    _require_mapped(frame)
    sidecar = {
        "name": known.title,
        "unit": known.unit,
        "licence": known.licence,
        "tone_scale": known.tone_scale,
    }
    try:
        target.mkdir(parents=True, exist_ok=True)
        # The sidecar first: a manifest without it would claim that its units are patients.
        _replace(target / "manifest.yaml", yaml.safe_dump(sidecar, sort_keys=False))
        path = _replace(target / "manifest.csv", frame.to_csv(index=False))
    except OSError as error:
        raise EnvironmentProblem(
            rule="a target folder that can be written",
            got=f"{type(error).__name__} in {target}",
            do="Choose another folder, or make room on the disk.",
        ) from None
    return path


def _require_mapped(frame: pd.DataFrame) -> None:
    """Say now, and not at the first run, which words have no meaning."""
    taxonomy = load_taxonomy()
    datasets = frame["dataset"].tolist()
    details = [
        f"{column}: '{word}' in {count} rows"
        for column, mapped in (
            ("diagnosis", taxonomy.diagnoses(frame["diagnosis"].tolist(), datasets)),
            ("anatomical_site", taxonomy.sites(_without_unknown(frame), datasets)),
        )
        for word, count in mapped.unmapped.items()
    ]
    if details:
        raise DataError(
            rule="words that the taxonomy maps",
            got=f"{len(details)} unmapped: {'; '.join(details[:20])}",
            do="Use the release that skinml knows, or report the words.",
            details=details,
        )


def _without_unknown(frame: pd.DataFrame) -> list[str]:
    return ["" if site == "unknown" else site for site in frame["anatomical_site"]]


def _replace(path: Path, text: str) -> Path:
    """Write a whole file beside its place, then move it there."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
    return path
