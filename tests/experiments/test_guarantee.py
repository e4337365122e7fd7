"""The guarantee of a run: read from its ledgers, in words that the docs and the report share."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from scipy.stats import norm

from skinml.clinic.folder import open_folder
from skinml.experiments.guarantee import (
    COVERED,
    FLOATING_POINT,
    NOT_COVERED,
    NOTHING_COVERED,
    covered,
    not_covered,
    planned_sums,
)
from skinml.experiments.run import Finished
from skinml.privacy.events import DiscreteGaussianEvent, GaussianEvent
from skinml.privacy.ledger import Binding, Entry
from skinml.privacy.plan import Release
from skinml.records import PlannedSum
from skinml.training.learner import Round
from skinml.training.network import LOCAL_STEPS

PAGE = (Path(__file__).parents[2] / "docs/guarantee.md").read_text(encoding="utf-8")
BINDING = Binding("run", 1, 1, ("a",), "local", "patient_within_clinic", "k", True)
ON_A_GRID = DiscreteGaussianEvent(5.0, 1e6, 6, 10)


def entry(name: str, event: GaussianEvent | DiscreteGaussianEvent = ON_A_GRID) -> Entry:
    when = "2026-01-01T00:00:00+00:00"
    return Entry(0, when, BINDING, name, "training", "train", event, guarantee=True)


def test_the_page_and_the_report_use_the_same_words() -> None:
    lines = [line.removeprefix("- ") for line in PAGE.splitlines()]
    for words in (*NOT_COVERED, FLOATING_POINT):
        assert words in lines
    for name, words in COVERED.items():
        assert f"| `{name}` | {words} |" in lines


def test_every_release_is_named_once_and_unknown_ones_too() -> None:
    told = covered([entry("gradient"), entry("class_means"), entry("gradient")])
    assert told == (COVERED["gradient"], "the release class means")


def release(name: str, noise: float, steps: int = 1) -> Release:
    return Release(name, "training", "train", 0.5, noise, (3,), steps=steps)


def test_every_sum_of_a_plan_is_told_once_with_its_own_noise() -> None:
    louder = {4: 9.0}  # one round's noise differs from that of the others
    rounds = [Round(1, "statistics", (release("counts", 2.0), release("features", 3.0)))]
    rounds += [
        Round(n, "gradient", (release("gradient", louder.get(n, 4.0)),)) for n in range(2, 8)
    ]
    sums = planned_sums(rounds)
    assert [(each.name, each.first_round, each.last_round) for each in sums] == [
        ("counts", 1, 1),
        ("features", 1, 1),
        ("gradient", 2, 3),
        ("gradient", 4, 4),
        ("gradient", 5, 7),
    ]
    for round_ in rounds:
        for each in round_.releases:
            (told,) = [
                one
                for one in sums
                if one.name == each.name and one.first_round <= round_.number <= one.last_round
            ]
            assert (told.sensitivity, told.local_steps) == (0.5, 0)
            assert told.std == 0.5 * each.noise_multiplier


def test_noise_inside_of_local_steps_is_told_as_such() -> None:
    (told,) = planned_sums([Round(1, LOCAL_STEPS, (release("weights", 2.0, steps=4),))])
    assert (told.std, told.local_steps) == (1.0, 4)


def test_what_nothing_bounds_is_told_without_a_bound_and_survives_the_record() -> None:
    unbounded = replace(release("gradient", 0.0), sensitivity=inf)
    (told,) = planned_sums([Round(1, "gradient", (unbounded,))])
    assert (told.sensitivity, told.std) == (None, 0.0)
    kind = TypeAdapter(PlannedSum)
    assert kind.validate_json(kind.dump_json(told)) == told


@pytest.mark.parametrize("event", [ON_A_GRID, GaussianEvent(5.0)])
def test_floating_point_is_a_limit_of_continuous_noise_alone(
    event: GaussianEvent | DiscreteGaussianEvent,
) -> None:
    told = not_covered([entry("gradient"), entry("gradient", event)])
    assert (FLOATING_POINT in told) == isinstance(event, GaussianEvent)
    assert set(NOT_COVERED) <= set(told)


def test_a_run_without_privacy_promises_nothing_at_all(not_private: Finished) -> None:
    promise = not_private.record.guarantee
    bounds = (
        promise.epsilon,
        promise.total_epsilon,
        promise.epsilon_across_clinics,
        promise.advantage,
        promise.total_advantage,
        promise.recognised,
        promise.replace_one_epsilon,
    )
    assert set(bounds) == {None}
    assert (promise.covered, promise.not_covered) == ((), NOTHING_COVERED)
    page = (not_private.folder / "report.html").read_text(encoding="utf-8")
    assert "There is no guarantee." in page
    assert "is protected" not in page


def test_what_a_run_promises_is_what_its_ledgers_hold(run_small, cached_place: Path) -> None:
    words = ("federation=centralised", "training.head.rounds=2", "privacy.epsilon=1")
    promise = run_small(cached_place, *words).record.guarantee
    held = open_folder(cached_place / "clinics" / "pooled").ledger.entries()
    mus = [1 / each.event.noise_multiplier for each in held if each.split == "train"]
    mu = max(sum(each**2 for each in mus) ** 0.5, 1 / held[-1].event.noise_multiplier)
    assert (1 + promise.advantage) / 2 == pytest.approx(norm.cdf(mu / 2), abs=1e-3)
    assert promise.recognised == pytest.approx(norm.cdf(norm.ppf(0.01) + mu), abs=1e-3)
    assert promise.total_advantage == promise.advantage  # the first run of this ledger
    assert promise.replace_one_epsilon > 2 * promise.epsilon
    assert promise.covered == tuple(COVERED[n] for n in dict.fromkeys(e.name for e in held))
    assert (promise.num_clinics, promise.tolerated_dropouts, promise.colluding_clinics) == (1, 0, 0)
