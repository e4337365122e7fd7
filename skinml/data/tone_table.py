"""Apparent tones of a whole manifest, and how often they can be measured.

The rows are about patients: they lie beside the manifest, closed to others, and do not travel.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import yaml

from skinml.data.groups import age_bands
from skinml.data.images import decode_image
from skinml.data.sealed_images import require_folder
from skinml.data.settings import GROUP_ATTRIBUTES
from skinml.data.skin_tone import ToneMeasurement, ToneSettings, measure_tone, patient_tone
from skinml.data.tone_colour import read_light
from skinml.data.tone_scales import one_scale, scale_by_name, tone_scale
from skinml.durable import read_whole, write_whole
from skinml.errors import ConfigError, DataError
from skinml.records import UNKNOWN_GROUP, BoolArray

if TYPE_CHECKING:
    from skinml.data.manifest import Manifest
    from skinml.data.settings import ImageLimits
    from skinml.seeding import Seeds

Row = dict[str, str | float | int | None]

_NUM_THREADS = 2
_DERMOSCOPIC = ("dermoscop", "dermatoscop")
_AGE_LIMITS = (30, 50, 70)
_MIDDLE_CODE = 127


@dataclass(frozen=True, repr=False)
class ToneTable:
    """Apparent tones of a manifest's images. Per patient: never log the frames.

    Attributes:
        scale: The scale's name.
        images: One row an image in the manifest's order: `image` and `ToneMeasurement.values()`.
        patients: One row a patient: `patient_id`, `num_images` measured, and the same values.
        rates: `measured_rates` of the images.
    """

    scale: str
    images: pd.DataFrame
    patients: pd.DataFrame
    rates: pd.DataFrame


def measure_manifest(
    manifest: Manifest,
    settings: ToneSettings,
    limits: ImageLimits,
    seeds: Seeds,
    *,
    force: bool = False,
    lesion_masks: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> ToneTable:
    """Measure the apparent tone of every close-up of a manifest.

    Args:
        manifest: The manifest.
        settings: How to measure.
        limits: What an image file may ask of this machine.
        seeds: The root of the random streams.
        force: Measure dermoscopic images and images of unknown kind too.
        lesion_masks: A folder with a mask image.png for an image, white where the lesion is; for
            images without one the lesion is looked for.
        progress: Called with the number of images done.

    Returns:
        The tones and how often they could be measured. A file that cannot be read is a row that
        is not measurable.

    Raises:
        DataError: If no image may be measured: all are dermoscopic, or their kind is not known.
    """
    frame = manifest.frame.reset_index(drop=True)
    refusals = np.full(len(frame), "") if force else _refusals(frame["modality"])
    if all(refusals):
        raise DataError(
            rule="close-ups to measure tone on (column modality)",
            got=", ".join(f"{word} in {n} rows" for word, n in _counted(refusals.tolist())),
            do="Fill the column modality, or measure anyway with --force.",
        )
    scale = tone_scale(settings.table)

    def measure(row: int) -> ToneMeasurement:
        if refusals[row]:
            return ToneMeasurement(scale.name, str(refusals[row]))
        image = str(frame["image"][row])
        try:
            light, known = read_light(require_folder(manifest.root) / image, limits)
            lesion = _lesion(lesion_masks, image, light.shape, limits)
        except DataError:
            return ToneMeasurement(scale.name, "a file that cannot be read")
        if not known:
            return ToneMeasurement(scale.name, "a colour profile that cannot be read")
        return measure_tone(light, settings, seeds, image, lesion=lesion)[0]

    def measure_patient(rows: Sequence[int]) -> tuple[list[Row], Row]:
        tones = [measure(row) for row in rows]
        patient = str(frame["patient_id"][rows[0]])
        joined = patient_tone(tones, seeds, patient)
        facts: Row = {"patient_id": patient, "num_images": joined.num_images, **joined.values()}
        return [tone.values() for tone in tones], facts

    groups = [list(rows) for rows in frame.groupby("patient_id", sort=False).indices.values()]
    values: list[Row] = [{} for _ in range(len(frame))]
    patients, done = [], 0
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for rows, (own, facts) in zip(groups, pool.map(measure_patient, groups), strict=True):
            for row, value in zip(rows, own, strict=True):
                values[row] = value
            patients.append(facts)
            done += len(rows)
            if progress is not None:
                progress(done)
    images = pd.concat([frame[["image"]], pd.DataFrame(values)], axis=1)
    return ToneTable(scale.name, images, pd.DataFrame(patients), measured_rates(frame, images))


def measured_rates(frame: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Say how often a tone could be measured, by group and by site.

    A group in which it fails more often is a group that results by tone say less about.

    Args:
        frame: The manifest's rows.
        images: The rows of `ToneTable.images`, in the same order.

    Returns:
        One row a group with attribute, group, num_images, num_measured, rate, its 95% limits (by
        Wilson, over images) and the share of each reason. The first row is of all images. A tone
        that somebody noted is an attribute under its own scale's name.
    """
    attributes = {"all": pd.Series("all", index=frame.index)}
    for name in GROUP_ATTRIBUTES:
        if name == "age_band":
            attributes[name] = pd.Series(age_bands(frame["age"], _AGE_LIMITS), index=frame.index)
        elif name == "skin_tone":
            for scale, rows in frame.groupby("skin_tone_scale"):
                attributes[f"skin_tone ({scale})"] = rows["skin_tone"]
        else:
            attributes[name] = frame[name].fillna(UNKNOWN_GROUP)
    reasons = images["not_measurable"].dropna().unique()
    cells = []
    for attribute, groups in attributes.items():
        for group, members in groups.groupby(groups).groups.items():
            own = images.loc[members]
            cell = _cell(int(own["ita_degrees"].notna().sum()), len(own))
            shares = {reason: (own["not_measurable"] == reason).mean() for reason in reasons}
            cells.append({"attribute": attribute, "group": group, **cell, **shares})
    return pd.DataFrame(cells)


