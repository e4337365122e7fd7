"""Groups that are weighed: what one patient can move, and what the weights do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant

from skinml.config import load_config
from skinml.errors import ConfigError
from skinml.experiments.learners import build_learner
from skinml.models.linear_head import head_inputs
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.quantise import GRID
from skinml.privacy.settings import PrivacySettings
from skinml.records import Labels, Samples
from skinml.training.fit import Exchanged, fit
from skinml.training.group_dro import GROUP_LOSSES, loss_sums, moved_shares
from skinml.training.group_weights import (
    GROUP_COUNTS,
    GROUP_WEIGHTS,
    balance_of,
    factors_of,
    patient_groups,
    weighed,
)
from skinml.training.head import HeadLearner
from skinml.training.head_clinic import CLASS_SUMS, GRADIENT
from skinml.training.settings import HeadSettings, MitigationSettings

CLASSES = Labels(("naevus", "melanoma", "keratosis"), (False, True, False))
TONES = ("dark", "mid", "light")
FEATURES, SILENT = 5, Mechanism(0.0)
METHODS = ("reweigh", "group_dro")
BOUND = 1.5


def mitigation(method="reweigh", **changes):
    return MitigationSettings(method=method, greatest_loss=BOUND, **changes)


def learner(method=None, trust="none", rounds=4, clinics=1, head=None, plan=None, **privacy):
    balance = balance_of(plan or mitigation(method), TONES) if method else None
    promise = PrivacySettings(trust=trust, clip_norm=0.4, **privacy)
    settings = HeadSettings(rounds=rounds, least_count=1e-6, **(head or {}))
    return HeadLearner(settings, promise, CLASSES, FEATURES, clinics, balance=balance)


def cohort(num_patients=24, seed=0, tones=(*TONES, "unknown"), prefix="p"):
    rng = np.random.default_rng(seed)
    owners = np.repeat(np.arange(num_patients), rng.integers(1, 4, num_patients))
    inputs = np.abs(rng.normal(size=(len(owners), FEATURES)))
    inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
    of_patient = rng.choice(tones, num_patients)
    labels = rng.integers(0, 3, num_patients)
    names = np.array([f"{prefix}{seed}-{who:02}" for who in owners])
    return Samples(
        inputs.astype(np.float32), labels[owners], names, {"skin_tone": of_patient[owners]}
    )


def joined(*parts):
    return Samples(
        np.concatenate([p.inputs for p in parts]),
        np.concatenate([p.labels for p in parts]),
        np.concatenate([p.patients for p in parts]),
        {"skin_tone": np.concatenate([p.groups["skin_tone"] for p in parts])},
    )


def query(seed=1, weights=(1.0, 0.25, 0.5, 0.4), scale=2.0):
    rng = np.random.default_rng(seed)
    return {
        "weight": (scale * rng.normal(size=(FEATURES + 1, 3))).astype(np.float32),
        "centre": (0.2 * rng.normal(size=FEATURES)).astype(np.float32),
        "offset": rng.normal(size=3),
        GROUP_WEIGHTS: np.asarray(weights),
    }


def released(samples, recipe, sent):
    side, stream, sums = recipe.contributor(samples), np.random.default_rng(0), {}
    for round_ in recipe.rounds[:2]:
        arrays = {name: sent[name] for name in recipe.query(round_, recipe.start())}
        sums |= side.contribute(round_, arrays, SILENT, stream)
    return sums


def units(values):
    """Whole numbers of the grid, as Python's own."""
    return [int(each) for each in np.ravel(values / GRID)]


