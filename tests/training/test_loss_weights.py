"""q-FedAvg against its paper, against Flower's class, and in small federations."""

from __future__ import annotations

import gc
from math import isinf

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import QFedAvg

from skinml.errors import ConfigError, IntegrityError
from skinml.federated.local_grid import LocalGrid
from skinml.federated.plain_sums import PlainSum
from skinml.models.networks import build_network, input_tensor, load_network_arrays
from skinml.privacy.events import UnprotectedEvent
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.settings import PrivacySettings
from skinml.records import Labels, Samples
from skinml.seeding import Seeds
from skinml.training.fit import Exchanged, fit
from skinml.training.head import HeadLearner
from skinml.training.head_clinic import GRADIENT
from skinml.training.loss_weights import (
    LOSS_WEIGHTS,
    loss_weighted_head,
    loss_weighted_network,
)
from skinml.training.network import NetworkLearner, flatten
from skinml.training.settings import HeadSettings, NetworkSettings

CLASSES = Labels(("benign", "malignant"), (False, True))
FEATURES, SILENT = 4, Mechanism(0.0)
HEAD = HeadSettings(rounds=20, learning_rate=1.0, momentum=0.0)
NETWORK = NetworkSettings(
    rounds=3, steps_per_round=2, sampling_prob=1.0, expected_patients=5, learning_rate=0.2
)
PUBLIC = PrivacySettings(trust="none", clip_norm=0.5)
STEP = 30 / 20 / 0.5  # along a mean gradient: settings are for 30 rounds and clips of norm 1


def plain_head(privacy=PUBLIC, settings=HEAD):
    return HeadLearner(settings, privacy, CLASSES, FEATURES, 2)


def head(q, privacy=PUBLIC, settings=HEAD):
    return loss_weighted_head(plain_head(privacy, settings), settings, privacy, CLASSES, q)


def build():
    return build_network("small_cnn", 2, Seeds(0).stream("weights"))


def plain_network(settings=NETWORK):
    return NetworkLearner(settings, PUBLIC, build)


def network(q, settings=NETWORK):
    return loss_weighted_network(plain_network(settings), settings, PUBLIC, build, q)


def clinic(seed, patients, flipped=0.0):
    """Two images a patient; of some patients the labels are the wrong way round."""
    rng = np.random.default_rng(seed)
    inputs = np.abs(rng.normal(size=(2 * patients, FEATURES)))
    inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
    owners = np.repeat(np.arange(patients), 2)
    first = inputs[::2] + inputs[1::2]
    labels = (first[:, 0] > first[:, 1]) ^ (rng.random(patients) < flipped)
    names = np.array([f"{seed}-{who:03}" for who in owners])
    return Samples(inputs.astype(np.float32), labels.astype(int)[owners], names)


def pictures(seed, patients=5):
    rng = np.random.default_rng(seed)
    shades = rng.integers(0, 256, (2 * patients, 8, 8, 3), dtype=np.uint8)
    owners = np.array([f"{seed}-{i // 2}" for i in range(2 * patients)])
    return Samples(shades, rng.integers(0, 2, 2 * patients), owners)


CLINICS = {"head": [clinic(1, 60), clinic(2, 12, 1.0)], "network": [pictures(1), pictures(2)]}


def exchanger(recipe, clinics):
    """Sums as the coordinator adds them; the same draws for every recipe."""
    opened = [recipe.contributor(samples) for samples in clinics]

    def exchange(round_, query):
        total = PlainSum(round_)
        for place, one in enumerate(opened):
            stream = Seeds(place).stream(f"sampling/{round_.number}")
            total.add(one.contribute(round_, query, SILENT, stream))
        return Exchanged(total.total(SILENT), len(opened))

    return exchange


def one_round(recipe, clinics, number, state):
    round_ = recipe.rounds[number - 1]
    answer = exchanger(recipe, clinics)(round_, recipe.query(round_, state))
    return recipe.advance(round_, state, answer.total, answer.num_clinics)


def begun(recipe, clinics, weight=None):
    state = one_round(recipe, clinics, 1, recipe.start())
    return state if weight is None else dict(state) | {"weight": weight}


WEIGHT = np.random.default_rng(5).normal(size=(FEATURES + 1, 2)).astype(np.float32)