def _cell(measured: int, number: int) -> dict[str, float]:
    from scipy.stats import binomtest

    limits = binomtest(measured, number).proportion_ci(method="wilson")
    return {
        "num_images": number,
        "num_measured": measured,
        "rate": measured / number,
        "low": float(limits.low),
        "high": float(limits.high),
    }


def _refusals(modalities: pd.Series[str]) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    """Why each row is not to be measured; empty where it may be."""

    def refusal(word: object) -> str:
        if not isinstance(word, str):
            return "kind of image not known"
        return "dermoscopic" if any(part in word.casefold() for part in _DERMOSCOPIC) else ""

    return np.asarray([refusal(word) for word in modalities], dtype=np.str_)


def _counted(words: Sequence[str]) -> list[tuple[str, int]]:
    found, counts = np.unique(words, return_counts=True)
    return list(zip(found.tolist(), counts.tolist(), strict=True))


def _lesion(
    folder: Path | None, image: str, shape: tuple[int, ...], limits: ImageLimits
) -> BoolArray | None:
    """Read an image's lesion mask at the size that the image is measured at."""
    if folder is None:
        return None
    path = folder / f"{Path(image).stem}.png"
    if not path.is_file():
        return None
    mask = decode_image(path, limits)[0].numpy() > _MIDDLE_CODE
    rows = (np.arange(shape[0]) + 0.5) * mask.shape[0] / shape[0]
    columns = (np.arange(shape[1]) + 0.5) * mask.shape[1] / shape[1]
    return np.asarray(mask[rows.astype(int)][:, columns.astype(int)])


