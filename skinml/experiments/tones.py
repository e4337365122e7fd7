"""Measuring the apparent tones of a clinic's close-ups, into files that stay beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pydantic import ValidationError

from skinml.data.manifest import read_manifest
from skinml.data.settings import ImageLimits
from skinml.data.skin_tone import ToneSettings
from skinml.data.tone_scales import tone_scale
from skinml.data.tone_table import (
    measure_manifest,
    require_table_name,
    write_manifest_by_tone,
    write_table,
)
from skinml.errors import ConfigError
from skinml.experiments.progress import Progress
from skinml.seeding import Seeds


@dataclass(frozen=True)
class MeasuredTones:
    """What a clinic may see on its screen: rates, and where the rest lies.

    Attributes:
        scale: The scale's name.
        source: Where its table of cuts was published.
        tones: The file with one row an image.
        rates_file: The file with the rates.
        rates: One entry a group, as `skinml.data.tone_table.measured_rates` has them.
    """

    scale: str
    source: str
    tones: Path
    rates_file: Path
    rates: tuple[dict[str, str | float], ...]


def measure_tones(
    manifest: Path,
    choices: Mapping[str, object],
    progress: Progress,
    *,
    root: Path | None = None,
    out: Path | None = None,
    lesion_masks: Path | None = None,
    by_tone: Path | None = None,
    force: bool = False,
    seed: int = 0,
) -> MeasuredTones:
    """Measure and write.

    Args:
        manifest: The manifest.
        choices: Settings of `ToneSettings` by name; None stands for the default.
        progress: Who watches.
        root: The folder of the images; the manifest's own by default.
        out: The file of the tones, .csv or .parquet; by default beside the manifest.
        lesion_masks: A folder of lesion masks, if there is one.
        by_tone: A new manifest grouped by apparent tone, if one is wanted.
        force: Measure dermoscopic images and images of unknown kind too.
        seed: The seed of the intervals.

    Returns:
        Rates and places.

    Raises:
        ConfigError: If a setting is out of its range, or the table or an ending is unknown.
        DataError: If the manifest breaks a rule or no image may be measured.
        EnvironmentProblem: If a file cannot be written.
    """
    settings = _settings(choices)
    scale = tone_scale(settings.table)
    target = out or manifest.with_name(f"{manifest.stem}.tones.csv")
    require_table_name(target)
    checked = read_manifest(manifest, root=root or manifest.parent)
    progress.begin("tones", len(checked.frame))
    table = measure_manifest(
        checked,
        settings,
        ImageLimits(),
        Seeds(seed),
        force=force,
        lesion_masks=lesion_masks,
        progress=progress.reached,
    )
    rates_file = target.with_name(f"{target.stem}.rates.csv")
    write_table(table.images, target, "the table of tones")
    write_table(table.rates.assign(tone_scale=scale.name), rates_file, "the table of rates")
    if by_tone is not None:
        write_manifest_by_tone(manifest, table, by_tone)
    return MeasuredTones(scale.name, scale.source, target, rates_file, _plain(table.rates))


def _settings(choices: Mapping[str, object]) -> ToneSettings:
    try:
        return ToneSettings.model_validate(
            {name: value for name, value in choices.items() if value is not None}
        )
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            rule=f"a {name} in its range ({first['msg']})",
            got=f"{name}={first['input']}",
            do="Choose another value.",
        ) from None


def _plain(rates: pd.DataFrame) -> tuple[dict[str, str | float], ...]:
    return tuple(
        {str(key): value for key, value in row.items()} for row in rates.to_dict("records")
    )