def head_loss(samples, state):
    """Mean over patients of the cross entropy, written down again for torch."""
    by_name: dict[str, list[int]] = {}
    for row, name in enumerate(samples.patients):
        by_name.setdefault(str(name), []).append(row)
    rows = np.array([samples.inputs[of].mean(axis=0) for of in by_name.values()])
    labels = np.array([samples.labels[of[0]] for of in by_name.values()])
    inputs = rows - state["centre"]
    inputs = inputs / np.linalg.norm(inputs, axis=1, keepdims=True)
    inputs = np.hstack([inputs, np.full((len(rows), 1), HEAD.bias_input)])
    logits = torch.from_numpy(inputs @ state["weight"] + state["offset"])
    return float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)))


def network_loss(samples, arrays):
    model = build()
    load_network_arrays(model, arrays)
    with torch.no_grad():
        logits = model(input_tensor(samples.inputs))  # as many images of each patient
    return float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(samples.labels)))


def flowers(began, arrived, losses, q, step):
    LocalGrid(None, [])  # a message of Flower's refuses to be made without the run's ids

    def record(arrays):
        return ArrayRecord({name: Array(np.asarray(v, np.float64)) for name, v in arrays.items()})

    strategy = QFedAvg(client_learning_rate=step, q=q)
    strategy.current_arrays = record(began)
    replies = []
    for arrays, loss in zip(arrived, losses, strict=True):
        figures = MetricRecord({"train_loss": loss, "num-examples": 1})
        content = RecordDict({"arrays": record(arrays), "metrics": figures})
        replies.append(Message(content, 1, "train"))
    gc.freeze()  # the class collects garbage once a reply, which takes long among many objects
    found, _ = strategy.aggregate_train(1, replies)
    gc.unfreeze()
    return {name: array.numpy() for name, array in found.items()}


@pytest.mark.parametrize("q", [0.1, 1.0, 5.0])
def test_a_round_of_local_steps_is_that_of_flowers_class(q):
    clinics, recipe, plain = CLINICS["network"], network(q), plain_network()
    began = recipe.start()
    round_ = plain.rounds[0]
    arrived = []
    for place, samples in enumerate(clinics):
        stream = Seeds(place).stream("sampling/1")
        sent = plain.contributor(samples).contribute(round_, began, SILENT, stream)
        arrived.append({"flat": sent["weights"]})
    losses = [network_loss(samples, began) for samples in clinics]
    expected = flowers({"flat": flatten(began)}, arrived, losses, q, NETWORK.learning_rate)
    found = flatten(one_round(recipe, clinics, 1, began))
    moved = np.linalg.norm(expected["flat"] - flatten(began))
    assert np.linalg.norm(found - expected["flat"]) < 1e-4 * moved


@pytest.mark.parametrize("q", [0.0, 2.0])
def test_a_round_of_gradients_is_that_of_flowers_class_among_clinics_of_one_size(q):
    clinics, recipe, plain = [clinic(1, 30), clinic(2, 30, 1.0)], head(q), plain_head()
    state, step = begun(recipe, clinics, WEIGHT), STEP
    round_ = plain.rounds[1]
    arrived, losses = [], []
    for samples in clinics:
        stream = np.random.default_rng(0)
        query = plain.query(round_, state)
        sent = plain.contributor(samples).contribute(round_, query, SILENT, stream)
        arrived.append({"weight": WEIGHT - step * sent[GRADIENT] / 30})
        losses.append(head_loss(samples, state))
    expected = flowers({"weight": WEIGHT}, arrived, losses, q, step)["weight"]
    found = one_round(recipe, clinics, 2, state)["weight"]
    assert np.abs(expected - WEIGHT).max() > 0.02
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_clinics_of_other_sizes_count_by_their_patients_as_the_paper_says():
    """One step by hand: sum p F^q g over sum p (F^q + eta q F^(q-1) |g|^2)."""
    q, clinics, plain, recipe = 1.5, CLINICS["head"], plain_head(), head(1.5)
    state, step = begun(recipe, clinics, WEIGHT), STEP
    top, bottom = np.zeros_like(WEIGHT, dtype=float), 0.0
    for samples, patients in zip(clinics, (60, 12), strict=True):
        sent = plain.contributor(samples).contribute(
            plain.rounds[1], plain.query(plain.rounds[1], state), SILENT, np.random.default_rng(0)
        )
        gradient, loss = sent[GRADIENT] / patients, head_loss(samples, state)
        top += patients / 72 * loss**q * gradient
        h = loss**q / step + q * loss ** (q - 1) * (gradient**2).sum()
        bottom += patients / 72 * h
    found = one_round(recipe, clinics, 2, state)["weight"]
    np.testing.assert_allclose(found, WEIGHT - top / bottom, atol=1e-5)


