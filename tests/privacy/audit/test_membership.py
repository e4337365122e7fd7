"""Membership scores against brute force, curves against scikit-learn, nulls, few patients."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from skinml.errors import DataError
from skinml.privacy.audit.estimators import one_run_bound, refined_bound
from skinml.privacy.audit.membership import (
    curve,
    lira_scores,
    measure,
    most_area,
    most_found,
    patient_signals,
    rmia_scores,
)

RNG_SEED = 5


def game(
    effect: float, *, targets: int = 12, patients: int = 300, references: int = 40
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Signals that rise by an effect where the patient was in: targets, references and coins."""
    rng = np.random.default_rng(RNG_SEED)
    base = rng.normal(size=patients)
    members = rng.random((targets + references, patients)) < 0.5
    signals = base + effect * members + rng.normal(size=members.shape)
    return signals[references:], signals[:references], members[references:], members[:references]


def test_a_patients_signal_is_the_mean_over_all_its_images() -> None:
    rng = np.random.default_rng(1)
    probabilities, owners = rng.random((3, 9)), np.array([2, 0, 1, 1, 2, 0, 0, 1, 0])
    odds, logs = patient_signals(probabilities, owners, 3)
    for patient in range(3):
        own = probabilities[:, owners == patient]
        assert odds[:, patient] == pytest.approx(np.log(own / (1 - own)).mean(axis=1))
        assert logs[:, patient] == pytest.approx(np.log(own).mean(axis=1))


def test_certain_models_give_finite_signals() -> None:
    odds, logs = patient_signals(np.array([[0.0, 1.0]]), np.array([0, 1]), 2)
    assert np.isfinite(odds).all()
    assert np.isfinite(logs).all()


def test_lira_is_the_ratio_of_two_gaussian_likelihoods() -> None:
    targets, references, _, known = game(1.0, patients=20, references=12)
    scores = lira_scores(targets, references, known)
    means, spreads = [], []
    for mask in (known, ~known):
        own = [references[mask[:, p], p] for p in range(20)]
        means.append(np.array([values.mean() for values in own]))
        off = np.concatenate([values - values.mean() for values in own])
        spreads.append(np.sqrt((off**2).sum() / (len(off) - 20)))
    expected = norm.logpdf(targets, means[0], spreads[0]) - norm.logpdf(
        targets, means[1], spreads[1]
    )
    assert scores == pytest.approx(expected)


def test_lira_needs_references_on_both_sides() -> None:
    with pytest.raises(DataError, match="references with and without"):
        lira_scores(np.zeros((1, 2)), np.zeros((2, 2)), np.array([[True, True], [True, False]]))


@pytest.mark.parametrize("gamma", [1.0, 1.5])
def test_rmia_counts_the_patients_that_are_outdone(gamma: float) -> None:
    rng = np.random.default_rng(2)
    targets, references = np.log(rng.random((3, 15))), np.log(rng.random((8, 15)))
    scores = rmia_scores(targets, references, gamma)
    for t in range(3):
        ratio = np.exp(targets[t]) / np.exp(references).mean(axis=0)
        for p in range(15):
            beaten = sum(ratio[p] / ratio[q] > gamma for q in range(15) if q != p)
            assert scores[t, p] == pytest.approx(beaten / 14)


def test_curves_agree_with_scikit_learn_also_with_ties_and_weights() -> None:
    rng = np.random.default_rng(3)
    truth, scores = rng.random(400) < 0.4, rng.integers(0, 30, 400).astype(float)
    weights = rng.integers(0, 4, 400).astype(float)
    drawn = curve(scores, truth, weights)
    assert drawn.area == pytest.approx(roc_auc_score(truth, scores, sample_weight=weights))
    wrong, found, _ = roc_curve(truth, scores, sample_weight=weights, drop_intermediate=False)
    for rate in (0.01, 0.1, 0.5):
        assert drawn.found_at(rate) == pytest.approx(found[wrong <= rate].max())


@pytest.mark.parametrize("attack", ["LiRA", "RMIA"])
def test_what_betrays_nobody_has_an_area_of_one_half(attack: str) -> None:
    targets, references, members, known = game(0.0, targets=40)
    scores = (
        lira_scores(targets, references, known)
        if attack == "LiRA"
        else rmia_scores(targets, references)
    )
    auc = measure(scores, members, np.random.default_rng(0)).auc
    assert auc.value == pytest.approx(0.5, abs=0.015)  # 12,000 pairs: three standard errors
    flat = scores.ravel(), members.ravel()
    assert one_run_bound(*flat, 1e-5, 0.999) == 0
    assert refined_bound(*flat, 1e-5, 0.999) < 0.15


@pytest.mark.parametrize("attack", ["LiRA", "RMIA"])
def test_shuffled_coins_undo_an_attack_that_works(attack: str) -> None:
    targets, references, members, known = game(1.5)
    scores = (
        lira_scores(targets, references, known)
        if attack == "LiRA"
        else rmia_scores(targets, references)
    )
    rng = np.random.default_rng(0)
    works = measure(scores, members, rng).auc.value
    shuffled = rng.permuted(members, axis=1)
    undone = measure(scores, shuffled, rng).auc.value
    assert works is not None
    assert undone is not None
    assert works > 0.75
    assert abs(undone - 0.5) < 0.03


def test_a_rate_that_too_few_patients_cannot_show_is_undefined_and_says_so() -> None:
    targets, references, members, known = game(1.0, patients=300)
    scores = lira_scores(targets, references, known)
    rare, low = measure(scores, members, np.random.default_rng(0)).found
    assert rare.value is None
    assert rare.reason == "300 patients; a rate of 0.1% needs 1,000"
    assert low.value is not None
    assert low.value > 0.03
    few = measure(scores[:, :99], members[:, :99], np.random.default_rng(0)).found
    assert [each.value for each in few] == [None, None]


def test_no_interval_has_zero_width() -> None:
    members = np.tile(np.array([True, False]), (4, 100))
    perfect = measure(members.astype(float), members, np.random.default_rng(0))
    for each in (perfect.auc, perfect.found[1]):
        assert (each.value, each.high) == (1.0, 1.0)
        assert each.low is not None
        assert 0.95 < each.low < 1
    hopeless = measure(1.0 - members, members, np.random.default_rng(0)).found[1]
    assert (hopeless.value, hopeless.low) == (0.0, 0.0)
    assert hopeless.high is not None
    assert 0 < hopeless.high < 0.05


def test_patients_of_one_kind_only_have_no_area() -> None:
    scores = np.zeros((2, 100))
    measured = measure(
        scores, np.ones((2, 100), dtype=bool), np.random.default_rng(0), replicates=5
    )
    assert measured.auc.value is None
    assert measured.auc.reason


@pytest.mark.parametrize("mu", [0.1, 0.719, 2.0])
def test_the_greatest_area_is_that_under_the_greatest_curve(mu: float) -> None:
    area, _ = quad(lambda rate: most_found(rate, mu), 0, 1, epsabs=1e-7)
    assert most_area(mu) == pytest.approx(area, abs=1e-6)
    assert most_found(0.3, None) == most_area(None) == 1.0
