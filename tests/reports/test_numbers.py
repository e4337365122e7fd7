from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinml.records import Estimate
from skinml.reports.numbers import at_least, epsilon, figure, interval


@given(st.floats(0, 1000))
def test_epsilon_is_never_written_smaller_than_it_is(value):
    shown = float(epsilon(value))
    assert value - 1e-8 <= shown <= value + 0.01 + 1e-8


@given(st.floats(0, 1000))
def test_a_lower_limit_is_never_written_greater_than_it_is(value):
    shown = float(at_least(value, 2))
    assert value - 0.01 - 1e-8 <= shown <= value + 1e-8


@pytest.mark.parametrize("value", [None, float("inf"), float("nan")])
def test_no_guarantee_is_a_word(value):
    assert epsilon(value) == "no guarantee"


@pytest.mark.parametrize(
    ("estimate", "words"),
    [
        (Estimate(0.9, 0.8, 1.0), "0.80 to 1.00"),
        (Estimate(1.0, 0.54), "at least 0.54"),
        (Estimate(0.0, None, 0.46), "at most 0.46"),
        (Estimate(0.5), "no interval"),
        (Estimate(None, reason="no malignant images"), "no malignant images"),
        (Estimate(None), ""),
    ],
)
def test_an_interval_is_shown_or_its_absence_is(estimate, words):
    assert interval(estimate, 2) == words


def test_undefined_is_a_word_and_zero_a_number():
    assert (figure(None, 2), figure(0.0, 2)) == ("undefined", "0.00")
