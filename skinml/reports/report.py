"""Writing the report: one HTML page that stands alone, and the JSON under it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skinml.errors import EnvironmentProblem
from skinml.records import RunRecord
from skinml.reports import numbers, view
from skinml.reports.admissions import admission_tables
from skinml.reports.derived import Derived, derive
from skinml.reports.document import record_to_json
from skinml.reports.label_sets import sets_part
from skinml.reports.mitigation import mitigation_part
from skinml.reports.participation import (
    attendance_table,
    noise_words,
    sums_table,
    terms_words,
)
from skinml.reports.personal import personal_table
from skinml.reports.review import noise_table, review_parts
from skinml.reports.sections import history_plots, sections
from skinml.reports.templating import filled_in
from skinml.reports.wording import (
    COUNTED,
    FAMILIES,
    FROM_FILE,
    METRICS,
    PREDICTIONS,
    MetricWords,
    attribute_title,
    collusion_words,
    trust_words,
    unit_noun,
    unit_words,
    you_words,
)


@dataclass(frozen=True)
class ReportFiles:
    """Where a report was written.

    Attributes:
        html: The page.
        json: Every number of the page.
    """

    html: Path
    json: Path


def write_report(record: RunRecord, folder: Path) -> ReportFiles:
    """Write report.html and report.json.

    Args:
        record: What the run may show.
        folder: Where the files go; made where it is missing. Files of these names are replaced.

    Returns:
        The paths of both files.

    Raises:
        ConfigError: If the record holds a value that JSON has no word for.
        EnvironmentProblem: If the files cannot be written.

    Guarantees:
        Each file is complete or absent; an earlier file stays until its successor is complete.
        Equal records give equal bytes.
    """
    files = ReportFiles(html=folder / "report.html", json=folder / "report.json")
    page = render_html(record)
    digest = hashlib.sha256(page.encode("utf-8")).hexdigest()
    plain = record_to_json(record) | {
        "page": {"file": files.html.name, "sha256": f"sha256:{digest}"}
    }
    document = json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(files.json, f"{document}\n")
        _write(files.html, page)
    except OSError as error:
        raise EnvironmentProblem(
            rule="a folder that the report can be written to",
            got=f"{error.strerror or type(error).__name__} in {folder}",
            do="Free some space or choose another output folder.",
        ) from error
    return files


def render_html(record: RunRecord) -> str:
    """Make the page.

    Args:
        record: What the run may show.

    Returns:
        HTML that needs no network and no script.
    """
    return filled_in("report.html.j2", _context(record, derive(record)))


def promise_values(record: RunRecord, derived: Derived) -> dict[str, Any]:
    """Collect what the section on privacy names, for this page and for one of its own.

    Args:
        record: What the run may show.
        derived: What is worked out from it.

    Returns:
        By the template's names.
    """
    promised = record.guarantee
    return {
        "record": record,
        "derived": derived,
        "people": unit_noun(record.data.get("unit", "")),
        "clinics": view.clinic_table(record, derived),
        "readings": view.readings_table(record, derived),
        "terms": terms_words(record, derived),
        "noise": noise_words(record, derived),
        "attendance": attendance_table(record, derived),
        "sums": sums_table(record, derived),
        "trust": trust_words(promised.trust),
        "collusion": collusion_words(
            promised.trust,
            num_clinics=promised.num_clinics,
            num_enough=derived.num_enough,
            num_honest=derived.num_honest,
        ),
        "unit": unit_words(promised.unit),
        "you": you_words(promised.unit),
        "from_file": record.kind == PREDICTIONS,
        "noise_table": noise_table(derived),
        "fmt": numbers,
    }


def _words(name: str, record: RunRecord) -> MetricWords:
    """Look up what a figure means, told by where it comes from."""
    if record.evaluation_source == "dp_counts":
        return COUNTED.get(name, METRICS[name])
    two = len(record.classes.names) == 2
    if record.kind == PREDICTIONS and two:
        return FROM_FILE.get(name, METRICS[name])
    return METRICS[name]


def _meanings(record: RunRecord, shown: Collection[str]) -> list[MetricWords]:
    """Say what each figure of the page means, and each family of figures once."""
    single = [_words(name, record) for name in METRICS if name in shown]
    families = [
        words for start, words in FAMILIES.items() if any(name.startswith(start) for name in shown)
    ]
    return [*single, *families]


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _context(record: RunRecord, derived: Derived) -> dict[str, Any]:
    shown = {*record.overall.estimates, *(n for g in record.groups for n in g.estimates)}
    people = unit_noun(record.data.get("unit", ""))
    return {
        **promise_values(record, derived),
        "counted": record.evaluation_source == "dp_counts",
        "overall_alarms": derived.alarms[0],
        "few_groups": [each for each in derived.alarms[1:] if each.few],
        "alarm_table": view.alarm_table(derived, people)
        if "sensitivity" in record.overall.estimates
        else view.auroc_table(record, derived, people),
        "overall_tables": view.figure_tables("overall", [record.overall], derived, people),
        "sections": sections(record, derived, people),
        "words": _meanings(record, shown),
        "yardsticks": view.yardstick_table(record),
        "personal_heads": personal_table(record),
        "label_sets": sets_part(record, people),
        "mitigation": mitigation_part(record),
        "flow": view.flow_table(record, people),
        "cohort": [*admission_tables(record, people), *view.cohort_tables(record, people)],
        "history": view.history_table(record),
        "history_plots": history_plots(record),
        "data": view.settings_table("Data", record.data),
        "versions": view.settings_table("Versions", record.versions),
        "config": view.settings_table("Settings of the run", record.config),
        "malignant": [
            name
            for name, bad in zip(record.classes.names, record.classes.malignant, strict=True)
            if bad
        ],
        "headline": attribute_title(derived.headline) if derived.headline else "",
        **review_parts(record, derived),
    }
