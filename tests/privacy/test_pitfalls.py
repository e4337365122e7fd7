"""Pitfalls of privacy accounting, each by its number: P7, P10, P14 and P15.

P1 to P6, P9 and P11 to P13 are in test_pitfalls_dpsgd.py, P8 and P16 in
tests/federated/test_pitfalls_federated.py. The last test here holds the list together.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

import skinml
from skinml.errors import IntegrityError, PolicyError
from skinml.experiments.guarantee import COVERED, covered
from skinml.privacy.accounting import epsilon
from skinml.privacy.events import (
    CompositionEvent,
    DiscreteGaussianEvent,
    GaussianEvent,
    RepeatAndSelectEvent,
    SampledGaussianEvent,
    UnprotectedEvent,
    event_from_json,
    event_to_json,
)
from skinml.privacy.ledger import Binding, Ledger, spent
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.noise import fixed_noise
from skinml.privacy.plan import Release
from skinml.tracking.allowlist import checked_round_metrics

DELTA = 1e-5
KEY = bytes(range(32))
ROOT = Path(skinml.__file__).parent
BINDING = Binding("run", 1, 1, ("a",), "local", "patient_within_clinic", "k", True)


def dp_accounting_of(kind):
    """dp-accounting's own accountants, told the events in its own words."""
    from dp_accounting import dp_event, privacy_accountant
    from dp_accounting.pld import pld_privacy_accountant
    from dp_accounting.rdp import rdp_privacy_accountant

    relation = privacy_accountant.NeighboringRelation.ADD_OR_REMOVE_ONE

    def cost(events):
        accountant = (
            pld_privacy_accountant.PLDAccountant(relation, value_discretization_interval=1e-3)
            if kind == "pld"
            else rdp_privacy_accountant.RdpAccountant(neighboring_relation=relation)
        )
        for event in events:
            one = dp_event.GaussianDpEvent(event.noise_multiplier)
            if isinstance(event, SampledGaussianEvent):
                one = dp_event.PoissonSampledDpEvent(event.sampling_prob, one)
            accountant.compose(one, event.count)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it remarks on its range of orders
            return accountant.get_epsilon(DELTA)

    return cost


def opacus_prv(events):
    from opacus.accountants import create_accountant

    accountant = create_accountant("prv")
    # An empty history raises ValueError there, and a q of 0 has no distribution.
    accountant.history = [
        (event.noise_multiplier, getattr(event, "sampling_prob", 1.0), event.count)
        for event in events
        if getattr(event, "sampling_prob", 1.0) > 0
    ]
    with np.errstate(divide="ignore"):  # its distribution of q = 1 passes through log(0)
        return accountant.get_epsilon(DELTA) if accountant.history else 0.0


def authority(events):
    return epsilon(events, DELTA, grid=1e-3)


# How far above the truth each may be, in parts of it.
ACCOUNTANTS = {
    "the authority": (authority, 0.005),
    "dp-accounting's PLD": (dp_accounting_of("pld"), 0.005),
    "dp-accounting's RDP": (dp_accounting_of("rdp"), 0.25),
    "Opacus' PRV": (opacus_prv, 0.03),
}
every_accountant = pytest.mark.parametrize("name", ACCOUNTANTS)


def gaussian_truth(mu):
    """Epsilon of a Gaussian mechanism: delta by Balle and Wang 2018, Theorem 8, inverted."""

    def excess(eps):
        return norm.cdf(mu / 2 - eps / mu) - np.exp(eps) * norm.cdf(-mu / 2 - eps / mu) - DELTA

    return brentq(excess, 0, 60)


# P7: rounds that are not composed


def test_p7_twenty_rounds_cost_what_they_cost_together(tmp_path):
    """The figure of one round is 0.886; an engine made anew each round would report that."""
    step = SampledGaussianEvent(1.1, 0.02, 50)
    for number in range(1, 21):
        rebuilt = Ledger(tmp_path / "ledger.jsonl", "a", KEY)
        rebuilt.reserve(replace(BINDING, round=number), [("weights", "training", "train", step)])
    entries = Ledger(tmp_path / "ledger.jsonl", "a", KEY).entries()
    assert spent(entries, DELTA) == pytest.approx(3.25, abs=0.005)
    assert spent(entries[:1], DELTA) == pytest.approx(0.886, abs=0.005)


