"""A plan's figures against closed forms, drawn noise and the ledger's own arithmetic."""

from __future__ import annotations

from dataclasses import replace
from math import exp, floor, inf, sqrt

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from skinml.errors import ConfigError
from skinml.privacy.accounting import epsilon
from skinml.privacy.events import GaussianEvent, SampledGaussianEvent, UnprotectedEvent
from skinml.privacy.headroom import (
    MOST_RUNS,
    Limit,
    epsilon_for_noise,
    most_epsilon,
    room_under,
    rounded_down,
    runs_that_fit,
)
from skinml.privacy.ledger import Binding, Entry, spent
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.noise import fixed_noise
from skinml.privacy.plan import Release, gaussian_releases, sampled_releases
from skinml.privacy.planner import (
    epsilon_by_rounds,
    noise_by_epsilon,
    noise_factor,
    noise_to_signal,
    readings,
    release_lines,
    require_honest_clinics,
    training_line,
)
from skinml.privacy.settings import PrivacySettings
from skinml.privacy.trust import noise_rule

DELTA = 1e-5
few = settings(
    max_examples=6, deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate)
)
COUNTS = Release("label_counts", "label counts", "train", 1.0, 0.0, (2,))
GRADIENT = Release("gradient", "training", "train", 0.5, 0.0, (9, 2), steps=100)
SCORES = Release("validation_scores", "validation", "validation", 1.0, 0.0, (2, 8))


def closed_delta(mu, eps):
    return norm.cdf(mu / 2 - eps / mu) - exp(eps) * norm.cdf(-mu / 2 - eps / mu)


def closed_mu(eps):
    return brentq(lambda mu: closed_delta(mu, eps) - DELTA, 1e-3, 40)


def closed_epsilon(mu):
    return brentq(lambda eps: closed_delta(mu, eps) - DELTA, 0, 400)


def planned(eps, rounds=100, **words):
    """The releases of a head, planned as the recipe plans them."""
    chosen = PrivacySettings(epsilon=eps, delta=DELTA, **words)
    counts, gradient = gaussian_releases(
        chosen, [(COUNTS, 0.1), (replace(GRADIENT, steps=rounds), 0.9)]
    )
    scores = gaussian_releases(chosen, [(SCORES, 1.0)])[0]
    return [counts, *[replace(gradient, steps=1)] * rounds, scores]


def entries(releases, run="one", key="k", guarantee=True):
    binding = Binding(run, 1, 1, (), "local", "patient_within_clinic", key, True)
    return tuple(
        Entry(
            0, "2026-01-01T00:00:00+00:00", binding, r.name, r.purpose, r.split, r.event, guarantee
        )
        for r in releases
    )


def test_the_lines_of_a_plan_join_all_rounds():
    lines = release_lines(planned(3.0), PrivacySettings(), 4)
    assert [(line.name, line.times) for line in lines] == [
        ("label_counts", 1),
        ("gradient", 100),
        ("validation_scores", 1),
    ]
    assert [line.share for line in lines] == pytest.approx([0.1, 0.9, 1.0])
    assert training_line(lines).name == "gradient"


def test_shares_of_mixed_mechanisms_are_not_made_up():
    releases = [replace(COUNTS, noise_multiplier=5.0), sampled(1.0)]
    assert [line.share for line in release_lines(releases, PrivacySettings(), 1)] == [None, None]
    alone = release_lines([sampled(1.0)], PrivacySettings(), 1)[0]
    assert (alone.share, alone.times, alone.sampling_prob) == (1.0, 5, 0.1)


def sampled(noise):
    return Release("weights", "training", "train", 1.0, noise, (4,), sampling_prob=0.1, steps=5)


@pytest.mark.parametrize(
    ("words", "clinics", "expected"),
    [
        ({"trust": "none"}, 5, 0.0),
        ({"trust": "central"}, 5, 1.0),
        ({"trust": "local"}, 5, sqrt(5)),
        ({"trust": "distributed"}, 5, 1.0),
        ({"trust": "distributed", "tolerated_dropouts": 2, "colluding_clinics": 1}, 5, sqrt(2.5)),
        ({"trust": "local", "unit": "patient", "max_clinics_per_patient": 3}, 4, 6.0),
    ],
)
def test_noise_in_the_sum_is_what_the_design_says(words, clinics, expected):
    assert noise_factor(PrivacySettings(**words), clinics) == pytest.approx(expected)


