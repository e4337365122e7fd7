"""What a clinic is asked and what its recipe gives: exactly the approved and planned things.

For what else could stand in a message see test_nothing_else_travels.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from skinml.errors import IntegrityError
from skinml.federated.clinic import Clinic

NAMES = ("north", "south", "studied")
ROUNDS, FEATURES = 4, 5


@pytest.mark.parametrize(
    "asked",
    [
        {"run": "run-2"},
        {"number": 0},
        {"number": -1},
        {"number": ROUNDS + 3},
        {"participants": ("north", "studied")},
        {"participants": ("south",)},
        {"participants": (*NAMES, "newcomer")},
    ],
    ids=str,
)
def test_what_was_not_approved_is_not_answered(make, asked):
    world = make()
    arguments = {"number": 2, "query": world.start_query(2)} | asked
    with pytest.raises(IntegrityError, match="approved"):
        Clinic(world.setups["south"]).answer(world.request(**arguments))
    assert world.ledger("south") == ()


def changed(query, name, value):
    return {key: values for key, values in query.items() if key != name} | (
        {} if value is None else {name: value}
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weight", None),
        ("more", np.zeros(3)),
        ("weight", np.zeros((2, 2), np.float32)),
        ("weight", np.zeros((FEATURES + 1, 2), np.float64)),
        ("weight", np.full((FEATURES + 1, 2), np.nan, np.float32)),
        ("centre", np.full(FEATURES, np.inf, np.float32)),
    ],
)
def test_a_query_of_another_form_is_refused_before_anything_is_spent(make, name, value):
    """P5 and P14: a NaN in the query could single out whether there are patients at all."""
    world = make()
    query = changed(world.start_query(2), name, value)
    with pytest.raises(IntegrityError):
        Clinic(world.setups["south"]).answer(world.request(2, query))
    assert world.ledger("south") == ()


class Answering:
    """A recipe whose contributor answers with given sums."""

    def __init__(self, learner, change):
        self.learner, self.change = learner, change

    def __getattr__(self, name):
        return getattr(self.learner, name)

    def contributor(self, items):
        self.inner = self.learner.contributor(items)
        return self

    @property
    def not_finite(self):
        return self.inner.not_finite

    def contribute(self, *arguments):
        return self.change(dict(self.inner.contribute(*arguments)))


SUMS = {
    "more fields": lambda sums: sums | {"num_patients": np.array([17.0])},
    "fewer fields": lambda sums: {},
    "another shape": lambda sums: {name: np.append(v, 1.0) for name, v in sums.items()},
    "single precision": lambda sums: {name: v.astype(np.float32) for name, v in sums.items()},
    "not a number": lambda sums: {name: v * np.nan for name, v in sums.items()},
    "infinite": lambda sums: {name: v + np.inf for name, v in sums.items()},
}


@pytest.mark.parametrize("kind", SUMS)
def test_nothing_but_the_planned_sums_leaves_a_clinic(make, kind):
    """P14: what is not in the plan is in no ledger."""
    world = make()
    world.change("south", learner=Answering(world.learner, SUMS[kind]))
    with pytest.raises(IntegrityError, match="south"):
        Clinic(world.setups["south"]).answer(world.request(2))
    with pytest.raises(IntegrityError):
        world.run()


def test_hostile_finite_weights_cannot_make_a_clinic_fail_for_one_patient_only(make):
    """An overflow that only one patient causes must not show as a missing answer."""
    world = make("none")
    model = dict(world.learner.model(world.learner.start()))
    model["weight"] = np.full_like(model["weight"], np.finfo(np.float32).max)
    model["weight"][:, 1] *= -1
    answer = Clinic(world.setups["south"]).answer(world.request(ROUNDS + 2, model))
    assert answer["validation_scores"].sum() == 20  # every validation patient is counted
