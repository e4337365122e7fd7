"""Group-balanced sampling: true rates, and an accountant that is told the largest of them."""

from __future__ import annotations

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from scipy import stats

from skinml.config import load_config
from skinml.errors import ConfigError
from skinml.experiments.learners import build_learner
from skinml.models.networks import build_network
from skinml.privacy.dpsgd_sampling import draw_sample, rows_by_patient
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.settings import PrivacySettings
from skinml.records import Labels, Samples
from skinml.seeding import Seeds
from skinml.training.group_weights import balance_of, shares_by_patient
from skinml.training.network import GRADIENT, NetworkLearner, flatten
from skinml.training.settings import MitigationSettings, NetworkSettings

TONES, WEIGHTS = ("dark", "light"), {"dark": 2.0, "light": 0.5}
SHARES = {"dark": 1.0, "light": 0.25, "unknown": 0.625}
ONE_STEP = NetworkSettings(rounds=3, steps_per_round=1, sampling_prob=0.5, expected_patients=6)
SECRET = bytes(32)


def balance(weights=WEIGHTS):
    plan = MitigationSettings(method="balanced_sampling", weights=weights)
    return balance_of(plan, TONES)


def build():
    return build_network("small_cnn", 2, Seeds(0).stream("weights"))


def learner(trust="central", settings=ONE_STEP, weights=WEIGHTS, **privacy):
    promise = PrivacySettings(trust=trust, **privacy)
    chosen = balance(weights) if weights else None
    return NetworkLearner(settings, promise, build, balance=chosen)


def pictures(num_patients=12, seed=0):
    rng = np.random.default_rng(seed)
    owners = np.repeat(np.arange(num_patients), 2)
    tones = np.array(["dark", "light", "unknown"])[np.arange(num_patients) % 3]
    return Samples(
        rng.integers(0, 256, (len(owners), 8, 8, 3), dtype=np.uint8),
        rng.integers(0, 2, num_patients)[owners],
        np.array([f"p{who:02}" for who in owners]),
        {"skin_tone": tones[owners]},
    )


def test_each_patient_is_drawn_at_the_rate_of_its_group():
    """Over 100 patients a group and 60 steps; level 1e-6 each, and a wrong rate is seen."""
    names = [f"{group} {number}" for group in SHARES for number in range(100)]
    rows = rows_by_patient(np.array(names))
    shares = {name: SHARES[name.split()[0]] for name in rows}
    hits = dict.fromkeys(SHARES, 0)
    for step in range(60):
        for one in draw_sample(
            rows, secret=SECRET, step=step, sampling_prob=0.3, max_images=1, shares=shares
        ):
            hits[names[one.rows[0]].split()[0]] += 1
    for group, share in SHARES.items():
        assert stats.binomtest(hits[group], 6000, 0.3 * share).pvalue > 1e-6
    assert stats.binomtest(hits["light"], 6000, 0.3).pvalue < 1e-12


def test_shares_of_one_draw_as_no_shares_do_and_smaller_ones_draw_some_of_these():
    rows = rows_by_patient(np.array([f"p{number}" for number in range(300)]))

    def drawn(shares):
        sample = draw_sample(
            rows, secret=SECRET, step=1, sampling_prob=0.4, max_images=1, shares=shares
        )
        return {int(one.rows[0]) for one in sample}

    everybody = drawn(None)
    assert drawn(dict.fromkeys(rows, 1.0)) == everybody
    assert set() < drawn(dict.fromkeys(rows, 0.5)) < everybody
    assert drawn(dict.fromkeys(rows, 0.0)) == set()


@pytest.mark.parametrize("share", [1.001, -0.1, np.nan])
def test_a_rate_above_the_one_that_is_accounted_is_refused(share):
    with pytest.raises(ConfigError, match="share"):
        draw_sample(
            rows_by_patient(np.array(["a"])),
            secret=SECRET,
            step=0,
            sampling_prob=0.2,
            max_images=1,
            shares={"a": share},
        )


