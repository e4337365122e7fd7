"""A person's decisions on pictures: what they leave in vault, register and log, killed or not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from skinml.clinic.check_clinic import check_clinic
from skinml.clinic.check_machine import Moment
from skinml.clinic.erasure import erase_patient
from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.clinic.imported_data import imported_manifest
from skinml.clinic.review import Review, Step, Verdict, next_waiting, version_of, waiting
from skinml.data.foreign_pictures import Pixels, open_picture
from skinml.data.settings import ImageLimits
from skinml.errors import DataError, PolicyError
from skinml.stewardship.deidentification import Box
from skinml.stewardship.pictures import PENDING, PICTURE, Picture
from skinml.stewardship.pseudonyms import pseudonym
from tests.clinic.rights import NOW
from tests.clinic.waiting import FACE, PATIENT, make_waiting
from tests.stewardship.test_vault_killed import die_at

HAND = Box(90, 60, 120, 90, "by hand")
NOBODY = '{steward: ["somebody-else"], clinician: [], operator: [], auditor: ["*"]}'
OPERATOR = '{steward: ["somebody-else"], clinician: [], operator: ["*"], auditor: []}'


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A clinic where three pictures wait, to be copied for each test."""
    place = tmp_path_factory.mktemp("waiting")
    make_waiting(place, 3)
    return place


@pytest.fixture
def folder(template, tmp_path) -> ClinicFolder:
    return copied(template, tmp_path)


def copied(template: Path, place: Path) -> ClinicFolder:
    shutil.copytree(template / "north", place / "north")
    shutil.copytree(template / "anchors", place / "anchors")
    return open_folder(place / "north")


def verdict(picture: Picture, step: Step, *boxes: Box) -> Verdict:
    return Verdict(step, version_of(picture), boxes)


def decide(review: Review, at: int, step: Step, *boxes: Box) -> Picture:
    number = list(review.pictures())[at]
    return review.decide(number, verdict(review.find(number), step, *boxes), now=NOW)


def pixels_of(folder: ClinicFolder, picture: Picture) -> Pixels:
    return open_picture(folder.vault.read(picture.object or ""), ImageLimits()).pixels


def events(folder: ClinicFolder, event: str) -> list[dict[str, object]]:
    return [dict(each.fields) for each in folder.audit.entries() if each.event == event]


def test_a_check_tells_of_pictures_that_wait_until_somebody_has_looked(folder) -> None:
    def told() -> list[str]:
        report = check_clinic(folder, None, now=NOW, clocks=lambda: Moment(0.0, 0.0))
        return [each.found for each in report.findings if each.topic == "Review"]

    assert told() == ["3 pictures wait for a person: nothing uses them before somebody has looked."]
    review = Review(folder)
    for number in (0, 1):
        decide(review, number, "accept")
    assert told() == ["1 picture waits for a person: nothing uses it before somebody has looked."]
    decide(review, 2, "reject")
    assert told() == []


def test_what_is_accepted_may_be_used_with_the_pixels_that_were_looked_at(folder) -> None:
    review = Review(folder)
    before = review.pixels(next(iter(review.pictures())))
    after = decide(review, 0, "accept")
    assert (after.state, after.reasons) == ("accepted", ("perhaps a face", "by a person"))
    assert folder.vault.read(after.object) == before
    assert after.object in folder.vault.listed([PICTURE])
    assert len(imported_manifest(folder, "research", NOW.date()).frame) == 1
    assert events(folder, "pictures reviewed") == [{"states": {"accepted": 1}}]


def test_under_a_mask_nothing_is_left_and_beside_it_everything(folder) -> None:
    review = Review(folder)
    before = pixels_of(folder, next(iter(review.pictures().values())))
    after = decide(review, 0, "mask", FACE, HAND)
    assert (after.state, after.boxes) == ("masked", (FACE, HAND))
    masked = pixels_of(folder, after).astype(int)
    assert masked.shape == before.shape
    apart = np.ones(before.shape[:2], bool)
    for box in (FACE, HAND):
        rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
        assert before[rows, columns].reshape(-1, 3).std(axis=0).min() > 1.5
        assert masked[rows, columns].reshape(-1, 3).std(axis=0).max() < 1
        apart[max(0, box.top - 12) : box.bottom + 12, max(0, box.left - 12) : box.right + 12] = 0
    assert abs(masked - before)[apart].mean() < 2


