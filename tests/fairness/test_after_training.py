"""Thresholds and recalibrations of groups' own, against scikit-learn and against counting."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, recall_score, roc_auc_score

from skinml.fairness.after_training import (
    NO_MALIGNANT,
    ONE_GROUP,
    after_training,
    after_training_from,
)
from skinml.fairness.group_thresholds import EVERYBODY, threshold_for
from skinml.fairness.recalibration import fit_line
from skinml.fairness.settings import FairnessSettings
from skinml.records import Labels, Predictions

CLASSES = Labels(("naevus", "keratosis", "melanoma", "carcinoma"), (False, False, True, True))
SETTINGS = FairnessSettings(replicates=400)
THRESHOLD = 0.5


def people(seed, sizes, shifts, slope=1.0, share=0.3):
    """Patients with one item; in a group with a shift its log odds are that much too high."""
    rng = np.random.default_rng(seed)
    tones = np.repeat(list(sizes), list(sizes.values()))
    truth = rng.random(len(tones)) < share
    odds = rng.normal(size=len(tones)) + 2.0 * truth - 1.5
    scores = expit(slope * odds + np.array([shifts.get(tone, 0.0) for tone in tones]))
    split = rng.random((len(tones), 2))
    probabilities = np.stack(
        [
            (1 - scores) * split[:, 0],
            (1 - scores) * (1 - split[:, 0]),
            scores * split[:, 1],
            scores * (1 - split[:, 1]),
        ],
        axis=1,
    )
    labels = np.where(truth, rng.integers(2, 4, len(truth)), rng.integers(0, 2, len(truth)))
    return Predictions(
        CLASSES,
        labels,
        probabilities,
        probabilities.argmax(axis=1),
        np.array([f"{seed}-{n:05}" for n in range(len(tones))]),
        {"skin_tone": tones},
    )


SIZES = {"dark": 400, "light": 900, "unknown": 60}


def analysed(validation, test, settings=SETTINGS):
    return after_training(
        validation,
        test,
        "skin_tone",
        THRESHOLD,
        settings=settings,
        rng=lambda: np.random.default_rng(1),
    )


@pytest.fixture(scope="module")
def shifted():
    shifts = {"dark": -1.5}
    sides = people(1, SIZES, shifts), people(2, SIZES, shifts)
    return (*sides, analysed(*sides))


def rows_of(predictions, group):
    values = predictions.groups["skin_tone"]
    return np.ones(len(values), bool) if group == EVERYBODY else values == group


def test_figures_are_those_of_scikit_learn_at_each_threshold(shifted):
    _, test, found = shifted
    own = {each.group: each.threshold for each in found.thresholds}
    assert list(own) == [EVERYBODY, "dark", "light"]
    assert own[EVERYBODY] is None
    limits = np.array([own.get(tone, THRESHOLD) for tone in test.groups["skin_tone"]], float)
    scores = test.malignancy_scores
    for each in found.thresholds:
        rows = rows_of(test, each.group)
        for name, positive in (("sensitivity", True), ("specificity", False)):
            for way, alarms in (("before", scores >= THRESHOLD), ("after", scores >= limits)):
                expected = recall_score(test.malignant[rows], alarms[rows], pos_label=positive)
                assert getattr(each.figures[name], way).value == pytest.approx(expected)
            made = each.figures[name]
            assert made.difference.value == pytest.approx(made.after.value - made.before.value)


def test_a_group_that_is_missed_gets_a_lower_threshold_and_pays_in_false_alarms(shifted):
    validation, _, found = shifted
    by_group = {each.group: each for each in found.thresholds}
    dark = by_group["dark"]
    assert dark.threshold < THRESHOLD - 0.1
    assert dark.figures["sensitivity"].difference.low > 0.1
    assert dark.figures["specificity"].difference.high < -0.005
    # On the patients whom it was chosen on it finds just what it aims at.
    truth = validation.malignant & rows_of(validation, "dark")
    found_share = (validation.malignancy_scores[truth] >= dark.threshold).mean()
    assert found.aim <= found_share < found.aim + 1 / truth.sum() + 0.01


@pytest.mark.parametrize("seed", range(5))
def test_a_threshold_is_the_greatest_thousandth_that_finds_enough(seed):
    rng = np.random.default_rng(seed)
    scores, truth = rng.random(60), rng.random(60) < 0.4
    for aim in (0.0, 0.31, 0.5, 0.9, 1.0):
        wanted = max(1 / truth.sum(), aim)
        grid = np.arange(1001) / 1000
        enough = [t for t in grid if (scores[truth] >= t).mean() >= wanted - 1e-12]
        assert threshold_for(scores, truth, aim) == pytest.approx(max(enough))


def test_a_share_that_is_met_exactly_asks_for_no_more():
    scores = np.array([0.9, 0.8, 0.7])
    assert threshold_for(scores, np.ones(3, bool), 2 / 3) == 0.8
    assert threshold_for(scores, np.ones(3, bool), 0.1 + 0.2 + 1 / 30 + 1 / 3) == 0.8


def test_lines_are_scikit_learns_without_penalty(shifted):
    validation, _, found = shifted
    scores = np.clip(validation.malignancy_scores, 1e-6, 1 - 1e-6)
    for each in found.recalibrations:
        rows = rows_of(validation, each.group)
        oracle = LogisticRegression(C=1e10, tol=1e-10, max_iter=1000)
        oracle.fit(logit(scores[rows])[:, None], validation.malignant[rows])
        assert each.line.intercept == pytest.approx(float(oracle.intercept_[0]), abs=1e-4)
        assert each.line.slope == pytest.approx(float(oracle.coef_[0, 0]), abs=1e-4)


def test_recalibrated_figures_are_those_of_scikit_learn(shifted):
    _, test, found = shifted
    lines = {each.group: each.line for each in found.recalibrations}
    odds, tones = logit(test.malignancy_scores), test.groups["skin_tone"]

    def straight(choose):
        pairs = np.array([(choose(t).intercept, choose(t).slope) for t in tones])
        return expit(pairs[:, 0] + pairs[:, 1] * odds)

    common = straight(lambda _: lines[EVERYBODY])
    own = straight(lambda tone: lines.get(tone, lines[EVERYBODY]))
    for each in found.recalibrations:
        rows, made = rows_of(test, each.group), each.figures["brier"]
        for way, scores in (("before", common), ("after", own)):
            expected = brier_score_loss(test.malignant[rows], scores[rows])
            assert getattr(made, way).value == pytest.approx(expected, abs=1e-9)
    ranks = found.recalibrations[0].figures["auroc"]
    assert ranks.after.value == pytest.approx(roc_auc_score(test.malignant, own))
    assert ranks.before.value == pytest.approx(roc_auc_score(test.malignant, common))


def test_a_group_that_is_off_gains_and_a_model_that_is_off_as_a_whole_is_not_called_unfair(shifted):
    dark = {each.group: each for each in shifted[2].recalibrations}["dark"]
    assert dark.figures["brier"].difference.high < 0
    assert abs(dark.figures["calibration_intercept"].after.value) < 0.4
    assert dark.figures["calibration_intercept"].before.value > 0.5
    # Everybody too extreme: one line mends it, the groups' own have nothing to add.
    sides = [
        people(seed, SIZES, {"dark": 1.0, "light": 1.0, "unknown": 1.0}, 3.0) for seed in (3, 4)
    ]
    for each in analysed(*sides).recalibrations:
        change = each.figures["brier"].difference
        assert change.low <= 0 <= change.high or abs(change.value) < 0.005


@pytest.mark.slow
def test_intervals_hold_no_gap_where_there_is_none():
    """Fifteen pairs of cohorts without any difference: few intervals leave out 0."""
    small = FairnessSettings(replicates=200)
    left_out = 0
    for seed in range(15):
        found = analysed(people(2 * seed, SIZES, {}), people(2 * seed + 1, SIZES, {}), small)
        change = found.recalibrations[0].figures["brier"].difference
        left_out += not change.low <= 0 <= change.high
    # A line that chance drew on validation patients loses a little: more than a twentieth may.
    assert left_out <= 7


def test_few_validation_patients_choose_nothing_and_say_so():
    validation = people(1, {"dark": 30, "light": 900}, {})
    found = analysed(validation, people(2, SIZES, {}))
    by_group = {each.group: each for each in found.thresholds}
    assert by_group["dark"].threshold is None
    assert "fewer than 15 malignant" in by_group["dark"].reason
    assert by_group["dark"].figures == {}
    assert {each.group: each.line for each in found.recalibrations}["dark"] is None
    # The others' figures do not hang on it.
    assert by_group["light"].figures["sensitivity"].after.value is not None


def test_where_no_group_has_enough_nothing_is_tried():
    few = people(1, {"dark": 20, "light": 30}, {})
    found = analysed(few, people(2, SIZES, {}))
    assert not any(each.figures for each in (*found.thresholds, *found.recalibrations))


def test_many_images_of_few_patients_are_few():
    one = people(1, {"dark": 30, "light": 900}, {})
    rows = np.concatenate([np.repeat(np.flatnonzero(rows_of(one, "dark")), 20), np.arange(930)])
    copied = Predictions(
        one.classes,
        one.labels[rows],
        one.probabilities[rows],
        one.decisions[rows],
        one.patients[rows],
        {"skin_tone": one.groups["skin_tone"][rows]},
    )
    found = analysed(copied, people(2, SIZES, {}))
    assert {each.group: each.threshold for each in found.thresholds}["dark"] is None


def test_what_cannot_be_made_is_said():
    test = people(2, SIZES, {})
    assert analysed(people(1, SIZES, {}, share=0.0), test).left_out == NO_MALIGNANT
    alone = people(2, {"dark": 300, "unknown": 20}, {})
    assert analysed(people(1, SIZES, {}), alone).left_out == ONE_GROUP


@pytest.mark.parametrize("seed", range(8))
def test_few_and_extreme_scores_have_scikit_learns_line_too(seed):
    """Newton's whole steps would overshoot here."""
    rng = np.random.default_rng(seed)
    truth = rng.random(40) < 0.4
    scores = expit(6 * rng.normal(size=40) + 3 * truth)
    oracle = LogisticRegression(C=1e12, tol=1e-12, max_iter=10_000)
    oracle.fit(logit(np.clip(scores, 1e-6, 1 - 1e-6))[:, None], truth)
    found = fit_line(scores, truth)
    assert found.intercept == pytest.approx(float(oracle.intercept_[0]), abs=1e-3)
    assert found.slope == pytest.approx(float(oracle.coef_[0, 0]), abs=1e-3)


