"""The report as plain JSON values, and the way back to a run's record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from math import isfinite
from pathlib import PurePath
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from skinml.errors import ConfigError, DataError
from skinml.records import RunRecord
from skinml.reports.derived import derive

FORMAT = "skinml-report-2"


def record_to_json(record: RunRecord) -> dict[str, Any]:
    """Turn a record into the content of report.json.

    The HTML report is made from the same record and from the same derived figures, so every
    number on the page is in this mapping.

    Args:
        record: What the run may show.

    Returns:
        A mapping of plain JSON values: `format`, `made_from` (the run, the data's digest and the
        code that made the numbers), `record` (all fields of the record) and `derived` (what the
        page computes from them). An undefined, infinite or NaN number is None.

    Raises:
        ConfigError: If the record holds a value that JSON has no word for.
    """
    made_from = {
        "run": record.run,
        "data_digest": record.data.get("digest", ""),
        "skinml": record.versions.get("skinml", ""),
        "skinml_source": record.versions.get("skinml source", ""),
    }
    return {
        "format": FORMAT,
        "made_from": made_from,
        "record": _plain(record),
        "derived": _plain(derive(record)),
    }


def record_from_json(document: Mapping[str, Any]) -> RunRecord:
    """Read a record back from the content of report.json.

    Args:
        document: What `record_to_json` returned, possibly after a way through a file.

    Returns:
        The record; equal to the one that was written where no number was infinite or NaN.

    Raises:
        DataError: If the document is of another format or a field is missing or of a wrong type.
    """
    if document.get("format") != FORMAT:
        raise DataError(
            rule=f"a report document of format {FORMAT}",
            got=f"format={document.get('format')!r}",
            do="Pass a report.json that skinml wrote.",
        )
    plain = dict(document.get("record", {}))
    plain["history"] = [
        {name: value for name, value in line.items() if value is not None}
        for line in plain.get("history", [])
    ]
    try:
        return TypeAdapter(RunRecord).validate_python(plain)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise DataError(
            rule="a complete report document",
            got=f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}",
            do="Pass a report.json that skinml wrote.",
        ) from error


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    raise ConfigError(
        rule="a record of plain values",
        got=f"type={type(value).__name__}",
        do="Put only numbers, words, lists and mappings into the record's config and data.",
    )