def test_more_can_be_covered_later_and_what_was_covered_stays_on_record(folder) -> None:
    review = Review(folder)
    decide(review, 0, "mask", FACE)
    after = decide(review, 0, "mask", HAND)
    assert after.boxes == (FACE, HAND)
    assert len(folder.vault.listed([PICTURE, PENDING])) == 4  # the last step can be taken back
    review.close()
    assert folder.vault.listed([PICTURE, PENDING]) == folder.pictures.objects()


def test_of_a_rejected_picture_nothing_is_left_when_the_session_ends(folder) -> None:
    review = Review(folder)
    after = decide(review, 1, "reject")
    assert (after.state, after.object) == ("rejected", None)
    assert len(folder.vault.listed([PENDING])) == 3
    review.close()
    assert len(folder.vault.listed([PENDING])) == 2
    with pytest.raises(DataError, match="was kept"):
        review.pixels(after.number)


@pytest.mark.parametrize(("step", "boxes"), [("accept", ()), ("mask", (FACE,)), ("reject", ())])
def test_the_last_step_can_be_taken_back_once(folder, step: Step, boxes) -> None:
    review = Review(folder)
    before = next(iter(review.pictures().values()))
    content = review.pixels(before.number)
    decide(review, 0, step, *boxes)
    assert review.decided == 1
    assert review.undo(now=NOW) == before == folder.pictures.find(before.number)
    assert review.pixels(before.number) == content
    assert review.decided == 0
    assert folder.vault.listed([PICTURE, PENDING]) == folder.pictures.objects()
    assert events(folder, "pictures reviewed")[-1] == {"states": {"to_review": 1}}
    with pytest.raises(DataError, match="taken back"):
        review.undo(now=NOW)


def test_only_the_last_of_two_steps_can_be_taken_back(folder) -> None:
    review = Review(folder)
    first = decide(review, 0, "reject")
    decide(review, 1, "reject")
    assert len(folder.vault.listed([PENDING])) == 2
    review.undo(now=NOW)
    assert folder.pictures.find(first.number).state == "rejected"
    with pytest.raises(DataError):
        review.undo(now=NOW)


def test_of_two_who_look_at_one_picture_the_second_is_told_and_nothing_breaks(folder) -> None:
    one, two = Review(folder), Review(open_folder(folder.path))
    number = next(iter(one.pictures()))
    shown = two.find(number)
    one.decide(number, verdict(shown, "accept"), now=NOW)
    with pytest.raises(DataError, match="changed since"):
        two.decide(number, verdict(shown, "reject"), now=NOW)
    assert two.find(number).state == "accepted"  # a session sees what the other did
    two.decide(number, verdict(two.find(number), "mask", FACE), now=NOW)
    with pytest.raises(DataError, match="changed"):
        one.undo(now=NOW)
    one.close()
    two.close()
    assert folder.vault.listed([PICTURE, PENDING]) == folder.pictures.objects()
    assert folder.vault.verify() == 3


def test_a_new_session_ends_what_another_could_take_back(folder) -> None:
    one = Review(folder)
    decide(one, 0, "reject")
    Review(open_folder(folder.path))
    with pytest.raises(DataError, match="removed since"):
        one.undo(now=NOW)
    assert folder.pictures.find(next(iter(one.pictures()))).state == "rejected"


def test_a_session_goes_on_after_the_register_was_written_anew(folder) -> None:
    review = Review(folder)
    decide(review, 0, "accept")
    other = open_folder(folder.path)
    other.pictures.rewrite(lambda known: known.values(), now=NOW, actor="op")
    decide(review, 1, "mask", FACE)
    states = [each.state for each in open_folder(folder.path).pictures.pictures().values()]
    assert states == ["accepted", "masked", "to_review"]


def test_who_was_erased_while_a_picture_was_shown_does_not_come_back(folder) -> None:
    review = Review(folder)
    picture = next(iter(review.pictures().values()))
    erase_patient(folder, picture.patient, now=NOW)
    with pytest.raises(DataError):
        review.decide(picture.number, verdict(picture, "accept"), now=NOW)
    assert picture.number not in review.pictures()
    assert folder.vault.objects(picture.patient) == []
    assert folder.vault.keys.find_pseudonyms([pseudonym(folder.key, picture.patient)]) == {}


