"""What a clinic makes of the final model for itself changes nothing that leaves it."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.parametrize("trust", ["none", "distributed"])
def test_each_clinic_gets_the_final_model_once_and_gives_nothing_back(make, trust):
    world, heard = make(trust), {}
    for name in world.setups:
        heard[name] = []
        world.change(name, personalise=heard[name].append)
    fitted, scores = world.run()
    for models in heard.values():
        (model,) = models
        assert model.keys() == fitted.arrays.keys()
        for key, values in fitted.arrays.items():
            np.testing.assert_array_equal(model[key], values)
    assert scores.shape == (2, 64)
    planned = [r.name for round_ in world.learner.rounds for r in round_.releases]
    for name in world.setups:
        entries = [entry.name for entry in world.ledger(name)]
        assert entries == [*planned, "validation_scores"]
