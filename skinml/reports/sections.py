"""The report's sections by attribute, and its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from skinml.records import GroupResult, RunRecord
from skinml.reports import numbers, view
from skinml.reports.derived import Derived, is_few
from skinml.reports.figures import ForestRow, forest_svg, history_svg
from skinml.reports.wording import FOREST, SCALES, attribute_title, course_title, metric_words

_MAX_HISTORY_FIGURES = 6


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


def sections(record: RunRecord, derived: Derived, people: str) -> tuple[Section, ...]:
    """Make the sections of all attributes.

    Args:
        record: What the run may show.
        derived: The derived figures.
        people: What the data count as patients, such as "patients" or "lesions".

    Returns:
        A section for each attribute, in the record's order.
    """
    return tuple(
        Section(
            name=f"groups-{place}",
            title=attribute_title(attribute),
            scale=tone_scale(record, attribute),
            unknown=any(group.group == "unknown" for group in groups),
            few=tuple(group.group for group in groups if is_few(group, derived.min_events)),
            plots=_forest_plots(f"groups-{place}", attribute, groups, record, derived),
            tables=tuple(view.figure_tables(attribute, groups, derived, people)),
        )
        for place, (attribute, groups) in enumerate(view.group_results(record), start=1)
    )


def tone_scale(record: RunRecord, attribute: str) -> str:
    """Name the scale that an attribute's groups are on.

    Args:
        record: What the run may show.
        attribute: The attribute.

    Returns:
        Words for the reader; empty where the data do not say.
    """
    # The tone scales differ from one another and are never mixed, so each page names its own.
    name = "tone_scale" if attribute == "skin_tone" else f"{attribute}_scale"
    scale = record.data.get(name, "")
    return "" if scale == "none" else SCALES.get(scale, scale)


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
                label=view.group_title(group.group),
                note=_events(metric, group),
                estimate=group.estimates[metric],
                few=is_few(group, derived.min_events, metric),
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
    positives = numbers.about(group.num_positives, group.count_std)
    negatives = numbers.about(group.num_negatives, group.count_std)
    words = {"sensitivity": f"{positives} malignant", "specificity": f"{negatives} other"}
    return words.get(metric, f"{positives} against {negatives}")


def _alt(title: str, metric: str, rows: Sequence[ForestRow]) -> str:
    decimals = metric_words(metric).decimals
    lines = []
    for row in rows:
        value = numbers.figure(row.estimate.value, decimals)
        spread = numbers.interval(row.estimate, decimals)
        lines.append(f"{row.label}: {value}{f' ({spread})' if spread else ''}")
    return f"{title}. {'; '.join(lines)}. The table below has the same numbers."


def history_plots(record: RunRecord) -> tuple[Plot, ...]:
    """Draw how the optimiser's figures went over the rounds.

    Args:
        record: What the run may show.

    Returns:
        A plot for each of the first figures that at least two rounds have.
    """
    names = list(dict.fromkeys(name for line in record.history for name in line))
    plots = []
    shown = [each for each in names if each != "round"][:_MAX_HISTORY_FIGURES]
    for number, name in enumerate(shown, start=1):
        lines = [
            (float(line.get("round", place)), line[name])
            for place, line in enumerate(record.history, start=1)
            if line.get(name) is not None
        ]
        if len(lines) < 2:
            continue
        title = course_title(name)
        first, last = lines[0], lines[-1]
        alt = (
            f"{title} by round: {first[1]:.4g} in round {first[0]:.0f}, {last[1]:.4g} in round "
            f"{last[0]:.0f}. The table below has every round."
        )
        svg = history_svg(
            f"history-{number}", [each[0] for each in lines], [each[1] for each in lines], alt=alt
        )
        plots.append(Plot(title, Markup(svg)))  # noqa: S704 - every word inside was escaped
    return tuple(plots)
