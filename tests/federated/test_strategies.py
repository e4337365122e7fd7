"""Strategies: which are allowed where, and that robust totals are Flower's and bounded."""

from __future__ import annotations

import itertools
import json
from threading import Event

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinml.config import load_config, parse_config
from skinml.errors import ConfigError, IncompleteRunError, IntegrityError
from skinml.experiments.learners import build_learner, server_optimiser
from skinml.federated.coordinator import exchanger, grid_asker
from skinml.federated.local_grid import LocalGrid
from skinml.federated.settings import FederationSettings, StrategySettings
from skinml.federated.strategies import ROBUST, add_up, combiner, require_short
from skinml.federated.strategy_rules import require_allowed, require_enough_clinics
from skinml.privacy.events import UnprotectedEvent
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.noise import fixed_noise
from skinml.privacy.plan import Release
from skinml.privacy.quantise import GRID
from skinml.records import Labels, Samples
from skinml.training.fit import fit
from skinml.training.head import HeadLearner
from skinml.training.learner import Round
from skinml.training.loss_weights import loss_weighted_head
from skinml.training.server_optimisers import ServerOptimiser
from skinml.training.settings import HeadSettings

ALL = ("fedavg", "fedadam", "fedyogi", "fedprox", "qfedavg", "trimmed_mean", "median", "krum")
SUMS = {"fedavg", "fedadam", "fedyogi"}
SILENT = Mechanism(0.0)
CLASSES = Labels(("benign", "malignant"), (False, True))


@pytest.fixture(autouse=True)
def flower_ids():
    LocalGrid(None, [])  # a message of Flower's refuses to be made without the run's ids


def release(name="gradient", purpose="training", shape=(3, 2), sensitivity=1.0, noise=1.0):
    return Release(name, purpose, "train", sensitivity, noise, shape, grid=GRID)


def round_of(*releases):
    return Round(2, "gradient", releases or (release(),))


def allowed(name, trust, *, mode="simulation", kind="linear_head", recipe="centred", steps=5):
    chosen = FederationSettings(mode=mode, strategy=StrategySettings(name=name))
    try:
        require_allowed(chosen, trust=trust, kind=kind, recipe=recipe, steps_per_round=steps)
    except ConfigError as refusal:
        return str(refusal)
    return ""


# --- what each trust allows -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("trust", "kind", "expected"),
    [
        ("distributed", "linear_head", SUMS),
        ("distributed", "network", SUMS),
        ("none", "linear_head", SUMS | set(ROBUST) | {"qfedavg"}),
        ("local", "linear_head", SUMS | set(ROBUST)),
        ("none", "network", SUMS | set(ROBUST) | {"fedprox", "qfedavg"}),
        ("local", "network", SUMS | set(ROBUST) | {"fedprox"}),
        ("central", "linear_head", SUMS | {"trimmed_mean", "median"}),
        ("central", "network", SUMS),
    ],
)
def test_each_trust_allows_what_it_can_hold(trust, kind, expected):
    steps = 5 if trust in ("none", "local") else 1
    found = {name for name in ALL if not allowed(name, trust, kind=kind, steps=steps)}
    assert found == expected


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("median", {"trust": "distributed"}, "hides single updates"),
        ("krum", {"trust": "central"}, "no noise of a useful size"),
        ("median", {"trust": "central", "kind": "network"}, "several clinics"),
        ("krum", {"trust": "none", "mode": "centralised"}, "no second to compare with"),
        ("fedadam", {"trust": "none", "recipe": "prototypes"}, "one round"),
        ("fedprox", {"trust": "local"}, "one step"),
        ("fedprox", {"trust": "local", "kind": "network", "steps": 1}, "one step"),
        ("qfedavg", {"trust": "local"}, "a power of its loss"),
        ("qfedavg", {"trust": "central"}, "a power of its loss"),
        ("qfedavg", {"trust": "distributed", "kind": "network"}, "a power of its loss"),
        ("qfedavg", {"trust": "none", "recipe": "prototypes"}, "one round"),
        ("qfedavg", {"trust": "none", "mode": "centralised"}, "no second to compare with"),
    ],
)
def test_a_refusal_says_why(name, changes, words):
    assert words in allowed(name, **changes)


