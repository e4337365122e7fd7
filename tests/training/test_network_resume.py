"""A run that is broken off and resumed ends where an unbroken one does."""

from __future__ import annotations

import numpy as np
import pytest

from skinml.models.networks import build_network
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.settings import PrivacySettings
from skinml.records import Samples
from skinml.seeding import Seeds
from skinml.training.checkpoint import load_progress, save_progress
from skinml.training.fit import Exchanged, fit
from skinml.training.network import NetworkLearner
from skinml.training.settings import NetworkSettings


@pytest.mark.parametrize("broken", [1, 2, 4])
def test_nothing_but_the_kept_state_is_carried_over(broken, tmp_path):
    """Without noise, round for round; learner and clinic are opened anew, as after a crash."""
    path = tmp_path / "checkpoint"
    rng = np.random.default_rng(0)
    items = Samples(
        rng.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8),
        rng.integers(0, 2, 8),
        np.array(list("abbcddef")),
    )

    def go(break_at=None, *, kept=False):
        recipe = NetworkLearner(
            NetworkSettings(rounds=4, steps_per_round=2, sampling_prob=0.5, expected_patients=8),
            PrivacySettings(trust="none"),
            lambda: build_network("small_cnn", 2, Seeds(0).stream("weights")),
        )
        clinic = recipe.contributor(items)

        def exchange(round_, query):
            sampling = np.random.default_rng(round_.number)
            sums = clinic.contribute(round_, query, Mechanism(0.0), sampling)
            if round_.number == break_at:
                raise KeyboardInterrupt
            return Exchanged(sums, 1)

        if not kept:
            return fit(recipe, exchange)
        return fit(
            recipe,
            exchange,
            resume=load_progress(path, "run", recipe.rounds),
            keep=lambda progress: save_progress(path, "run", recipe.rounds, progress),
        )

    whole = go()
    with pytest.raises(KeyboardInterrupt):
        go(broken, kept=True)
    assert path.exists() == (broken > 1)
    resumed = go(kept=True)
    assert resumed.history == whole.history
    for name, values in whole.arrays.items():
        assert np.array_equal(values, resumed.arrays[name])
