"""A run in one table, for a notebook: what was found overall and by group, and at what epsilon."""

from __future__ import annotations

from html import escape
from pathlib import Path

import pandas as pd

from skinml.records import GroupResult, RunRecord
from skinml.reports.derived import stamps
from skinml.reports.numbers import count, epsilon, figure, interval
from skinml.reports.templating import filled_in
from skinml.reports.wording import attribute_title, metric_words

_SHOWN = ("auroc", "sensitivity", "specificity")
_DECIMALS = 3
# A page inside a notebook: no script, no forms, nothing of the notebook's own page.
_FRAME = (
    '<iframe sandbox="" title="{title}" width="100%" height="{height}" srcdoc="{page}"></iframe>'
)
_HEIGHT = 640


def figures_table(record: RunRecord) -> pd.DataFrame:
    """Put all figures of a run into a table.

    Args:
        record: What the run may show.

    Returns:
        A row for each figure of everybody ("overall") and of each group: "attribute", "group",
        "figure", "value", "low", "high", "level", "method", "reason", "patients", "images",
        "positives"; what is undefined is missing, never 0.
    """
    rows = [
        {
            "attribute": group.attribute,
            "group": group.group,
            "figure": name,
            "value": found.value,
            "low": found.low,
            "high": found.high,
            "level": found.level,
            "method": found.method,
            "reason": found.reason,
            "patients": group.num_patients,
            "images": group.num_images,
            "positives": group.num_positives,
        }
        for group in (record.overall, *record.groups)
        for name, found in group.estimates.items()
    ]
    return pd.DataFrame(rows)


def summary_html(record: RunRecord, groups: str = "skin_tone") -> str:
    """Write a run's card.

    Args:
        record: What the run may show.
        groups: The attribute whose groups are shown under everybody.

    Returns:
        A piece of HTML without scripts.
    """
    chosen = [each for each in record.groups if each.attribute == groups]
    title = attribute_title(groups)
    promised = record.guarantee
    return filled_in(
        "summary.html.j2",
        {
            "run": record.run,
            "data": record.data["name"],
            "stamps": [each.title for each in stamps(record)],
            "heads": [metric_words(name).title for name in _SHOWN],
            "rows": [_row(each, title) for each in (record.overall, *chosen)],
            "epsilon": epsilon(promised.epsilon) if promised.private else "",
            "delta": f"{promised.delta:g}",
            "trust": promised.trust,
            "unit": str(promised.unit).replace("_", " "),
            "total": epsilon(promised.total_epsilon),
        },
    )


def _row(group: GroupResult, title: str) -> tuple[str, ...]:
    name = "everybody" if group.attribute == "overall" else f"{title} {group.group}"
    cells = (group.estimates[each] for each in _SHOWN if each in group.estimates)
    words = (
        figure(each.value, _DECIMALS)
        + (f" ({limits})" if (limits := interval(each, _DECIMALS)) else "")
        for each in cells
    )
    about = "about " if group.count_std else ""
    return (name, f"{about}{count(max(group.num_patients, 0))}", *words)


def framed_page(page: Path, title: str) -> str:
    """Put a whole page into a frame that a notebook can show.

    Args:
        page: The page's file.
        title: What a screen reader calls it.

    Returns:
        A frame with the page in it: it needs no server, and nothing in it runs.

    Raises:
        OSError: If the page cannot be read.
    """
    text = escape(page.read_text(encoding="utf-8"), quote=True)
    return _FRAME.format(title=escape(title, quote=True), height=_HEIGHT, page=text)