@pytest.mark.parametrize("trust", ["none", "local", "central", "distributed"])
def test_a_bound_on_updates_is_for_a_coordinator_that_may_look(trust):
    bounded = FederationSettings(max_update_norm=1.0)
    given_terms = {"kind": "linear_head", "recipe": "centred", "steps_per_round": 1}
    if trust in ("none", "local"):
        require_allowed(bounded, trust=trust, **given_terms)
    else:
        with pytest.raises(ConfigError, match="max_update_norm"):
            require_allowed(bounded, trust=trust, **given_terms)


@pytest.mark.parametrize(
    ("changes", "num_clinics", "fits"),
    [
        ({"name": "median"}, 2, False),
        ({"name": "median"}, 3, True),
        ({"name": "trimmed_mean", "trim_fraction": 0.2}, 4, False),
        ({"name": "trimmed_mean", "trim_fraction": 0.25}, 4, True),
        ({"name": "trimmed_mean", "trim_fraction": 0.49}, 2, False),
        ({"name": "krum", "malicious_clinics": 1}, 4, False),
        ({"name": "krum", "malicious_clinics": 1}, 5, True),
        ({"name": "krum", "malicious_clinics": 1, "krum_selects": 5}, 5, False),
        ({"name": "fedavg"}, 1, True),
    ],
)
def test_a_defence_that_could_keep_nobody_out_is_refused(changes, num_clinics, fits):
    if fits:
        require_enough_clinics(StrategySettings(**changes), num_clinics)
    else:
        with pytest.raises(ConfigError):
            require_enough_clinics(StrategySettings(**changes), num_clinics)


# --- what a robust total is -----------------------------------------------------------------


def drawn(num_clinics, seed=0, shape=(3, 2)):
    rng = np.random.default_rng(seed)
    cells = rng.integers(-(2**30), 2**30, (num_clinics, *shape))
    return {f"c{i}": {"gradient": cells[i] * GRID} for i in range(num_clinics)}


def by_hand(strategy, sums):
    """Sorting number by number, and Krum from its definition, without NumPy's help."""
    arrays = [sums[name]["gradient"] for name in sorted(sums)]
    k = len(arrays)
    if strategy.name == "krum":
        f, best = strategy.malicious_clinics, []
        for i, one in enumerate(arrays):
            away = sorted(((one - arrays[j]) ** 2).sum() for j in range(k) if j != i)
            best.append((sum(away[: k - f - 2]), i))
        chosen = [arrays[i] for _, i in sorted(best)[: strategy.krum_selects]]
        return k * sum(chosen) / len(chosen)
    total = np.zeros(arrays[0].shape)
    cut = (k - 1) // 2 if strategy.name == "median" else int(k * strategy.trim_fraction)
    for place in itertools.product(*map(range, total.shape)):
        middle = sorted(array[place] for array in arrays)[cut : k - cut]
        total[place] = k * sum(middle) / len(middle)
    return total


CHOICES = (
    StrategySettings(name="median"),
    StrategySettings(name="trimmed_mean", trim_fraction=0.2),
    StrategySettings(name="krum", malicious_clinics=1),
    StrategySettings(name="krum", malicious_clinics=1, krum_selects=3),
)


@pytest.mark.parametrize("strategy", CHOICES)
@pytest.mark.parametrize("trust", ["none", "local"])
@pytest.mark.parametrize("num_clinics", [5, 6, 9])
def test_a_robust_total_is_k_times_the_rule(strategy, trust, num_clinics):
    sums = drawn(num_clinics)
    total = combiner(strategy, trust)(sums, round_of(), SILENT)
    np.testing.assert_allclose(total["gradient"], by_hand(strategy, sums), rtol=1e-12)


@pytest.mark.parametrize("strategy", CHOICES[:2])
@pytest.mark.parametrize("num_clinics", [5, 8])
def test_under_central_trust_without_noise_it_is_flowers_total(strategy, num_clinics):
    sums = drawn(num_clinics, seed=3)
    flowers = combiner(strategy, "local")(sums, round_of(), SILENT)
    ours = combiner(strategy, "central")(sums, round_of(), SILENT)
    np.testing.assert_allclose(ours["gradient"], flowers["gradient"], rtol=1e-12)


