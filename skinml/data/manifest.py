"""A clinic's manifest: one row an image, read as a whole, checked as a whole, in shared words."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from skinml.data.manifest_rules import (
    FIRST_ROW,
    FLAGS,
    OPTIONAL,
    PUBLISHED_PARTS,
    REQUIRED,
    SERIES,
    SEXES,
    check_manifest,
)
from skinml.data.sealed_images import ImageFolder
from skinml.data.taxonomy import Mapped, Taxonomy, load_taxonomy
from skinml.errors import DataError
from skinml.stewardship.purposes import Purpose

CANONICAL = (*REQUIRED, "diagnosis_source", *OPTIONAL, "licensed_for")
_MISSING = frozenset({"", "unknown", "unk", "nan", "none", "null", "na", "n/a", "<na>"})
_MOST_WORDS = 20


class Sidecar(BaseModel):
    """What is true of a whole manifest: a YAML file of the same name beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = None
    unit: Literal["patient", "lesion", "image"] | None = None
    licence: str | None = None
    purposes: tuple[Purpose, ...] | None = None
    tone_scale: str | None = None


@dataclass(frozen=True, repr=False)
class Manifest:
    """A checked manifest in shared words. Per patient: never log the frame.

    Attributes:
        frame: One row an image with the columns of `CANONICAL` and `row`, the row's number in the
            file. Missing values are None; `malignant` is bool, `age` float, the others str.
        root: The folder that the images are in, or a clinic's vault.
        unit: What patient_id stands for: "patient", "lesion" or "image".
        name: The data's name in reports.
        digest: SHA-256 of the manifest's bytes, in hexadecimal. For public data only: a digest of
            a clinic's own manifest would let others confirm a guess about its patients.
        taxonomy: What the words were translated with.
        dropped_columns: Columns of the file that skinml does not know and did not keep.
    """

    frame: pd.DataFrame
    root: ImageFolder
    unit: str
    name: str
    digest: str
    taxonomy: Taxonomy
    dropped_columns: tuple[str, ...] = ()


def read_manifest(
    path: Path,
    *,
    root: Path,
    unit: str = "patient",
    name: str = "data",
    taxonomy: Taxonomy | None = None,
    tone_scale: str | None = None,
) -> Manifest:
    """Read a manifest, check all of it, and bring it into shared words.

    A file of the same name ending in .yaml beside it may say name, unit, licence, the purposes that
    the licence is declared for, and the tone scale of the whole; it wins over the arguments. Empty
    cells and "unknown" are missing.

    Args:
        path: A CSV (UTF-8, comma) or Parquet file, by its ending.
        root: The folder that the column `image` is relative to.
        unit: What patient_id stands for.
        name: The data's name in reports.
        taxonomy: The meaning of words; the shipped one by default.
        tone_scale: The scale of skin tones where neither the row, the sidecar nor the row's
            dataset says one.

    Returns:
        The manifest.

    Raises:
        DataError: If the file cannot be read or breaks a rule. All problems are collected into
            one error, whose details name rows and columns, never a patient or an image.
    """
    content = _read_bytes(path)
    raw = _parse(path, content)
    sidecar = _read_sidecar(path.with_suffix(".yaml"))
    dropped = tuple(str(column) for column in raw.columns if column not in REQUIRED + OPTIONAL)
    text = raw[[column for column in raw.columns if column not in dropped]]
    check_manifest(path.name, text, root)
    scale = sidecar.tone_scale or tone_scale
    frame = _translate(text, taxonomy or load_taxonomy(), scale, sidecar.tone_scale is not None)
    if sidecar.licence is not None:
        frame["licence"] = frame["licence"].fillna(sidecar.licence)
    if sidecar.purposes is not None:
        frame["licensed_for"] = " ".join(sidecar.purposes)
    return Manifest(
        frame=frame,
        root=root,
        unit=sidecar.unit or unit,
        name=sidecar.name or name,
        digest=hashlib.sha256(content).hexdigest(),
        taxonomy=taxonomy or load_taxonomy(),
        dropped_columns=dropped,
    )


