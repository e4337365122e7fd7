"""Whole federated runs over the local grid, with the real client app and the real ledgers."""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace
from threading import Event

import numpy as np
import pytest

from skinml.errors import (
    BudgetExceededError,
    DataError,
    IncompleteRunError,
    IntegrityError,
    PolicyError,
)
from skinml.federated.clinic import Clinic, planned_entries, require_budget, schedule
from skinml.federated.coordinator import exchange_with, grid_asker
from skinml.privacy.accounting import epsilon
from skinml.privacy.ledger import Ceilings, spent
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.settings import BudgetSettings
from skinml.records import join_samples
from skinml.training.fit import Exchanged, fit

NAMES = ("north", "south", "studied")
ROUNDS = 4


@pytest.mark.parametrize("trust", ["none", "central", "distributed", "local"])
def test_a_whole_run_leaves_a_model_and_one_entry_a_release(make, trust):
    kept = {}
    world = make(trust, kept)
    fitted, scores = world.run()
    assert all(np.isfinite(values).all() for values in fitted.arrays.values())
    assert scores.shape == (2, 64)
    names = ["label_counts", "feature_sum", *["gradient"] * ROUNDS, "validation_scores"]
    planned = [r for x in schedule(world.learner, world.validation) for r in x.releases]
    for name in NAMES:
        entries = world.ledger(name)
        assert [entry.name for entry in entries] == names
        assert [entry.event for entry in entries] == [r.event for r in planned]
        assert {entry.binding.trust for entry in entries} == {trust}
        assert (spent(entries, 1e-5) <= 3.0) == (trust != "none")
    took = [(p.round, p.took_part, dict(p.missing)) for p in world.record.participation]
    assert took == [(number, NAMES, {}) for number in range(1, ROUNDS + 3)]
    assert set(kept) == {(n, s) for n in NAMES for s in ("validation", "test")}


def test_without_noise_many_clinics_train_the_model_of_one(make):
    """The same fit, one contributor on the pooled samples, no wire."""
    world = make("none")
    federated, scores = world.run()
    pooled = world.learner.contributor(
        join_samples([world.setups[name].samples["train"] for name in NAMES])
    )

    def exchange(round_, query):
        rng = np.random.default_rng(0)
        return Exchanged(pooled.contribute(round_, query, Mechanism(0.0), rng), 1)

    alone = fit(world.learner, exchange)
    for name, values in alone.arrays.items():
        np.testing.assert_allclose(federated.arrays[name], values, rtol=1e-4, atol=1e-5)
    assert scores.sum() == len(NAMES) * 20  # one count a validation patient


def test_runs_without_noise_repeat_to_the_last_digit(make, tmp_path):
    first, _ = make("none").run()
    second, _ = make("none").run()
    for name, values in first.arrays.items():
        assert np.array_equal(values, second.arrays[name])


def test_runs_with_noise_never_repeat(make):
    """P10: equal seeds everywhere."""
    first, second = (make("local").run()[0].arrays["weight"] for _ in range(2))
    assert not np.isclose(first, second, rtol=1e-9).all()


def test_the_history_holds_public_figures_only(make):
    """P14: functions of the released sums, and nothing of the samples."""
    world, totals = make("local"), []
    terms = world.terms()
    ask = grid_asker(world.grid(), terms, Event())

    def exchange(round_, query):
        totals.append(exchange_with(ask, terms, world.record, round_, query))
        return totals[-1]

    fitted = fit(world.learner, exchange)
    for figures, answer in zip(fitted.history, totals, strict=True):
        flat = np.concatenate([v.ravel() for v in answer.total.values()])
        assert figures == {"num_clinics": 3.0, "update_norm": np.linalg.norm(flat)}


class Failing:
    """A recipe whose contributor fails in one round."""

    def __init__(self, learner, error, number=3):
        self.learner, self.error, self.number = learner, error, number
        self.computed = []

    def __getattr__(self, name):
        return getattr(self.learner, name)

    def contributor(self, items):
        self.inner = self.learner.contributor(items)
        return self

    @property
    def not_finite(self):
        return self.inner.not_finite

    def contribute(self, round_, query, mechanism, sampling):
        self.computed.append(round_.number)
        if round_.number == self.number:
            raise self.error
        return self.inner.contribute(round_, query, mechanism, sampling)


