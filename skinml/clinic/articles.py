"""Which demand of which law is met by skinml, which by people at the clinic, and which by neither.

A line is "done by skinml" only where the program itself does it with the policy that holds, and
says how to see that. It is a map to work with and not legal advice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from skinml.clinic.evidence_words import leftover_words
from skinml.clinic.facts import Facts

Status = Literal["done by skinml", "done by the clinic", "not covered"]

_TABLE = Path(__file__).parent / "templates" / "articles.yaml"
_STATUS: dict[str, Status] = {
    "skinml": "done by skinml",
    "clinic": "done by the clinic",
    "nobody": "not covered",
}


@dataclass(frozen=True)
class Line:
    """One demand.

    Attributes:
        law: The law.
        article: Where it stands.
        demand: What is demanded, in a few words.
        status: Who meets it here and now.
        how: How, or what is left to do.
        see: The command that shows it; "" where none does.
    """

    law: str
    article: str
    demand: str
    status: Status
    how: str
    see: str = ""


def article_lines(facts: Facts) -> tuple[Line, ...]:
    """Map the articles for one clinic as it stands.

    Args:
        facts: What its own files say.

    Returns:
        The lines, by law and article.
    """
    found: list[Line] = []
    for law, rows in _table().items():
        for row in rows:
            found += _lines(law, row, facts)
    return tuple(found)


@cache
def _table() -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
    return found


def _lines(law: str, row: dict[str, Any], facts: Facts) -> list[Line]:
    place, rule = (law, str(row["article"])), row.get("rule")
    if rule == "storage":
        return [_storage(place, facts)]
    if rule == "locked":
        return [_locked(place, facts)]
    if rule == "in_time":
        return _in_time(place, facts)
    if rule == "originals":
        return _originals(place, facts)
    return [Line(*place, row["demand"], _STATUS[row["by"]], row["how"], row.get("see", ""))]


def _storage(place: tuple[str, str], facts: Facts) -> Line:
    demand, days = "kept no longer than needed", facts.policy.retention.images_days
    if days is None:
        how = (
            "The policy sets no end for images: retention.images_days is null. Set one, or write "
            "down why not."
        )
        return Line(*place, demand, "done by the clinic", how, "skinml clinic policy change")
    how = (
        f"Imported pictures end after {days} days: no run uses them from then on. They are "
        "removed, with a certificate, when somebody types --apply. Other folders are not looked "
        "after."
    )
    return Line(*place, demand, "done by skinml", how, "skinml clinic retention")


def _locked(place: tuple[str, str], facts: Facts) -> Line:
    demand = "safe from those who may not read"
    if facts.lock == "nothing":
        how = (
            "The clinic's key lies open in its folder, as simulations have it: whoever copies the "
            "folder can read it."
        )
        return Line(*place, demand, "not covered", how)
    how = (
        "Pictures, features and predictions under a key for each patient; registers, requests and "
        "the clinic's own heads under the clinic's key; that locked by "
        f"{facts.lock.replace('_', ' ')}."
    )
    return Line(*place, demand, "done by skinml", how, "skinml clinic keys lock")


def _originals(place: tuple[str, str], facts: Facts) -> list[Line]:
    if facts.policy.originals == "drop" and not facts.num_originals:
        return []
    if facts.policy.originals == "drop":
        how = (
            "The policy does not keep the files that pictures came from any more; "
            f"{leftover_words(facts.num_originals)}."
        )
        demand = "original files gone that nobody needs"
        return [Line(*place, demand, "done by the clinic", how, "skinml clinic retention")]
    how = (
        "The policy keeps the files that pictures came from, with metadata and uncovered faces, "
        "sealed apart. Write down why they are needed, or set originals: drop."
    )
    demand = "a reason for keeping original files"
    return [Line(*place, demand, "done by the clinic", how, "skinml clinic policy show")]


def _in_time(place: tuple[str, str], facts: Facts) -> list[Line]:
    days = facts.policy.requests.answer_days
    listed = f"A list of open requests, each with its day: {days} days after it came."
    return [
        Line(
            *place,
            "knowing which requests are due",
            "done by skinml",
            listed,
            "skinml clinic requests list",
        ),
        Line(
            *place,
            "answering in time",
            "done by the clinic",
            "Look at the list once a week.",
            "skinml clinic requests list",
        ),
    ]
