"""Writing the report: one HTML page that stands alone, and the JSON under it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from skinml.errors import EnvironmentProblem
from skinml.records import GroupResult, RunRecord
from skinml.reports import numbers, view
from skinml.reports.derived import Derived, derive, is_few
from skinml.reports.document import record_to_json
from skinml.reports.figures import ForestRow, forest_svg, history_svg
from skinml.reports.wording import (
    FOREST,
    METRICS,
    attribute_title,
    metric_words,
    trust_words,
    unit_words,
)

_TEMPLATES = Path(__file__).parent / "templates"
_MAX_HISTORY_FIGURES = 6


@dataclass(frozen=True)
class ReportFiles:
    """Where a report was written.

    Attributes:
        html: The page.
        json: Every number of the page.
    """

    html: Path
    json: Path


@dataclass(frozen=True)
class Plot:
    """A figure of the page.

    Attributes:
        title: What it shows.
        svg: The drawing.
    """

    title: str
    svg: Markup


@dataclass(frozen=True)
class Section:
    """The figures of one attribute.

    Attributes:
        name: A name for links within the page.
        title: The attribute's title.
        scale: Where the groups come from, such as a tone scale; empty where the data do not say.
        unknown: Whether one of the groups is "not known".
        few: The groups with too few events for a finding.
        plots: The forest plots.
        tables: The tables of figures.
    """

    name: str
    title: str
    scale: str
    unknown: bool
    few: tuple[str, ...]
    plots: tuple[Plot, ...]
    tables: tuple[view.Table, ...]


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
    document = json.dumps(record_to_json(record), indent=1, ensure_ascii=False, allow_nan=False)
    page = render_html(record)
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
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(_context(record, derive(record)))


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
    return {
        "record": record,
        "derived": derived,
        "overall_alarms": derived.alarms[0],
        "few_groups": [each for each in derived.alarms[1:] if each.few],
        "alarm_table": view.alarm_table(derived),
        "overall_tables": view.figure_tables("overall", [record.overall], derived),
        "sections": _sections(record, derived),
        "words": [words for name, words in METRICS.items() if name in shown],
        "yardsticks": view.yardstick_table(record),
        "flow": view.flow_table(record),
        "cohort": view.cohort_tables(record),
        "clinics": view.clinic_table(record, derived),
        "missing_rounds": view.participation_table(record, missing_only=True),
        "all_rounds": view.participation_table(record, missing_only=False),
        "history": view.history_table(record),
        "history_plots": _history_plots(record),
        "data": view.settings_table("Data", record.data),
        "versions": view.settings_table("Versions", record.versions),
        "config": view.settings_table("Settings of the run", record.config),
        "trust": trust_words(record.guarantee.trust),
        "unit": unit_words(record.guarantee.unit),
        "malignant": [
            name
            for name, bad in zip(record.classes.names, record.classes.malignant, strict=True)
            if bad
        ],
        "headline": attribute_title(derived.headline) if derived.headline else "",
        "fmt": numbers,
    }


def _sections(record: RunRecord, derived: Derived) -> tuple[Section, ...]:
    return tuple(
        Section(
            name=f"groups-{place}",
            title=attribute_title(attribute),
            scale=record.data.get(f"{attribute}_scale", ""),
            unknown=any(group.group == "unknown" for group in groups),
            few=tuple(group.group for group in groups if is_few(group, derived.min_events)),
            plots=_forest_plots(f"groups-{place}", attribute, groups, record, derived),
            tables=tuple(view.figure_tables(attribute, groups, derived)),
        )
        for place, (attribute, groups) in enumerate(view.group_results(record), start=1)
    )


def _forest_plots(
    name: str,
    attribute: str,
    groups: Sequence[GroupResult],
    record: RunRecord,
    derived: Derived,
) -> tuple[Plot, ...]:
    plots = []
    for metric in FOREST:
        if not any(metric in group.estimates for group in groups):
            continue
        rows = [
            ForestRow(
                label="not known" if group.group == "unknown" else group.group,
                note=_events(metric, group),
                estimate=group.estimates[metric],
                few=is_few(group, derived.min_events),
            )
            for group in groups
            if metric in group.estimates
        ]
        overall = record.overall.estimates.get(metric)
        title = f"{metric_words(metric).title} by {attribute_title(attribute).lower()}"
        svg = forest_svg(
            f"{name}-{metric}",
            rows,
            metric=metric,
            overall=overall.value if overall else None,
            alt=_alt(title, metric, rows),
        )
        plots.append(Plot(title, Markup(svg)))  # noqa: S704 - every word inside was escaped
    return tuple(plots)


def _events(metric: str, group: GroupResult) -> str:
    malignant = f"{numbers.count(group.num_positives)} malignant"
    other = f"{numbers.count(group.num_negatives)} other"
    return {"sensitivity": malignant, "specificity": other}.get(metric, f"{malignant}, {other}")


def _alt(title: str, metric: str, rows: Sequence[ForestRow]) -> str:
    decimals = metric_words(metric).decimals
    lines = []
    for row in rows:
        value = numbers.figure(row.estimate.value, decimals)
        spread = numbers.interval(row.estimate, decimals)
        lines.append(f"{row.label}: {value}{f' ({spread})' if spread else ''}")
    return f"{title}. {'; '.join(lines)}. The table below has the same numbers."


def _history_plots(record: RunRecord) -> tuple[Plot, ...]:
    names = list(dict.fromkeys(name for line in record.history for name in line))
    plots = []
    for name in [each for each in names if each != "round"][:_MAX_HISTORY_FIGURES]:
        lines = [
            (float(line.get("round", place)), line[name])
            for place, line in enumerate(record.history, start=1)
            if line.get(name) is not None
        ]
        if len(lines) < 2:
            continue
        title = name.replace("_", " ").capitalize()
        safe = re.sub(r"[^a-z0-9]+", "-", name.lower())
        first, last = lines[0], lines[-1]
        alt = (
            f"{title} by round: {first[1]:.4g} in round {first[0]:.0f}, {last[1]:.4g} in round "
            f"{last[0]:.0f}. The table below has every round."
        )
        svg = history_svg(
            f"history-{safe}", [each[0] for each in lines], [each[1] for each in lines], alt=alt
        )
        plots.append(Plot(title, Markup(svg)))  # noqa: S704 - every word inside was escaped
    return tuple(plots)
