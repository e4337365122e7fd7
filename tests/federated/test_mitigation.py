"""Weighed groups through the coordinator, the wire's schema, ledgers and secure sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from skinml.errors import IntegrityError
from skinml.federated.clinic import Clinic
from skinml.records import Samples
from skinml.training.group_weights import GROUP_WEIGHTS, balance_of
from skinml.training.head import HeadLearner
from skinml.training.settings import HeadSettings, MitigationSettings
from tests.federated.conftest import CLASSES, FEATURES, NAMES

TONES = ("dark", "light")


def toned(samples):
    """The same items; each clinic has both tones and one patient of neither."""
    patients = np.unique(samples.patients)
    names = np.array(["dark", "light", "unknown"])[np.arange(len(patients)) % 3]
    by_patient = dict(zip(patients.tolist(), names.tolist(), strict=True))
    tones = np.array([by_patient[name] for name in samples.patients.tolist()])
    return Samples(samples.inputs, samples.labels, samples.patients, {"skin_tone": tones})


def weighed(world, method):
    plan = MitigationSettings(method=method, dro_step=1.0)
    settings = HeadSettings(rounds=3, learning_rate=1.0, least_count=1.0)
    learner = HeadLearner(
        settings, world.privacy, CLASSES, FEATURES, len(NAMES), balance=balance_of(plan, TONES)
    )
    for name, setup in world.setups.items():
        samples = {split: toned(part) for split, part in setup.samples.items()}
        world.change(name, learner=learner, samples=samples)
    return replace(world, learner=learner)


@pytest.mark.parametrize("method", ["reweigh", "group_dro"])
@pytest.mark.parametrize("trust", ["none", "distributed", "local", "central"])
def test_a_federation_learns_releases_and_charges_what_was_planned(make, method, trust):
    world = weighed(make(trust), method)
    fitted, _ = world.run()
    assert np.isfinite(fitted.arrays["weight"]).all()
    assert np.abs(fitted.arrays["weight"]).max() > 0
    planned = [r.name for round_ in world.learner.rounds for r in round_.releases]
    assert ("group_losses" in planned) == (method == "group_dro")
    for name in world.setups:
        assert [each.name for each in world.ledger(name)] == [*planned, "validation_scores"]


@pytest.mark.parametrize("change", ["missing", "longer", "infinite"])
def test_a_clinic_takes_only_factors_of_the_recipes_own_shape(make, change):
    world = weighed(make("none"), "reweigh")
    query = dict(world.start_query(2))
    if change == "missing":
        del query[GROUP_WEIGHTS]
    elif change == "longer":
        query[GROUP_WEIGHTS] = np.ones(9)
    else:
        query[GROUP_WEIGHTS] = np.full(3, np.inf)
    with pytest.raises(IntegrityError, match="the recipe's own finite arrays"):
        Clinic(world.setups[NAMES[0]]).answer(world.request(2, query))