@pytest.mark.parametrize("kind", ["head", "network"])
def test_with_the_power_zero_a_whole_run_is_fedavgs(kind):
    fair, plain = (head(0), plain_head()) if kind == "head" else (network(0), plain_network())
    ours, theirs = (fit(r, exchanger(r, CLINICS[kind])).arrays for r in (fair, plain))
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        np.testing.assert_allclose(ours[name], values, atol=1e-5)
    assert any(np.abs(values).max() > 0.01 for values in theirs.values())


def test_a_run_moves_towards_the_clinic_with_the_worse_loss():
    """Sixty patients who agree, and twelve whose labels are the other way round."""
    large, small = CLINICS["head"]
    worst, gap = [], []
    for q in (0.0, 1.0, 5.0):
        recipe = head(q)
        made = fit(recipe, exchanger(recipe, [large, small])).arrays
        losses = [head_loss(samples, made) for samples in (large, small)]
        worst.append(max(losses))
        gap.append(losses[1] - losses[0])
    assert worst[0] > worst[1] > worst[2]
    assert gap[0] > gap[1] > gap[2]


def test_the_weights_are_a_planned_unprotected_release_of_training_rounds_alone():
    first, *others = head(1.0).rounds
    assert first == plain_head().rounds[0]
    for rounds in (others, network(1.0).rounds):
        for round_ in rounds:
            assert [each.name for each in round_.releases][1:] == [LOSS_WEIGHTS]
            assert all(isinstance(each.event, UnprotectedEvent) for each in round_.releases)
            assert all(isinf(each.sensitivity) for each in round_.releases)
            assert all(SILENT.std(each) == each.noise_std == 0 for each in round_.releases)
    steps = [r.event.count for r in network(1.0).rounds[0].releases]
    assert steps == [NETWORK.steps_per_round, 1]


@pytest.mark.parametrize("kind", ["head", "network"])
def test_what_leaves_is_exactly_what_was_planned(kind):
    recipe = head(2.0) if kind == "head" else network(2.0)
    state = recipe.start() if kind == "network" else begun(recipe, CLINICS[kind])
    round_ = recipe.rounds[1]
    contributor = recipe.contributor(CLINICS[kind][0])
    stream = np.random.default_rng(0)
    sums = contributor.contribute(round_, recipe.query(round_, state), SILENT, stream)
    assert {name: values.shape for name, values in sums.items()} == {
        each.name: each.shape for each in round_.releases
    }
    assert all(values.dtype == np.float64 for values in sums.values())
    assert contributor.not_finite == 0


def test_a_patient_who_is_not_finite_weighs_nothing():
    with_one, others = clinic(3, 10), clinic(3, 10)
    with_one.inputs[with_one.patients == "3-004"] = np.nan
    others = others.take(others.patients != "3-004")
    recipe = head(1.0)
    state = begun(recipe, CLINICS["head"], WEIGHT)
    query, stream = recipe.query(recipe.rounds[1], state), np.random.default_rng(0)
    sums = [
        recipe.contributor(samples).contribute(recipe.rounds[1], query, SILENT, stream)
        for samples in (with_one, others)
    ]
    for name, values in sums[0].items():
        np.testing.assert_array_equal(values, sums[1][name])
    assert sums[0][LOSS_WEIGHTS][0] == 9


def test_an_empty_clinic_changes_nothing():
    clinics, recipe = CLINICS["head"], head(2.0)
    nobody = clinics[0].take(np.zeros(len(clinics[0].labels), dtype=bool))
    state = begun(recipe, clinics, WEIGHT)
    alone = one_round(recipe, clinics, 2, state)
    beside = one_round(recipe, [*clinics, nobody], 2, state)
    np.testing.assert_array_equal(alone["weight"], beside["weight"])
    np.testing.assert_array_equal(one_round(recipe, [nobody], 2, state)["weight"], WEIGHT)


def test_weights_below_zero_are_refused():
    recipe, round_ = head(1.0), head(1.0).rounds[1]
    state = begun(recipe, CLINICS["head"])
    total = {GRADIENT: np.zeros((FEATURES + 1, 2)), LOSS_WEIGHTS: np.array([1.0, -2.0, 0.0])}
    with pytest.raises(IntegrityError, match="zero or more"):
        recipe.advance(round_, state, total, 2)


@pytest.mark.parametrize("trust", ["local", "central", "distributed"])
def test_no_private_run_is_weighed_by_losses(trust):
    with pytest.raises(ConfigError, match="no clip bounds"):
        head(1.0, PrivacySettings(trust=trust))
