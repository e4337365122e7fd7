"""The schedule's noise, and who adds how much of it under each trust model."""

from __future__ import annotations

from dataclasses import replace
from math import inf, sqrt

import numpy as np
import pytest
from scipy import stats

from skinml.errors import ConfigError
from skinml.privacy.accounting import epsilon, gaussian_delta, gaussian_mu
from skinml.privacy.events import GaussianEvent, SampledGaussianEvent, UnprotectedEvent
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.noise import fixed_noise
from skinml.privacy.plan import (
    Release,
    epsilon_across_clinics,
    gaussian_releases,
    sampled_releases,
)
from skinml.privacy.settings import PrivacySettings
from skinml.privacy.trust import noise_rule

DELTA = 1e-5
COUNTS = Release("counts", "label counts", "train", 1.0, 0.0, (2,))
GRADIENT = Release("gradient", "training", "train", 0.5, 0.0, (9, 2), steps=100)
LOCAL_STEPS = Release("weights", "training", "train", 1.0, 0.0, (50,), sampling_prob=0.1, steps=5)


def total_variance(rule, num_clinics):
    return num_clinics * rule.clinic**2 + rule.coordinator**2


@pytest.mark.parametrize("clinics", [1, 3, 6])
def test_the_noise_in_a_sum_is_what_the_design_says(clinics):
    """design.md section 3: 0, sigma and sigma * sqrt(k)."""
    expected = {"none": 0.0, "central": 1.0, "local": float(clinics), "distributed": 1.0}
    for trust, variance in expected.items():
        rule = noise_rule(PrivacySettings(trust=trust), clinics)
        assert total_variance(rule, clinics) == pytest.approx(variance)


def test_only_the_party_that_is_named_adds_noise():
    rules = {t: noise_rule(PrivacySettings(trust=t), 4) for t in ("central", "local")}
    assert (rules["central"].clinic, rules["central"].coordinator) == (0, 1)
    assert (rules["local"].clinic, rules["local"].coordinator) == (1, 0)


@pytest.mark.parametrize(
    ("clinics", "dropouts", "colluding"),
    [(6, 0, 0), (6, 2, 0), (6, 0, 3), (6, 2, 3), (2, 1, 0), (2, 0, 1)],
)
def test_the_honest_among_the_least_survivors_reach_the_full_variance(clinics, dropouts, colluding):
    """design.md section 3: sigma * sqrt(k' / (t - c)) with k' survivors."""
    settings = PrivacySettings(
        trust="distributed", tolerated_dropouts=dropouts, colluding_clinics=colluding
    )
    rule = noise_rule(settings, clinics)
    enough = clinics - dropouts
    assert (enough - colluding) * rule.clinic**2 == pytest.approx(1)
    for survivors in range(enough, clinics + 1):
        expected = survivors / (enough - colluding)
        assert total_variance(rule, survivors) == pytest.approx(expected)
        assert (survivors - colluding) * rule.clinic**2 >= 1 - 1e-12


@pytest.mark.parametrize(("dropouts", "colluding"), [(4, 0), (0, 4), (2, 2), (9, 9)])
def test_a_sum_without_an_honest_clinic_is_refused(dropouts, colluding):
    settings = PrivacySettings(
        trust="distributed", tolerated_dropouts=dropouts, colluding_clinics=colluding
    )
    with pytest.raises(ConfigError, match="honest"):
        noise_rule(settings, 4)


@pytest.mark.parametrize("eps", [0.5, 3.0, 8.0])
def test_the_releases_of_a_budget_cost_at_most_the_budget(eps):
    settings = PrivacySettings(epsilon=eps, delta=DELTA)
    shares = [(COUNTS, 0.1), (GRADIENT, 0.9)]
    planned = gaussian_releases(settings, shares)
    cost = epsilon([release.event for release in planned], DELTA)
    assert 0.995 * eps < cost <= eps
    mu = gaussian_mu([release.event for release in planned])
    for release, (_, share) in zip(planned, shares, strict=True):
        assert gaussian_mu([release.event]) ** 2 == pytest.approx(share * mu**2)


@pytest.mark.parametrize("rounds", [1, 10])
def test_all_rounds_of_sampled_steps_cost_at_most_the_budget(rounds):
    settings = PrivacySettings(trust="local", epsilon=2.0, delta=DELTA)
    planned = sampled_releases(settings, LOCAL_STEPS, rounds)
    assert planned.event == SampledGaussianEvent(planned.noise_multiplier, 0.1, 5)
    assert 1.98 < epsilon([planned.event] * rounds, DELTA) <= 2.0


def test_without_trust_in_anything_nothing_is_promised():
    settings = PrivacySettings(trust="none")
    planned = gaussian_releases(settings, [(COUNTS, 1.0)])[0]
    assert planned.event == UnprotectedEvent()
    assert sampled_releases(settings, LOCAL_STEPS, 3).event == UnprotectedEvent(5)
    assert epsilon_across_clinics([planned], settings, 1) == inf


def test_the_event_follows_the_sampling():
    release = replace(COUNTS, noise_multiplier=2.0)
    assert release.event == GaussianEvent(2.0)
    assert replace(release, sampling_prob=0.3).event == SampledGaussianEvent(2.0, 0.3)