@pytest.mark.parametrize("trust", ["central", "distributed", "local"])
@pytest.mark.parametrize("reach", [1, 2])
def test_noise_to_signal_is_that_of_drawn_noise(trust, reach):
    """Each party adds its own noise to an empty sum; the recipe divides by clip and patients."""
    words = {"unit": "patient", "max_clinics_per_patient": reach} if reach > 1 else {}
    chosen, clinics, patients = PrivacySettings(trust=trust, **words), 4, 700.0
    release = replace(GRADIENT, noise_multiplier=8.0, steps=1)
    rule, rng = noise_rule(chosen, clinics), np.random.default_rng(1)
    empty = np.zeros(40_000)
    parts = [rule.clinic] * clinics + [rule.coordinator]
    mechanisms = [Mechanism(share, lambda: fixed_noise(rng)) for share in parts]
    total = sum(each.privatize(release, empty) for each in mechanisms)
    step = reach * total / (release.sensitivity * patients)
    line = release_lines([release] * 25, chosen, clinics)[0]
    found = noise_to_signal(line, chosen, clinics, patients)
    assert step.std() == pytest.approx(found.step, rel=0.02)
    assert found.run == pytest.approx(found.step / 5)
    assert total.std() == pytest.approx(line.noise_in_sum / reach, rel=0.02)


@pytest.mark.parametrize("rounds", [10, 30, 300])
def test_over_the_whole_run_the_number_of_rounds_costs_no_signal(rounds):
    chosen = PrivacySettings(epsilon=2.0, delta=DELTA)
    lines = [training_line(release_lines(planned(2.0, n), chosen, 3)) for n in (100, rounds)]
    fixed, other = (noise_to_signal(line, chosen, 3, 1000) for line in lines)
    assert other.run == pytest.approx(fixed.run)
    assert other.step == pytest.approx(fixed.step * sqrt(rounds / 100))


@pytest.mark.parametrize("patients", [0, -1, float("nan")])
def test_a_mean_over_nobody_is_refused(patients):
    line = release_lines(planned(2.0), PrivacySettings(), 3)[0]
    with pytest.raises(ConfigError, match="patients"):
        noise_to_signal(line, PrivacySettings(), 3, patients)


@pytest.mark.parametrize("trust", ["central", "distributed", "local"])
def test_both_readings_are_the_closed_form(trust):
    chosen = PrivacySettings(trust=trust, epsilon=1.0, delta=DELTA)
    one, everywhere = readings(planned(1.0, trust=trust), chosen, 3)
    factor = sqrt(3) if trust == "local" else 3
    assert (one.clinics, everywhere.clinics) == (1, 3)
    assert one.epsilon == pytest.approx(1.0, abs=2e-3)
    assert everywhere.epsilon == pytest.approx(closed_epsilon(factor * closed_mu(1.0)), abs=4e-3)


def test_a_promise_for_a_patient_everywhere_has_three_readings():
    words = {"trust": "central", "unit": "patient", "max_clinics_per_patient": 2}
    found = readings(planned(1.0, **words), PrivacySettings(epsilon=1.0, **words), 5)
    mu = closed_mu(1.0)
    assert [each.clinics for each in found] == [1, 2, 5]
    expected = [closed_epsilon(mu * factor) for factor in (0.5, 1.0, 2.5)]
    assert [each.epsilon for each in found] == pytest.approx(expected, abs=4e-3)


def test_without_a_promise_every_reading_is_unbounded():
    chosen = PrivacySettings(trust="none")
    releases = planned(1.0, trust="none")
    assert {each.epsilon for each in readings(releases, chosen, 2)} == {inf}
    assert {line.share for line in release_lines(releases, chosen, 2)} == {None}


def life(ceiling, held=()):
    return Limit("life", ceiling, "a test", tuple(held))


