"""What the review page says of a picture, in plain words."""

from __future__ import annotations

from skinml.stewardship.deidentification import Box, Reason, Sort, State
from skinml.stewardship.pictures import Picture

STATE_WORDS: dict[State, str] = {
    "to_review": "waits for a person",
    "accepted": "accepted as it is",
    "masked": "accepted, something covered",
    "rejected": "rejected, nothing kept",
}
"""A state, as words beside a picture."""

STEP_WORDS: dict[State, str] = {
    "accepted": "Accepted as it is.",
    "masked": "Covered and accepted.",
    "rejected": "Rejected; nothing of it is used.",
    "to_review": "It waits again.",
}
"""A state that a picture was just brought into, as a sentence."""

_REASONS: dict[Reason, str] = {
    "face": "The machine found a face.",
    "text": "The machine found writing.",
    "perhaps a face": "There may be a face; the machine is not sure.",
    "perhaps text": "There may be writing; the machine is not sure.",
    "mask over the middle": "Covering it would hide the middle, where the lesion usually is.",
    "mask over much of the picture": "Covering it would hide much of the picture.",
    "text left after masking": "After covering, writing was still found.",
    "annotation declared and not found": "The file says that something is written in the picture, "
    "and the machine did not find it.",
    "by a person": "A person has decided on it.",
    "no such file": "The list named a file that was not there.",
    "link": "The file was a link to another place.",
    "outside the folder": "The file lay outside the folder of the import.",
    "no regular file": "It was no ordinary file.",
    "too many bytes": "The file was too large.",
    "too many pixels": "The picture had too many pixels.",
    "too small": "The picture was too small.",
    "several pictures in one file": "The file held several pictures.",
    "broken file": "The file was broken.",
    "unknown format": "The file was of a kind that is not known.",
    "unknown kind of DICOM": "The DICOM file was of a kind that is not known.",
    "pixels that cannot be read": "Its pixels could not be read.",
    "no picture": "The file held no picture.",
}
_SORTS: dict[Sort, str] = {
    "face": "a face",
    "eyes": "eyes",
    "text": "writing",
    "by hand": "drawn by hand",
}


def reasons_of(picture: Picture) -> list[str]:
    """Say why a picture is in its state.

    Args:
        picture: The picture.

    Returns:
        Sentences.
    """
    return [_REASONS[each] for each in picture.reasons]


def words_of(box: Box) -> str:
    """Describe a box to who cannot see it.

    Args:
        box: The box.

    Returns:
        What and where it is.

    >>> words_of(Box(10, 20, 50, 50, "face"))
    'a face, 40 by 30 pixels, 10 from the left, 20 from the top'
    """
    across, down = box.right - box.left, box.bottom - box.top
    return (
        f"{_SORTS[box.sort]}, {across} by {down} pixels, {box.left} from the left, "
        f"{box.top} from the top"
    )