def test_shares_are_the_public_weights_over_the_largest_and_the_mean_for_unknown_groups():
    samples = pictures(3)
    assert shares_by_patient(samples, balance()) == {"p00": 1.0, "p01": 0.25, "p02": 0.625}


def test_each_group_spends_at_most_what_the_plan_says_by_dp_accounting():
    """The groups' own rates, composed by dp_accounting: the largest spends the budget."""
    settings = NetworkSettings(
        rounds=20, steps_per_round=1, sampling_prob=0.2, expected_patients=100
    )
    recipe, eps = learner(settings=settings, epsilon=3.0), 3.0
    noise, spent = recipe.rounds[0].releases[0].noise_multiplier, {}
    for group, share in SHARES.items():
        accountant = PLDAccountant(value_discretization_interval=1e-3)
        step = PoissonSampledDpEvent(0.2 * share, GaussianDpEvent(noise))
        accountant.compose(SelfComposedDpEvent(step, 20))
        spent[group] = accountant.get_epsilon(1e-5)
    assert spent["light"] < spent["unknown"] < spent["dark"] <= eps * (1 + 1e-3)
    assert spent["dark"] > 0.97 * eps


@pytest.mark.parametrize("trust", ["none", "local"])
def test_the_plan_is_that_of_the_largest_rate_whatever_the_weights(trust):
    ours, theirs = learner(trust), learner(trust, weights=None)
    assert ours.rounds == theirs.rounds
    assert ours.rounds[0].releases[0].sampling_prob == ONE_STEP.sampling_prob


def test_without_one_patient_the_sum_moves_by_that_patients_clipped_gradient_or_not_at_all():
    whole, recipe = pictures(), learner()
    state = recipe.start()
    query = recipe.query(recipe.rounds[0], state)

    def exact(samples):
        return recipe.contributor(samples).exact(query, SECRET)

    together, moved = exact(whole), []
    for patient in np.unique(whole.patients):
        rest = exact(whole.take(whole.patients != patient))
        alone = exact(whole.take(whole.patients == patient))
        np.testing.assert_array_equal(together - rest, alone)
        moved.append(np.linalg.norm(alone))
    assert max(moved) <= recipe.rounds[0].releases[0].sensitivity
    assert 0 < np.count_nonzero(moved) < 12


def test_local_steps_take_the_rates_too():
    """With one group never drawn but for one in a million, its patients change nothing."""
    settings = NetworkSettings(rounds=1, steps_per_round=3, sampling_prob=1, expected_patients=4)
    rare = {"dark": 1000.0, "light": 0.001}
    recipe = learner("none", settings=settings, weights=rare)
    samples = pictures()
    samples = samples.take(samples.groups["skin_tone"] != "unknown")
    state = recipe.start()

    def weights(part):
        query, stream = recipe.query(recipe.rounds[0], state), np.random.default_rng(3)
        side = recipe.contributor(part)
        return side.contribute(recipe.rounds[0], query, Mechanism(0.0), stream)["weights"]

    with_light = weights(samples)
    np.testing.assert_array_equal(
        with_light, weights(samples.take(samples.groups["skin_tone"] == "dark"))
    )
    assert np.linalg.norm(with_light - flatten(state)) > 1e-3


def test_rates_from_counts_that_nobody_charged_are_refused():
    with pytest.raises(ConfigError, match=r"mitigation\.weights"):
        load_config("quickstart_end_to_end", ["mitigation.method=balanced_sampling"])
    counted = balance_of(MitigationSettings(method="reweigh"), TONES)
    with pytest.raises(ConfigError, match="charged nowhere"):
        shares_by_patient(pictures(), counted)


def test_a_config_reaches_the_networks_clinics():
    config = load_config(
        "quickstart_end_to_end",
        [
            "mitigation.method=balanced_sampling",
            "mitigation.group=sex",
            "mitigation.weights={female: 1, male: 0.5}",
        ],
    )
    recipe = build_learner(config, Labels(("benign", "malignant"), (False, True)), 0, 3)
    assert recipe.rounds[0].releases[0].name != GRADIENT  # local noise: local steps
    assert recipe.rounds[0].releases[0].sampling_prob == config.training.network.sampling_prob