@pytest.mark.parametrize("strategy", CHOICES)
def test_robust_totals_do_not_depend_on_who_is_called_what(strategy):
    sums = drawn(7)
    renamed = dict(zip(sorted(sums), reversed(list(sums.values())), strict=True))
    first = combiner(strategy, "none")(sums, round_of(), SILENT)
    again = combiner(strategy, "none")(renamed, round_of(), SILENT)
    np.testing.assert_allclose(first["gradient"], again["gradient"], rtol=1e-12)


@pytest.mark.parametrize("strategy", CHOICES)
def test_one_clinic_cannot_pull_a_robust_total_beyond_the_others(strategy):
    honest = drawn(6)
    within = 6 * max(np.abs(each["gradient"]).max() for each in honest.values())
    for scale in (1e3, 1e9):
        hostile = dict(honest) | {"z": {"gradient": np.full((3, 2), scale)}}
        total = combiner(strategy, "local")(hostile, round_of(), SILENT)["gradient"]
        assert np.abs(total).max() <= 7 / 6 * within
        assert np.abs(add_up(hostile, round_of(), SILENT)["gradient"]).min() > scale / 2


def test_counts_of_scores_stay_a_sum():
    last = Round(9, "validation", (release(purpose="validation"),))
    sums = drawn(5)
    for trust in ("none", "local", "central"):
        robust = combiner(StrategySettings(name="median"), trust)(sums, last, SILENT)
        np.testing.assert_array_equal(robust["gradient"], add_up(sums, last, SILENT)["gradient"])


# --- privacy under central trust ------------------------------------------------------------

CELLS = st.lists(st.integers(-1000, 1000), min_size=4, max_size=4)


def middle_of(strategy, clinics):
    """What noise is added to, in multiples of the grid: the total without its factor."""
    k = len(clinics)
    cut = (k - 1) // 2 if strategy.name == "median" else int(k * strategy.trim_fraction)
    sums = {f"c{i}": {"gradient": np.array(row) * GRID} for i, row in enumerate(clinics)}
    total = combiner(strategy, "central")(sums, round_of(release(shape=(4,))), SILENT)
    found = total["gradient"] / GRID * (k - 2 * cut) / k
    np.testing.assert_allclose(found, np.round(found), atol=1e-6)
    return np.round(found)


@settings(max_examples=80, deadline=None)
@given(
    clinics=st.lists(CELLS, min_size=3, max_size=7),
    parts=st.lists(CELLS, min_size=3, max_size=3),
    strategy=st.sampled_from(
        [StrategySettings(name="median"), StrategySettings(name="trimmed_mean", trim_fraction=0.4)]
    ),
)
def test_a_patient_moves_the_noised_array_by_no_more_than_it_moves_the_sum(
    clinics, parts, strategy
):
    """In whole multiples of the grid, for a patient at one clinic and at three."""
    for places in (1, 3):
        with_patient = [list(row) for row in clinics]
        for row, part in zip(with_patient, parts[:places], strict=False):
            row[:] = [a + b for a, b in zip(row, part, strict=True)]
        apart = middle_of(strategy, with_patient) - middle_of(strategy, clinics)
        bound = sum(np.linalg.norm(part) for part in parts[:places])
        assert np.linalg.norm(apart) <= bound + 1e-9


def test_the_total_itself_moves_by_k_times_a_patient():
    """So noise that is added to it, and not to the middle, would be k times too small."""
    strategy = StrategySettings(name="median")
    before, after = ([[-9] * 4, [-9] * 4, [value] * 4, [9] * 4, [9] * 4] for value in (5, 6))
    assert (middle_of(strategy, after) - middle_of(strategy, before)).tolist() == [1.0] * 4
    totals = [
        combiner(strategy, "central")(
            {f"c{i}": {"gradient": np.array(row) * GRID} for i, row in enumerate(rows)},
            round_of(release(shape=(4,))),
            SILENT,
        )["gradient"]
        for rows in (before, after)
    ]
    assert ((totals[1] - totals[0]) / GRID).tolist() == [5.0] * 4


@pytest.mark.parametrize(("strategy", "factor"), [(CHOICES[0], 5.0), (CHOICES[1], 5 / 3)])
def test_the_noise_of_the_sum_is_in_the_middle_before_the_factor(strategy, factor):
    wide = release(shape=(20_000,), sensitivity=2.0, noise=3.0)
    sums = {f"c{i}": {"gradient": np.zeros(20_000)} for i in range(5)}
    noisy = Mechanism(1.0, lambda: fixed_noise(np.random.default_rng(1)))
    total = combiner(strategy, "central")(sums, round_of(wide), noisy)["gradient"]
    assert total.std() == pytest.approx(factor * 6.0, rel=0.03)


