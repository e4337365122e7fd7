"""The catalogue's further figures: oracles by fairlearn, scikit-learn, statsmodels and by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fairlearn.metrics import MetricFrame
from scipy.stats import chi2
from sklearn.metrics import (
    accuracy_score,
    precision_score,
    recall_score,
    roc_auc_score,
    top_k_accuracy_score,
)
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint
from statsmodels.stats.rates import confint_poisson

from skinml.errors import ConfigError
from skinml.fairness.delong import delong
from skinml.fairness.groups import evaluate_groups
from skinml.fairness.intervals import (
    clopper_pearson,
    log_interval,
    mover_difference,
    mover_ratio,
    poisson_ratio,
    weighted_difference,
    wilson,
)
from skinml.fairness.rows import LEVELS
from skinml.fairness.settings import FairnessSettings

QUICK = FairnessSettings(replicates=200)


def evaluate(predictions, *, threshold=0.5, options=QUICK, figures=None):
    rng = np.random.default_rng(0)
    return evaluate_groups(
        predictions, threshold=threshold, settings=options, rng=rng, figures=figures
    )


def net_benefit(truth, scores, risk):
    acted = scores >= risk
    true, false = np.mean(acted & (truth == 1)), np.mean(acted & (truth == 0))
    return true - false * risk / (1 - risk)


def test_values_by_crossing_agree_with_fairlearn(make):
    rng = np.random.default_rng(0)
    made = make.clustered(rng, 300)
    sex = rng.choice(["f", "m"], len(made))
    made = dataclasses.replace(made, groups={**made.groups, "sex": sex})
    truth, scores = made.labels, made.malignancy_scores
    options = FairnessSettings(replicates=100, crossings=(("skin_tone", "sex"),))
    found = {
        result.group: result
        for result in evaluate(made, threshold=0.4, options=options)[1]
        if result.attribute == "skin_tone x sex"
    }
    hard = {
        "ppv": precision_score,
        "npv": lambda y, d: precision_score(y, d, pos_label=0),
        "sensitivity": recall_score,
    }
    soft = {
        "observed_to_expected": lambda y, s: y.sum() / s.sum(),
        "net_benefit_at_0.1": lambda y, s: net_benefit(y, s, 0.1),
        "net_benefit_at_0.2": lambda y, s: net_benefit(y, s, 0.2),
    }
    features = {"skin_tone": made.groups["skin_tone"], "sex": sex}
    for metrics, given in ((hard, (scores >= 0.4).astype(int)), (soft, scores)):
        oracle = MetricFrame(
            metrics=metrics, y_true=truth, y_pred=given, sensitive_features=features
        ).by_group
        assert len(found) == len(oracle) == 6
        for (tone, which), row in oracle.iterrows():
            for name, value in row.items():
                assert found[f"{tone} x {which}"].estimates[name].value == pytest.approx(value)


def test_many_classes_have_top_k_and_each_class_against_the_rest(make):
    made = make.classes(np.random.default_rng(1), 500, 5)
    options = FairnessSettings(replicates=100, top=(1, 2, 3))
    found = evaluate(made, options=options)[0].estimates
    for k in (1, 2, 3):
        oracle = top_k_accuracy_score(made.labels, made.probabilities, k=k)
        assert found[f"top_{k}_accuracy"].value == pytest.approx(oracle)
    assert found["top_1_accuracy"].value == pytest.approx(
        accuracy_score(made.labels, made.decisions)
    )
    recalls = recall_score(made.labels, made.decisions, average=None)
    for index, name in enumerate(made.classes.names):
        one = found[f"auroc_of_{name}"]
        oracle = roc_auc_score(made.labels == index, made.probabilities[:, index])
        assert one.value == pytest.approx(oracle)
        assert one.low < oracle < one.high
        assert found[f"sensitivity_of_{name}"].value == pytest.approx(recalls[index])
    areas = [found[f"auroc_of_{name}"].value for name in made.classes.names]
    assert found["auroc"].value == pytest.approx(np.mean(areas))
    assert found["balanced_accuracy"].value == pytest.approx(np.mean(recalls))


def test_with_more_scores_than_levels_values_stay_exact_and_replicates_nearly(make):
    rng = np.random.default_rng(2)
    made = make.clustered(rng, 1500)
    assert len(np.unique(made.malignancy_scores)) > 2 * LEVELS
    figures = ("auroc", "brier", "calibration_slope", "calibration_intercept")
    near = evaluate(made, figures=figures)[0].estimates
    assert near["auroc"].value == pytest.approx(
        roc_auc_score(made.labels, made.malignancy_scores), abs=1e-12
    )
    rounded = make.binary(np.round(made.malignancy_scores, 3), made.labels, made.patients)
    exact = evaluate(rounded, figures=figures)[0].estimates
    for name in figures:
        for side in ("value", "low", "high"):
            assert getattr(near[name], side) == pytest.approx(getattr(exact[name], side), abs=2e-3)


def test_net_benefit_is_exact_however_many_scores_there_are(make):
    rng = np.random.default_rng(3)
    scores = np.concatenate([rng.random(3000), np.full(50, 0.1)])
    truth = rng.random(3050) < scores
    found = evaluate(make.binary(scores, truth))[0].estimates
    for risk in (0.05, 0.1, 0.2):
        cell = found[f"net_benefit_at_{risk:g}"]
        assert cell.value == pytest.approx(net_benefit(truth, scores, risk), abs=1e-12)
        assert cell.low < cell.value < cell.high


def test_without_alarms_ppv_says_so_and_nothing_is_zero(make):
    found = evaluate(make.binary([0.1, 0.2, 0.3], [0, 1, 0]), threshold=0.9)[0].estimates
    assert (found["ppv"].value, found["ppv"].reason) == (None, "no alarms")
    assert found["npv"].value == pytest.approx(2 / 3)


def test_no_event_at_all_still_bounds_observed_over_expected(make):
    found = evaluate(make.binary(np.full(40, 0.2), np.zeros(40)))[0].estimates
    cell = found["observed_to_expected"]
    assert (cell.value, cell.low) == (0.0, 0.0)
    assert cell.high == pytest.approx(chi2.ppf(0.975, 2) / 2 / 8)


def test_figures_that_nobody_asked_for_are_not_computed(make):
    found = evaluate(make.clustered(np.random.default_rng(4)), figures=["ppv", "brier"])
    assert list(found[0].estimates) == ["ppv", "brier"]


def test_a_crossing_of_an_attribute_that_is_not_there_is_refused(make):
    options = FairnessSettings(crossings=(("skin_tone", "sex"),))
    with pytest.raises(ConfigError, match="sex"):
        evaluate(make.clustered(np.random.default_rng(5)), options=options)


def test_crossings_with_an_unknown_part_come_last(make):
    groups = {"skin_tone": ["b", "unknown", "a"], "sex": ["f", "f", "unknown"]}
    made = make.binary([0.1, 0.2, 0.3], [0, 1, 0], groups=groups)
    options = FairnessSettings(replicates=100, crossings=(("skin_tone", "sex"),))
    crossed = [r.group for r in evaluate(made, options=options)[1] if " x " in r.group]
    assert crossed == ["b x f", "a x unknown", "unknown x f"]


@pytest.mark.parametrize(("hits", "trials"), [(6, 6), (0, 4), (7, 12), (48, 49)])
def test_shares_agree_with_statsmodels(hits, trials):
    exact = proportion_confint(hits, trials, method="beta")
    # At the edge statsmodels gives an exact end and NaN is replaced by 0 or 1 on both sides.
    assert clopper_pearson(hits, trials) == pytest.approx(np.nan_to_num(exact), abs=1e-9)
    assert wilson(hits, trials) == pytest.approx(
        proportion_confint(hits, trials, method="wilson"), abs=1e-9
    )


def test_the_difference_of_two_wilson_intervals_is_newcombes():
    found = mover_difference(56 / 70, wilson(56, 70), 48 / 80, wilson(48, 80))
    oracle = confint_proportions_2indep(56, 70, 48, 80, compare="diff", method="newcomb")
    assert found == pytest.approx(oracle, abs=1e-9)
    assert found == pytest.approx((0.0524, 0.3339), abs=5e-5)  # Newcombe 1998, table II (a)


def test_the_ratio_of_two_wilson_intervals_is_near_the_score_interval():
    found = mover_ratio(56 / 70, wilson(56, 70), 48 / 80, wilson(48, 80))
    oracle = confint_proportions_2indep(56, 70, 48, 80, compare="ratio", method="score")
    assert found == pytest.approx(oracle, abs=0.02)


def test_a_ratio_over_something_that_may_be_zero_has_no_upper_limit():
    assert mover_ratio(0.5, (0.4, 0.6), 0.1, (0.0, 0.3))[1] is None


def test_a_correlation_of_one_takes_equal_intervals_away():
    assert mover_difference(0.7, (0.6, 0.8), 0.5, (0.4, 0.6), 1.0) == pytest.approx((0.2, 0.2))


@pytest.mark.parametrize("events", [0, 1, 7, 40])
def test_poisson_limits_agree_with_statsmodels(events):
    oracle = confint_poisson(events, 12.5, method="exact-c")
    assert poisson_ratio(events, 12.5) == pytest.approx(np.nan_to_num(oracle), abs=1e-9)


def test_the_log_interval_is_the_delta_method_with_student_t():
    rng = np.random.default_rng(6)
    low, high = log_interval(1.3, 1.3 * np.exp(0.1 * rng.normal(size=20_000)), 1e6)
    assert (low, high) == pytest.approx((1.3 * np.exp(-0.196), 1.3 * np.exp(0.196)), rel=0.01)
    assert log_interval(1.3, np.array([0.0, 1.0, 2.0]), 30) is None


def test_a_weighted_difference_of_nothing_but_one_share_is_that_shares_interval():
    low, high = weighted_difference(0.3, 0.0, 1e-9, 40)
    assert (low, high) == pytest.approx(clopper_pearson(12, 40), abs=1e-6)


def delong_by_hand(scores, truth):
    """Placement values one pair at a time."""
    pairs = [
        np.array([[0.5 * (u == d) + (u > d) for d in row[~truth]] for u in row[truth]])
        for row in scores
    ]
    ups, downs = (np.array([each.mean(axis=axis) for each in pairs]) for axis in (1, 0))
    return np.array([each.mean() for each in pairs]), np.cov(ups) / ups.shape[1] + np.cov(
        downs
    ) / downs.shape[1]


@pytest.mark.parametrize("decimals", [1, 9])
def test_delong_agrees_with_counting_every_pair(decimals):
    rng = np.random.default_rng(7)
    truth = rng.random(90) < 0.4
    scores = np.round(rng.normal(size=(2, 90)) + truth, decimals)
    areas, spread = delong(scores, truth)
    oracle = delong_by_hand(scores, truth)
    assert areas == pytest.approx(oracle[0])
    assert spread == pytest.approx(oracle[1])


def test_delong_stands_beside_the_bootstrap_where_each_patient_has_one_item(make):
    rng = np.random.default_rng(8)
    truth = rng.random(400) < 0.3
    made = make.binary(1 / (1 + np.exp(-(truth + rng.normal(size=400)))), truth)
    overall, _ = evaluate(made, options=FairnessSettings(replicates=1000))
    boot, check = overall.estimates["auroc"], overall.cross_checks["auroc"]
    assert check.value == pytest.approx(boot.value)
    assert (check.low, check.high) == pytest.approx((boot.low, boot.high), abs=0.01)
    assert "DeLong" in check.method
    several = make.clustered(rng)
    assert evaluate(several)[0].cross_checks == {}


def test_delong_without_width_claims_no_interval(make):
    found = evaluate(make.binary([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]))[0].cross_checks["auroc"]
    assert (found.value, found.low) == (1.0, None)
    assert found.reason