def require_table_name(path: Path) -> None:
    """Check that a table can have this name, before it is made.

    Args:
        path: The table's path.

    Raises:
        ConfigError: If it ends neither in .csv nor in .parquet.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise ConfigError(
            rule="a table that ends in .csv or .parquet", got=path.name, do="Give it such a name."
        )


def write_table(frame: pd.DataFrame, path: Path, what: str) -> None:
    """Write a table, closed to others.

    Args:
        frame: The table.
        path: Ends in .csv or .parquet.
        what: What it is, for messages.

    Raises:
        ConfigError: If the ending is another one.
        EnvironmentProblem: If it cannot be written.
    """
    require_table_name(path)
    if path.suffix == ".parquet":
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        content = buffer.getvalue()
    else:
        content = frame.to_csv(index=False, float_format="%.4f", lineterminator="\n").encode()
    write_whole(path, content, what)


def read_tones(path: Path) -> pd.DataFrame:
    """Read the tones of images as `write_table` wrote them.

    Args:
        path: The table.

    Returns:
        `ToneTable.images`.

    Raises:
        DataError: If it is no such table, or holds tones of two scales.
        EnvironmentProblem: If it cannot be read.
    """
    content = io.BytesIO(read_whole(path, "the table of tones"))
    try:
        frame = pd.read_parquet(content) if path.suffix == ".parquet" else pd.read_csv(content)
        scale = scale_by_name(one_scale(frame["tone_scale"].astype(str).tolist()))
        wanted = {"image", *ToneMeasurement(scale.name).values()}
        missing = sorted(wanted - set(frame.columns))
    except (ValueError, KeyError, ConfigError):
        missing = ["tone_scale"]
    if missing:
        raise DataError(
            rule="a table of tones as `skinml data tone` writes it",
            got=f"{path.name} without {', '.join(missing)}",
            do="Measure the images again.",
        )
    return frame


def join_tones(frame: pd.DataFrame, tones: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Put measured tones beside a manifest's rows.

    Args:
        frame: Rows with `image`.
        tones: Tables of tones as `read_tones` returns them, of different images.

    Returns:
        The rows with the columns of the tones; empty ones where an image is in no table.

    Raises:
        DataError: If the tables are of different scales, or an image is in two.
    """
    one_scale([str(name) for table in tones for name in table["tone_scale"].unique()])
    joined = pd.concat(list(tones), ignore_index=True)
    twice = int(joined["image"].duplicated().sum())
    if twice:
        raise DataError(
            rule="each image in one table of tones",
            got=f"{twice} images in two",
            do="Leave one of the tables out.",
        )
    return frame.merge(joined, on="image", how="left", validate="many_to_one")


def write_manifest_by_tone(source: Path, table: ToneTable, target: Path) -> None:
    """Write a manifest whose skin_tone is the apparent tone of each patient, on its own scale.

    The rest stays as it was. A patient without a tone has none, which is a group of its own.

    Args:
        source: The manifest that the tones were measured for.
        table: The tones.
        target: The new manifest, of the same kind of file; its sidecar is written beside it.

    Raises:
        ConfigError: If the target is the source, or of another kind.
        EnvironmentProblem: If it cannot be written.
    """
    if target.resolve() == source.resolve() or target.suffix != source.suffix:
        raise ConfigError(
            rule=f"a new {source.suffix} file beside the manifest",
            got=target.name,
            do="Give another name; the noted tones of the old manifest are kept there.",
        )
    content = io.BytesIO(read_whole(source, "the manifest"))
    if source.suffix == ".parquet":
        frame = pd.read_parquet(content)
    else:
        frame = pd.read_csv(content, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    tone_of = table.patients.set_index("patient_id")["image_tone"]
    tones = frame["patient_id"].astype(str).str.strip().map(tone_of)
    frame["skin_tone"] = tones.fillna("")
    frame["skin_tone_scale"] = np.where(tones.notna(), table.scale, "")
    write_table(frame, target, "the manifest by apparent tone")
    sidecar = source.with_suffix(".yaml")
    if sidecar.is_file():
        facts = yaml.safe_load(read_whole(sidecar, "the manifest's sidecar")) or {}
        facts.pop("tone_scale", None)
        text = yaml.safe_dump(facts, sort_keys=False)
        write_whole(target.with_suffix(".yaml"), text.encode(), "the new manifest's sidecar")
