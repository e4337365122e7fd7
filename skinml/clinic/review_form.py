"""What a form of the review page says, read as a stranger's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast, get_args
from urllib.parse import parse_qs

from skinml.clinic.review import MOST_BOXES, Step, Verdict
from skinml.errors import DataError
from skinml.stewardship.deidentification import Box, Sort

MOST_BYTES = 32 * 1024
_TYPED = ("left", "top", "across", "down")
_MOST_DIGITS = 6

Fields = dict[str, list[str]]


def fields_of(content: bytes) -> Fields:
    """Take a form apart.

    Args:
        content: `application/x-www-form-urlencoded`.

    Returns:
        The values by name.

    Raises:
        DataError: If it is no such form, or too long.
    """
    if len(content) > MOST_BYTES:
        raise _refused("more")
    try:
        return parse_qs(
            content.decode("ascii"), strict_parsing=True, max_num_fields=MOST_BOXES + 20
        )
    except ValueError:
        raise _refused("something else") from None


def first(fields: Fields, name: str) -> str:
    """Give a value of a form.

    Args:
        fields: The form.
        name: The value's name.

    Returns:
        The value; empty where there is none.
    """
    return fields.get(name, [""])[0]


def verdict_of(fields: Fields) -> Verdict:
    """Read what a person wants done with a picture.

    Args:
        fields: The form.

    Returns:
        The verdict.

    Raises:
        DataError: If a step or a box is none.
    """
    step = first(fields, "step")
    if step not in get_args(Step):
        raise _refused("another step")
    boxes = [_box(each.split(",")) for each in fields.get("box", [])]
    typed = [first(fields, name).strip() for name in _TYPED]
    if any(typed):
        left, top, across, down = _numbers(typed)
        boxes.append(Box(left, top, left + across, top + down, "by hand"))
    chosen = tuple(boxes) if step == "mask" else ()
    return Verdict(cast(Step, step), first(fields, "seen"), chosen)


def text_of_box(box: Box) -> str:
    """Write a box as a form holds it.

    Args:
        box: The box.

    Returns:
        Its edges and what it is.

    >>> text_of_box(Box(1, 2, 3, 4, "by hand"))
    '1,2,3,4,by hand'
    """
    return f"{box.left},{box.top},{box.right},{box.bottom},{box.sort}"


def _box(words: Sequence[str]) -> Box:
    if len(words) != 5 or words[4] not in get_args(Sort):
        raise _refused("a box that is none")
    left, top, right, bottom = _numbers(words[:4])
    return Box(left, top, right, bottom, cast(Sort, words[4]))


def _numbers(words: Sequence[str]) -> tuple[int, int, int, int]:
    if not all(each.isascii() and each.isdigit() and len(each) <= _MOST_DIGITS for each in words):
        raise DataError(
            rule="four whole numbers of pixels for a box",
            got="something else, or an empty place",
            do="Fill in all four, or none.",
        )
    left, top, right, bottom = map(int, words)
    return left, top, right, bottom


def _refused(got: str) -> DataError:
    return DataError(rule="a form of this page", got=got, do="Go back and load the page again.")