def trained(recipe, *clinics):
    sides = [recipe.contributor(samples) for samples in clinics]

    def exchange(round_, sent):
        parts = [side.contribute(round_, sent, SILENT, np.random.default_rng(0)) for side in sides]
        total = {r.name: sum(part[r.name] for part in parts) for r in round_.releases}
        return Exchanged(total, len(sides))

    return fit(recipe, exchange).arrays


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("trust", ["none", "distributed"])
@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("weights", [(1, 0.25, 0.5, 0.4), (9, -3, 1e300, 0.5)])
def test_a_patient_moves_each_sum_by_at_most_its_sensitivity_in_whole_numbers(
    method, trust, most, weights
):
    """Every patient taken out in turn, also under factors that a coordinator made up."""
    unit = {"unit": "patient", "max_clinics_per_patient": most} if most > 1 else {}
    recipe, whole, sent = learner(method, trust, **unit), cohort(), query(weights=weights)
    ours = released(whole, recipe, sent)
    bounds = {r.name: r.sensitivity / most for each in recipe.rounds[:2] for r in each.releases}
    moved = dict.fromkeys(bounds, 0)
    for patient in np.unique(whole.patients):
        theirs = released(whole.take(whole.patients != patient), recipe, sent)
        for name, bound in bounds.items():
            steps = [a - b for a, b in zip(units(ours[name]), units(theirs[name]), strict=True)]
            square = sum(step * step for step in steps)
            assert square <= int(bound / GRID) ** 2
            moved[name] = max(moved[name], square)
    for name, bound in bounds.items():  # and the bound is not far from what happens
        assert moved[name] >= (0.6 * bound / GRID) ** 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("clipping", ["flat", "by_class"])
def test_sums_are_those_of_the_patients_alone_to_the_last_bit(method, clipping):
    """Nobody stands in another's rounding: the whole is the sum of one-patient clinics."""
    recipe, whole, sent = learner(method, head={"clipping": clipping}), cohort(), query()
    together = released(whole, recipe, sent)
    totals = dict.fromkeys(together, 0.0)
    for patient in np.unique(whole.patients):
        alone = released(whole.take(whole.patients == patient), recipe, sent)
        totals = {name: totals[name] + alone[name] for name in totals}
    for name, total in totals.items():
        np.testing.assert_array_equal(together[name], total)


def test_a_gradient_is_the_groups_clipped_gradients_each_times_its_factor():
    weights, whole = (1.0, 0.3, 0.7, 0.5), cohort()
    found = released(whole, learner("reweigh"), query(weights=weights))[GRADIENT]
    expected = np.zeros_like(found)
    for name, factor in zip((*TONES, "unknown"), weights, strict=True):
        part = whole.take(whole.groups["skin_tone"] == name)
        expected += factor * released(part, learner(), query())[GRADIENT]
    # A factor of the grid has the root of the grid: each patient is cut down twice.
    assert np.abs(found - expected).max() < 24 * 2 * 2**-14
    assert np.abs(expected).max() > 0.1


def test_class_sums_are_weighed_too():
    recipe = learner("reweigh", recipe="prototypes")
    whole, sent = cohort(tones=("dark",)), query(weights=(0.5, 1, 1, 1))
    plain = released(whole, learner(recipe="prototypes"), sent)[CLASS_SUMS]
    np.testing.assert_allclose(released(whole, recipe, sent)[CLASS_SUMS], plain / 2, atol=0.005)


@pytest.mark.parametrize("recipe", ["centred", "prototypes"])
def test_with_a_ratio_of_one_a_run_is_the_one_without_mitigation(recipe):
    clinics = cohort(seed=1), cohort(seed=2)
    weighed = learner("reweigh", plan=mitigation(greatest_ratio=1), recipe=recipe)
    ours, theirs = (trained(each, *clinics) for each in (weighed, learner(recipe=recipe)))
    for name, values in theirs.items():
        np.testing.assert_array_equal(ours[name], values)
    assert np.abs(theirs["weight"]).max() > 0.1


