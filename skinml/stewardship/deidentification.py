"""What is done to a picture before it may stay: choices, what was found, and the rule that decides.

Nothing here looks at a pixel. `skinml.data.deidentify` does, and asks `decide`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

State = Literal["accepted", "masked", "to_review", "rejected"]
"""`accepted`: nothing had to be covered. `masked`: something was covered or cut away. `to_review`:
a person has to look before anything uses it. `rejected`: nothing of it was kept."""

Reason = Literal[
    "face",
    "text",
    "perhaps a face",
    "perhaps text",
    "mask over the middle",
    "mask over much of the picture",
    "text left after masking",
    "annotation declared and not found",
    "by a person",
    "no such file",
    "link",
    "outside the folder",
    "no regular file",
    "too many bytes",
    "too many pixels",
    "too small",
    "several pictures in one file",
    "broken file",
    "unknown format",
    "unknown kind of DICOM",
    "pixels that cannot be read",
    "no picture",
]
"""Why a picture is in its state: the closed list of what may be said of it anywhere."""

STATES: tuple[State, ...] = get_args(State)
REASONS: tuple[Reason, ...] = get_args(Reason)
USABLE: tuple[State, ...] = ("accepted", "masked")
"""The states that training, checks and reports may read."""

Sort = Literal["face", "eyes", "text", "by hand"]

_MIDDLE = 1 / 3


class Choices(BaseModel):
    """How pictures are made safe. The journal of the import records them with each picture."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    faces: Literal["mask", "eyes", "crop", "review"] = Field(
        "mask",
        description="A face that was found: mask covers it, eyes covers a band over the eyes only, "
        "crop cuts it away, review leaves it to a person.",
    )
    text: Literal["mask", "review"] = Field(
        "mask", description="Writing in the picture: mask covers it, review leaves it to a person."
    )
    sure_face: float = Field(
        0.35, gt=0, lt=1, description="From this score on something is a face."
    )
    perhaps_face: float = Field(
        0.2, gt=0, lt=1, description="From this score on a person looks whether it is a face."
    )
    sure_text: float = Field(
        0.5, gt=0, lt=1, description="From this score on three letters are writing."
    )
    perhaps_text: float = Field(
        0.3, gt=0, lt=1, description="From this score on a person looks at two letters."
    )
    most_masked: float = Field(
        0.3, gt=0, lt=1, description="Share of the picture from which on a mask hides too much."
    )
    most_middle: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Share of the middle ninth, where the lesion usually is, from which on a mask "
        "may hide it.",
    )


@dataclass(frozen=True)
class Box:
    """A rectangle of a picture, in pixels from the upper left corner.

    Attributes:
        left: First column.
        top: First row.
        right: The column after the last.
        bottom: The row after the last.
        sort: What is there.
    """

    left: int
    top: int
    right: int
    bottom: int
    sort: Sort

    @property
    def area(self) -> int:
        """Pixels inside."""
        return max(0, self.right - self.left) * max(0, self.bottom - self.top)


@dataclass(frozen=True)
class Sighting:
    """Something that a model found in a picture.

    Attributes:
        box: Where.
        score: How sure the model is, from 0 to 1.
        letters: Letters and digits that were read; 0 for a face. What they say is never kept.
        eyes: A band over both eyes, of a face.
    """

    box: Box
    score: float
    letters: int = 0
    eyes: Box | None = None


@dataclass(frozen=True)
class Decision:
    """What becomes of a picture.

    Attributes:
        state: Its state.
        reasons: Why, in the order of `REASONS`.
        masks: What is to be covered; proposals, where a person has to look.
        keep: What is left of it where something is cut away; None keeps it whole.
    """

    state: State
    reasons: tuple[Reason, ...] = ()
    masks: tuple[Box, ...] = ()
    keep: Box | None = None