@pytest.mark.parametrize(
    ("rounds", "golden"), [(1, 1.12), (3, 1.32), (10, 1.86), (50, 4.02), (100, 5.88)]
)
def test_p7_rounds_of_a_published_example_cost_more_than_it_prints(rounds, golden):
    """Flower's examples/opacus: 4000 examples, batches of 32, s = 1, an engine a round, RDP."""
    steps = SampledGaussianEvent(1.0, 32 / 4000, 125 * rounds)
    renyi = dp_accounting_of("rdp")([steps])
    assert renyi == pytest.approx(golden, abs=0.005)
    assert 0.5 * renyi < epsilon([steps], DELTA, grid=1e-3) < renyi


@pytest.mark.parametrize("cut", [1, 7, 19])
def test_p7_a_run_that_is_rebuilt_in_the_middle_costs_the_same(tmp_path, cut):
    step = ("weights", "training", "train", SampledGaussianEvent(1.1, 0.02, 50))
    totals = []
    for place, reopen in (("through", ()), ("rebuilt", (cut,))):
        ledger = Ledger(tmp_path / f"{place}.jsonl", "a", KEY)
        for number in range(1, 21):
            if number in reopen:
                ledger = Ledger(ledger.path, "a", KEY)
            ledger.reserve(replace(BINDING, round=number), [step])
        totals.append(spent(ledger.entries(), DELTA))
    assert totals[0] == totals[1]


def test_p7_no_room_that_works_round_by_round_can_read_an_epsilon():
    """Only whole ledgers and whole plans are turned into an epsilon."""
    readers = {"epsilon", "delta", "spent", "advantage", "recognised", "statement"}
    for room in ("training", "federated", "models", "tracking"):
        for path in (ROOT / room).glob("**/*.py"):
            assert not readers & names_from_privacy(path), path
    assert readers & names_from_privacy(ROOT / "experiments" / "guarantee.py")


def names_from_privacy(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("skinml.privacy")
        for alias in node.names
    }


@pytest.mark.parametrize("name", ["epsilon", "total_epsilon", "delta", "round_epsilon"])
def test_p7_the_tracker_takes_no_epsilon_of_a_round(name):
    assert checked_round_metrics({"update_norm": 1.0}) == {"update_norm": 1.0}
    with pytest.raises(PolicyError):
        checked_round_metrics({name: 1.0})


# P10: noise from a shared or weak seed


def test_p10_equal_seeds_give_different_noise():
    """Two clinics, one seed everywhere: subtracting their releases must not cancel the noise."""
    release = Release("sum", "training", "train", 1.0, 2.0, (4000,))
    one, two = (Mechanism(1.0).privatize(release, np.zeros(4000)) for _ in range(2))
    assert np.std(one - two) == pytest.approx(2 * 2**0.5, rel=0.1)
    again = [
        Mechanism(1.0, lambda: fixed_noise(np.random.default_rng(7))).privatize(
            release, np.zeros(4000)
        )
        for _ in range(2)
    ]
    assert not np.any(again[0] - again[1])  # the control: the fault would be seen