# --- bounds on what a clinic sends ----------------------------------------------------------


@pytest.mark.parametrize("kind", ["gradient", "local_steps"])
def test_a_long_update_is_refused_with_its_norm(kind):
    chosen = Round(1, kind, (release("weights", shape=(5,)),))
    query = {"b": np.ones(3), "a": np.full(2, 2.0)}
    begin = np.array([2.0, 2.0, 1.0, 1.0, 1.0]) if kind == "local_steps" else np.zeros(5)
    sums = {"weights": begin + np.array([0.0, 3.0, 0.0, 4.0, 0.0])}
    require_short(sums, chosen, query, 5.0, "north")
    require_short(sums, chosen, query, None, "north")
    with pytest.raises(IntegrityError, match=r"max_update_norm.*norm 5"):
        require_short(sums, chosen, query, 4.9, "north")


def test_counts_are_not_held_to_the_bound_of_updates():
    counts = Round(1, "statistics", (release("label_counts", "label counts", (2,)),))
    require_short({"label_counts": np.array([1e6, 1e6])}, counts, {}, 1.0, "north")


# --- whole runs -----------------------------------------------------------------------------


def test_a_clinic_above_the_bound_is_missing_with_the_reason(make):
    world = make("none")
    with pytest.raises(IncompleteRunError):
        world.run(max_update_norm=0.5)
    (first,) = world.record.participation
    assert set(first.missing) == {"north", "south", "studied"}
    assert all("max_update_norm" in reason for reason in first.missing.values())


@pytest.mark.parametrize("trust", ["none", "local", "central"])
@pytest.mark.parametrize("strategy", CHOICES[:1])
def test_a_whole_run_with_a_robust_rule_leaves_the_same_ledgers(make, trust, strategy):
    """The rule costs nothing and saves nothing: events are those of plain sums."""
    world = make(trust)
    fitted, scores = world.run(combine=combiner(strategy, trust))
    assert all(np.isfinite(values).all() for values in fitted.arrays.values())
    assert np.isfinite(scores).all()
    planned = [r.event for round_ in world.learner.rounds for r in round_.releases]
    for name in ("north", "south", "studied"):
        assert [entry.event for entry in world.ledger(name)][: len(planned)] == planned
    assert {each.noise for each in world.record.participation} == {None}


@pytest.mark.parametrize(("name", "sign"), [("fedavg", -1), ("median", 1)])
def test_a_clinic_that_lies_moves_the_sum_and_not_the_median(make, name, sign):
    """Ten times the gradient, the other way round: the head turns with FedAvg only."""

    def lied(content):
        sums = content.array_records["sums"]
        for array in list(sums):
            if array == "gradient":
                sums[array] = type(sums[array])(-10.0 * sums[array].numpy())
        return content

    world = make("none")
    terms = world.terms(combine=combiner(StrategySettings(name=name), "none"))
    ask = grid_asker(world.grid(change=lied), terms, Event())
    weight = fit(world.learner, exchanger(ask, terms, world.record)).arrays["weight"]
    slope = weight[0, 1] - weight[0, 0]  # the first feature makes it malignant
    assert np.sign(slope) == sign


# --- from the config ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fedprox", "qfedavg", "trimmed_mean", "median", "krum"])
def test_the_shipped_experiments_refuse_what_a_secure_sum_hides(name):
    with pytest.raises(ConfigError, match="strategy"):
        load_config("quickstart", [f"federation.strategy.name={name}"])


def test_a_config_with_a_strategy_survives_the_way_to_a_clinic():
    chosen = ["privacy=local", "federation.strategy.name=krum"]
    config = load_config("quickstart", [*chosen, "federation.strategy.malicious_clinics=2"])
    again = parse_config(json.loads(config.model_dump_json()))
    assert again.federation.strategy == StrategySettings(name="krum", malicious_clinics=2)


def test_the_number_of_clinics_that_may_be_missing_counts_against_a_defence():
    changes = ["privacy=local", "federation.strategy.name=median", "federation.allowed_missing=1"]
    config = load_config("quickstart", changes)
    build_learner(config, CLASSES, 4, num_clinics=4)
    with pytest.raises(ConfigError, match="at least 3 clinics"):
        build_learner(config, CLASSES, 4, num_clinics=3)


