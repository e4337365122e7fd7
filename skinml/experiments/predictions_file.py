"""Anybody's predictions: one row an image, from a CSV or Parquet file of any tool."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from skinml.errors import DataError, PolicyError
from skinml.experiments.predictions_labels import Coded, classes_of
from skinml.experiments.table_batches import open_batches
from skinml.records import UNKNOWN_GROUP, BoolArray, FloatArray, IntArray, Predictions, StrArray
from skinml.tracking.allowlist import checked_word

SITE = "clinic"
MAX_GROUPS = 50
_SUM_TOLERANCE = 1e-3
_SHOWN_ROWS = 5
# What else files write where a group is not known.
_UNKNOWN = ("unknown", "not known", "unspecified", "missing", "?", "-")
# Fowler, Noll and Vo's prime for 64 bits; it only has to spread rows apart.
_PRIME = np.uint64(0x100000001B3)


class PredictionsSettings(BaseModel):
    """Which columns of a predictions file mean what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path = Field(description="The CSV or Parquet file.")
    label: str = Field(description="The column with the truth.")
    scores: tuple[str, ...] = Field(
        min_length=1,
        description="One column with the probability of what is looked for, or one column a class.",
    )
    patient: str = Field(description="The column that tells whose image a row is.")
    groups: dict[str, str] = Field(
        default_factory=dict, description="For each attribute the column with its groups."
    )
    site: str | None = Field(None, description="The column with the clinic.")
    item: str | None = Field(None, description="The column with the image's id, to find doubles.")
    prediction: str | None = Field(None, description="The column with the model's own decision.")
    positive: tuple[str, ...] = Field(
        (), description="Words of the label that count as what is looked for."
    )
    classes: tuple[str, ...] = Field(
        (), description="With several scores: the label's word for each of them, in their order."
    )
    threshold: float | None = Field(
        None, ge=0, le=1, description="The score from which the model raises an alarm."
    )


@dataclass(frozen=True, repr=False)
class FilePredictions:
    """What a predictions file holds. Per patient: never log.

    Attributes:
        predictions: The rows.
        decided: Whether there are decisions of the model's own: a column, or a threshold.
        positive: The label's words that count as what is looked for.
        num_alike: Rows that are the same as an earlier one in patient, label, scores and groups.
    """

    predictions: Predictions
    decided: bool
    positive: tuple[str, ...]
    num_alike: int


@dataclass
class _Gathered:
    """Columns as they grow, a batch after the other: numbers alone, no text of a patient."""

    labels: list[IntArray] = field(default_factory=list)
    scores: list[FloatArray] = field(default_factory=list)
    patients: list[NDArray[np.uint64]] = field(default_factory=list)
    items: list[NDArray[np.uint64]] = field(default_factory=list)
    groups: dict[str, list[IntArray]] = field(default_factory=dict)
    decisions: list[IntArray] = field(default_factory=list)


def read_predictions_file(settings: PredictionsSettings) -> FilePredictions:
    """Read a predictions file.

    Args:
        settings: The file and its columns.

    Returns:
        The predictions. Patients are numbered: no id of the file is in them. A group that is
        missing or called unknown is "unknown".

    Raises:
        DataError: If the file or a column is not what the settings say, a score is no number
            from 0 to 1, a label or a patient is missing, an image comes twice, there are fewer
            than two patients, or all labels are of one kind.

    Guarantees:
        The file is read in batches; what stays in memory are numbers.
    """
    _require_apart(settings)
    words = {name: Coded(name) for name in _word_columns(settings)}
    found = _gather(settings, words)
    labels = _joined(found.labels)
    if len(labels) == 0:
        raise DataError(rule="rows below the line of names", got="none", do="Export the file anew.")
    patients, num_patients = _numbered(_joined(found.patients))
    if num_patients < 2:
        raise DataError(
            rule="at least two patients",
            got=f"num_rows={len(labels)}, num_patients={num_patients}",
            do=f"Check that the column {settings.patient} tells the patients apart.",
        )
    _require_single(settings, found.items)
    classes = classes_of(
        words[settings.label],
        labels,
        scores=settings.scores,
        positive=settings.positive,
        given=settings.classes,
        num_rows=len(labels),
    )
    probabilities = _probabilities(_joined(found.scores))
    truth = classes.index[labels]
    decisions = _decisions(settings, words, found, classes.index_of, probabilities)
    groups = {
        name: _groups(words[column], _joined(found.groups[name]), column)
        for name, column in _group_columns(settings).items()
    }
    predictions = Predictions(
        classes=classes.labels,
        labels=truth,
        probabilities=probabilities,
        decisions=decisions,
        patients=patients,
        groups=groups,
    )
    return FilePredictions(
        predictions=predictions,
        decided=settings.prediction is not None or settings.threshold is not None,
        positive=classes.positive,
        num_alike=_num_alike(found),
    )


