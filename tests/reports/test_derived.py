from __future__ import annotations

from dataclasses import replace
from math import exp, sqrt

import numpy as np
import pytest
from scipy.stats import norm

from skinml.privacy.allowance import gaussian_epsilon
from skinml.records import Estimate, PlannedSum
from skinml.reports.derived import derive


def titles(record):
    return [stamp.title for stamp in derive(record).stamps]


def test_stamps_follow_the_record(make_record, record):
    plain = replace(record.guarantee, simulated=False)
    assert titles(record) == ["SIMULATED", "INCOMPLETE", "EXACT METRICS"]
    assert titles(make_record(guarantee=replace(plain, private=False, epsilon=None)))[0] == (
        "NOT PRIVATE"
    )
    leaking = {**record.data, "leak": "3 lesions with images in training and in testing"}
    assert titles(make_record(data=leaking))[0] == "LEAKED TEST"
    assert not titles(make_record(guarantee=plain, complete=True, evaluation_source="dp_counts"))


def test_misses_and_false_alarms_are_complements_with_turned_intervals(record):
    overall = derive(record).alarms[0]
    sensitivity = record.overall.estimates["sensitivity"]
    specificity = record.overall.estimates["specificity"]
    assert overall.found.value + overall.missed.value == pytest.approx(100)
    assert overall.missed.low == pytest.approx(100 - 100 * sensitivity.high)
    assert overall.false_alarms.high == pytest.approx(100 - 100 * specificity.low)


def test_an_undefined_sensitivity_stays_undefined_on_the_first_page(record):
    darkest = derive(record).alarms[1]
    assert darkest.few
    assert darkest.found.value is None
    assert darkest.found.reason == "no malignant images"


def test_few_patients_behind_many_images_are_few(record, make_record):
    marked = Estimate(0.8, 0.6, 0.9, method="Clopper-Pearson on patients, few events")
    group = record.groups[3]
    assert not derive(make_record(groups=(group,))).alarms[1].few
    changed = replace(group, estimates={**group.estimates, "sensitivity": marked})
    assert derive(make_record(groups=(changed,))).alarms[1].few


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("delta", [0.0, 1e-5, 0.05])
def test_the_guess_limit_is_what_the_best_test_on_the_worst_mechanism_reaches(
    make_record, record, epsilon, delta
):
    # The mechanism that dominates all (epsilon, delta) ones: with probability delta it tells the
    # truth outright, else it answers by randomised response.
    kept = (1 - delta) * exp(epsilon) / (1 + exp(epsilon))
    present = np.array([delta, kept, 1 - delta - kept, 0.0])
    absent = present[::-1]
    best = 50 * np.maximum(present, absent).sum()
    guarantee = replace(record.guarantee, epsilon=epsilon, delta=delta, advantage=None)
    limit = derive(make_record(guarantee=guarantee)).guess_limit_percent
    assert limit == pytest.approx(best, abs=1e-9)


def test_a_known_advantage_gives_the_tight_limit(record):
    """Of a Gaussian mechanism of mu .719, a guess is right at most Phi(mu / 2) of the time."""
    derived = derive(record)
    assert derived.guess_limit_percent == pytest.approx(100 * (1 + record.guarantee.advantage) / 2)
    assert derived.guess_limit_percent < derived.total_guess_limit_percent
    assert derived.guess_limit_percent < derived.across_guess_limit_percent
    assert derived.recognised_percent == pytest.approx(100 * record.guarantee.recognised)
    assert norm.cdf(derived.mu / 2) == pytest.approx(derived.guess_limit_percent / 100, abs=2e-3)


@pytest.mark.parametrize("mu", [0.1, 0.719, 1.7])
def test_changes_of_several_units_are_bounded_by_their_number_or_their_epsilon(
    make_record, record, mu
):
    """Against the Gaussian mechanism itself, which three clinics move three times as far."""
    promise = replace(
        record.guarantee,
        advantage=2 * norm.cdf(mu / 2) - 1,
        epsilon_across_clinics=gaussian_epsilon(3 * mu, 1e-5),
        replace_one_epsilon=gaussian_epsilon(2 * mu, 1e-5),
    )
    derived = derive(make_record(guarantee=promise))
    assert 100 * norm.cdf(3 * mu / 2) <= derived.across_guess_limit_percent <= 100
    assert 100 * norm.cdf(mu) <= derived.replace_one_guess_limit_percent <= 100
    assert derived.replace_one_guess_limit_percent == pytest.approx(100 * norm.cdf(mu), abs=9)


def test_without_a_guarantee_nothing_limits_a_guess(make_record, record):
    bare = replace(
        record.guarantee,
        private=False,
        epsilon=None,
        total_epsilon=None,
        epsilon_across_clinics=None,
        replace_one_epsilon=None,
        advantage=None,
        total_advantage=None,
        recognised=None,
    )
    derived = derive(make_record(guarantee=bare))
    limits = (derived.guess_limit_percent, derived.total_guess_limit_percent, derived.mu)
    assert limits == (None, None, None)
    assert derived.across_guess_limit_percent is derived.recognised_percent is None


def test_participation_is_counted_by_rounds_and_not_by_attempts(record):
    derived = derive(record)
    assert derived.rounds_taken_part == {"harbour": 30, "hillside": 30, "riverside": 29}
    assert derived.rounds_missed == {"harbour": 0, "hillside": 0, "riverside": 1}
    assert (derived.num_rounds, derived.num_attempts, derived.num_failed_attempts) == (30, 31, 1)
    assert derived.num_incomplete_rounds == 1
    assert (derived.least_survivors, derived.least_noise) == (2, 1.0)


def test_stretches_tell_every_attempt_once_in_order(record):
    derived = derive(record)
    told = [
        (number, each.attempt, each.num_took_part, each.noise)
        for each in derived.stretches
        for number in range(each.first_round, each.last_round + 1)
    ]
    assert told == [
        (each.round, each.attempt, len(each.took_part), each.noise) for each in record.participation
    ]


def test_noise_that_a_strategy_does_not_tell_is_unknown_and_not_small(make_record, record):
    untold = tuple(
        replace(each, noise=None) if each.round == 5 else each for each in record.participation
    )
    derived = derive(make_record(participation=untold))
    assert derived.least_noise is None
    counts, gradients = derived.sums
    assert counts.least == counts.most == pytest.approx(6.31 * sqrt(1.5))
    assert gradients.least is gradients.most is None


def test_the_noise_of_local_steps_does_not_grow_with_the_clinics(make_record, record):
    steps = PlannedSum("weights", 1, 30, 1.0, 2.5, local_steps=4)
    promise = replace(record.guarantee, trust="local", sums=(steps,))
    (told,) = derive(make_record(guarantee=promise)).sums
    assert (told.least, told.most) == (2.5, 2.5)
