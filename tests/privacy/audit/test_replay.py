"""Comparing two recordings: distances, schedules, and what a patient adds in other company."""

from __future__ import annotations

from dataclasses import replace
from math import nan

import numpy as np
import pytest

from skinml.errors import ConfigError
from skinml.privacy.audit.canaries import add_release, canary_scores, no_evidence
from skinml.privacy.audit.findings import CanaryFinding, ReplayFinding
from skinml.privacy.audit.replay import Answer, Recording, compare, compare_company, totals
from skinml.privacy.plan import Release

RELEASE = Release("gradient", "training", "train", 0.5, 2.0, (2,))


def _side(*values: tuple[float, float], rounds: int = 3) -> Recording:
    answers = tuple(Answer("north", RELEASE, np.array(value)) for value in values)
    return Recording({"the number of rounds": rounds}, answers)


def _compare(first: Recording, second: Recording) -> tuple[ReplayFinding, ...]:
    return compare(first, second, recipe="centred", trust="local", change="removed")


def test_the_worst_of_all_rounds_is_told_and_flagged_beyond_the_sensitivity_only() -> None:
    schedule, gradient = _compare(_side((0, 0), (3, 4)), _side((0.1, 0), (3.3, 4.4)))
    assert not schedule.flagged
    assert gradient.num_compared == 2
    assert gradient.distance == pytest.approx(0.5)
    assert not gradient.flagged
    assert _compare(_side((0, 0)), _side((0.4, 0.4)))[1].flagged


def test_a_distance_that_is_no_number_is_flagged_whatever_else_there_is() -> None:
    for values in (((0.0, nan), (9.0, 9.0)), ((9.0, 9.0), (0.0, nan))):
        assert _compare(_side(*values), _side((0, 0), (9, 9)))[1].flagged


def test_another_schedule_is_flagged_and_named() -> None:
    (schedule, _) = _compare(_side((0, 0)), _side((0, 0), rounds=4))
    assert schedule.flagged
    assert "the number of rounds" in schedule.problem
    (schedule, _) = _compare(_side((0, 0)), _side((0, 0), (0, 0)))
    assert "the number of releases" in schedule.problem


def test_a_part_that_changes_with_the_company_is_flagged_below_the_sensitivity() -> None:
    whole, less, other, least = _side((3, 0)), _side((2.7, 0)), _side((2.6, 0)), _side((2.3, 0))
    (same,) = compare_company(whole, less, other, least, recipe="centred", trust="local")
    assert not same.flagged
    shifted = _side((2.31, 0))
    (found,) = compare_company(whole, less, other, shifted, recipe="centred", trust="local")
    assert found.distance == pytest.approx(0.01)
    assert found.flagged


def test_totals_add_the_clinics_up() -> None:
    answers = [Answer(name, RELEASE, np.array([1.0, 2.0])) for name in ("north", "south")]
    (total,) = totals(answers)
    assert total.values.tolist() == [2.0, 4.0]
    assert total.source == ""


def test_canaries_that_overlap_are_told_apart_by_least_squares() -> None:
    rng = np.random.default_rng(0)
    shared = rng.standard_normal(60)
    contributions = np.eye(20, 60) + 0.8 * shared  # all of them lie along one direction too
    included = np.arange(20) % 2 == 0
    evidence = no_evidence(20)
    for _ in range(3):
        left = contributions.T @ included + 0.1 * rng.standard_normal(60)
        evidence = add_release(evidence, contributions, left, 0.1)
    scores = canary_scores(evidence)
    assert scores[included].min() > 5
    assert abs(scores[~included]).max() < 5
    # The variance of least squares, by the textbook's formula.
    design = np.vstack([contributions.T / 0.1] * 3)
    spread = np.sqrt(np.diagonal(np.linalg.inv(design.T @ design)))
    expected = np.linalg.lstsq(design, design @ included, rcond=None)[0] / spread
    assert scores.mean() == pytest.approx(expected.mean(), abs=1)


def test_canaries_that_cannot_be_told_apart_are_refused() -> None:
    evidence = add_release(no_evidence(2), np.ones((2, 3)), np.zeros(3), 1.0)
    with pytest.raises(ConfigError, match="fewer canaries"):
        canary_scores(evidence)


def test_a_canary_finding_is_flagged_by_its_lower_limit_alone() -> None:
    found = CanaryFinding("T1", "centred", "local", "all", 9, 3.0, 1e-5, 0.9, 2.0, 2.5, 4.0, 2.9)
    assert not found.flagged
    assert replace(found, lower_limit=3.1).flagged