def test_a_run_of_a_group_with_half_weight_is_that_of_a_cohort_in_which_the_others_are_doubled():
    """The oracle is a cohort: two of each patient of the group that counts fully."""
    dark, light = cohort(10, 3, ("dark",)), cohort(20, 4, ("light",))
    plan = mitigation(weights={"dark": 1.0, "light": 0.5})
    ours = trained(learner("reweigh", plan=plan, rounds=12), joined(dark, light))
    twin = Samples(dark.inputs, dark.labels, np.char.add("twin", dark.patients), dark.groups)
    halved = trained(learner(rounds=12), joined(dark, twin, light))
    # The centre is that of all patients alike, so it differs; the rest follows the twins.
    assert np.linalg.norm(ours["centre"] - halved["centre"]) > 0
    plain = trained(learner(rounds=12), joined(dark, light))
    far, near = (np.linalg.norm(each["weight"] - halved["weight"]) for each in (plain, ours))
    assert near < 0.5 * far
    np.testing.assert_allclose(ours["offset"], halved["offset"], atol=1e-5)


def test_factors_make_groups_count_alike_up_to_the_ratio():
    sizes = np.array([50.0, 400.0, 150.0])
    factors = factors_of(1 / sizes, sizes, 100.0)
    np.testing.assert_allclose(factors[:-1] * sizes, 50.0)
    assert factors[-1] == pytest.approx(150 / 600)  # the mean over patients of known groups
    capped = factors_of(1 / sizes, sizes, 4.0)
    np.testing.assert_allclose(capped[:-1], [1.0, 0.25, 1 / 3])


@pytest.mark.parametrize(
    ("tones", "expected"),
    [
        (["light"], 2),
        (["light", "dark", "dark"], 0),
        (["light", "dark"], 0),  # the first of the public names
        (["unknown", "unknown", "light"], 2),
        (["unknown"], 3),
        (["purple", "purple"], 3),
    ],
)
def test_a_patient_has_the_most_frequent_known_group_of_its_items(tones, expected):
    others = ["mid", "mid"]  # of another patient
    samples = Samples(
        np.zeros((len(tones) + 2, 1), np.float32),
        np.zeros(len(tones) + 2, int),
        np.array(["a"] * len(tones) + ["b"] * 2),
        {"skin_tone": np.array([*tones, *others])},
    )
    position = np.array([0] * len(tones) + [1] * 2)
    found = patient_groups(samples, position, balance_of(mitigation(), TONES))
    assert found.tolist() == [expected, 1]


def test_patients_without_any_groups_count_as_unknown():
    bare = cohort()
    bare = Samples(bare.inputs, bare.labels, bare.patients)
    table = released(bare, learner("reweigh"), query())[GROUP_COUNTS]
    assert table[:-1].sum() == 0
    assert table[-1].sum() == 24


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("eps", [0.5, 3.0])
def test_the_whole_schedule_costs_at_most_the_budget(method, eps):
    """Composed once more by dp_accounting itself, as Gaussians; nothing is left out or doubled."""
    recipe = learner(method, "distributed", rounds=30, clinics=4, epsilon=eps)
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    kinds: dict[float, int] = {}
    for round_ in recipe.rounds:
        for release in round_.releases:
            kinds[release.noise_multiplier] = kinds.get(release.noise_multiplier, 0) + 1
    for noise, count in kinds.items():
        accountant.compose(SelfComposedDpEvent(GaussianDpEvent(noise), count))
    spent = accountant.get_epsilon(1e-5)
    assert 0.98 * eps < spent <= eps * (1 + 1e-3)
    names = {release.name for round_ in recipe.rounds for release in round_.releases}
    assert names == {GROUP_COUNTS, "feature_sum", GRADIENT} | (
        {GROUP_LOSSES} if method == "group_dro" else set()
    )


def test_weights_cost_no_privacy_and_losses_their_share():
    plain, reweighed, dro = (
        learner(method, "central", rounds=20) for method in (None, "reweigh", "group_dro")
    )
    noise = [each.rounds[5].releases[-1].noise_multiplier for each in (plain, reweighed, dro)]
    assert noise[1] == pytest.approx(noise[0], rel=1e-6)
    # 85 hundredths of mu squared without the losses' ten.
    assert noise[2] / noise[0] == pytest.approx(np.sqrt(0.85 / 0.75), rel=1e-4)