def manifest_of(
    rows: Sequence[Mapping[str, str]],
    *,
    root: ImageFolder,
    name: str = "data",
    taxonomy: Taxonomy | None = None,
) -> Manifest:
    """Check rows that come from no file, such as a clinic's imported pictures, as a manifest.

    Args:
        rows: One an image, with columns of a manifest; missing ones are empty.
        root: Where the column `image` leads; no path is looked up.
        name: The data's name in reports and messages.
        taxonomy: The meaning of words; the shipped one by default.

    Returns:
        The manifest. Its rows are numbered from 2 on, as a file's are.

    Raises:
        DataError: If a rule is broken, see `read_manifest`.
    """
    columns = [each for each in REQUIRED + OPTIONAL if any(each in row for row in rows)]
    text = pd.DataFrame(
        {column: [_cell(row.get(column, "")) for row in rows] for column in columns}, dtype=object
    ).astype(str)
    check_manifest(name, text, None)
    words = taxonomy or load_taxonomy()
    content = text.to_csv(index=False).encode()
    return Manifest(
        frame=_translate(text, words, None, False),
        root=root,
        unit="patient",
        name=name,
        digest=hashlib.sha256(content).hexdigest(),
        taxonomy=words,
    )


def table_cells(name: str, content: bytes) -> pd.DataFrame:
    """Parse a table into text cells, with missing ones empty.

    Args:
        name: The file's name; its ending says whether it is CSV or Parquet.
        content: The file.

    Returns:
        Stripped text, one row a row of the file.

    Raises:
        DataError: If it is no such table.
    """
    return _parse(Path(name), content)


def _cell(value: str) -> str:
    return "" if value.strip().casefold() in _MISSING else value.strip()


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            rule="a readable manifest",
            got=f"{path.name}: {type(error).__name__}",
            do=f"Put a manifest at {path}, or set data.root and data.manifest.",
        ) from None


def _parse(path: Path, content: bytes) -> pd.DataFrame:
    """Parse into text cells, with missing ones empty; rows keep their place in the file."""
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(io.BytesIO(content))
        else:
            frame = _parse_csv(content)
    except (ValueError, OSError, UnicodeError, pd.errors.ParserWarning) as error:
        # ParserError and EmptyDataError of pandas and ArrowInvalid of pyarrow are ValueErrors.
        kind = "an empty file" if isinstance(error, pd.errors.EmptyDataError) else "a broken file"
        raise DataError(
            rule="a manifest in CSV (UTF-8, comma) or Parquet",
            got=f"{kind}, {path.name}",
            do="Save it again with one header row and as many cells in each row.",
        ) from None
    columns = [_cleaned(frame.iloc[:, place]) for place in range(frame.shape[1])]
    cells = pd.DataFrame(dict(enumerate(columns)))
    cells.columns = frame.columns.map(str)
    return cells


def _cleaned(cells: pd.Series[Any]) -> pd.api.extensions.ExtensionArray:
    """Turn a column into stripped text, each word looked at once, missing ones empty."""
    if not isinstance(cells.dtype, pd.StringDtype):
        whole = cells.astype(object)
        cells = whole.where(whole.notna(), "").map(str).astype(str)
    places, words = pd.factorize(cells)
    # Place -1, a missing cell, is the last of the words.
    clean = pd.array([*map(_cell, words.tolist()), ""], dtype="str")
    return clean.take(places)


def _parse_csv(content: bytes) -> pd.DataFrame:
    with warnings.catch_warnings():
        # Pandas only warns where rows have more cells than the header, and shifts or drops some.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(
            io.BytesIO(content),
            dtype=str,
            keep_default_na=False,
            index_col=False,
            encoding="utf-8-sig",
            skip_blank_lines=False,
        )


def _read_sidecar(path: Path) -> Sidecar:
    if not path.is_file():
        return Sidecar()
    try:
        return Sidecar.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except ValidationError as error:
        first = error.errors()[0]
        found = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    except (yaml.YAMLError, UnicodeDecodeError):
        found = "broken YAML"
    raise DataError(
        rule="a sidecar with name, unit, licence, purposes and tone_scale",
        got=found,
        do=f"Correct {path.name} beside the manifest.",
    )


