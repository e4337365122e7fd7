"""The histogram's sensitivity to one patient, and the threshold that it leads to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from skinml.errors import ConfigError, DataError
from skinml.fairness.thresholds import (
    choose_threshold,
    score_edges,
    score_histogram,
    youden_threshold,
)

ITEM = st.tuples(st.floats(0, 1), st.booleans(), st.integers(0, 6))


def histogram(items, bins):
    scores, truth, patients = zip(*items, strict=True) if items else ((), (), ())
    return score_histogram(
        np.array(scores, dtype=float),
        np.array(truth, dtype=bool),
        np.array([f"p{number}" for number in patients], dtype=str),
        bins,
    )


@settings(max_examples=200, deadline=None)
@given(items=st.lists(ITEM, max_size=30), bins=st.integers(1, 20), gone=st.integers(0, 6))
def test_a_patient_moves_one_count_by_one(items, bins, gone):
    whole = histogram(items, bins)
    rest = histogram([item for item in items if item[2] != gone], bins)
    present = any(item[2] == gone for item in items)
    assert np.linalg.norm(whole - rest) == (1.0 if present else 0.0)
    assert (whole >= rest).all()
    assert whole.sum() == len({item[2] for item in items})


@settings(max_examples=100, deadline=None)
@given(items=st.lists(ITEM, min_size=1, max_size=30), order=st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_move_a_patient(items, order):
    shuffled = list(items)
    order.shuffle(shuffled)
    assert (histogram(items, 10) == histogram(shuffled, 10)).all()


def test_a_patient_counts_by_mean_score_and_modal_truth_with_ties_malignant():
    items = [(0.0, False, 1), (1.0, True, 1), (1.0, False, 2), (1.0, False, 2), (0.9, True, 2)]
    counts = histogram(items, 4)
    assert counts.tolist() == [[0, 0, 0, 1], [0, 0, 1, 0]]


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1])
def test_scores_outside_the_range_are_refused(bad):
    with pytest.raises(DataError):
        histogram([(bad, True, 1)], 4)


def test_no_bins_are_refused():
    with pytest.raises(ConfigError):
        histogram([(0.5, True, 1)], 0)


def test_exact_counts_lead_to_the_best_edge_that_scikit_learn_finds():
    rng = np.random.default_rng(0)
    truth = rng.random(4000) < 0.3
    scores = np.clip(rng.normal(0.35 + 0.25 * truth, 0.15), 0, 1)
    counts = score_histogram(scores, truth, np.arange(4000).astype(str), 50)
    found = youden_threshold(counts, score_edges(50))
    false_alarms, hits, _ = roc_curve(truth, scores)
    reached = (scores[truth] >= found).mean() - (scores[~truth] >= found).mean()
    assert reached == pytest.approx((hits - false_alarms).max(), abs=0.02)


@pytest.mark.parametrize("noise", [2.0, 8.0])
def test_noise_with_negative_cells_costs_little(noise):
    rng = np.random.default_rng(1)
    truth = rng.random(3000) < 0.3
    scores = np.clip(rng.normal(0.3 + 0.35 * truth, 0.12), 0, 1)
    counts = score_histogram(scores, truth, np.arange(3000).astype(str), 20)
    losses = []
    for _ in range(50):
        noisy = counts + rng.normal(scale=noise, size=counts.shape)
        assert (noisy < 0).any()
        found = youden_threshold(noisy, score_edges(20))
        losses.append((scores[truth] >= found).mean() - (scores[~truth] >= found).mean())
    exact = youden_threshold(counts, score_edges(20))
    best = (scores[truth] >= exact).mean() - (scores[~truth] >= exact).mean()
    assert best - np.mean(losses) < 0.02


def test_a_gap_between_the_classes_is_cut_in_its_middle():
    counts = np.array([[9, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 9]])
    assert youden_threshold(counts, score_edges(6)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([[3, 2], [0, 0]], "no patient"),
        ([[3, 2], [-4, 1]], "no patient"),
        ([[0, 9], [9, 0]], "better than chance"),
        ([[4, 4], [2, 2]], "better than chance"),
    ],
)
def test_counts_that_cannot_tell_fall_back_to_one_half_and_say_why(counts, words):
    choice = choose_threshold(np.array(counts), score_edges(2))
    assert choice.fallback
    assert choice.value == 0.5
    assert words in choice.source


@settings(max_examples=200, deadline=None)
@given(
    cells=st.lists(st.floats(-50, 50), min_size=16, max_size=16),
)
def test_any_noisy_counts_give_a_threshold_between_zero_and_one(cells):
    assert 0 <= youden_threshold(np.array(cells).reshape(2, 8), score_edges(8)) <= 1


@pytest.mark.parametrize("counts", [np.ones((2, 3)), np.ones(4), np.full((2, 4), np.nan)])
def test_counts_that_do_not_fit_their_edges_are_refused(counts):
    with pytest.raises(DataError):
        choose_threshold(counts, score_edges(4))
