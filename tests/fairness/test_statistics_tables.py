"""Noised tables: the noise that is promised, intervals that hold, small counts not shown."""

from __future__ import annotations

import numpy as np
import pytest

from skinml.fairness.statistics_tables import (
    TablesLayout,
    estimated_tables,
    half_width,
    table_layout,
)
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.plan import statistics_release, units_of_patient
from skinml.privacy.quantise import GRID
from skinml.privacy.settings import PrivacySettings
from skinml.records import Samples
from skinml.training.tally import TallyLearner

GROUPS = {"sex": ("female", "male"), "outcome": ("better", "worse")}
LAYOUT = TablesLayout(
    (table_layout(["sex"], GROUPS), table_layout(["sex", "outcome"], GROUPS)),
)
PEOPLE = {
    "sex": np.array(["female"] * 40 + ["male"] * 25 + ["not told"] * 3),
    "outcome": np.array(["better", "worse"] * 34),
}


def _exact() -> np.ndarray:
    return np.bincount(LAYOUT.codes(PEOPLE, "any").ravel(), minlength=LAYOUT.num_cells)


def test_the_noise_of_many_draws_is_what_the_page_says_and_intervals_hold_the_count() -> None:
    settings = PrivacySettings(trust="local", epsilon=1.0)
    release, units = statistics_release(settings, LAYOUT.num_cells), units_of_patient(2, 1)
    learner = TallyLearner(release, units)
    codes = LAYOUT.codes(PEOPLE, "any")
    samples = Samples(
        codes, np.zeros(len(codes), dtype=np.int64), np.arange(len(codes)).astype(str)
    )
    contributor, rng = learner.contributor(samples), np.random.default_rng(0)
    draws = 600
    found = np.array(
        [
            contributor.contribute(learner.rounds[0], {}, Mechanism(1.0), rng)[release.name]
            for _ in range(draws)
        ]
    ) / (units * GRID)
    off, std = found - _exact(), release.noise_std / (units * GRID)
    assert std == pytest.approx(release.noise_multiplier * np.sqrt(2), rel=1e-6)
    count = off.size
    assert abs(off.mean()) < 4 * std / np.sqrt(count)
    assert off.std() == pytest.approx(std, rel=4 / np.sqrt(2 * count))
    inside = np.abs(off) <= half_width(std)
    assert inside.mean() == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / count))


def test_a_patient_moves_all_tables_together_by_no_more_than_the_sensitivity() -> None:
    for tables, clinics in ((1, 1), (3, 1), (5, 4), (20, 100)):
        units = units_of_patient(tables, clinics)
        assert tables * (units * clinics * GRID) ** 2 <= 1
        assert tables * ((units + 1) * clinics * GRID) ** 2 > 1


def test_small_counts_are_not_shown_and_totals_are_not_made_to_agree() -> None:
    released = _exact().astype(float)
    released[0] += 3.4
    first, second = estimated_tables(released, LAYOUT, std=2.0, least_count=10)
    shown = {cell.groups: cell.count.value for cell in first.cells}
    assert shown == {("female",): 43, ("male",): 25, ("unknown",): None}
    assert first.num_suppressed == 1
    assert (first.total.value, second.total.value) == (71, 68)
    (female, *_) = first.cells
    assert (female.count.low, female.count.high) == (39, 48)


def test_without_noise_an_interval_is_the_count() -> None:
    (table, _) = estimated_tables(_exact().astype(float), LAYOUT, std=0.0, least_count=1)
    for cell in table.cells:
        assert cell.count.low == cell.count.value == cell.count.high