def _require_apart(settings: PredictionsSettings) -> None:
    """Refuse columns that are used for two things, above all a patient's id as a group."""
    used = [settings.label, settings.patient, *settings.scores]
    used += [each for each in (settings.item, settings.prediction) if each is not None]
    for name in [*_group_columns(settings).values(), *used]:
        wanted = used.count(name) + (name in _group_columns(settings).values())
        if wanted > 1 and not (name == settings.patient and name == settings.item):
            raise DataError(
                rule="a column for each thing",
                got=f"the column {name} for two of them",
                do="Name the right column for each option.",
            )
    if settings.threshold is not None and settings.prediction is not None:
        raise DataError(
            rule="a threshold or a column of decisions, not both",
            got=f"threshold={settings.threshold:g}, prediction={settings.prediction}",
            do="Leave out the one that is not how the model is used.",
        )


def _group_columns(settings: PredictionsSettings) -> dict[str, str]:
    site = {} if settings.site is None else {SITE: settings.site}
    return {**settings.groups, **site}


def _word_columns(settings: PredictionsSettings) -> list[str]:
    decisions = [] if settings.prediction is None else [settings.prediction]
    return list(dict.fromkeys([settings.label, *_group_columns(settings).values(), *decisions]))


def _gather(settings: PredictionsSettings, words: Mapping[str, Coded]) -> _Gathered:
    found, start = _Gathered(groups={name: [] for name in _group_columns(settings)}), 0
    for batch in open_batches(settings.path, _columns(settings)):
        column = {name: batch.column(at) for at, name in enumerate(batch.schema.names)}
        codes = {name: each.codes(column[name]) for name, each in words.items()}
        for name in (settings.label, settings.prediction):
            if name is not None:
                _refuse(codes[name] < 0, f"a value in each row of {name}", "", start)
        found.labels.append(codes[settings.label])
        if settings.prediction is not None:
            found.decisions.append(codes[settings.prediction])
        for name, source in _group_columns(settings).items():
            found.groups[name].append(codes[source])
        scores = [_scores(column[name], name, start) for name in settings.scores]
        found.scores.append(np.stack(scores, axis=1))
        found.patients.append(_hashes(column[settings.patient], settings.patient, start))
        if settings.item is not None:
            found.items.append(_hashes(column[settings.item], settings.item, start))
        start += batch.num_rows
    return found


def _columns(settings: PredictionsSettings) -> list[str]:
    others = [settings.patient, *settings.scores]
    others += [] if settings.item is None else [settings.item]
    return list(dict.fromkeys([*_word_columns(settings), *others]))


def _scores(column: pa.Array, name: str, start: int) -> FloatArray:
    _refuse(_mask(pc.is_null(column)), f"a number in each row of {name}, not NaN", "", start)
    try:
        values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        bad = np.array([not _is_number(word) for word in column.to_pylist()])
        do = "Write 0.5 for one half, with a point, and nothing else in the cell."
        _refuse(bad, f"numbers in the column {name}", do, start)
        raise
    # NaN, which a word such as "-nan" still makes, fails both comparisons.
    bad = ~((values >= 0) & (values <= 1))
    do = "Give probabilities; turn logits to probabilities first."
    _refuse(bad, f"scores from 0 to 1 in the column {name}", do, start)
    return np.asarray(values, dtype=float)


def _is_number(word: str) -> bool:
    try:
        pa.scalar(word).cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _hashes(column: pa.Array, name: str, start: int) -> NDArray[np.uint64]:
    """Turn ids to 64-bit numbers; two of a hundred million agree by chance once in 3,700 files."""
    _refuse(_mask(pc.is_null(column)), f"an id in each row of {name}", "", start)
    coded = column.dictionary_encode()
    digests = b"".join(
        hashlib.blake2b(word.encode(), digest_size=8).digest()
        for word in coded.dictionary.to_pylist()
    )
    numbers = np.frombuffer(digests, dtype="<u8")
    return np.asarray(numbers[coded.indices.to_numpy(zero_copy_only=False)])