def test_losses_are_the_cut_cross_entropies_of_the_groups():
    whole, sent = cohort(), query(scale=3.0)
    found = released(whole, learner("group_dro"), sent)[GROUP_LOSSES]
    expected = dict.fromkeys((*TONES, "unknown"), 0.0)
    for patient in np.unique(whole.patients):
        own = whole.take(whole.patients == patient)
        mean = own.inputs.mean(axis=0, keepdims=True)
        logits = head_inputs(mean, sent["centre"]) @ sent["weight"] + sent["offset"]
        loss = torch.nn.functional.cross_entropy(
            torch.from_numpy(logits), torch.from_numpy(own.labels[:1])
        )
        expected[str(own.groups["skin_tone"][0])] += min(float(loss), BOUND)
    np.testing.assert_allclose(found, list(expected.values()), atol=0.02)
    # Some are cut, some are not.
    sizes = [len(set(whole.patients[whole.groups["skin_tone"] == g])) for g in expected]
    assert all(0 < total < BOUND * size for total, size in zip(found, sizes, strict=True))


@pytest.mark.parametrize("chance", [np.nan, np.inf, -1.0, 0.0, 1.0, 2.0])
def test_whatever_a_model_says_a_loss_stays_within_its_bound(chance):
    sums = loss_sums(np.array([chance]), np.array([1]), 3, BOUND, 0.5)
    assert 0 <= sums[1] <= 0.5 * BOUND
    assert sums[[0, 2]].tolist() == [0, 0]


def test_shares_move_by_the_exponential_of_mean_losses():
    """Algorithm 1 of the paper by hand, two rounds."""
    balance = balance_of(mitigation("group_dro", dro_step=0.7, greatest_ratio=100), TONES)
    sizes = np.array([10.0, 40.0, 20.0, 5.0])
    state = {"group_log_shares": np.zeros(3), "group_sizes": sizes}
    shares = np.ones(3) / 3
    for losses in ([8.0, 20.0, 10.0, 1.0], [12.0, 8.0, 10.0, 0.0]):
        state |= moved_shares(balance, state, np.array(losses))
        shares = shares * np.exp(0.7 * np.array(losses[:3]) / sizes[:3])
        shares /= shares.sum()
    weights = shares / sizes[:3]
    np.testing.assert_allclose(state[GROUP_WEIGHTS][:3], weights / weights.max())


def test_noise_cannot_throw_shares_away():
    balance = balance_of(mitigation("group_dro", dro_step=10), TONES)
    state = {"group_log_shares": np.zeros(3), "group_sizes": np.array([1e-6, 40.0, 0.0, 5.0])}
    for wild in (1e12, -1e12):
        state |= moved_shares(balance, state, np.array([wild, 1.0, -wild, wild]))
    factors = state[GROUP_WEIGHTS]
    assert np.isfinite(factors).all()
    assert factors.min() >= 1 / balance.greatest_ratio
    assert factors.max() == 1


def conflicting(seed=0):
    """Two hundred light patients and forty dark ones, whose labels follow another feature."""
    rng = np.random.default_rng(seed)
    tones = np.repeat(["light", "dark"], [200, 40])
    inputs = np.abs(rng.normal(size=(240, FEATURES)))
    inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
    right = np.where(tones == "light", inputs[:, 0] > inputs[:, 1], inputs[:, 1] > inputs[:, 0])
    names = np.array([f"c{number:03}" for number in range(240)])
    return Samples(inputs.astype(np.float32), right.astype(int), names, {"skin_tone": tones})


def group_loss(arrays, samples, tone):
    part = samples.take(samples.groups["skin_tone"] == tone)
    logits = head_inputs(part.inputs, arrays["centre"]) @ arrays["weight"] + arrays["offset"]
    return float(
        torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(part.labels))
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_worse_group_does_better_and_the_other_pays(method):
    samples = conflicting()
    plan = mitigation(method, greatest_ratio=20, dro_step=0.05)
    steps = {"learning_rate": 1.0}
    plain = trained(learner(rounds=40, head=steps), samples)
    made = trained(learner(method, rounds=40, plan=plan, head=steps), samples)
    change = {
        tone: group_loss(made, samples, tone) - group_loss(plain, samples, tone)
        for tone in ("dark", "light")
    }
    assert change["dark"] < -0.1
    assert change["light"] > 0


