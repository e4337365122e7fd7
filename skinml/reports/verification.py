"""Holding a report against itself: each number of the page against report.json, and the digests."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from html.parser import HTMLParser
from math import isclose
from typing import Any

from skinml.errors import DataError
from skinml.records import RunRecord
from skinml.reports.document import record_from_json, record_to_json
from skinml.reports.report import render_html

AGREES, DIFFERS, NOT_CHECKED = "agrees", "differs", "not checked"
# Figures of one machine may end in other digits on another one.
_RELATIVE, _ABSOLUTE = 1e-7, 1e-10
_SHOWN = 5
_NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")
# Numbers that are part of a sentence on every page.
_WORDED = {"0", "0.5", "1", "100"}
_DRAWING = re.compile(r"(<svg[^>]*><title[^>]*>[^<]*</title>).*?(</svg>)", re.DOTALL)
_HIDDEN = ("style", "svg", "script")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        what: What it was.
        outcome: "agrees", "differs" or "not checked".
        detail: How much was looked at, where it differs, or why it was not checked.
    """

    what: str
    outcome: str
    detail: str = ""


def check_page(
    document: Mapping[str, Any], page: bytes | None, *, same_code: bool
) -> tuple[RunRecord, tuple[Check, ...]]:
    """Hold a report's page and its derived figures against what report.json says.

    Args:
        document: The content of report.json.
        page: The bytes of report.html; None where it is not there.
        same_code: Whether this is the code that wrote the report.

    Returns:
        The record of the report, and what was found.

    Raises:
        DataError: If the document is none of a report.
    """
    record = record_from_json(document)
    found = [
        compare(
            "run, data and code", document.get("made_from"), record_to_json(record)["made_from"]
        ),
        _derived(document, record, same_code),
    ]
    if page is None:
        found.append(Check("the page", NOT_CHECKED, "report.html is not beside report.json"))
        return record, tuple(found)
    digest = f"sha256:{hashlib.sha256(page).hexdigest()}"
    told = document.get("page", {}).get("sha256")
    same = told == digest
    detail = digest[:19] if same else f"report.json says {str(told)[:19]}, it has {digest[:19]}"
    found.append(Check("the digest of the page", AGREES if same else DIFFERS, detail))
    text = page.decode("utf-8", errors="replace")
    found += [_numbers(text, document), _made_anew(text, record, same_code)]
    return record, tuple(found)


def compare(what: str, told: Any, found: Any) -> Check:
    """Hold plain values against those that were computed anew.

    Args:
        what: What they are.
        told: The values of the report.
        found: The values computed anew, of the same plain kinds.

    Returns:
        How many numbers agree, or where values differ; numbers may differ in their last digits.
    """
    leaves = list(_pairs(told, found, ""))
    off = [place for place, one, other in leaves if not _alike(one, other)]
    if not off:
        numbers = sum(isinstance(one, float | int) for _, one, _ in leaves)
        return Check(what, AGREES, f"{numbers:,} numbers" if numbers else "")
    more = f" and {len(off) - _SHOWN} more" if len(off) > _SHOWN else ""
    return Check(what, DIFFERS, f"at {', '.join(off[:_SHOWN])}{more}")


def _pairs(told: Any, found: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(told, Mapping) and isinstance(found, Mapping):
        for name in [*told, *(name for name in found if name not in told)]:
            yield from _pairs(told.get(name), found.get(name), f"{place}.{name}".lstrip("."))
    elif _is_list(told) and _is_list(found) and len(told) == len(found):
        for at, (one, other) in enumerate(zip(told, found, strict=True)):
            yield from _pairs(one, other, f"{place}[{at}]")
    else:
        yield place, told, found


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return one is other
    if isinstance(one, float | int) and isinstance(other, float | int):
        return isclose(one, other, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
    return bool(one == other)


def _derived(document: Mapping[str, Any], record: RunRecord, same_code: bool) -> Check:
    what = "figures that the page works out from others"
    found = compare(what, document.get("derived"), record_to_json(record)["derived"])
    if found.outcome == DIFFERS and not same_code:
        return Check(what, NOT_CHECKED, "other code of skinml worked them out")
    return found


def _numbers(text: str, document: Mapping[str, Any]) -> Check:
    shown, strange = unfounded_numbers(visible_text(text), document)
    what = "each number of the page is in report.json"
    if strange:
        return Check(what, DIFFERS, f"not in it: {', '.join(strange[:_SHOWN])}")
    return Check(what, AGREES, f"{shown:,} different numbers")


def _made_anew(text: str, record: RunRecord, same_code: bool) -> Check:
    what = "the page made anew from report.json"
    if not same_code:
        return Check(what, NOT_CHECKED, "it was made by other code of skinml")
    # The lines of drawings may differ in their last digit; their words may not.
    old, new = (_DRAWING.sub(r"\1\2", each).splitlines() for each in (text, render_html(record)))
    if old == new:
        return Check(what, AGREES, f"{len(new):,} lines")
    at = next(
        (at for at, (one, other) in enumerate(zip(old, new, strict=False), 1) if one != other),
        min(len(old), len(new)) + 1,
    )
    return Check(what, DIFFERS, f"from line {at} on")


def unfounded_numbers(text: str, document: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Look for numbers that no number or word of a document accounts for.

    Args:
        text: The visible words of a page.
        document: The content of report.json.

    Returns:
        How many different numbers the text has, and those that are not in the document, however
        it is rounded; up, down or to the nearest.
    """
    shown = {found.replace(",", "") for found in _NUMBER.findall(text)} - _WORDED
    words, numbers = set(), set()
    for leaf in _leaves(document):
        if isinstance(leaf, str):
            words |= {found.replace(",", "") for found in _NUMBER.findall(leaf)}
        elif isinstance(leaf, float | int) and not isinstance(leaf, bool):
            numbers.add(abs(float(leaf)))
    places = {len(each.partition(".")[2]) for each in shown if "e" not in each}
    known = words | {form for number in numbers for form in _forms(number, places)}
    return len(shown), sorted(shown - known)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for name, entry in value.items():
            yield name
            yield from _leaves(entry)
    elif _is_list(value):
        for entry in value:
            yield from _leaves(entry)
    else:
        yield value


def _forms(number: float, places: set[int]) -> Iterator[str]:
    yield f"{number:.2g}"
    yield f"{number:.4g}"
    for decimals in places:
        yield f"{number:.{decimals}f}"
    if number >= 1e15:
        return  # more digits than a float has: nothing is left to round
    exact = Decimal(repr(number))
    for decimals in places:
        for way in (ROUND_CEILING, ROUND_FLOOR):
            yield str(exact.quantize(Decimal(1).scaleb(-decimals), rounding=way))


class _Visible(HTMLParser):
    """Collects the words that a reader sees, those of drawings' titles left out."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self._hidden += tag in _HIDDEN

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in _HIDDEN

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)


def visible_text(page: str) -> str:
    """Read the words of a page.

    Args:
        page: HTML.

    Returns:
        The words outside of drawings, single-spaced.
    """
    reader = _Visible()
    reader.feed(page)
    reader.close()
    return " ".join(" ".join(reader.words).split())


def read_document(text: str) -> Mapping[str, Any]:
    """Read the content of report.json.

    Args:
        text: The file's text.

    Returns:
        The document.

    Raises:
        DataError: If it is no JSON object.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DataError(
            rule="a report.json that skinml wrote", got="another file", do="Check the path."
        )
    return found
