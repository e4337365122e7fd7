"""The rule that decides what becomes of a picture in which something was found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinml.stewardship.deidentification import REASONS, Box, Choices, Sighting, decide

CORNER = Box(0, 0, 20, 20, "face")
EYES = Box(2, 4, 18, 9, "eyes")
LINE = Box(60, 0, 95, 8, "text")


def face(score: float, box: Box = CORNER) -> Sighting:
    return Sighting(box, score, eyes=EYES)


def line(score: float, letters: int, box: Box = LINE) -> Sighting:
    return Sighting(box, score, letters)


@pytest.mark.parametrize(
    ("faces", "texts", "choices", "state", "reasons"),
    [
        ([], [], {}, "accepted", ()),
        ([face(0.9)], [], {}, "masked", ("face",)),
        ([face(0.3)], [], {}, "to_review", ("perhaps a face",)),
        ([face(0.1)], [], {}, "accepted", ()),
        ([], [line(0.9, 8)], {}, "masked", ("text",)),
        ([], [line(0.9, 2)], {}, "to_review", ("perhaps text",)),
        ([], [line(0.4, 8)], {}, "to_review", ("perhaps text",)),
        ([], [line(0.9, 1)], {}, "accepted", ()),
        ([], [line(0.2, 9)], {}, "accepted", ()),
        ([face(0.9)], [line(0.9, 8)], {}, "masked", ("face", "text")),
        ([face(0.9)], [line(0.4, 8)], {}, "to_review", ("face", "perhaps text")),
        ([face(0.9)], [], {"faces": "review"}, "to_review", ("face",)),
        ([], [line(0.9, 8)], {"text": "review"}, "to_review", ("text",)),
        ([face(0.9, Box(30, 30, 50, 50, "face"))], [], {}, "to_review", None),
        ([face(0.9, Box(0, 0, 100, 30, "face"))], [], {}, "to_review", None),
    ],
)
def test_what_becomes_of_a_picture_of_100_by_100(faces, texts, choices, state, reasons) -> None:
    found = decide(Choices(**choices), 100, 100, faces, texts)
    assert found.state == state
    if reasons is not None:
        assert found.reasons == reasons


def test_eyes_alone_are_a_smaller_mask_and_a_crop_leaves_the_largest_strip() -> None:
    assert decide(Choices(faces="eyes"), 100, 100, [face(0.9)], []).masks == (EYES,)
    cut = decide(Choices(faces="crop"), 100, 100, [face(0.9)], [])
    assert (cut.state, cut.masks) == ("masked", ())
    assert cut.keep is not None
    assert cut.keep.area == 80 * 100
    wide = decide(Choices(faces="crop"), 100, 100, [face(0.9, Box(0, 0, 60, 60, "face"))], [])
    assert (wide.state, wide.keep) == ("to_review", None)  # nothing is cut before a person looked


boxes = st.builds(
    lambda x, y, w, h: Box(x, y, x + w, y + h, "face"),
    *(st.integers(0, 90), st.integers(0, 90), st.integers(1, 60), st.integers(1, 60)),
)
scores = st.floats(0, 1)


@given(
    faces=st.lists(st.builds(Sighting, boxes, scores), max_size=4),
    texts=st.lists(st.builds(Sighting, boxes, scores, st.integers(0, 9)), max_size=4),
)
def test_what_is_surely_there_is_never_accepted_uncovered(faces, texts) -> None:
    choices = Choices()
    found = decide(choices, 100, 100, faces, texts)
    sure = [each.box for each in faces if each.score >= choices.sure_face]
    sure += [e.box for e in texts if e.score >= choices.sure_text and e.letters >= 3]
    assert set(sure) <= set(found.masks)
    assert (found.state == "accepted") == (not found.reasons)
    assert set(found.reasons) <= set(REASONS)
    if found.state == "masked":
        assert set(found.masks) == set(sure)