def test_another_threshold_that_moves_no_alarm_here_still_has_an_interval():
    """No test patient is between the two thresholds; of as many others some may be."""

    def two_tones(scores, truth, prefix):
        scores, truth = np.tile(scores, 2), np.tile(truth, 2)
        return Predictions(
            Labels(("benign", "malignant"), (False, True)),
            truth.astype(int),
            np.stack([1 - scores, scores], axis=1),
            (scores > 0.5).astype(int),
            np.array([f"{prefix}{number}" for number in range(len(scores))]),
            {"skin_tone": np.repeat(["dark", "light"], len(scores) // 2)},
        )

    held = two_tones(np.repeat([0.6, 0.3], 20), np.repeat([True, False], 20), "v")
    test = two_tones(np.tile([0.9, 0.2], 30), np.repeat([True, False], 30), "t")
    for each in analysed(held, test).thresholds[1:]:
        assert each.threshold == 0.6 != THRESHOLD
        for made in each.figures.values():
            assert made.difference.value == 0
            assert made.difference.low < 0 < made.difference.high


@pytest.mark.parametrize(
    ("scores", "truth"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]),  # separated
        ([0.4, 0.4, 0.4], [0, 1, 1]),  # all equal
        ([0.1, 0.5, 0.8], [1, 1, 1]),  # one class
        ([0.0, 0.0, 1.0, 1.0], [0, 0, 1, 1]),
    ],
)
def test_scores_without_a_finite_line_have_none(scores, truth):
    assert fit_line(np.array(scores), np.array(truth, bool)) is None


def test_plain_values_and_back(shifted):
    found = shifted[2]
    assert after_training_from(found.values()) == found