def test_p10_fixed_noise_makes_no_certificate(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl", "a", KEY)
    release = ("sum", "training", "train", GaussianEvent(5.0))
    ledger.reserve(BINDING, [release])
    assert spent(ledger.entries(), DELTA) < 2
    ledger.reserve(BINDING, [release], guarantee=fixed_noise(np.random.default_rng(0)).guarantee)
    assert spent(ledger.entries(), DELTA) == inf


# P14: side releases and tuning


@pytest.mark.parametrize(
    "figures",
    [{"train_loss": 0.3}, {"num_patients": 41.0}, {"update_norm": 1.0, "validation_auroc": 0.9}],
)
def test_p14_an_undeclared_figure_of_a_round_is_refused(figures):
    with pytest.raises(PolicyError):
        checked_round_metrics(figures)


@pytest.mark.parametrize(("mean", "golden"), [(10, 4.92), (30, 5.61)])
def test_p14_the_best_of_a_random_number_of_runs_is_charged(mean, golden):
    """One run by the same accountant is 2.58."""
    run = SampledGaussianEvent(1.1, 0.02, 500)
    sweep = RepeatAndSelectEvent(run, float(mean))
    assert epsilon([sweep], DELTA) == pytest.approx(golden, abs=0.005)
    assert event_from_json(json.loads(json.dumps(event_to_json(sweep)))) == sweep


@pytest.mark.parametrize(("trials", "golden"), [(1, 2.58), (10, 8.5), (30, 16.4)])
def test_p14_showing_every_trial_composes_them_all(trials, golden):
    """The goldens are RDP's; the authority is below, and above the price of the best alone."""
    run = SampledGaussianEvent(1.1, 0.02, 500)
    renyi = dp_accounting_of("rdp")([replace(run, count=500 * trials)])
    assert renyi == pytest.approx(golden, abs=0.05)
    every = CompositionEvent((run,), trials)
    assert 0.75 * golden < epsilon([every], DELTA, grid=1e-3) < golden


def test_p14_whatever_was_charged_is_named_in_the_guarantee(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl", "a", KEY)
    sweep = RepeatAndSelectEvent(GaussianEvent(9.0), 5.0)
    ledger.reserve(
        BINDING,
        [
            ("gradient", "training", "train", GaussianEvent(9.0)),
            ("class_means", "training", "train", GaussianEvent(9.0)),
            ("gradient", "tuning", "train", sweep),
        ],
    )
    told = covered(ledger.entries())
    assert told[0] == COVERED["gradient"]
    assert told[1] == "the release class means"
    assert told[2].startswith("tuning")


# P15: accountant edges


@every_accountant
def test_p15_nothing_released_costs_nothing(name):
    cost, _ = ACCOUNTANTS[name]
    assert cost([]) == 0
    assert cost([SampledGaussianEvent(1.0, 0.0, 100)]) == 0


@every_accountant
@pytest.mark.parametrize(("noise", "count"), [(5.0, 50), (2.0, 1)])
def test_p15_everybody_sampled_is_no_sampling(name, noise, count):
    cost, slack = ACCOUNTANTS[name]
    truth = gaussian_truth(count**0.5 / noise)
    for event in (SampledGaussianEvent(noise, 1.0, count), GaussianEvent(noise, count)):
        assert truth - 0.011 <= cost([event]) <= truth * (1 + slack) + 0.011


@every_accountant
def test_p15_the_order_of_events_does_not_matter(name):
    cost, _ = ACCOUNTANTS[name]
    events = [SampledGaussianEvent(s, q, n) for s, q, n in ((2.0, 0.05, 20), (3.0, 0.2, 5))]
    events.append(SampledGaussianEvent(4.0, 1.0, 3))
    found = [cost(order) for order in (events, events[::-1], events[1:] + events[:1])]
    assert max(found) - min(found) < 1e-6


@every_accountant
def test_p15_more_steps_more_patients_less_noise_cost_more(name):
    cost, _ = ACCOUNTANTS[name]
    base = cost([SampledGaussianEvent(1.2, 0.05, 100)])
    assert cost([SampledGaussianEvent(1.2, 0.05, 200)]) > base + 0.1
    assert cost([SampledGaussianEvent(1.2, 0.10, 100)]) > base + 0.1
    assert cost([SampledGaussianEvent(1.0, 0.05, 100)]) > base + 0.1


@pytest.mark.parametrize("kind", ["laplace", "adaptive_clipping", "shuffled_gaussian", "", None])
def test_p15_an_unknown_event_is_refused(kind):
    with pytest.raises(IntegrityError, match="known type"):
        event_from_json({"type": kind, "noise_multiplier": 1.0, "count": 1})


def test_p15_what_nothing_bounds_is_infinite_however_deep_it_is():
    bare = UnprotectedEvent()
    for event in (
        bare,
        CompositionEvent((GaussianEvent(9.0), bare)),
        RepeatAndSelectEvent(bare, 3),
    ):
        assert epsilon([event], DELTA) == inf


def test_p15_discrete_noise_is_never_cheaper_than_continuous():
    for shares, std in ((1, 8.0), (6, 1e4)):
        event = DiscreteGaussianEvent(5.0, std, shares, 10, count=4)
        discrete, continuous = epsilon([event], DELTA), epsilon([GaussianEvent(5.0, 4)], DELTA)
        assert continuous <= discrete
    assert discrete == pytest.approx(continuous, abs=1e-3)


# All of them


def test_every_pitfall_has_a_test_that_carries_its_number():
    tests = Path(__file__).parents[1].glob("**/test_*.py")
    found = {
        int(number)
        for path in tests
        for number in re.findall(
            r"^def test_p(\d+)_", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert found >= set(range(1, 17))
