"""Foreseen errors against a closed form and against drawn scores."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from skinml.errors import ConfigError
from skinml.fairness.foresight import auroc_standard_error, smallest_difference


def areas(
    random: np.random.Generator, area: float, positives: int, negatives: int, times: int
) -> np.ndarray:
    """Areas of drawn scores whose odds are exponential, the model behind the formula."""
    # P(positive > negative) of exponential scores with rates 1 and r is r / (1 + r).
    rate = area / (1 - area)
    up = random.exponential(1.0, (times, positives, 1))
    down = random.exponential(1.0 / rate, (times, 1, negatives))
    return (up > down).mean(axis=(1, 2))


@pytest.mark.parametrize("area", [0.5, 0.7, 0.95, 1.0])
def test_one_pair_of_patients_is_a_coin(area: float) -> None:
    assert auroc_standard_error(area, 1, 1) == pytest.approx((area * (1 - area)) ** 0.5)


@pytest.mark.parametrize(("area", "positives", "negatives"), [(0.85, 30, 120), (0.7, 15, 40)])
def test_the_error_is_the_spread_of_areas_of_drawn_scores(
    area: float, positives: int, negatives: int
) -> None:
    drawn = areas(np.random.default_rng(0), area, positives, negatives, 3000)
    error = auroc_standard_error(area, positives, negatives)
    assert error == pytest.approx(drawn.std(), rel=0.05)


@pytest.mark.parametrize(("positives", "negatives"), [(0, 10), (10, 0), (0.4, 100)])
def test_a_group_that_lacks_a_kind_has_no_error_rather_than_a_small_one(
    positives: float, negatives: float
) -> None:
    assert auroc_standard_error(0.85, positives, negatives) is None


def test_more_patients_never_widen_the_interval() -> None:
    errors = [auroc_standard_error(0.85, n, 4 * n) or 0 for n in (1, 2, 5, 20, 200)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] > 0


def test_the_smallest_difference_is_found_four_times_in_five() -> None:
    random = np.random.default_rng(1)
    first, second = 0.03, 0.04
    difference = smallest_difference(first, second)
    found = random.normal(difference, np.hypot(first, second), 20_000)
    shown = found - norm.ppf(0.975) * np.hypot(first, second) > 0
    assert shown.mean() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("bad", [{"area": 1.2}, {"positives": -1.0}])
def test_numbers_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        auroc_standard_error(**({"area": 0.8, "positives": 3.0, "negatives": 3.0} | bad))
