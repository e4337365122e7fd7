"""From a stranger's file to a picture that may stay: decoded, looked at, covered, written anew.

Shapes: H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from time import thread_time

import numpy as np

from skinml.data.foreign_pictures import Foreign, Pixels, Refused, encode, open_picture
from skinml.data.settings import ImageLimits
from skinml.stewardship.deidentification import Box, Choices, Decision, Sighting, decide

_MARGIN = 3  # pixels beyond a mask's edge, for what a later decoder smears over it

Finder = Callable[[Pixels], Sequence[Sighting]]
"""Looks at (H, W, 3) uint8 pixels."""


@dataclass(frozen=True)
class Finders:
    """Who looks at a picture.

    Attributes:
        faces: Finds faces.
        text: Finds writing.
    """

    faces: Finder
    text: Finder


@dataclass(frozen=True, repr=False)
class Safe:
    """What is left of a file.

    Attributes:
        decision: What became of it.
        content: A JPEG or PNG file without any metadata; where a person has to look, with nothing
            covered yet. None where it was rejected.
        width: Pixels across.
        height: Pixels down.
        tags: The values of the DICOM tags that were asked for.
        seconds: Processor time by stage: decode, faces, text, encode.
    """

    decision: Decision
    content: bytes | None
    width: int = 0
    height: int = 0
    tags: tuple[tuple[str, str], ...] = ()
    seconds: tuple[tuple[str, float], ...] = ()


def shipped_finders(choices: Choices) -> Finders:
    """Give the models that skinml ships with; each is loaded when it first looks at a picture.

    Args:
        choices: The lowest scores that matter.

    Returns:
        The finders.

    Raises:
        EnvironmentProblem: If the extra `import` is not installed.
    """
    from skinml.data.found_faces import find_faces
    from skinml.data.found_text import find_text
    from skinml.data.onnx_models import require_packages

    require_packages()
    return Finders(lambda pixels: find_faces(pixels, choices.perhaps_face), find_text)


def make_safe(
    content: bytes,
    choices: Choices,
    finders: Finders,
    limits: ImageLimits,
    tags: tuple[str, ...] = (),
) -> Safe:
    """Make a picture safe, or say why nothing of it stays.

    Args:
        content: The file.
        choices: How pictures are made safe.
        finders: Who looks.
        limits: What the file may ask of this machine.
        tags: DICOM keywords whose values are wanted.

    Returns:
        What is left.

    Raises:
        EnvironmentProblem: If a package that reads the file is not installed.

    Guarantees:
        Of the file nothing but its pixels and the tags asked for is in the result. A picture in
        state "masked" was looked at again: where writing is left, a person has to look.
    """
    clock = [thread_time()]
    try:
        foreign = open_picture(content, limits, tags)
    except Refused as refusal:
        return Safe(Decision("rejected", (refusal.reason,)), None)
    clock.append(thread_time())
    pixels = foreign.pixels
    height, width = pixels.shape[:2]
    faces = finders.faces(pixels)
    clock.append(thread_time())
    texts = finders.text(pixels)
    decision = _declared(decide(choices, width, height, faces, texts), foreign)
    shown = pixels
    if decision.state == "masked":
        shown = covered(pixels, decision.masks, decision.keep)
        if min(shown.shape[:2]) < limits.min_side or _still(shown, decision, choices, finders):
            shown, decision = pixels, _to_a_person(decision)
        else:
            decision = replace(decision, masks=_within(decision.masks, decision.keep))
    clock.append(thread_time())
    made = encode(shown, lossless=foreign.lossless)
    clock.append(thread_time())
    spent = [after - before for before, after in pairwise(clock)]
    return Safe(
        decision,
        made,
        width=shown.shape[1],
        height=shown.shape[0],
        tags=foreign.tags,
        seconds=tuple(zip(("decode", "faces", "text", "encode"), spent, strict=True)),
    )


def covered(pixels: Pixels, masks: Sequence[Box], keep: Box | None = None) -> Pixels:
    """Cover parts of a picture with its own median colour, and cut away the rest.

    Args:
        pixels: (H, W, 3) uint8; they stay as they are.
        masks: What to cover; a few pixels more are.
        keep: What to leave of it; None leaves all.

    Returns:
        Pixels of which nothing under a mask can be told.
    """
    shown = pixels.copy()
    colour = np.median(pixels.reshape(-1, pixels.shape[2])[::7], axis=0).astype(np.uint8)
    for box in masks:
        top, left = max(0, box.top - _MARGIN), max(0, box.left - _MARGIN)
        shown[top : box.bottom + _MARGIN, left : box.right + _MARGIN] = colour
    if keep is not None:
        shown = shown[keep.top : keep.bottom, keep.left : keep.right].copy()
    return shown


def masked_by_hand(content: bytes, masks: Sequence[Box], limits: ImageLimits) -> bytes:
    """Cover parts of a picture that a person chose.

    Args:
        content: A picture as the vault keeps it.
        masks: What to cover, in its pixels.
        limits: What it may ask of this machine.

    Returns:
        The new file.

    Raises:
        Refused: If it is no picture.
    """
    foreign = open_picture(content, limits)
    return encode(covered(foreign.pixels, masks), lossless=foreign.lossless)


def _declared(decision: Decision, foreign: Foreign) -> Decision:
    """Ask a person where a file says that something is written in it and nothing was found."""
    if not foreign.annotated or "text" in decision.reasons:
        return decision
    reasons = (*decision.reasons, "annotation declared and not found")
    return replace(decision, state="to_review", reasons=reasons)


def _still(pixels: Pixels, decision: Decision, choices: Choices, finders: Finders) -> bool:
    """Look again for writing where some was covered."""
    if not any(each.sort == "text" for each in decision.masks):
        return False
    height, width = pixels.shape[:2]
    return decide(choices, width, height, (), finders.text(pixels)).state != "accepted"


def _within(masks: Sequence[Box], keep: Box | None) -> tuple[Box, ...]:
    """Say where masks are in what is kept of a picture."""
    if keep is None:
        return tuple(masks)
    moved = (
        replace(
            mask,
            left=max(0, mask.left - keep.left),
            top=max(0, mask.top - keep.top),
            right=min(keep.right, mask.right) - keep.left,
            bottom=min(keep.bottom, mask.bottom) - keep.top,
        )
        for mask in masks
    )
    return tuple(mask for mask in moved if mask.area)


def _to_a_person(decision: Decision) -> Decision:
    reasons = (*decision.reasons, "text left after masking")
    return replace(decision, state="to_review", reasons=reasons, keep=None)