@few
@given(st.floats(0.3, 3.0), st.floats(0.3, 3.0))
def test_what_is_left_is_the_closed_form_and_can_be_spent(first, wanted):
    """Gaussians: mu squared adds up, so what is left of it is the difference."""
    ceiling = first + 1.0
    held = entries(planned(first))
    found = rounded_down(most_epsilon(life(ceiling, held), entries(planned(wanted)), DELTA))
    exact = closed_epsilon(sqrt(closed_mu(ceiling) ** 2 - closed_mu(first) ** 2))
    assert found == pytest.approx(exact, rel=0.01, abs=3e-3)
    assert spent([*held, *entries(planned(found), "two")], DELTA) <= ceiling
    assert spent([*held, *entries(planned(1.02 * found + 0.01), "two")], DELTA) > ceiling


@few
@given(st.floats(0.3, 3.0), st.floats(0.1, 6.0))
def test_runs_that_fit_are_those_of_the_closed_form(eps, ceiling):
    run = entries(planned(eps))
    found = runs_that_fit(life(ceiling), run, DELTA)
    assert found == floor((closed_mu(ceiling) / closed_mu(eps)) ** 2 + 1e-3) or found == floor(
        (closed_mu(ceiling) / closed_mu(eps)) ** 2 - 2e-3 * found
    )
    assert spent(run * found, DELTA) <= ceiling < spent(run * (found + 1), DELTA)


def test_the_quickstart_of_three_runs():
    """privacy.epsilon=1.4 under privacy.budget.epsilon=3 ends after at least two runs."""
    run = entries(planned(1.4))
    room = room_under(life(3.0, run), run, DELTA)
    assert (room.runs, room.kept) == (2, True)
    assert room.with_run == spent(run * 2, DELTA) < 3
    assert spent(run * 3, DELTA) < 3 < spent(run * 4, DELTA)


def test_a_run_by_itself_is_not_counted_as_several():
    run = entries(planned(1.4))
    room = room_under(Limit("run", 1.0, "a test", ()), run, DELTA)
    assert (room.runs, room.kept, room.most_epsilon) == (None, False, 1.0)


@pytest.mark.parametrize("held", [entries(planned(2.0)), ()])
def test_a_ceiling_far_away_counts_to_an_end(held):
    tiny = entries([replace(COUNTS, noise_multiplier=5000.0)])
    assert runs_that_fit(life(8.0, held), tiny, DELTA) == MOST_RUNS


def test_nothing_is_left_under_a_passed_ceiling():
    held, run = entries(planned(2.0)), entries(planned(0.1), "two")
    room = room_under(life(1.5, held), run, DELTA)
    assert (room.most_epsilon, room.runs, room.kept) == (0.0, 0, False)


def test_what_other_patients_cost_is_not_in_the_way():
    held = [entry for entry in entries(planned(2.0)) if entry.split == "train"]
    run = [entry for entry in entries(planned(1.0), "two") if entry.split == "validation"]
    assert most_epsilon(life(2.5, held), run, DELTA) == 2.5


def test_what_the_grid_cannot_tell_is_not_spent():
    held = entries(planned(2.0))
    limit = life(spent(held, DELTA) * (1 + 1e-12), held)
    assert most_epsilon(limit, entries(planned(1.0), "two"), DELTA) < 0.02


@pytest.mark.parametrize("guarantee", [True, False])
def test_unprotected_releases_leave_nothing(guarantee):
    bare = entries(planned(1.0), guarantee=guarantee)
    if guarantee:
        bare = (replace(bare[0], event=UnprotectedEvent()), *bare[1:])
    run = entries(planned(1.0), "two")
    assert room_under(life(5.0, bare), run, DELTA).spent == inf
    assert most_epsilon(life(5.0, bare), run, DELTA) == 0
    assert runs_that_fit(life(5.0, bare), run, DELTA) == 0
    assert most_epsilon(life(5.0), bare, DELTA) == 0
    assert runs_that_fit(life(5.0), bare, DELTA) == 0
    assert epsilon_for_noise(bare, 2.0, DELTA) == 0


def test_with_two_split_keys_everything_composes():
    """A patient may then have been in both splits: the validation release costs, too."""
    held, run = entries(planned(1.0)), entries(planned(1.0), "two", key="other")
    same = entries(planned(1.0), "two")
    apart, together = (room_under(life(4.0, held), each, DELTA) for each in (same, run))
    assert apart.with_run == pytest.approx(closed_epsilon(sqrt(2) * closed_mu(1.0)), abs=3e-3)
    assert together.with_run == pytest.approx(closed_epsilon(2 * closed_mu(1.0)), abs=3e-3)
    left = closed_epsilon(sqrt((closed_mu(4.0) ** 2 - 2 * closed_mu(1.0) ** 2) / 2))
    assert together.most_epsilon == pytest.approx(left, rel=0.01)
    assert together.runs == floor((closed_mu(4.0) ** 2 / closed_mu(1.0) ** 2 - 2) / 2)


