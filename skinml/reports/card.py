"""The model card: what a model is for, on whom it was tried, and what it promises.

One content, written twice: as README.md in the form of the Hugging Face Hub, whose metadata stand
in front as YAML, and as a page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from skinml.durable import make_folder, write_whole
from skinml.records import GroupResult, RunRecord
from skinml.reports import view
from skinml.reports.card_words import (
    ETHICS,
    NOT_FOR,
    about_model,
    intended,
    licence_words,
    limits,
    privacy_words,
)
from skinml.reports.derived import Derived, derive
from skinml.reports.gap_tables import NAMED, findings
from skinml.reports.kept import gaps_of
from skinml.reports.templating import filled_in
from skinml.reports.view import Table
from skinml.reports.wording import metric_words, unit_noun

CARD_FILE = "README.md"
_HUB_NAMES = {
    "auroc": "roc_auc",
    "malignancy_auroc": "roc_auc",
    "sensitivity": "recall",
    "ppv": "precision",
    "brier": "brier_score",
    "ece": "expected_calibration_error",
}
_INDEXED = ("auroc", "malignancy_auroc", "balanced_accuracy", "sensitivity", "specificity", "ece")
_TABLED = ("label", "clinic")
_MARKUP = re.compile(r"([\\`*_\[\]<>|#~!&])")


@dataclass(frozen=True)
class Part:
    """One part of a card.

    Attributes:
        title: Its heading.
        words: Paragraphs.
        points: A list below them.
        tables: Tables below that.
    """

    title: str
    words: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()


def write_card(record: RunRecord, folder: Path) -> Path:
    """Write a model's card beside the model.

    Args:
        record: What the run may show.
        folder: The model's folder; made where it is missing.

    Returns:
        The path of README.md.

    Raises:
        EnvironmentProblem: If it cannot be written.
    """
    make_folder(folder, "model's folder")
    write_whole(folder / CARD_FILE, card_markdown(record).encode(), "model card")
    return folder / CARD_FILE


def card_markdown(record: RunRecord) -> str:
    """Write a card as the Hugging Face Hub reads it.

    Args:
        record: What the run may show.

    Returns:
        Markdown behind a YAML block of metadata; equal records give equal text.
    """
    head = yaml.safe_dump(card_metadata(record), sort_keys=False, allow_unicode=True, width=100)
    lines = [f"---\n{head}---", f"# {_plain(_title(record))}"]
    for part in card_parts(record):
        lines += [f"## {_plain(part.title)}", *map(_plain, part.words)]
        if part.points:
            lines.append("\n".join(f"- {_plain(each)}" for each in part.points))
        lines += [_markdown_table(table) for table in part.tables]
    return "\n\n".join(lines) + "\n"


def card_html(record: RunRecord) -> str:
    """Make a card's page.

    Args:
        record: What the run may show.

    Returns:
        HTML that needs no network and no script.
    """
    values = {"record": record, "title": _title(record), "parts": card_parts(record)}
    return filled_in("card.html.j2", values)


def card_metadata(record: RunRecord) -> dict[str, Any]:
    """Collect what the Hub's search and its table of results read.

    Args:
        record: What the run may show.

    Returns:
        Plain values by the Hub's names. An undefined figure is left out, never 0.
    """
    promised = record.guarantee
    tags = ["dermatology", "skin", "federated-learning", "fairness", "skinml"]
    tags.append("differential-privacy" if promised.private else "not-private")
    tags += ["simulated"] if promised.simulated else []
    return {
        "license": "unknown",
        "library_name": "skinml",
        "pipeline_tag": "image-classification",
        "tags": tags,
        "datasets": [_slug(record.data.get("name", "")) or "not-named"],
        "metrics": list(dict.fromkeys(_HUB_NAMES.get(name, name) for name in _indexed(record))),
        "model-index": [{"name": record.run, "results": list(_results(record))}],
    }


def card_parts(record: RunRecord) -> tuple[Part, ...]:
    """Put a card together from a record and from nothing else.

    Args:
        record: What the run may show.

    Returns:
        Its parts in order.
    """
    derived, people = derive(record), unit_noun(record.data.get("unit", ""))
    stamps = tuple(f"{each.title}: {each.text}" for each in derived.stamps)
    few = [view.group_title(each.group) for each in derived.alarms[1:] if each.few]
    absent = [view.group_title(name) for names in derived.absent.values() for name in names]
    data = {
        people if key == "patients" else key: value
        for key, value in record.data.items()
        if value and key in ("name", "unit", "licence", "basis", "tone_scale", "patients", "digest")
    }
    return (
        Part("What it is", about_model(record, derived), stamps),
        Part("What it is for", intended(record), NOT_FOR),
        Part(
            "Data by group",
            (licence_words(record),),
            tables=(view.settings_table("Data", data), *_cohort(record, derived.headline, people)),
        ),
        Part(
            "Figures",
            (
                f"Intervals cover {derived.level_percent:.0f}% and are over {people}.",
                *_found(record, derived),
            ),
            tables=tuple(_figures(record, derived, people)),
        ),
        Part(
            "Privacy",
            privacy_words(record),
            tuple(f"Not covered: {each}." for each in record.guarantee.not_covered),
            (view.readings_table(record, derived),) if record.guarantee.private else (),
        ),
        Part("Limits", points=limits(record, few, absent)),
        Part("Ethical considerations", points=ETHICS),
        Part("Where it comes from", tables=(_origin(record),)),
    )


def _title(record: RunRecord) -> str:
    return f"{record.experiment}: model card"


def _found(record: RunRecord, derived: Derived) -> tuple[str, ...]:
    """Say what was found of gaps, as the report does."""
    gaps, several = gaps_of(record), len(record.classes.names) > 2
    if gaps is None:
        return ()
    return tuple(findings(gaps, derived.headline, several=several, named=NAMED).found)


def _cohort(record: RunRecord, headline: str, people: str) -> Iterator[Table]:
    """Make Table 1 of the headline attribute, the clinics and the labels."""
    names = [name for name, _ in groupby(record.cohort_table, key=lambda cell: cell.attribute)]
    for name, table in zip(names, view.cohort_tables(record, people), strict=True):
        if name in (headline, *_TABLED):
            yield table


def _figures(record: RunRecord, derived: Derived, people: str) -> Iterator[Table]:
    by_attribute = dict(view.group_results(record))
    yield from view.figure_tables("overall", [record.overall], derived, people)
    if derived.headline in by_attribute:
        groups = by_attribute[derived.headline]
        yield from view.figure_tables(derived.headline, groups, derived, people)


def _origin(record: RunRecord) -> Table:
    values = {
        "run": record.run,
        "begun": record.started,
        "seed": record.seed,
        "digest of the data": record.data.get("digest", ""),
        **record.versions,
    }
    return view.settings_table("Run, data and code", values)


def _indexed(record: RunRecord) -> list[str]:
    return [name for name in _INDEXED if name in record.overall.estimates]


def _results(record: RunRecord) -> Iterator[dict[str, Any]]:
    """Write an entry of the Hub's table for everybody and for each group that has figures."""
    headline = derive(record).headline
    groups = [each for each in record.groups if each.attribute == headline]
    for each in (record.overall, *groups):
        metrics = list(_metrics(each, _indexed(record)))
        if metrics:
            yield {
                "task": {"type": "image-classification", "name": "Skin lesion classification"},
                "dataset": {
                    "type": _slug(record.data.get("name", "")) or "not-named",
                    "name": record.data.get("name", "") or "not named",
                    "config": "everybody"
                    if each.attribute == "overall"
                    else f"{each.attribute}: {each.group}",
                    "split": "test",
                },
                "metrics": metrics,
            }


def _metrics(group: GroupResult, names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    for name in names:
        found = group.estimates.get(name)
        if found is not None and found.value is not None:
            bounds = {"low": found.low, "high": found.high, "level": found.level}
            yield {
                "type": _HUB_NAMES.get(name, name),
                "value": found.value,
                "name": metric_words(name).title,
                "args": {key: value for key, value in bounds.items() if value is not None},
                "verified": False,
            }


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name.partition(" (")[0]).strip("-.")[:90].lower()


def _plain(text: str) -> str:
    """Keep words from files from being read as Markdown or HTML."""
    return _MARKUP.sub(r"\\\1", " ".join(str(text).split()))


def _markdown_table(table: Table) -> str:
    def cell(each: view.Cell) -> str:
        return _plain(f"{each.text} ({each.detail})" if each.detail else each.text)

    rows = [
        [_plain(f"{row.head} ({row.note})" if row.note else row.head), *map(cell, row.cells)]
        for row in table.rows
    ]
    lines = [[*map(_plain, table.columns)], ["---"] * len(table.columns), *rows]
    return "\n".join((f"{_plain(table.caption)}:\n", *(f"| {' | '.join(row)} |" for row in lines)))