def test_a_group_that_nobody_is_in_takes_nothing_from_the_others():
    """Of 12 dark patients the noise would have been the most, so they set nobody's factor."""
    balance, table = balance_of(mitigation(), TONES), np.zeros((4, 3))
    table[0], table[2] = [4, 4, 4], [100, 100, 100]
    exact = weighed(balance, table, 1.0, 0.0)
    np.testing.assert_allclose(exact.state[GROUP_WEIGHTS][[0, 2]], [1.0, 0.25])
    noised = weighed(balance, table, 1.0, 3.0)
    np.testing.assert_allclose(noised.state[GROUP_WEIGHTS], 1.0)
    assert noised.state["group_sizes"].tolist() == [0, 0, 300, 0]


def test_losses_move_the_factors_beyond_what_counts_alone_would():
    """Both groups as many: reweighing has nothing to do, group DRO has."""
    dark = cohort(40, 9, ("dark",))  # labels at random
    plenty = conflicting()
    easy = plenty.take(np.flatnonzero(plenty.groups["skin_tone"] == "light")[:40])
    recipe = learner("group_dro", rounds=30, plan=mitigation("group_dro", dro_step=1.0))
    side, state = recipe.contributor(joined(dark, easy)), recipe.start()
    for round_ in recipe.rounds:
        sums = side.contribute(
            round_, recipe.query(round_, state), SILENT, np.random.default_rng(0)
        )
        state = recipe.advance(round_, state, sums, 1)
    assert state[GROUP_WEIGHTS][0] == 1
    assert state[GROUP_WEIGHTS][2] < 0.6


@pytest.mark.parametrize("method", METHODS)
def test_with_shipped_settings_the_recipe_names_the_groups_of_the_config(method):
    config = load_config("derm_tone", [f"mitigation.method={method}"])
    recipe = build_learner(config, Labels(("benign", "malignant"), (False, True)), 8, 4)
    assert recipe.rounds[0].releases[0].shape == (4, 2)  # 0-2, 3, 4-5 and unknown


REFUSED = [
    (["mitigation.method=qfedavg"], "privacy.trust=none"),
    (["mitigation.method=reweigh", "mitigation.group=clinic"], "skin_tone"),
    (["mitigation.method=reweigh", "mitigation.group=diagnosis"], "skin_tone"),
    (["mitigation.method=balanced_sampling"], "model.kind=network"),
    (["mitigation.method=group_dro", "privacy.recipe=prototypes"], "a recipe with gradients"),
    (["mitigation.weights.dark=2"], "mitigation.weights only where"),
    (
        ["mitigation.method=reweigh", "privacy.trust=none", "federation.strategy.name=qfedavg"],
        "one mitigation",
    ),
    (
        ["mitigation.method=qfedavg", "privacy.trust=none", "federation.strategy.name=median"],
        "federation.strategy.name=qfedavg",
    ),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED)
def test_what_does_not_fit_is_refused_in_words_before_anything_is_read(changes, words):
    with pytest.raises(ConfigError, match=words):
        load_config("derm_tone", changes)


def test_public_weights_are_for_groups_of_the_config():
    config = load_config(
        "derm_tone", ["mitigation.method=reweigh", "mitigation.weights={0-2: 1.0, dark: 0.5}"]
    )
    with pytest.raises(ConfigError, match="groups among 0-2, 3, 4-5"):
        build_learner(config, Labels(("benign", "malignant"), (False, True)), 8, 4)


def test_qfedavg_is_reached_as_a_mitigation():
    config = load_config("derm_tone", ["mitigation.method=qfedavg", "privacy.trust=none"])
    assert config.federation.strategy.name == "qfedavg"
    recipe = build_learner(config, Labels(("benign", "malignant"), (False, True)), 8, 4)
    assert "loss_weights" in {release.name for release in recipe.rounds[-1].releases}
