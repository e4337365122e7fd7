"""Counts of test patients leave in the last round: charged, on the grid, nothing beside them."""

from __future__ import annotations

from dataclasses import replace
from threading import Event

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict

from skinml.errors import BudgetExceededError, IncompleteRunError, IntegrityError
from skinml.fairness.count_tables import BINS, layout_of
from skinml.federated.client_app import client_app, close_clinics
from skinml.federated.clinic import Clinic, CountsRelease, planned_entries, schedule
from skinml.federated.coordinator import exchange_with, grid_asker
from skinml.federated.local_grid import LocalGrid
from skinml.privacy.ledger import Ceilings, spent
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.noise import fixed_noise
from skinml.privacy.plan import evaluation_release, units_of_patient
from skinml.privacy.quantise import GRID
from skinml.records import Predictions, Samples

LAYOUT = layout_of({"skin_tone": ("light", "dark"), "sex": ("female", "male")})
NAMES = ("north", "south", "studied")
PAST_NOISE = 7  # standard deviations: once in 10**11 draws


def toned(items: Samples, seed: int) -> Samples:
    rng = np.random.default_rng(seed)
    groups = {
        name: rng.choice([*names, "a clinic's own word"], len(items.labels)).astype(str)
        for name, names in LAYOUT.columns
    }
    return replace(items, groups=groups)


def with_groups(predict):
    def made(model, items) -> Predictions:
        return replace(predict(model, items), groups=items.groups)

    return made


@pytest.fixture
def counted(make):
    """A world whose clinics count test patients."""

    def build(trust="distributed", **changes):
        world = make(trust, **changes)
        plan = CountsRelease(evaluation_release(world.privacy, LAYOUT.shape), LAYOUT)
        for place, name in enumerate(NAMES):
            setup = world.setups[name]
            parts = {split: toned(items, place) for split, items in setup.samples.items()}
            world.change(
                name,
                test_counts=plan,
                samples=parts,
                predict=with_groups(setup.predict),
                secure=None,
            )
        return world, plan.release

    return build


def last_round(world, release):
    return schedule(world.learner, world.validation, None, release)[-1]


def request(world):
    learner = world.learner
    return world.request(len(learner.rounds) + 1, learner.model(learner.start()))


def silent(world, name):
    """The clinic's answer without noise."""
    rng = np.random.default_rng(0)
    world.change(name, mechanism=Mechanism(0.0, lambda: fixed_noise(rng)), book=None)
    return Clinic(world.setups[name]).answer(request(world))["test_counts"]


def planned(world, release):
    return planned_entries(
        world.learner,
        world.validation,
        world.privacy,
        run="r",
        split_key_id="k",
        test_counts=release,
    )


def test_the_counts_leave_with_noise_on_the_grid_and_their_entry_is_about_test_patients(counted):
    world, release = counted()
    exact = sum(silent(counted()[0], name) for name in NAMES)
    terms = world.terms()
    ask = grid_asker(world.grid(), terms, Event())
    last = last_round(world, release)
    total = exchange_with(ask, terms, world.record, last, request(world).query).total
    assert list(total) == [world.validation.name, release.name]
    assert (total[release.name] / GRID % 1 == 0).all()
    off = np.abs(total[release.name] - exact)
    assert 0 < off.max() < PAST_NOISE * release.noise_multiplier
    assert off.std() > release.noise_multiplier / 4
    *_, scores, entry = world.ledger("north")
    assert scores.name == world.validation.name
    assert (entry.name, entry.purpose, entry.split) == (release.name, "evaluation", "test")
    assert entry.event == release.event


def test_each_attribute_holds_every_test_patient_once(counted):
    world, _ = counted()
    table = silent(world, "south") / (units_of_patient(2, 1) * GRID)
    patients = len(set(world.setups["south"].samples["test"].patients.tolist()))
    assert table[:3].sum() == pytest.approx(patients, abs=1e-6)
    assert table[3:].sum() == pytest.approx(patients, abs=1e-6)


@pytest.mark.parametrize(("unit", "clinics"), [("patient_within_clinic", 1), ("patient", 2)])
def test_neighbouring_cohorts_differ_by_the_releases_sensitivity_at_most(counted, unit, clinics):
    """T0: any test patient taken out moves the whole answer by at most 1/K in the L2 norm."""
    changes = {"unit": unit, "max_clinics_per_patient": clinics}
    whole = silent(counted(**changes)[0], "south")
    world, release = counted(**changes)
    patients = world.setups["south"].samples["test"].patients
    moved = []
    for patient in np.unique(patients)[:6]:
        other, _ = counted(**changes)
        kept = patients != patient
        other.change(
            "south",
            admitted=lambda split, kept=kept, w=other: (
                kept if split == "test" else np.ones(len(w.setups["south"].samples[split]), bool)
            ),
        )
        units = np.round((whole - silent(other, "south")) / GRID).astype(np.int64).astype(object)
        moved.append((units**2).sum())
        assert moved[-1] <= 2**56 // clinics**2
    assert release.sensitivity == 1
    assert max(moved) > 0.1 * 2**56 / clinics**2


@pytest.mark.slow
def test_training_and_test_patients_are_charged_apart(counted):
    """The counts cost no more than the run says, for they are about other people."""
    world, release = counted(epsilon=8.0)
    delta = world.privacy.delta
    held = planned(world, release)
    test = [entry for entry in held if entry.split == "test"]
    assert len(test) == 1
    assert spent(test, delta) == pytest.approx(8.0, rel=0.005)
    assert spent(held, delta) == pytest.approx(8.0, rel=0.005)
    assert spent(held, delta) <= 8.0


