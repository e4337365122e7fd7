"""FedAdam and FedYogi against Flower's classes, and what their state is held to."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedYogi
from flwr.supercore.task_identity import TaskIdentity

from skinml.errors import ConfigError
from skinml.privacy.settings import PrivacySettings
from skinml.records import Labels
from skinml.training.head import HeadLearner
from skinml.training.server_optimisers import (
    FIRST_MOMENT,
    SECOND_MOMENT,
    ServerOptimiser,
    optimised,
    with_moments,
    without_moments,
)
from skinml.training.settings import HeadSettings

ETA, B1, B2, TAU = 0.05, 0.8, 0.95, 0.01


def optimiser(name, **changes):
    figures = {"learning_rate": ETA, "beta_1": B1, "beta_2": B2, "tau": TAU} | changes
    return ServerOptimiser(name, **figures)


def moves_of(rounds, seed=0):
    rng = np.random.default_rng(seed)
    return [{"a": rng.normal(size=(3, 2)), "b": rng.normal(size=4) / 50} for _ in range(rounds)]


def zeros():
    return {"a": np.zeros((3, 2)), "b": np.zeros(4)}


def record(arrays):
    return ArrayRecord({name: Array(np.asarray(values)) for name, values in arrays.items()})


def through_flower(kind, moves):
    """The arrays after each round by Flower's class, from the same beginning as the paper's."""
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
    strategy, arrays, path = kind(eta=ETA, beta_1=B1, beta_2=B2, tau=TAU), zeros(), []
    strategy.v_t = {name: np.full(values.shape, TAU**2) for name, values in arrays.items()}
    for number, move in enumerate(moves, start=1):
        if kind is FedAdam:  # takes out the correction that Flower adds to the paper's algorithm
            strategy.eta = ETA * (1 - B1 ** (number + 1)) / np.sqrt(1 - B2 ** (number + 1))
        strategy.current_arrays = {name: values.copy() for name, values in arrays.items()}
        content = RecordDict(
            {
                "arrays": record({name: arrays[name] + move[name] for name in arrays}),
                "metrics": MetricRecord({"num-examples": 1}),
            }
        )
        found, _ = strategy.aggregate_train(number, [Message(content, 1, "train")])
        arrays = {name: array.numpy() for name, array in found.items()}
        path.append(arrays)
    return path


@pytest.mark.parametrize(("name", "kind"), [("fedadam", FedAdam), ("fedyogi", FedYogi)])
def test_every_round_is_that_of_flowers_class(name, kind):
    chosen, moves = optimiser(name), moves_of(6)
    state = with_moments(chosen, zeros(), ["a", "b"])
    for move, expected in zip(moves, through_flower(kind, moves), strict=True):
        state = dict(state) | optimised(chosen, state, move)
        for key, values in expected.items():
            np.testing.assert_allclose(state[key], values, rtol=1e-10)


@pytest.mark.parametrize("name", ["fedadam", "fedyogi"])
def test_a_lone_number_follows_the_papers_lines(name):
    """Algorithm 2 of Reddi et al. 2021 by hand."""
    x, m, v = 0.0, 0.0, TAU**2
    chosen = optimiser(name)
    state = with_moments(chosen, {"x": np.zeros(1)}, ["x"])
    for delta in (0.3, -0.001, 0.0, 2.0):
        m = B1 * m + (1 - B1) * delta
        if name == "fedadam":
            v = B2 * v + (1 - B2) * delta**2
        else:
            v = v - (1 - B2) * delta**2 * (1 if v > delta**2 else -1 if v < delta**2 else 0)
        x += ETA * m / (v**0.5 + TAU)
        state = dict(state) | optimised(chosen, state, {"x": np.array([delta])})
        assert state["x"][0] == pytest.approx(x, rel=1e-12)
        assert state[SECOND_MOMENT + "x"][0] == pytest.approx(v, rel=1e-12)


def test_the_moments_are_the_whole_memory():
    """Going on from a copy of the state gives the same as never having stopped."""
    chosen, moves = optimiser("fedyogi"), moves_of(4)
    whole = with_moments(chosen, zeros(), ["a", "b"])
    for move in moves:
        whole = dict(whole) | optimised(chosen, whole, move)
    half = with_moments(chosen, zeros(), ["a", "b"])
    for move in moves[:2]:
        half = dict(half) | optimised(chosen, half, move)
    kept = {name: values.copy() for name, values in half.items()}
    for move in moves[2:]:
        kept = dict(kept) | optimised(optimiser("fedyogi"), kept, move)
    assert all(np.array_equal(whole[name], kept[name]) for name in whole)


def test_the_moved_array_keeps_its_type_and_moments_are_taken_out_again():
    chosen = optimiser("fedadam")
    arrays = {"w": np.zeros(3, np.float32), "other": np.ones(2)}
    state = with_moments(chosen, arrays, ["w"])
    assert set(state) == {"w", "other", FIRST_MOMENT + "w", SECOND_MOMENT + "w"}
    assert optimised(chosen, state, {"w": np.ones(3)})["w"].dtype == np.float32
    assert set(without_moments(state)) == {"w", "other"}


@pytest.mark.parametrize(
    "changes",
    [{"learning_rate": 0.0}, {"tau": 0.0}, {"beta_1": 1.0}, {"beta_2": -0.1}, {"tau": np.nan}],
)
def test_impossible_figures_are_refused(changes):
    with pytest.raises(ConfigError):
        optimiser("fedadam", **changes)
    with pytest.raises(ConfigError):
        optimiser("fedavg")


@pytest.mark.parametrize("name", ["fedadam", "fedyogi"])
def test_a_head_is_moved_against_its_gradient_and_sends_no_moments(name):
    chosen = optimiser(name)
    privacy = PrivacySettings(trust="local", clip_norm=0.5)
    classes = Labels(("benign", "malignant"), (False, True))
    recipe = HeadLearner(HeadSettings(rounds=2), privacy, classes, 3, 4, optimiser=chosen)
    plain = HeadLearner(HeadSettings(rounds=2), privacy, classes, 3, 4)
    assert recipe.rounds == plain.rounds
    rng = np.random.default_rng(0)
    counts = {"label_counts": np.array([30.0, 20.0]), "feature_sum": rng.normal(size=3)}
    state = recipe.advance(recipe.rounds[0], recipe.start(), counts, 4)
    assert set(recipe.query(recipe.rounds[1], state)) == {"weight", "centre", "offset"}
    gradient = rng.normal(size=(4, 2))
    moved = recipe.advance(recipe.rounds[1], state, {"gradient": gradient}, 4)
    # Sum over clip and patients, as the recipe states it; the first step of the optimiser.
    begin = with_moments(chosen, {"weight": np.zeros((4, 2))}, ["weight"])
    expected = optimised(chosen, begin, {"weight": -gradient / (0.5 * 50)})
    np.testing.assert_allclose(moved["weight"], expected["weight"], rtol=1e-5)
    assert np.array_equal(np.sign(moved["weight"]), -np.sign(gradient))
    assert set(recipe.model(moved)) == set(plain.model(plain.start()))
