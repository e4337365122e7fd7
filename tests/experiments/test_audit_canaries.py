"""Canaries: full noise is not flagged, half of it, a double count and a missing clip are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from skinml.config import RunConfig, load_config
from skinml.experiments.audit_canaries import CanaryPlan, black_box, white_box
from skinml.federated.clinic import ClinicSetup
from skinml.privacy.audit.findings import CanaryFinding, NotAudited
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.noise import NoiseSource, fixed_noise
from skinml.records import Arrays, FloatArray, Samples
from skinml.seeding import Seeds
from skinml.training.learner import Contributor, Learner, Round

ONE_STEP = "training.network.steps_per_round=1"
FEW = CanaryPlan(num_canaries=450, rounds=4)


class Scaled(NoiseSource):
    """Noise of another size than it should have."""

    scale: float = 0.5

    def normal(self, shape: Sequence[int], std: float) -> FloatArray:
        return super().normal(shape, self.scale * std)

    def on_grid(self, shape: Sequence[int], std: float, grid: float) -> FloatArray:
        return super().on_grid(shape, self.scale * std, grid)


class Missing(Scaled):
    """No noise at all."""

    scale = 0.0


def _source(seed: int, kind: type[NoiseSource] = NoiseSource) -> Callable[[], NoiseSource]:
    rng = Seeds(seed).stream("noise")
    return lambda: kind(fixed_noise(rng).words, guarantee=False)


def _config(kind: str, trust: str, *overrides: str) -> RunConfig:
    experiment = "quickstart" if kind == "head" else "quickstart_end_to_end"
    steps = () if kind == "head" else (ONE_STEP,)
    return load_config(experiment, (f"privacy.trust={trust}", *steps, *overrides))


def _white(config: RunConfig, plan: CanaryPlan, **more: Any) -> CanaryFinding:
    (finding,) = white_box(config, plan, **more)
    assert isinstance(finding, CanaryFinding)
    return finding


class Counted:
    """A clinic's side that adds what it gave in the round before, as after an abandoned batch."""

    def __init__(self, inner: Contributor) -> None:
        self._inner = inner
        self._kept: dict[str, FloatArray] = {}

    @property
    def not_finite(self) -> int:
        return self._inner.not_finite

    def contribute(
        self, round_: Round, query: Arrays, mechanism: Mechanism, sampling: np.random.Generator
    ) -> Arrays:
        silent = Mechanism(0.0, mechanism.open_source)
        exact = self._inner.contribute(round_, query, silent, sampling)
        found = {name: values + self._kept.get(name, 0.0) for name, values in exact.items()}
        self._kept = {name: np.asarray(values) for name, values in exact.items()}
        return {r.name: mechanism.privatize(r, found[r.name]) for r in round_.releases}


class Planted:
    """A recipe whose clinics compute something else."""

    def __init__(self, learner: Learner, contributor: Callable[[Samples], Contributor]) -> None:
        self._learner = learner
        self.rounds = learner.rounds
        self.contributor = contributor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._learner, name)


def _double_count(setup: ClinicSetup) -> ClinicSetup:
    learner = setup.learner
    return replace(
        setup, learner=Planted(learner, lambda samples: Counted(learner.contributor(samples)))
    )


def _no_clip(setup: ClinicSetup) -> ClinicSetup:
    learner = setup.learner

    def unclipped(samples: Samples) -> Contributor:
        contributor: Any = learner.contributor(samples)
        contributor._clip_norm = 3.0  # more than any gradient of the head
        return contributor  # type: ignore[no-any-return]

    return replace(setup, learner=Planted(learner, unclipped))


@pytest.mark.parametrize(("trust", "num_seeds"), [("distributed", 3), ("local", 1), ("central", 1)])
def test_full_noise_is_not_flagged_and_half_of_it_is(trust: str, num_seeds: int) -> None:
    config = _config("head", trust)
    for seed in range(num_seeds):
        plan = replace(FEW, seed=seed)
        full = _white(config, plan, open_source=_source(seed))
        assert full.epsilon == pytest.approx(3, abs=0.01)
        assert not full.flagged
        # Tight: an audit that saw nothing would not flag either.
        assert full.estimate == pytest.approx(3, abs=1.5)
        assert 0 < full.one_run_bound < full.refined_bound < full.epsilon
        half = _white(config, plan, open_source=_source(seed, Scaled))
        assert half.flagged, half
        assert half.estimate > 5


@pytest.mark.parametrize("fault", [_double_count, _no_clip], ids=["double count", "no clip"])
def test_a_planted_fault_is_flagged(fault: Callable[[ClinicSetup], ClinicSetup]) -> None:
    found = _white(_config("head", "distributed"), FEW, open_source=_source(1), tamper=fault)
    assert found.flagged, found


def test_steps_of_a_network_are_read_as_well() -> None:
    config, plan = _config("network", "local"), replace(FEW, num_canaries=150)
    full = _white(config, plan, open_source=_source(0))
    assert not full.flagged
    assert full.estimate == pytest.approx(8, abs=3)
    assert _white(config, plan, open_source=_source(0, Scaled)).flagged


def test_next_to_no_epsilon_shows_next_to_nothing() -> None:
    config = _config("head", "distributed", "privacy.epsilon=0.02")
    found = _white(config, FEW, open_source=_source(2))
    assert found.lower_limit == found.one_run_bound == found.refined_bound == 0
    assert found.estimate < 1
    assert 0.35 < found.auc < 0.65


def test_without_a_promise_there_is_nothing_to_hold_it_against() -> None:
    (found,) = white_box(_config("head", "none"), FEW)
    assert isinstance(found, NotAudited)


@pytest.mark.parametrize("kind", ["head", pytest.param("network", marks=pytest.mark.slow)])
def test_the_final_model_alone_shows_less_and_a_missing_noise_at_once(kind: str) -> None:
    trust = "distributed" if kind == "head" else "local"
    rounds = "training.head.rounds=10" if kind == "head" else "training.network.rounds=20"
    config = _config(kind, trust, "privacy.epsilon=1", rounds, "training.network.sampling_prob=1")
    plan = replace(FEW, num_canaries=150)
    (full,) = black_box(config, plan, open_source=_source(3))
    assert isinstance(full, CanaryFinding)
    assert not full.flagged
    assert np.isnan(full.estimate)
    (bare,) = black_box(config, plan, open_source=_source(3, Missing))
    assert isinstance(bare, CanaryFinding)
    assert bare.flagged, bare
    assert bare.auc > 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "trust", "overrides"),
    [
        ("head", "distributed", ()),
        ("head", "local", ()),
        ("head", "central", ()),
        ("head", "distributed", ("privacy.colluding_clinics=2", "privacy.tolerated_dropouts=1")),
        ("head", "distributed", ("privacy.recipe=prototypes",)),
        ("network", "local", ()),
        ("network", "distributed", ()),
    ],
)
def test_over_twenty_seeds_full_noise_is_not_flagged_and_half_of_it_is(
    kind: str, trust: str, overrides: tuple[str, ...]
) -> None:
    config = _config(kind, trust, *overrides)
    estimates = []
    for seed in range(20):
        plan = CanaryPlan(num_canaries=450, rounds=6, seed=seed)
        full = _white(config, plan, open_source=_source(seed))
        assert not full.flagged, full
        assert full.epsilon == pytest.approx(config.privacy.epsilon, abs=0.02)
        estimates.append(full.estimate)
        assert _white(config, plan, open_source=_source(seed, Scaled)).flagged
    assert np.mean(estimates) == pytest.approx(config.privacy.epsilon, rel=0.15)