@pytest.mark.slow
def test_under_another_split_key_the_counts_compose_with_the_training(counted):
    """The control of the test above."""
    world, release = counted(epsilon=8.0)
    delta, held = world.privacy.delta, planned(world, release)
    test = [entry for entry in held if entry.split == "test"]
    # Under another split key test patients may be training patients: then everything composes.
    moved = [replace(entry, binding=replace(entry.binding, split_key_id="other")) for entry in test]
    rest = [entry for entry in held if entry.split != "test"]
    assert spent([*rest, *moved], delta) > 9.0


def test_a_ceiling_below_the_counts_refuses_the_first_round(counted):
    """What is planned counts before anything is computed, the last round's counts among it."""
    world, release = counted(epsilon=8.0)
    cheap = replace(world.validation, noise_multiplier=50.0)
    world.change("south", validation=cheap, ceilings=lambda: Ceilings(run=4.0))
    dear = replace(release, noise_multiplier=release.noise_multiplier)
    learner = world.learner
    bare = planned_entries(learner, cheap, world.privacy, run="r", split_key_id="k")
    assert spent([e for e in bare if e.split != "train"], world.privacy.delta) < 4.0
    assert spent(planned(world, dear)[-1:], world.privacy.delta) > 4.0
    with pytest.raises(BudgetExceededError):
        Clinic(world.setups["south"]).answer(request(world))
    assert world.ledger("south") == ()


def test_nothing_of_the_kind_leaves_a_clinic_that_planned_no_counts(make):
    world = make("local")
    answer = Clinic(world.setups["south"]).answer(request(world))
    assert list(answer) == [world.validation.name]


def test_who_withdrew_is_in_no_count(counted):
    world, _ = counted()
    world.change(
        "south",
        admitted=lambda split: np.full(len(world.setups["south"].samples[split]), split != "test"),
    )
    assert not silent(world, "south").any()


WRONG = {
    "more cells": lambda values: np.concatenate([values, values[:1]]),
    "more bins": lambda values: np.concatenate([values, values], axis=2),
    "a row less": lambda values: values[1:],
    "another shape of as many": lambda values: values.reshape(-1),
    "single precision": lambda values: values.astype(np.float32),
    "whole numbers": lambda values: np.round(values).astype(np.int64),
    "exact digits beside the grid": lambda values: values + 2.0**-30,
    "not a number": lambda values: np.where(values == values.max(), np.nan, values),
    "infinite": lambda values: values + np.inf,
    "words": lambda values: values.astype(str),
}
BESIDE = {
    "predictions": lambda sums: sums | {"predictions": np.zeros((40, 2))},
    "a metric": lambda sums: sums | {"auroc": np.array(0.9)},
    "no counts": lambda sums: {n: v for n, v in sums.items() if n != "test_counts"},
    "counts by another name": lambda sums: {
        ("tests" if n == "test_counts" else n): v for n, v in sums.items()
    },
}
BREACHES = {
    **{
        kind: lambda sums, f=f: sums | {"test_counts": f(sums["test_counts"])}
        for kind, f in WRONG.items()
        if "grid" not in kind
    },
    **BESIDE,
}


class Changing:
    """A mechanism that makes something else of the test counts."""

    def __init__(self, inner, change):
        self.inner, self.change = inner, change

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def privatize(self, release, exact):
        noisy = self.inner.privatize(release, exact)
        return self.change(noisy) if release.name == "test_counts" else noisy


@pytest.mark.parametrize("kind", WRONG)
def test_a_clinic_refuses_to_send_anything_but_the_planned_counts(counted, kind):
    world, _ = counted("local")
    inner = world.setups["south"].mechanism
    world.change("south", mechanism=Changing(inner, WRONG[kind]))
    with pytest.raises(IntegrityError, match="south"):
        Clinic(world.setups["south"]).answer(request(world))


def changed_grid(world, change):
    """A grid on which the second clinic's answer is changed on its way."""
    close_clinics()
    honest = client_app(world.open)

    def app(message, context):
        reply = honest(message, context)
        if context.node_id != 3 or message.metadata.message_type != "train":
            return reply
        sums = {n: array.numpy() for n, array in reply.content.array_records["sums"].items()}
        arrays = ArrayRecord({n: Array(np.asarray(v)) for n, v in change(sums).items()})
        return Message(RecordDict(dict(reply.content.items()) | {"sums": arrays}), reply_to=message)

    return LocalGrid(app, [{"partition-id": place} for place in range(3)])


@pytest.mark.parametrize("kind", BREACHES)
def test_the_coordinator_takes_nothing_but_the_planned_counts(counted, kind):
    world, release = counted("local")
    terms = world.terms()
    ask = grid_asker(changed_grid(world, BREACHES[kind]), terms, Event())
    with pytest.raises(IncompleteRunError, match="south"):
        exchange_with(ask, terms, world.record, last_round(world, release), request(world).query)
    (first,) = world.record.participation
    assert (first.took_part, tuple(first.missing)) == (("north", "studied"), ("south",))


def test_the_honest_counts_pass_the_same_grid(counted):
    """The control of the test above."""
    world, release = counted("local")
    terms = world.terms()
    ask = grid_asker(changed_grid(world, dict), terms, Event())
    last = last_round(world, release)
    total = exchange_with(ask, terms, world.record, last, request(world).query).total
    assert total[release.name].shape == (*LAYOUT.shape[:2], BINS)


def test_counts_without_the_public_cells_are_not_made_up(counted):
    world, _ = counted("local")
    clinic = Clinic(world.setups["south"])
    clinic._setup = replace(world.setups["south"], test_counts=None)
    with pytest.raises(IntegrityError, match="cells"):
        clinic.answer(request(world))