def _translate(
    text: pd.DataFrame, taxonomy: Taxonomy, scale: str | None, scale_wins: bool
) -> pd.DataFrame:
    """Bring checked text into shared words and types."""
    columns = {
        column: _words(text[column]) if column in text else [""] * len(text)
        for column in REQUIRED + OPTIONAL
    }
    datasets = columns["dataset"]
    scales = _tone_scales(columns, taxonomy, scale, scale_wins)
    diagnoses = taxonomy.diagnoses(columns["diagnosis"], datasets)
    sites = taxonomy.sites(columns["anatomical_site"], datasets)
    tones = taxonomy.tones(columns["skin_tone"], scales)
    _require_mapped(diagnosis=diagnoses, anatomical_site=sites, skin_tone=tones)
    malignant = [
        FLAGS[flag.casefold()] if flag else taxonomy.malignant[diagnosis]
        for flag, diagnosis in zip(columns["malignant"], diagnoses.names, strict=True)
    ]
    filled: dict[str, object] = {
        column: pd.Series(values, dtype=object).replace("", None)
        for column, values in (
            columns
            | {
                "diagnosis_source": columns["diagnosis"],
                "diagnosis": list(diagnoses.names),
                "anatomical_site": list(sites.names),
                "skin_tone": list(tones.names),
                "skin_tone_scale": scales,
                "sex": [SEXES.get(sex.casefold(), "") for sex in columns["sex"]],
                "series": [SERIES.get(place.casefold(), "") for place in columns["series"]],
                "published_split": [
                    PUBLISHED_PARTS.get(part.casefold(), "") for part in columns["published_split"]
                ],
            }
        ).items()
    }
    frame = pd.DataFrame(filled)
    frame["malignant"] = pd.Series(malignant, dtype=bool)
    frame["age"] = pd.to_numeric(pd.Series(columns["age"], dtype=object), errors="coerce")
    frame["age"] = frame["age"].astype(float)
    frame.insert(0, "row", range(FIRST_ROW, FIRST_ROW + len(frame)))
    frame["licensed_for"] = None
    return frame[["row", *CANONICAL]]


def _words(cells: pd.Series[str]) -> list[str]:
    """List a column's words; equal ones are one object, or a million rows would not fit."""
    places, words = pd.factorize(cells)
    return [*np.asarray(words, dtype=object)[places]]


def _tone_scales(
    columns: Mapping[str, list[str]], taxonomy: Taxonomy, scale: str | None, wins: bool
) -> list[str]:
    """Name each tone's scale: its row's own, the sidecar's, its dataset's, the default."""
    cells = (columns[name] for name in ("skin_tone", "skin_tone_scale", "dataset"))
    rows = list(zip(*cells, strict=True))
    chosen = {
        (tone, own, dataset): (
            own.casefold() or (scale if wins else taxonomy.dataset_scales.get(dataset) or scale)
        )
        for tone, own, dataset in set(rows)
    }
    scales = [(chosen[row] or "") if row[0] else "" for row in rows]
    known = taxonomy.tone_words
    undeclared = sum(
        bool(tone) and found not in known
        for tone, found in zip(columns["skin_tone"], scales, strict=True)
    )
    if undeclared:
        raise DataError(
            rule=f"skin_tone_scale one of {', '.join(sorted(known))} wherever there is a skin_tone",
            got=f"{undeclared} rows with a tone of no known scale",
            do="Fill the column skin_tone_scale, or set tone_scale in the manifest's sidecar.",
        )
    return scales


def _require_mapped(**columns: Mapped) -> None:
    """Refuse words that the taxonomy does not know, all of them at once."""
    details = [
        f"{column}: '{word}' in {count} rows"
        for column, mapped in columns.items()
        for word, count in sorted(mapped.unmapped.items(), key=lambda item: (-item[1], item[0]))
    ]
    if details:
        raise DataError(
            rule="words that the taxonomy maps",
            got=f"{len(details)} unmapped: {'; '.join(details[:_MOST_WORDS])}",
            do="Correct them, or map them in a YAML file and set data.taxonomy to it.",
            details=details,
        )