@pytest.mark.parametrize(
    ("step", "boxes", "jump"),
    [
        ("mask", (FACE,), 5),
        ("reject", (), 2),
        *(
            pytest.param(*each, 1, marks=pytest.mark.slow)
            for each in (("accept", ()), ("mask", (FACE,)), ("reject", ()))
        ),
    ],
)
def test_killed_at_any_point_a_picture_stands_as_before_or_as_decided(
    template, tmp_path, step: Step, boxes, jump: int
) -> None:
    states, died, number, alive = set(), 0, 0, False
    while not alive:
        number += jump
        folder = copied(template, tmp_path / str(number))
        first = next(iter(folder.pictures.pictures().values()))
        wanted = verdict(first, step, *boxes)

        def change(folder=folder, first=first, wanted=wanted) -> None:
            review = Review(folder)
            review.decide(first.number, wanted, now=NOW)
            review.close()

        alive = not die_at(number, change)
        died += not alive
        again = open_folder(folder.path)  # whatever happened, nothing looks changed
        review = Review(again)
        found = review.find(first.number)
        states.add(found.state)
        if found.state == "to_review":
            assert review.pixels(first.number)
            review.decide(first.number, wanted, now=NOW)
            review.close()
        assert again.vault.listed([PICTURE, PENDING]) == again.pictures.objects()
        assert again.vault.verify() == 3 - (step == "reject")
        shutil.rmtree(tmp_path / str(number))
    assert died > 0
    assert "to_review" in states
    assert len(states) == 2


@pytest.mark.parametrize(
    ("step", "boxes", "words"),
    [
        ("mask", (), "0 boxes"),
        ("mask", (Box(500, 500, 600, 600, "by hand"),), "without any pixel"),
        ("mask", (Box(10, 10, 10, 40, "by hand"),), "without any pixel"),
        ("mask", (HAND,) * 101, "101 boxes"),
    ],
)
def test_boxes_that_cover_nothing_are_refused(folder, step: Step, boxes, words: str) -> None:
    review = Review(folder)
    with pytest.raises(DataError, match=words):
        decide(review, 0, step, *boxes)
    assert waiting(review.pictures()) == list(review.pictures())


def test_a_step_that_would_change_nothing_is_refused(folder) -> None:
    review = Review(folder)
    decide(review, 0, "accept")
    decide(review, 1, "reject")
    for at, step in ((0, "accept"), (1, "accept"), (1, "reject"), (1, "mask")):
        with pytest.raises(DataError, match="a step that changes"):
            decide(review, at, step, *([FACE] if step == "mask" else []))


def test_the_queue_goes_round_and_ends(folder) -> None:
    review = Review(folder)
    numbers = list(review.pictures())
    assert next_waiting(review.pictures(), numbers[2]) == numbers[0]
    decide(review, 0, "accept")
    assert next_waiting(review.pictures(), numbers[2]) == numbers[1]
    decide(review, 1, "accept")
    assert next_waiting(review.pictures(), numbers[2]) is None
    assert waiting(review.pictures()) == [numbers[2]]


def test_only_an_operator_or_a_steward_reviews_and_only_some_learn_whose_it_is(tmp_path) -> None:
    with pytest.raises(PolicyError, match="review imported pictures: steward or operator"):
        Review(make_with_roles(tmp_path / "one", NOBODY))
    folder = make_with_roles(tmp_path / "two", OPERATOR)
    review = Review(folder)
    with pytest.raises(PolicyError, match="read a patient's consents"):
        review.whose(next(iter(review.pictures())), now=NOW)


def make_with_roles(place: Path, roles: str) -> ClinicFolder:
    """Make a clinic with a picture that waits, and then give its users these roles."""
    from skinml.stewardship.policy import parse_policy, policy_yaml
    from tests.policy_text import policy_text

    folder = make_waiting(place, 1)
    policy = parse_policy(policy_text(roles=roles).encode())
    folder.anchors.replace(folder.path / "policy.yaml", policy_yaml(policy).encode(), "policy")
    return open_folder(folder.path)


def test_asking_whose_a_picture_is_leaves_a_trace_and_looking_at_settled_ones_too(folder) -> None:
    review = Review(folder)
    number = next(iter(review.pictures()))
    assert review.whose(number, now=NOW) == PATIENT.format(0)
    name = pseudonym(folder.key, PATIENT.format(0))
    assert events(folder, "access") == [{"kind": "images", "patient": name, "objects": 1}]
    review.note_access(list(review.pictures()), now=NOW)  # all of them wait
    assert len(events(folder, "access")) == 1
    decide(review, 0, "accept")
    for _ in range(2):
        review.note_access(list(review.pictures()), now=NOW)
    assert events(folder, "access")[1:] == [{"kind": "images", "patients": 1, "objects": 1}]