@pytest.mark.parametrize("least", [1.0, 3.0, 10.0])
def test_a_floor_of_noise_has_its_epsilon(least):
    """The validation histogram has the least noise: one over mu."""
    run = entries(planned(6.0))
    found = epsilon_for_noise(run, least, DELTA)
    assert found == pytest.approx(closed_epsilon(1 / least), rel=5e-3)
    noises = [release.noise_multiplier for release in planned(rounded_down(found))]
    assert least <= min(noises) < 1.02 * least


def test_noise_above_the_floor_asks_for_nothing():
    assert epsilon_for_noise(entries(planned(1.0)), 1.0, DELTA) == inf


@given(st.floats(0, 50))
def test_a_written_epsilon_is_never_above_the_exact_one(value):
    assert value - 0.001 <= rounded_down(value) <= value * (1 + 1e-12)
    assert rounded_down(float(f"{value:.3f}")) == float(f"{value:.3f}")


@pytest.mark.parametrize("clinics", [1, 2, 6])
@pytest.mark.parametrize(("dropouts", "colluding"), [(0, 9), (1, 1), (7, 0), (9, 9), (5, 3)])
def test_the_nearest_sum_with_an_honest_clinic_is_possible(clinics, dropouts, colluding):
    chosen = PrivacySettings(tolerated_dropouts=dropouts, colluding_clinics=colluding)
    threshold = clinics - dropouts
    if 2 * threshold > clinics + colluding:
        require_honest_clinics(chosen, clinics)
        return
    with pytest.raises(ConfigError, match="honest") as caught:
        require_honest_clinics(chosen, clinics)
    words = caught.value.do.replace(",", " ").replace(".", " ", 1).split()
    named = dict(
        word.removeprefix("privacy.").split("=")
        for word in caught.value.do.replace(",", " ").split()
        if "=" in word
    )
    nearest = chosen.model_copy(update={name: int(value) for name, value in named.items()})
    require_honest_clinics(nearest, clinics)
    worse = nearest.colluding_clinics + 2
    with pytest.raises(ConfigError):
        require_honest_clinics(nearest.model_copy(update={"colluding_clinics": worse}), clinics)
    require_honest_clinics(chosen, int(words[-2]))
    with pytest.raises(ConfigError):
        require_honest_clinics(chosen, int(words[-2]) - 1)


@pytest.mark.parametrize("trust", ["none", "central", "local"])
def test_only_a_distributed_sum_needs_honest_clinics(trust):
    require_honest_clinics(PrivacySettings(trust=trust, colluding_clinics=9), 2)


def test_the_curve_of_rounds_goes_through_the_plan():
    releases = planned(2.0, rounds=40)
    pairs = dict(epsilon_by_rounds(releases, "gradient", [0, 20, 40, 80], DELTA))
    mu = closed_mu(2.0)
    expected = [closed_epsilon(mu * sqrt(0.1 + 0.9 * n / 40)) for n in pairs]
    assert list(pairs.values()) == pytest.approx(expected, abs=4e-3)


def test_the_curve_of_noise_is_one_over_mu():
    releases = planned(2.0, rounds=40)
    found = noise_by_epsilon(releases, "gradient", [0.5, 2.0, 8.0], DELTA)
    expected = [sqrt(40 / 0.9) / closed_mu(eps) for eps, _ in found]
    assert [noise for _, noise in found] == pytest.approx(expected, rel=5e-3)


def test_the_curve_of_noise_of_sampled_steps_is_the_recipes():
    chosen = PrivacySettings(trust="local", epsilon=2.0, delta=DELTA)
    release = sampled_releases(chosen, sampled(0.0), 10)
    ((_, noise),) = noise_by_epsilon([release] * 10, "weights", [2.0], DELTA)
    assert noise == pytest.approx(release.noise_multiplier, rel=5e-3)
    assert epsilon([SampledGaussianEvent(noise, 0.1, 50), GaussianEvent(1e4)], DELTA) < 2.02