def _mask(column: pa.Array) -> BoolArray:
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=bool)


def _refuse(bad: BoolArray, rule: str, do: str, start: int) -> None:
    """Complain about rows; the number of those behind this batch is not known."""
    if not bad.any():
        return
    at = np.flatnonzero(bad)
    rows = ", ".join(str(start + row + 1) for row in at[:_SHOWN_ROWS])
    more = " and more" if len(at) > _SHOWN_ROWS else ""
    raise DataError(
        rule=rule,
        got=f"other rows, such as row {rows}{more} below the names",
        do=do or "Correct or leave out these rows, and say so where you report the figures.",
    )


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _numbered(hashes: NDArray[np.uint64]) -> tuple[StrArray, int]:
    """Number patients by their hashes; as text, for that is what a patient's id is elsewhere."""
    known, numbers = np.unique(hashes, return_inverse=True)
    width = len(str(max(len(known) - 1, 0)))
    names = np.array([f"{number:0{width}d}" for number in range(len(known))], dtype=f"<U{width}")
    return names[numbers.reshape(-1)], len(known)


def _require_single(settings: PredictionsSettings, parts: list[NDArray[np.uint64]]) -> None:
    hashes = _joined(parts)
    _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
    twice = int((counts > 1).sum())
    if twice:
        row = int(first[counts > 1].min()) + 1
        raise DataError(
            rule=f"each id of {settings.item} once",
            got=f"{twice} that come more than once, such as that of row {row} below the names",
            do="Keep one row an image.",
        )


def _probabilities(scores: FloatArray) -> FloatArray:
    if scores.shape[1] == 1:
        return np.concatenate([1 - scores, scores], axis=1)
    off = np.asarray(np.abs(scores.sum(axis=1) - 1) > _SUM_TOLERANCE)
    _refuse(off, "scores of all classes that sum to 1 in each row", "Divide by their sum.", 0)
    return scores


def _decisions(
    settings: PredictionsSettings,
    words: Mapping[str, Coded],
    found: _Gathered,
    index_of: Mapping[str, int],
    probabilities: FloatArray,
) -> IntArray:
    if settings.prediction is not None:
        coded = words[settings.prediction]
        index = np.array([index_of.get(word.lower(), -1) for word in coded.words], dtype=np.int64)
        decided = index[_joined(found.decisions)]
        do = f"Use the words of {settings.label}, or 1 and 0."
        _refuse(decided < 0, f"decisions of {settings.prediction} in the label's words", do, 0)
        return np.asarray(decided)
    if settings.threshold is not None and len(settings.scores) == 1:
        return np.asarray(probabilities[:, 1] >= settings.threshold, dtype=np.int64)
    return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)


def _groups(coded: Coded, codes: IntArray, column: str) -> StrArray:
    names = [UNKNOWN_GROUP if word.lower() in _UNKNOWN else word for word in coded.words]
    known = len(set(names) - {UNKNOWN_GROUP})
    if known > MAX_GROUPS or known > max(2, len(codes) // 2):
        raise DataError(
            rule=f"a column of at most {MAX_GROUPS} groups, most of which come more than once",
            got=f"{column} with {known} in {len(codes)} rows",
            do="Put values into bands first; never name a column of ids as a group.",
        )
    for name in names:
        _require_nobody(name, column)
    every = np.array([*names, UNKNOWN_GROUP])
    return np.asarray(every[codes])  # nothing has the code -1, the last


def _require_nobody(name: str, column: str) -> None:
    try:
        checked_word("a group's name", name)
    except PolicyError:
        raise DataError(
            rule=f"groups of {column} that point at nobody",
            got="one that looks like a patient's id or an image's path",
            do="Rename it, or name another column.",
        ) from None


def _num_alike(found: _Gathered) -> int:
    """Count rows that are the same as an earlier one in all that is read of them."""
    columns: Iterator[NDArray[Any]] = iter(
        [
            _joined(found.patients),
            _joined(found.labels),
            *(_joined(parts) for parts in found.groups.values()),
            *np.ascontiguousarray(_joined(found.scores).T).view(np.uint64),
        ]
    )
    mixed = np.zeros(len(_joined(found.labels)), dtype=np.uint64)
    for column in columns:
        mixed = (mixed ^ column.astype(np.uint64)) * _PRIME
        mixed ^= mixed >> np.uint64(29)
    return len(mixed) - len(np.unique(mixed))