def decide(
    choices: Choices,
    width: int,
    height: int,
    faces: Sequence[Sighting],
    texts: Sequence[Sighting],
) -> Decision:
    """Say what becomes of a picture in which models found something.

    Args:
        choices: How pictures are made safe.
        width: Pixels across.
        height: Pixels down.
        faces: Possible faces.
        texts: Possible writing.

    Returns:
        The decision. Whatever the models are unsure of, and whatever a mask could hide of a
        lesion, goes to a person, with all that was found as proposals.

    >>> face = Sighting(Box(0, 0, 10, 10, "face"), 0.9)
    >>> decide(Choices(), 100, 100, [face], []).state
    'masked'
    >>> decide(Choices(), 100, 100, [Sighting(Box(30, 30, 60, 60, "face"), 0.9)], []).reasons
    ('face', 'mask over the middle')
    """
    sure_faces = [each for each in faces if each.score >= choices.sure_face]
    maybe_faces = [each for each in faces if choices.perhaps_face <= each.score < choices.sure_face]
    sure_texts = [each for each in texts if _is_writing(each, choices)]
    maybe_texts = [
        each
        for each in texts
        if not _is_writing(each, choices)
        and each.letters >= 2
        and each.score >= choices.perhaps_text
    ]
    told: set[Reason] = set()
    if sure_faces:
        told.add("face")
    if sure_texts:
        told.add("text")
    if maybe_faces:
        told.add("perhaps a face")
    if maybe_texts:
        told.add("perhaps text")
    ask = bool(maybe_faces or maybe_texts)
    ask = ask or bool(sure_faces and choices.faces == "review")
    ask = ask or bool(sure_texts and choices.text == "review")
    masks = [*_over_faces(choices, sure_faces), *(each.box for each in sure_texts)]
    keep = None
    if sure_faces and choices.faces == "crop":
        keep = _without(width, height, [each.box for each in sure_faces])
        hidden = 1 - keep.area / (width * height)
    else:
        hidden = _share(masks, Box(0, 0, width, height, "by hand"))
    if hidden >= choices.most_masked:
        told.add("mask over much of the picture")
    if _hides_middle(masks, keep, width, height, choices):
        told.add("mask over the middle")
    ask = ask or bool(told & {"mask over much of the picture", "mask over the middle"})
    reasons = tuple(each for each in REASONS if each in told)
    if ask:
        proposals = (*masks, *(each.box for each in (*maybe_faces, *maybe_texts)))
        return Decision("to_review", reasons, proposals)
    return Decision("masked" if masks or keep else "accepted", reasons, tuple(masks), keep)


def _is_writing(each: Sighting, choices: Choices) -> bool:
    return each.letters >= 3 and each.score >= choices.sure_text


def _over_faces(choices: Choices, faces: Sequence[Sighting]) -> list[Box]:
    if choices.faces == "eyes":
        return [each.eyes or each.box for each in faces]
    return [] if choices.faces == "crop" else [each.box for each in faces]


def _hides_middle(
    masks: Sequence[Box], keep: Box | None, width: int, height: int, choices: Choices
) -> bool:
    middle = Box(
        round(width * _MIDDLE),
        round(height * _MIDDLE),
        round(width * 2 * _MIDDLE),
        round(height * 2 * _MIDDLE),
        "by hand",
    )
    left = 1.0 if keep is None else _overlap(middle, keep) / max(1, middle.area)
    return _share(masks, middle) >= choices.most_middle or 1 - left >= choices.most_middle


def _share(masks: Sequence[Box], whole: Box) -> float:
    """Bound from above the share of a rectangle that masks cover: overlaps count twice."""
    return sum(_overlap(mask, whole) for mask in masks) / max(1, whole.area)


def _overlap(one: Box, other: Box) -> int:
    across = min(one.right, other.right) - max(one.left, other.left)
    down = min(one.bottom, other.bottom) - max(one.top, other.top)
    return max(0, across) * max(0, down)


def _without(width: int, height: int, boxes: Sequence[Box]) -> Box:
    """Find the largest strip beside all boxes: above, below, left or right of them."""
    left, right = min(each.left for each in boxes), max(each.right for each in boxes)
    top, bottom = min(each.top for each in boxes), max(each.bottom for each in boxes)
    strips = (
        Box(0, 0, width, max(0, top), "by hand"),
        Box(0, min(height, bottom), width, height, "by hand"),
        Box(0, 0, max(0, left), height, "by hand"),
        Box(min(width, right), 0, width, height, "by hand"),
    )
    return max(strips, key=lambda strip: strip.area)