PRIVATE = "patient 4711, melanoma"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(PRIVATE),
        KeyError(PRIVATE),
        DataError(rule=PRIVATE, got=PRIVATE, do=PRIVATE, details=[PRIVATE]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failing_clinic_is_named_and_its_words_stay_with_it(make, error, caplog):
    world = make()
    caplog.set_level(logging.CRITICAL, "skinml")
    world.change("south", learner=Failing(world.learner, error))
    with pytest.raises(IncompleteRunError) as failure:
        world.run()
    whole = f"{failure.value} {failure.value.details} {world.record}"
    assert "south" in str(failure.value)
    assert type(error).__name__ in whole
    assert "4711" not in whole
    assert failure.value.exit_code == 4
    last = world.record.participation[-1]
    assert (last.round, last.took_part, tuple(last.missing)) == (
        3,
        ("north", "studied"),
        ("south",),
    )


def test_the_reservation_comes_before_the_computation_and_stays(make, caplog):
    """A clinic that fails while it computes has spent what it reserved."""
    caplog.set_level(logging.CRITICAL, "skinml")
    world = make()
    world.change("south", learner=Failing(world.learner, RuntimeError(PRIVATE)))
    with pytest.raises(IncompleteRunError):
        world.run()
    assert [entry.binding.round for entry in world.ledger("south")] == [1, 1, 2, 3]


def test_a_run_goes_on_without_a_clinic_where_it_may(make, caplog):
    caplog.set_level(logging.CRITICAL, "skinml")
    world = make(tolerated_dropouts=1)
    world.change("south", learner=Failing(world.learner, RuntimeError(PRIVATE)))
    fitted, _ = world.run(allowed_missing=1)
    missing = {p.round: tuple(p.missing) for p in world.record.participation}
    assert missing == {n: ("south",) if n == 3 else () for n in range(1, ROUNDS + 3)}
    assert [h["num_clinics"] for h in fitted.history] == [3, 3, 2, 3, 3]


def test_a_clinic_over_budget_refuses_before_it_computes_anything(make):
    world = make(epsilon=3.0)
    watched = Failing(world.learner, None, number=0)
    poor = world.privacy.model_copy(update={"budget": BudgetSettings(epsilon=2.9)})
    world.change("south", privacy=poor, learner=watched)
    with pytest.raises(BudgetExceededError) as refusal:
        world.run()
    assert refusal.value.exit_code == 3
    assert watched.computed == []
    assert world.ledger("south") == ()


@pytest.mark.parametrize("first", [2, ROUNDS + 1])
def test_a_coordinator_that_starts_late_cannot_dodge_the_budget(make, first):
    """Asking the last rounds again and again ends at the budget, whatever their order."""
    world = make(epsilon=1.0)
    poor = world.privacy.model_copy(update={"budget": BudgetSettings(epsilon=1.2)})
    world.change("north", privacy=poor)
    clinic = Clinic(world.setups["north"])

    def ask_for_ever():
        for number in itertools.cycle(range(first, ROUNDS + 2)):
            clinic.answer(world.request(number))

    with pytest.raises(BudgetExceededError):
        ask_for_ever()
    assert world.ledger("north")
    assert spent(world.ledger("north"), 1e-5) <= 1.2


def test_two_runs_at_once_cannot_both_spend_what_is_left(make):
    """Each alone would stay within the budget when it begins."""
    world = make(epsilon=1.0)
    poor = world.privacy.model_copy(update={"budget": BudgetSettings(epsilon=1.3)})
    world.change("north", privacy=poor)
    first = Clinic(world.setups["north"])
    second = Clinic(replace(world.setups["north"], run="run-2"))

    def take_turns():
        for number in range(1, ROUNDS + 2):
            first.answer(world.request(number))
            second.answer(world.request(number, run="run-2"))

    with pytest.raises(BudgetExceededError):
        take_turns()
    assert spent(world.ledger("north"), 1e-5) <= 1.3


def test_a_run_that_the_ledger_can_afford_runs_twice_and_not_thrice(make):
    both = epsilon(
        [r.event for x in make(epsilon=1.0).learner.rounds for r in x.releases] * 2, 1e-5
    )
    world = make(epsilon=1.0)
    limit = world.privacy.model_copy(update={"budget": BudgetSettings(epsilon=both + 1e-9)})
    for name in NAMES:
        world.change(name, privacy=limit)
    world.run()
    for name in NAMES:
        world.change(name, run="run-2")
    world.run(run="run-2")
    south = world.setups["south"]
    planned = planned_entries(world.learner, world.validation, limit, run="run-3", split_key_id="k")
    with pytest.raises(BudgetExceededError):
        require_budget(south.ledger.entries(), planned, south.ceilings(), limit)


def test_a_node_that_serves_no_clinic_is_seen(make):
    world = make()
    del world.setups["south"]
    with pytest.raises(IncompleteRunError, match="south"):
        world.run()
    assert world.record.participation[0].took_part == ("north", "studied")


def test_too_few_nodes_end_the_wait_at_the_deadline(make):
    world = make()
    with pytest.raises(IncompleteRunError, match="nodes"):
        grid_asker(world.grid(nodes=2), world.terms(deadline_s=0.05), Event())


def test_whoever_wants_the_run_to_end_ends_the_wait(make):
    world, stop = make(), Event()
    stop.set()
    with pytest.raises(IncompleteRunError):
        grid_asker(world.grid(nodes=2), world.terms(deadline_s=600), stop)


def test_a_clinic_with_a_changed_ledger_ends_the_run(make):
    """Exit 5 from the clinic's own check, named at the coordinator."""
    world = make()
    world.run()
    path = world.setups["south"].ledger.path
    path.write_bytes(path.read_bytes().replace(b"gradient", b"gradiant", 1))
    with pytest.raises(IntegrityError, match="ledger"):
        world.run()


def test_only_the_histogram_of_validation_scores_leaves_the_evaluation(make):
    kept = {}
    world = make("none", kept)
    _, scores = world.run()
    patients = {name: len(set(kept[name, "validation"].patients)) for name in NAMES}
    assert scores.sum() == sum(patients.values())
    assert np.array_equal(scores, np.round(scores))


def test_a_validation_patient_moves_the_histogram_by_at_most_one(make):
    """T0 for the last release, a patient with several images and hostile ones among them."""
    world = make("none")
    model = world.learner.model(world.learner.start())
    south = world.setups["south"]
    held_out = south.samples["validation"]
    last = len(world.learner.rounds) + 1
    released = []
    for patient in (None, "11-0", "11-7"):
        part = held_out.take(held_out.patients != patient)
        world.change("south", samples=south.samples | {"validation": part})
        answer = Clinic(world.setups["south"]).answer(world.request(last, model))
        released.append(answer["validation_scores"])
    for without in released[1:]:
        assert np.abs(released[0] - without).sum() == 1


def everybody(split):
    return np.ones(40, dtype=bool)


def test_who_withdraws_between_two_rounds_is_in_the_first_and_not_in_the_second(make):
    """Replayed without noise: the sums are exactly those of the patients on record."""
    world = make(trust="none")
    mask, noted = np.ones(40, dtype=bool), []
    world.change(
        "north",
        admitted=lambda split: mask.copy() if split == "train" else everybody(split),
        note=lambda entries, masks: noted.append((entries, masks)),
    )
    clinic = Clinic(world.setups["north"])
    training = world.setups["north"].samples["train"]
    query = world.learner.query(world.learner.rounds[1], world.learner.start())
    answers = []
    for number in (2, 3):
        answers.append(clinic.answer(world.request(number, query))["gradient"])
        mask[training.patients == training.patients[0]] = False
    for answer, round_, (entries, masks) in zip(
        answers, world.learner.rounds[1:3], noted, strict=True
    ):
        replay = world.learner.contributor(training.take(masks["train"]))
        assert np.array_equal(answer, replay.exact(round_, query)["gradient"])
        assert [entry.binding.round for entry in entries] == [round_.number]
    counted = [int(masks["train"].sum()) for _, masks in noted]
    assert counted == [40, 38]
    assert not np.array_equal(*answers)


def test_a_clinic_where_everybody_withdrew_still_answers_with_noise(make):
    world = make()
    world.change("north", admitted=lambda split: np.zeros(40, dtype=bool))
    fitted, scores = world.run()
    assert all(np.isfinite(values).all() for values in fitted.arrays.values())
    assert np.isfinite(scores).all()


def test_the_clinics_own_ceilings_bind_whatever_the_run_sets(make):
    world = make()
    strict = Ceilings(run=1.0, rule="the policy of clinic south")
    world.change("south", ceilings=lambda: strict)
    with pytest.raises(BudgetExceededError, match="policy of clinic south") as refusal:
        world.run()
    assert refusal.value.details == ("clinic south said so",)
    assert world.ledger("south") == ()


@pytest.mark.parametrize("trust", ["none", "central"])
def test_a_sum_that_the_coordinator_reads_never_holds_fewer_patients_than_the_policy_asks(
    make, trust
):
    world = make(trust=trust)
    patients = world.setups["north"].samples["train"].patients
    two = np.isin(patients, np.unique(patients)[:2])
    world.change("north", admitted=lambda split: two, least_patients=3)
    clinic = Clinic(world.setups["north"])
    with pytest.raises(PolicyError, match="least_patients") as refusal:
        clinic.answer(world.request(1))
    assert "2" not in refusal.value.got
    assert world.ledger("north") == ()
    world.change("north", least_patients=2)
    Clinic(world.setups["north"]).answer(world.request(1))


def test_where_noise_protects_who_is_left_a_withdrawal_does_not_show(make):
    world = make(trust="local")
    one = np.zeros(40, dtype=bool)
    one[0] = True
    world.change("north", admitted=lambda split: one, least_patients=3)
    Clinic(world.setups["north"]).answer(world.request(1))
