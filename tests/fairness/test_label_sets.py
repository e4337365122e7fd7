"""Label sets: coverage by group, with and without noise; what a patient can move; the answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from crepes import ConformalClassifier
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from skinml.config import load_config
from skinml.errors import ConfigError, DataError
from skinml.fairness.label_sets import (
    BINS,
    LabelSets,
    SetsLayout,
    label_sets,
    limit_bin,
    read_label_sets,
    running_factor,
    set_table,
    threshold_units,
)
from skinml.fairness.model_answer import (
    NO_SETS,
    NOTHING_FITS,
    TOO_FEW,
    TOO_MANY,
    UNLIKE,
    AnswerTables,
    answer,
)
from skinml.fairness.recalibration import Line, line_from_counts
from skinml.fairness.thresholds import score_edges, score_histogram
from skinml.federated.validation_scores import score_table
from skinml.privacy.quantise import GRID
from skinml.records import Predictions
from tests.fairness.conftest import BINARY, binary_predictions, clustered, many_classes

TONES = ("1-3", "4-6", "7-10", "unknown")
LAYOUT = SetsLayout("skin_tone", TONES, apart=False, share=0.5)


def drawn(rng, num_patients, shifts=(2.0, 1.2, 0.6)):
    """One image a patient; the darker the tone, the worse the scores."""
    tone = rng.integers(3, size=num_patients)
    malignant = rng.random(num_patients) < 0.3
    latent = np.asarray(shifts)[tone] * (2 * malignant - 1) + rng.normal(size=num_patients)
    return binary_predictions(
        expit(latent), malignant, groups={"skin_tone": np.asarray(TONES)[tone]}
    )


def only(made, mask):
    return Predictions(
        made.classes,
        made.labels[mask],
        made.probabilities[mask],
        made.decisions[mask],
        made.patients[mask],
        {name: values[mask] for name, values in made.groups.items()},
    )


def misses(sets, predictions, tone):
    rows = np.flatnonzero(predictions.groups["skin_tone"] == tone)
    far = 1 - predictions.probabilities[rows, predictions.labels[rows]]
    limit = [sets.cuts[tone][int(bad)] for bad in predictions.malignant[rows]]
    return np.asarray(
        [cut is not None and value >= cut for value, cut in zip(far, limit, strict=True)]
    )


@pytest.mark.parametrize("std", [0.0, 1.0])
def test_each_tone_group_of_two_thousand_patients_is_covered_within_two_points(std):
    rng, found = np.random.default_rng(3), {tone: [] for tone in TONES[:3]}
    for _ in range(20):
        table = GRID * set_table(drawn(rng, 6000), LAYOUT, 1)
        noisy = table + std * rng.normal(size=table.shape)
        sets = label_sets(noisy, LAYOUT, std=std, coverage=0.9, max_clinics=1)
        test = drawn(rng, 6000)
        for tone in TONES[:3]:
            found[tone].append(1 - misses(sets, test, tone).mean())
    for tone, shares in found.items():
        assert 0.9 - 0.004 < np.mean(shares) < 0.92, tone  # 0.004: three standard errors
        assert np.mean(np.abs(np.asarray(shares) - 0.9) < 0.02) > 0.8


def test_one_limit_for_everybody_leaves_the_worst_group_below_what_it_promises():
    rng = np.random.default_rng(4)
    alone = SetsLayout("everybody", ("everybody",), apart=False, share=0.5)
    table = GRID * set_table(drawn(rng, 12000), alone, 1)
    limit = label_sets(table, alone, std=0.0, coverage=0.9, max_clinics=1).cuts["everybody"]
    test = drawn(rng, 12000)
    for_all = LabelSets("skin_tone", 0.9, dict.fromkeys(TONES, limit))
    assert misses(for_all, test, "7-10").mean() > 0.13
    assert misses(for_all, test, "1-3").mean() < 0.08


@pytest.mark.parametrize("num_patients", [12, 40, 150])
@pytest.mark.parametrize("std", [0.0, 1.0, 3.0])
def test_small_and_noisy_groups_are_covered_too(num_patients, std):
    """The promise holds on average over patients and noise, however few there are."""
    rng, running = np.random.default_rng(5), running_factor()
    missed = []
    for _ in range(1500):
        bins = rng.binomial(BINS - 1, rng.beta(1, 3, size=num_patients + 1))
        row = running @ np.bincount(BINS - 1 - bins[:-1], minlength=BINS)
        found = limit_bin(row + std * rng.normal(size=BINS), running, std, 0.9)
        missed.append(bins[-1] > found)
    assert np.mean(missed) < 0.1 + 3 * np.sqrt(0.09 / 1500)


@pytest.mark.parametrize(("max_clinics", "num_patients"), [(3, 16), (10, 5), (10, 40)])
def test_patients_at_several_clinics_are_covered_too(max_clinics, num_patients):
    """Each counts at every clinic, and so the new one would; n alone says too much of them."""
    rng, running = np.random.default_rng(8), running_factor()
    missed = []
    for _ in range(2000):
        bins = rng.choice(BINS, size=num_patients + 1, replace=False)
        row = running @ (max_clinics * np.bincount(BINS - 1 - bins[:-1], minlength=BINS))
        missed.append(bins[-1] > limit_bin(row, running, 0.0, 0.9, max_clinics))
    assert np.mean(missed) < 0.1 + 2 * np.sqrt(0.09 / 2000)


@pytest.mark.parametrize("share", [1e-9, 0.009])
def test_a_share_too_small_for_any_set_is_refused_before_anything_is_spent(share):
    with pytest.raises(ConfigError, match=r"share is 0, or 0\.01 or more"):
        load_config("quickstart", [f"fairness.label_sets.share={share}"])


def test_without_noise_the_limit_is_that_of_split_conformal_prediction():
    rng = np.random.default_rng(6)
    for num_patients in (5, 9, 10, 57, 300):
        bins = rng.integers(BINS, size=num_patients)
        row = running_factor() @ np.bincount(BINS - 1 - bins, minlength=BINS)
        rank = int(np.ceil(0.9 * (num_patients + 1)))
        expected = BINS - 1 if rank > num_patients else np.sort(bins)[rank - 1]
        assert limit_bin(row, running_factor(), 0.0, 0.9) == expected


def test_noise_widens_and_never_narrows_by_the_margin():
    rng = np.random.default_rng(7)
    bins = rng.binomial(BINS - 1, 0.4, size=300)
    row = running_factor() @ np.bincount(BINS - 1 - bins, minlength=BINS)
    found = [limit_bin(row, running_factor(), std, 0.9) for std in (0.0, 0.5, 2.0, 8.0, 100.0)]
    assert found == sorted(found)
    assert found[-1] == BINS - 1


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(("share", "most"), [(0.5, 1), (0.3, 3), (0.9, 1)])
def test_one_patient_moves_the_whole_release_by_at_most_the_sensitivity(share, most, apart):
    layout, rng = replace(LAYOUT, share=share, apart=apart), np.random.default_rng(8)
    everybody = clustered(rng, num_patients=40)
    full = score_table(everybody, layout, most)
    for patient in np.unique(everybody.patients):
        kept = only(everybody, everybody.patients != patient)
        moved = np.rint((full - score_table(kept, layout, most)) / GRID).astype(object)
        assert (moved**2).sum() <= (2**28) ** 2 // most**2
    assert full.shape == (2 + layout.rows, 64)
    assert np.array_equal(full / GRID, np.rint(full / GRID))


def test_the_worst_patient_uses_nearly_all_of_the_sensitivity():
    one = binary_predictions([0.0], [True], groups={"skin_tone": ["1-3"]})  # the greatest distance
    moved = score_table(one, LAYOUT, 1)
    assert 0.999 < np.linalg.norm(moved) <= 1


def test_scores_of_the_threshold_are_those_of_a_run_without_label_sets():
    predictions = clustered(np.random.default_rng(9))
    exact = score_histogram(
        predictions.malignancy_scores, predictions.malignant, predictions.patients, 64
    )
    weight = threshold_units(0.5, 1)
    found = score_table(predictions, LAYOUT, 1)[:2] / GRID
    assert np.array_equal(found, exact * weight)
    assert np.array_equal(score_table(predictions, None, 1), exact)


def test_patients_with_many_images_weigh_no_more_than_others():
    scores = [0.1, 0.2, 0.3, 0.4, 0.9]
    images = binary_predictions(
        scores, [False] * 5, ["a", "a", "a", "a", "b"], {"skin_tone": ["1-3"] * 5}
    )
    both = [set_table(only(images, images.patients == p), LAYOUT, 1) for p in ("a", "b")]
    totals = [np.linalg.solve(running_factor(), table[0].astype(float)).sum() for table in both]
    assert totals[0] == pytest.approx(totals[1], rel=0.01)


def test_what_the_model_says_of_an_image_cannot_make_the_count_fail():
    odd = binary_predictions([0.5, 0.5, 0.5], [True, False, True])
    odd.probabilities[:] = np.array([[np.nan, np.nan], [np.inf, -np.inf], [7.0, -6.0]])
    assert set_table(odd, LAYOUT, 1)[3].sum() > 0  # of no known tone, in the last row


def test_crepes_finds_the_same_limits_by_group():
    rng = np.random.default_rng(10)
    made, test = drawn(rng, 3000), drawn(rng, 500)
    oracle = ConformalClassifier()
    far = (np.floor((1 - made.probabilities) * BINS) / BINS).clip(0, 1 - 1 / BINS)
    mine = far[np.arange(len(made)), made.labels]
    oracle.fit(mine, bins=made.groups["skin_tone"])
    test_far = (np.floor((1 - test.probabilities) * BINS) / BINS).clip(0, 1 - 1 / BINS)
    theirs = oracle.predict_set(
        test_far, bins=test.groups["skin_tone"], confidence=0.9, smoothing=False
    )
    sets = label_sets(
        GRID * set_table(made, LAYOUT, 1), LAYOUT, std=0.0, coverage=0.9, max_clinics=1
    )
    ours = [
        sets.members(test.probabilities[row], str(test.groups["skin_tone"][row]), BINARY)
        for row in range(len(test))
    ]
    assert np.array_equal(np.asarray(ours), np.asarray(theirs).astype(bool))


def test_apart_covers_malignant_patients_of_each_tone():
    rng = np.random.default_rng(11)
    layout = replace(LAYOUT, apart=True)
    table = GRID * set_table(drawn(rng, 20000), layout, 1)
    sets = label_sets(table, layout, std=0.0, coverage=0.9, max_clinics=1)
    test = drawn(rng, 20000)
    for tone in TONES[:3]:
        bad = test.malignant[test.groups["skin_tone"] == tone]
        for truth in (bad, ~bad):
            assert misses(sets, test, tone)[truth].mean() == pytest.approx(0.1, abs=0.025)


SETS = LabelSets("skin_tone", 0.9, {"light": (0.3, 0.6), "dark": (0.9, 0.9), "rare": (None, None)})
KNOWN = replace(SETS, cuts={name: SETS.cuts[name] for name in ("light", "dark")})


def tables(sets=SETS, **changes):
    return replace(AnswerTables(BINARY, 0.4, None, sets), **changes)


def test_the_set_holds_the_labels_that_are_near_enough():
    found = answer(np.array([0.8, 0.2]), "light", tables())
    assert (found.label_set, found.abstains, found.alarm) == (("benign",), False, False)
    found = answer(np.array([0.45, 0.55]), "light", tables())
    assert found.label_set == ("malignant",)
    assert found.alarm
    assert found.values()["who_decides"].startswith("A clinician decides.")


def test_cannot_tell_where_too_much_or_nothing_fits_or_the_image_is_unlike():
    both = answer(np.array([0.5, 0.5]), "dark", tables())
    assert both.abstains
    assert both.reasons == (f"{TOO_MANY}: benign, malignant",)
    nothing = answer(np.array([0.65, 0.35]), "light", tables())
    assert (nothing.label_set, nothing.reasons) == ((), (NOTHING_FITS,))
    few = answer(np.array([0.99, 0.01]), "rare", tables())
    assert TOO_FEW in few.reasons
    unlike = answer(np.array([0.8, 0.2]), "light", tables(), unlike=True)
    assert unlike.abstains
    assert unlike.reasons == (UNLIKE,)
    without = answer(np.array([0.8, 0.2]), None, tables(None))
    assert (without.label_set, without.reasons) == (None, (NO_SETS,))


def test_of_an_unknown_group_the_widest_limits_hold():
    assert KNOWN.limits(None) == (0.9, 0.9)
    assert SETS.limits(None) == (None, None)
    with pytest.raises(ConfigError, match="skin_tone one of dark, light"):
        KNOWN.limits("green")


def test_calibration_moves_probabilities_and_leaves_sets_alone():
    line = Line(-1.0, 1.0)
    plain = answer(np.array([0.45, 0.55]), "light", tables())
    moved = answer(np.array([0.45, 0.55]), "light", tables(line=line))
    assert moved.label_set == plain.label_set
    assert moved.alarm == plain.alarm
    assert moved.probabilities["malignant"] == pytest.approx(expit(np.log(0.55 / 0.45) - 1.0))
    assert sum(moved.probabilities.values()) == pytest.approx(1)


def test_seven_classes_keep_their_order_within_malignant_and_other():
    made = many_classes(np.random.default_rng(12), num_items=3)
    wide = LabelSets("everybody", 0.9, {"everybody": (0.99, 0.99)})
    known = AnswerTables(made.classes, None, Line(0.5, 2.0), wide)
    for row in made.probabilities:
        found = answer(row, None, known)
        values = np.asarray(list(found.probabilities.values()))
        assert values.sum() == pytest.approx(1)
        assert values[0] / values[1] == pytest.approx(row[0] / row[1])
        assert found.alarm is None


@pytest.mark.parametrize("bad", [[0.5, 0.6], [np.nan, 1.0], [1.5, -0.5], [1.0]])
def test_no_answer_about_what_are_no_probabilities(bad):
    with pytest.raises(DataError, match="probabilities from 0 to 1 that sum to 1"):
        answer(np.asarray(bad), None, tables())


def test_label_sets_are_read_as_they_were_written():
    assert read_label_sets(SETS.values()) == SETS
    assert read_label_sets({}) is None
    for spoilt in ({"cuts": {}}, SETS.values() | {"cuts": {"a": [2.0, 0.1]}}, {"cuts": 3}):
        with pytest.raises(DataError, match="a limit from 0 to 1"):
            read_label_sets(spoilt)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(-1.5, 1.5), st.floats(0.4, 2.5))
def test_counts_give_the_line_that_scikit_learn_finds_in_the_scores(seed, intercept, slope):
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(seed)
    latent = rng.normal(scale=1.2, size=8000)
    malignant = rng.random(8000) < expit(intercept + slope * latent)
    patients = np.arange(8000).astype(str)
    counts = score_histogram(expit(latent), malignant, patients, 64)
    found = line_from_counts(counts.astype(float), score_edges(64))
    oracle = LogisticRegression(C=1e6).fit(latent[:, None], malignant)
    assert found.intercept == pytest.approx(oracle.intercept_[0], abs=0.05)
    assert found.slope == pytest.approx(oracle.coef_[0, 0], rel=0.05)


def test_noise_moves_the_line_little_and_no_patient_leaves_it_alone():
    rng = np.random.default_rng(13)
    latent = rng.normal(size=300)
    malignant = rng.random(300) < expit(2 * latent)
    counts = score_histogram(expit(latent), malignant, np.arange(300).astype(str), 64)
    noisy = [counts + 2.0 * rng.normal(size=counts.shape) for _ in range(100)]
    lines = [line_from_counts(each, score_edges(64)) for each in noisy]
    slopes = [line.slope for line in lines if line is not None]
    assert len(slopes) > 80
    assert 1.2 < np.median(slopes) < 2.4
    empty = line_from_counts(np.zeros((2, 64)), score_edges(64))
    assert (empty.intercept, empty.slope) == (0.0, 1.0)


@pytest.mark.parametrize(("num_patients", "std"), [(200, 3.0), (200, 10.0), (5000, 3.0)])
def test_a_line_that_noise_would_draw_is_none(num_patients, std):
    """Whatever line is found is near the true one: 0.5 + 0.6 times the log odds."""
    rng, edges, lines = np.random.default_rng(9), score_edges(64), []
    for _ in range(40):
        odds = 1.5 * rng.normal(size=num_patients)
        truth = rng.random(num_patients) < expit(0.5 + 0.6 * odds)
        parts = [np.histogram(expit(odds[truth == bad]), edges)[0] for bad in (False, True)]
        counts = np.stack(parts) + std * rng.normal(size=(2, 64))
        lines.append(line_from_counts(counts, edges, std))
    found = [line for line in lines if line is not None]
    assert len(found) == (40 if num_patients == 5000 else 0)
    assert all(abs(line.intercept - 0.5) < 0.2 and abs(line.slope - 0.6) < 0.2 for line in found)