def gaussian_epsilon_at(mu):
    """The closed form by bisection."""
    low, high = 0.0, 500.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(mu, middle) > DELTA else (low, middle)
    return high


@pytest.mark.parametrize("reach", [1, 2, 3])
@pytest.mark.parametrize("trust", ["central", "distributed", "local"])
def test_a_patient_at_several_clinics_costs_the_closed_form(trust, reach):
    """One sum: mu * k. Local noise: mu * sqrt(k)."""
    settings = PrivacySettings(trust=trust, epsilon=1.0, delta=DELTA)
    planned = gaussian_releases(settings, [(COUNTS, 0.2), (GRADIENT, 0.8)])
    mu = gaussian_mu([release.event for release in planned])
    factor = sqrt(reach) if trust == "local" else reach
    found = epsilon_across_clinics(planned, settings, reach)
    assert found == pytest.approx(gaussian_epsilon_at(factor * mu), abs=2e-3)


@pytest.mark.parametrize(("reach", "expected"), [(1, 1.0), (2, 2.15), (3, 3.41)])
def test_the_published_cost_of_a_patient_at_several_clinics(reach, expected):
    settings = PrivacySettings(trust="central", epsilon=1.0, delta=DELTA)
    planned = gaussian_releases(settings, [(COUNTS, 1.0)])
    assert epsilon_across_clinics(planned, settings, reach) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("trust", ["central", "distributed", "local"])
def test_a_clip_shared_over_clinics_costs_no_more_than_the_budget(trust):
    """unit=patient: the clip is divided by K, so a patient at K clinics stays within epsilon."""
    settings = PrivacySettings(
        trust=trust, unit="patient", max_clinics_per_patient=3, epsilon=1.0, delta=DELTA
    )
    planned = gaussian_releases(settings, [(COUNTS, 1.0)])
    mu = gaussian_mu([release.event for release in planned])
    factor = sqrt(3) / 3 if trust == "local" else 1.0
    found = epsilon_across_clinics(planned, settings, 3)
    assert found == pytest.approx(gaussian_epsilon_at(factor * mu), abs=2e-3)
    assert found <= 1.0 + 1e-9


def test_sampled_steps_at_several_clinics_compose():
    settings = PrivacySettings(trust="local", delta=DELTA)
    release = replace(LOCAL_STEPS, noise_multiplier=2.0)
    expected = epsilon([SampledGaussianEvent(2.0, 0.1, 15)], DELTA)
    assert epsilon_across_clinics([release], settings, 3) == expected


def test_a_bound_on_clinics_needs_the_unit_that_it_belongs_to():
    with pytest.raises(ConfigError, match="unit"):
        PrivacySettings(max_clinics_per_patient=2)


def test_central_and_distributed_noise_have_one_distribution():
    """The same sum of four clinics, released 20,000 times under both; level 1e-6."""
    clinics, repeats = 4, 20_000
    release = replace(COUNTS, noise_multiplier=2.5, shape=(repeats,))
    exact = [np.full(repeats, value) for value in (1.0, 5.0, 0.0, 2.0)]
    released = {}
    for number, trust in enumerate(("central", "distributed")):
        rule = noise_rule(PrivacySettings(trust=trust), clinics)
        rng = np.random.default_rng(number)
        clinic = Mechanism(rule.clinic, lambda rng=rng: fixed_noise(rng))
        coordinator = Mechanism(rule.coordinator, lambda rng=rng: fixed_noise(rng))
        total = np.sum([clinic.privatize(release, values) for values in exact], axis=0)
        released[trust] = coordinator.privatize(release, total)
    for values in released.values():
        assert stats.kstest((values - 8) / 2.5, "norm").pvalue > 1e-6
    assert stats.ks_2samp(*released.values()).pvalue > 1e-6


def test_a_patient_who_is_drawn_at_several_clinics_is_bounded_by_the_exact_figure():
    """One step in one sum: the exact curve of binomially many shares of the clip is the oracle."""
    clinics, chance, noise, delta = 3, 0.01, 0.7, 0.01
    step = Release("gradient", "training", "train", 0.5, noise, (4,), sampling_prob=chance)
    settings = PrivacySettings(trust="distributed", epsilon=1.0, delta=1e-3)
    drawn = stats.binom(clinics, chance)
    values = np.linspace(-12, 16, 200_001)
    width = values[1] - values[0]
    shifted = sum(
        drawn.pmf(j) * stats.norm.pdf(values, loc=j, scale=noise) for j in range(clinics + 1)
    )
    alone = stats.norm.pdf(values, scale=noise)

    def exact_delta(eps):
        return max(
            float(np.maximum(a - np.exp(eps) * b, 0).sum() * width)
            for a, b in ((shifted, alone), (alone, shifted))
        )

    bound = epsilon_across_clinics([step], settings.model_copy(update={"delta": delta}), clinics)
    assert exact_delta(bound) <= delta
    assert exact_delta(0.0) > delta  # noise divided by the clinics, at the same chance, said zero
    naive = SampledGaussianEvent(noise / clinics, chance)
    assert epsilon([naive], delta) < bound
