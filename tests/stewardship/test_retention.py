"""The policy's days: the last day of use, fields that end before their picture, purposes apart."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinml.stewardship.pictures import Picture
from skinml.stewardship.policy import KEPT_FIELDS, Policy, Retention, parse_policy
from skinml.stewardship.purposes import PURPOSES
from skinml.stewardship.retention import (
    ended,
    is_over,
    keeps_original,
    last_day_of_use,
    may_be_used,
    shortened,
)
from tests.policy_text import policy_text

DAY = date(2026, 3, 1)
FIELDS = dict.fromkeys((*KEPT_FIELDS, "diagnosis", "skin_tone_scale"), "x")


def rules(**days: Any) -> Retention:
    usual = {"images_days": None, "features_days": 9, "predictions_days": 9, "log_days": 9}
    return Retention.model_validate(usual | days)


def policy(**days: Any) -> Policy:
    base = parse_policy(policy_text(originals="keep").encode())
    return base.model_copy(update={"retention": rules(**days)})


def picture(number: str = "1", imported: date = DAY) -> Picture:
    return Picture(number, "p", "accepted", (), "object", "s", "d", FIELDS, imported=imported)


@given(st.integers(1, 4000), st.integers(0, 8000))
def test_a_thing_is_used_up_to_the_day_that_many_days_after_its_first(kept: int, age: int) -> None:
    today = DAY + timedelta(days=age)
    assert is_over(DAY, kept, today) == (today > DAY + timedelta(days=kept))
    assert not is_over(DAY, None, today)


@pytest.mark.parametrize("purpose", PURPOSES)
def test_a_purpose_ends_by_itself(purpose: str) -> None:
    kept = rules(by_purpose={f"{purpose}_days": 10}, images_days=20)
    for age, usable in ((10, PURPOSES), (11, set(PURPOSES) - {purpose}), (20, None), (21, ())):
        today = DAY + timedelta(days=age)
        found = {each for each in PURPOSES if may_be_used(picture(), kept, each, today)}
        assert found == (set(PURPOSES) - {purpose} if usable is None else set(usable))


@pytest.mark.parametrize("field", KEPT_FIELDS)
def test_a_field_ends_before_its_picture_and_takes_its_scale_with_it(field: str) -> None:
    kept = rules(by_field={f"{field}_days": 5})
    assert shortened(picture(), kept, DAY + timedelta(days=5)).fields == FIELDS
    left = shortened(picture(), kept, DAY + timedelta(days=6)).fields
    gone = {field, "skin_tone_scale"} if field == "skin_tone" else {field}
    assert set(FIELDS) - set(left) == gone


def test_what_ended_is_listed_and_the_rest_is_left_alone() -> None:
    old, middle, new = (picture(str(n), DAY + timedelta(days=10 * n)) for n in range(3))
    kept = policy(images_days=15, by_field={"age_days": 3})
    found = ended([old, middle, new], kept, DAY + timedelta(days=20))
    assert found.pictures == (old,)
    assert [each.number for each in found.shortened] == ["1"]
    assert found.fields == {"age": 1}
    nothing = ended([old, middle, new], policy(), DAY + timedelta(days=9999))
    assert (nothing.pictures, nothing.shortened, nothing.fields) == ((), (), {})


@given(st.integers(1, 99), st.integers(1, 99), st.integers(0, 120))
def test_an_original_ends_with_its_picture_at_the_latest(images: int, own: int, age: int) -> None:
    today = DAY + timedelta(days=age)
    if own > images:
        with pytest.raises(ValueError, match="above images_days"):
            rules(images_days=images, originals_days=own)
        return
    for days, most in (({"originals_days": own}, own), ({}, images)):
        kept = policy(images_days=images, **days)
        assert keeps_original(kept, DAY, today) == (age <= most)
        dropped = kept.model_copy(update={"originals": "drop"})
        assert not keeps_original(dropped, DAY, today)
    assert keeps_original(policy(), DAY, today)


def test_originals_of_pictures_that_stay_are_listed_apart() -> None:
    old = replace(picture("1"), original="file")
    kept, today = policy(originals_days=3), DAY + timedelta(days=4)
    found = ended([old, picture("2")], kept, today)
    assert (found.pictures, found.shortened, found.originals) == ((), (), (old,))
    assert ended([old], kept, DAY + timedelta(days=3)).originals == ()
    dropped = kept.model_copy(update={"originals": "drop"})
    assert ended([old], dropped, DAY).originals == (old,)
    gone = ended([old], policy(images_days=3), today)
    assert (gone.pictures, gone.originals) == ((old,), ())


@given(st.integers(1, 99), st.integers(1, 99), st.integers(0, 120))
def test_the_last_day_of_use_is_what_may_be_used_says(images: int, own: int, age: int) -> None:
    kept = rules(images_days=images, by_purpose={"research_days": own})
    last, today = last_day_of_use(picture(), kept, "research"), DAY + timedelta(days=age)
    assert last is not None
    assert may_be_used(picture(), kept, "research", today) == (today <= last)
    assert last_day_of_use(picture(), rules(), "research") is None