@pytest.mark.parametrize("name", ["fedadam", "fedyogi"])
def test_the_configs_optimiser_is_the_learners(name):
    figures = ["server_learning_rate=0.3", "beta_1=0.5", "beta_2=0.7", "tau=0.2"]
    changes = [f"federation.strategy.{each}" for each in (f"name={name}", *figures)]
    chosen = load_config("quickstart", changes).federation.strategy
    assert server_optimiser(chosen) == ServerOptimiser(name, 0.3, 0.5, 0.7, 0.2)
    assert server_optimiser(StrategySettings()) is None


@pytest.mark.parametrize("name", ["fedadam", "fedyogi"])
def test_secure_sums_carry_adaptive_steps_and_no_moments(make, name):
    world = make("distributed")
    recipe = HeadLearner(
        HeadSettings(rounds=4),
        world.privacy,
        CLASSES,
        num_features=5,
        num_clinics=3,
        optimiser=ServerOptimiser(name, learning_rate=0.1),
    )
    world.learner = recipe
    for clinic in world.setups:
        world.change(clinic, learner=recipe)
    fitted, _ = world.run()  # a clinic refuses a query with other arrays than the recipe's
    assert set(fitted.arrays) == {"centre", "weight", "offset"}
    assert all(len(each.took_part) == 3 for each in world.record.participation)
    assert 0 < np.abs(fitted.arrays["weight"]).max() <= 4 * 0.1 * 10  # rounds, step, 1/sqrt(1-b2)


def test_a_whole_run_weighed_by_losses_has_its_weights_in_each_ledger(make):
    """Through the messages' schema, which knows the plan's releases alone."""
    world = make("none")
    settings = HeadSettings(rounds=4, learning_rate=1.0)
    plain = HeadLearner(settings, world.privacy, CLASSES, num_features=5, num_clinics=3)
    recipe = loss_weighted_head(plain, settings, world.privacy, CLASSES, 2.0)
    world.learner = recipe
    for clinic in world.setups:
        world.change(clinic, learner=recipe)
    fitted, _ = world.run()
    assert np.abs(fitted.arrays["weight"]).max() > 0.01
    for name in ("north", "south", "studied"):
        told = [entry for entry in world.ledger(name) if entry.name == "loss_weights"]
        assert [entry.binding.round for entry in told] == [2, 3, 4, 5]
        assert {entry.event for entry in told} == {UnprotectedEvent(1)}


def test_the_configs_power_reaches_the_recipe_where_nothing_is_promised():
    chosen = ["federation.strategy.name=qfedavg", "federation.strategy.q=3"]
    config = load_config("quickstart", ["privacy.trust=none", *chosen])
    recipe = build_learner(config, CLASSES, 4, num_clinics=3)
    assert [each.name for each in recipe.rounds[1].releases] == ["gradient", "loss_weights"]
    items = Samples(np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1]), np.array(list("abcd")))
    query = recipe.query(recipe.rounds[1], recipe.start())
    stream = np.random.default_rng(0)
    sums = recipe.contributor(items).contribute(recipe.rounds[1], query, SILENT, stream)
    patients, powers, _ = sums["loss_weights"].tolist()  # of a head of zeros the loss is log 2
    assert patients == 4
    assert powers == pytest.approx(4 * np.log(2) ** 3)


def test_the_configs_pull_reaches_the_clinics_steps():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    items = Samples(images, rng.integers(0, 2, 6), np.array(list("abcdef")))
    sent = {}
    for name in ("fedavg", "fedprox"):
        changes = [f"federation.strategy.{each}" for each in (f"name={name}", "proximal_mu=0.1")]
        config = load_config("quickstart_end_to_end", ["privacy.trust=none", *changes])
        recipe = build_learner(config, CLASSES, 0, num_clinics=3)
        round_, stream = recipe.rounds[0], np.random.default_rng(1)
        query = recipe.query(round_, recipe.start())
        sums = recipe.contributor(items).contribute(round_, query, SILENT, stream)
        sent[name] = sums["weights"]
    assert 0 < np.abs(sent["fedavg"] - sent["fedprox"]).max() < 0.1
