"""Measured coverage of label sets: the interval holds the mean over both draws and the noise."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy.stats import beta

from skinml.errors import ConfigError
from skinml.fairness.intervals import clopper_pearson, wilson
from skinml.fairness.label_sets import (
    EVERYBODY,
    LabelSets,
    SetsLayout,
    label_sets,
    rank_noise,
    set_table,
)
from skinml.fairness.set_coverage import (
    mean_coverage_interval,
    measured_coverage,
    truth_covered,
    validation_sizes,
)
from skinml.privacy.quantise import GRID
from tests.fairness.conftest import BINARY, binary_predictions

ALONE = SetsLayout(EVERYBODY, (EVERYBODY,), apart=False, share=0.5)
BY_TONE = SetsLayout("skin_tone", ("light", "dark", "unknown"), apart=False, share=0.5)
REPEATS = 600
NOISE = 1.4  # in each number, as at epsilon 3


def held(validation, test, std):
    """How often intervals of one group's coverage held its mean: this one, and Wilson's."""
    rng, law = np.random.default_rng(21), beta(1, 3)
    shares, found = [], []
    for _ in range(REPEATS):
        made = binary_predictions(1 - law.rvs(validation, random_state=rng), [True] * validation)
        table = GRID * set_table(made, ALONE, 1)
        noisy = table + std * rng.normal(size=table.shape)
        sets = label_sets(noisy, ALONE, std=std, coverage=0.9, max_clinics=1)
        limit = sets.cuts[EVERYBODY][1]
        shares.append(1.0 if limit is None else law.cdf(limit))
        found.append(rng.binomial(test, shares[-1]))
    mean, noise = np.mean(shares), rank_noise(ALONE, std, 0.9, 1)
    both = []
    for interval in (
        partial(mean_coverage_interval, validation=validation, noise=noise),
        wilson,
    ):
        limits = {each: interval(each, test) for each in set(found)}
        both.append(np.mean([limits[each][0] <= mean <= limits[each][1] for each in found]))
    return both


@pytest.mark.parametrize("std", [0.0, NOISE])
@pytest.mark.parametrize(("validation", "test"), [(43, 90), (191, 410)])
def test_the_interval_holds_the_mean_coverage_over_all_draws(validation, test, std):
    mine, of_test_patients_alone = held(validation, test, std)
    assert mine > 0.95 - 3 * np.sqrt(0.95 * 0.05 / REPEATS)
    assert std or of_test_patients_alone < 0.85


def test_with_endless_validation_patients_it_is_the_exact_binomial_interval():
    for covered in (0, 3, 88, 90):
        found = mean_coverage_interval(covered, 90, 10**8)
        assert found == pytest.approx(clopper_pearson(covered, 90), abs=1e-4)


def test_fewer_validation_patients_and_more_noise_widen_it():
    found = [mean_coverage_interval(80, 90, n) for n in (1000, 100, 10)]
    found += [mean_coverage_interval(80, 90, 10, noise=s) for s in (1.0, 3.0, 1000.0)]
    widths = [high - low for low, high in found]
    assert widths == sorted(widths)
    assert all(0 <= low < 80 / 90 < high <= 1 for low, high in found)


def test_part_of_a_patient_widens_to_both_sides():
    low, high = mean_coverage_interval(80.5, 90, 100)
    assert low == mean_coverage_interval(80, 90, 100)[0]
    assert high == mean_coverage_interval(81, 90, 100)[1]


@pytest.mark.parametrize("numbers", [(91, 90, 10), (1, 0, 10), (1, 2, 0), (-1, 2, 10)])
def test_numbers_that_cannot_be_are_refused(numbers):
    with pytest.raises(ConfigError):
        mean_coverage_interval(*numbers)


def two_tones(rng, num):
    tone = rng.choice(["light", "dark", "own word"], num, p=[0.5, 0.4, 0.1])
    return binary_predictions(rng.random(num), rng.random(num) < 0.5, groups={"skin_tone": tone})


def test_the_truth_is_covered_where_the_set_of_an_answer_holds_it():
    sets = LabelSets("skin_tone", 0.9, {"light": (0.3, 0.6), "dark": (None, 0.9)})
    made = two_tones(np.random.default_rng(22), 200)
    expected = []
    for row in range(200):
        tone = str(made.groups["skin_tone"][row])
        inside = sets.members(made.probabilities[row], tone if tone in sets.cuts else None, BINARY)
        expected.append(inside[made.labels[row]])
    assert truth_covered(sets, made).tolist() == expected


def test_groups_are_measured_with_their_own_numbers_of_patients():
    rng = np.random.default_rng(23)
    validation, test = two_tones(rng, 300), two_tones(rng, 500)
    sets = label_sets(
        GRID * set_table(validation, BY_TONE, 1), BY_TONE, std=0.0, coverage=0.9, max_clinics=1
    )
    sizes = validation_sizes(sets, validation, "skin_tone")
    made = measured_coverage(sets, sizes, test, noise=0.0, by="skin_tone")
    found = {each.group: each for each in made}
    for tone in ("light", "dark"):
        there, here = (part.groups["skin_tone"] == tone for part in (validation, test))
        each = found[tone]
        assert (each.validation, each.test) == (there.sum(), here.sum())
        assert each.share == pytest.approx(truth_covered(sets, test)[here].mean())
        assert each.low < each.share < each.high
    one = label_sets(
        GRID * set_table(validation, ALONE, 1), ALONE, std=0.0, coverage=0.9, max_clinics=1
    )
    sizes = validation_sizes(one, validation, "skin_tone")
    beside = measured_coverage(one, sizes, test, noise=0.0, by="skin_tone")
    assert {each.validation for each in beside} == {300}
    sizes = validation_sizes(one, validation, EVERYBODY)
    (each,) = measured_coverage(one, sizes, test, noise=0.0, by=EVERYBODY)
    assert (each.group, each.validation) == (EVERYBODY, 300)
