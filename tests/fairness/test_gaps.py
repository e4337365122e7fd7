"""Gaps: chance, what could be seen, correction, answers; groups that have no figure."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from fairlearn.metrics import MetricFrame
from scipy.stats import norm, tukey_hsd
from sklearn.metrics import recall_score
from statsmodels.stats.multitest import multipletests

from skinml.fairness.evaluation import evaluate_fairness
from skinml.fairness.foresight import smallest_share_difference
from skinml.fairness.gaps import gaps_from
from skinml.fairness.intervals import mover_difference
from skinml.fairness.null_reference import null_of
from skinml.fairness.settings import FairnessSettings, PrimaryComparison
from skinml.fairness.verdicts import (
    CANNOT_TELL,
    RULED_OUT,
    SHOWN,
    alpha_of_pair,
    holm,
    p_of_difference,
    p_of_margin,
    p_of_pairs,
    verdict,
    z_of_difference,
)

QUICK = FairnessSettings(replicates=400, null_draws=200, groups=("skin_tone",))
SHARES = ("sensitivity", "specificity")


def gaps_of(predictions, options=QUICK, seed=0, **changes):
    options = options.model_copy(update=changes)
    rng = np.random.default_rng(seed)
    return evaluate_fairness(predictions, threshold=0.5, settings=options, rng=rng, figures=()).gaps


def toned(make, sizes, chances, rng, prevalence=0.3):
    """One image a patient; each group's share of alarms among malignant and other patients."""
    tone = np.repeat(list(sizes), list(sizes.values()))
    malignant = np.concatenate([np.arange(n) < round(prevalence * n) for n in sizes.values()])
    hit = np.array([chances[name] for name in tone])
    right = rng.random(len(tone)) < hit
    scores = np.where(malignant == right, 0.8, 0.2) + rng.uniform(-0.1, 0.1, len(tone))
    return make.binary(scores, malignant, groups={"skin_tone": tone})


def test_differences_ratios_and_spreads_agree_with_fairlearn(make):
    rng = np.random.default_rng(0)
    sizes = {"1": 150, "2": 200, "3": 90}
    made = toned(make, sizes, {"1": 0.9, "2": 0.8, "3": 0.7}, rng)
    found = gaps_of(made, metrics=SHARES)
    frame = MetricFrame(
        metrics={
            "sensitivity": recall_score,
            "specificity": lambda y, d: recall_score(y, d, pos_label=0),
        },
        y_true=made.labels,
        y_pred=made.decisions,
        sensitive_features=made.groups["skin_tone"],
    )
    assert found.references["skin_tone"].group == "2"
    for gap in found.gaps:
        values = frame.by_group[gap.metric]
        assert gap.difference.value == pytest.approx(values[gap.group] - values["2"])
        assert gap.ratio.value == pytest.approx(values[gap.group] / values["2"])
        assert gap.difference.low < gap.difference.value < gap.difference.high
        assert gap.ratio.low < gap.ratio.value < gap.ratio.high
    for spread in found.spreads:
        assert spread.value == pytest.approx(frame.difference()[spread.metric])
        assert spread.worst == frame.by_group[spread.metric].idxmin()
        assert spread.worst_value == pytest.approx(frame.group_min()[spread.metric])


@pytest.mark.parametrize(
    ("first", "second", "gap"),
    [(49, 48, 0.245), (239, 42, 0.22), (148, 12, 0.41), (248, 248, 0.10), (903, 903, 0.05)],
)
def test_what_could_have_been_seen_has_the_published_values(first, second, gap):
    found = smallest_share_difference(0.85, first, second)
    assert np.ceil(round(found / 0.005, 6)) * 0.005 == pytest.approx(gap)


def test_what_could_have_been_seen_is_widened_where_images_of_a_patient_are_alike(make):
    rng = np.random.default_rng(1)
    made = toned(make, {"a": 200, "b": 200}, {"a": 0.8, "b": 0.8}, rng)
    alike = make.reordered(made, np.repeat(np.arange(len(made)), 5))
    apart = dataclasses.replace(alike, patients=np.arange(len(alike)).astype(str))
    once, five, independent = (
        gaps_of(each, metrics=("specificity",)).gaps[0].detectable for each in (made, alike, apart)
    )
    assert five == pytest.approx(once, rel=0.05)
    assert independent < 0.6 * once


def test_a_perfect_classifier_with_a_group_without_positives_shows_no_gap(make):
    tone = np.repeat(["light", "dark"], [80, 20])
    malignant = np.concatenate([np.arange(80) % 2 == 0, np.zeros(20, dtype=bool)])
    made = make.binary(np.where(malignant, 0.9, 0.1), malignant, groups={"skin_tone": tone})
    found = gaps_of(made)
    for gap in found.gaps:
        assert gap.verdict != SHOWN
        if gap.metric != "specificity":
            assert gap.difference.value is None
            assert "undefined for dark: no malignant items" in gap.reason
    spread = next(each for each in found.spreads if each.metric == "sensitivity")
    assert (spread.value, spread.left_out) == (None, {"dark": "no malignant items"})


def test_a_great_gap_is_shown_a_small_data_set_cannot_tell_and_a_great_one_rules_out(make):
    rng = np.random.default_rng(2)
    gap = toned(make, {"a": 800, "b": 600}, {"a": 0.9, "b": 0.6}, rng)
    assert {each.verdict for each in gaps_of(gap, metrics=SHARES).gaps} == {SHOWN}
    small = toned(make, {"a": 150, "b": 150}, {"a": 0.85, "b": 0.85}, rng)
    assert {each.verdict for each in gaps_of(small, metrics=SHARES).gaps} == {CANNOT_TELL}
    large = toned(make, {"a": 3000, "b": 3000}, {"a": 0.97, "b": 0.97}, rng)
    assert {each.verdict for each in gaps_of(large, metrics=SHARES).gaps} == {RULED_OUT}
    inside = toned(make, {"a": 5000, "b": 5000}, {"a": 0.99, "b": 0.97}, rng)
    both = gaps_of(inside, metrics=("specificity",)).gaps[0]
    assert (both.verdict, both.within_margin) == (SHOWN, True)


def test_below_the_floor_of_events_there_is_no_answer(make):
    rng = np.random.default_rng(3)
    made = toned(make, {"a": 400, "b": 60}, {"a": 0.99, "b": 0.05}, rng)
    found = {each.metric: each for each in gaps_of(made, metrics=SHARES).gaps}
    assert found["sensitivity"].p_value < 0.01
    assert found["sensitivity"].verdict == CANNOT_TELL
    assert "fewer than 30" in found["sensitivity"].reason
    assert found["specificity"].verdict == SHOWN


def test_the_primary_comparison_stands_outside_the_family(make):
    rng = np.random.default_rng(4)
    sizes = {"a": 300, "b": 200, "c": 200}
    made = toned(make, sizes, dict.fromkeys(sizes, 0.8), rng)
    named = PrimaryComparison(metric="specificity", group="b")
    found = gaps_of(made, metrics=SHARES, primary=named)
    first = next(each for each in found.gaps if each.primary)
    assert (first.group, first.metric) == ("b", "specificity")
    assert first.p_adjusted == first.p_value
    rest = [each for each in (*found.gaps, *found.spreads) if not each.primary]
    assert found.family == len(rest) == 5
    oracle = multipletests([each.p_value for each in rest], method="holm")[1]
    assert [each.p_adjusted for each in rest] == pytest.approx(oracle)


def test_of_two_groups_the_spread_is_not_asked_twice(make):
    rng = np.random.default_rng(5)
    found = gaps_of(toned(make, {"a": 90, "b": 80}, {"a": 0.8, "b": 0.7}, rng), metrics=SHARES)
    assert found.family == 2
    for gap, spread in zip(found.gaps, found.spreads, strict=True):
        assert spread.p_value == gap.p_value
        assert spread.value == pytest.approx(abs(gap.difference.value))


def test_a_primary_comparison_that_cannot_be_made_is_told(make):
    made = make.clustered(np.random.default_rng(6))
    found = gaps_of(made, primary=PrimaryComparison(attribute="sex"), groups=("skin_tone", "sex"))
    assert found.not_compared["sex"] == "the predictions do not carry it"
    assert any(what.startswith("primary comparison") for what in found.not_compared)


def test_unknown_is_no_reference_and_no_group_to_compare(make):
    rng = np.random.default_rng(7)
    made = toned(
        make, {"a": 60, "b": 50, "unknown": 300}, dict.fromkeys("ab", 0.8) | {"unknown": 0.2}, rng
    )
    found = gaps_of(made)
    assert found.references["skin_tone"].group == "a"
    assert {each.group for each in found.gaps} == {"b"}
    assert "skin_tone: unknown" in found.not_compared


def test_a_reference_that_nobody_is_in_leaves_the_differences_out_and_says_so(make):
    made = make.clustered(np.random.default_rng(8))
    found = gaps_of(made, reference={"skin_tone": "purple"})
    assert found.gaps == ()
    assert found.not_compared["skin_tone against purple"]
    assert len(found.spreads) == 3


def test_a_named_reference_is_used_and_named(make):
    made = make.clustered(np.random.default_rng(9))
    found = gaps_of(made, reference={"skin_tone": "3"})
    assert {each.reference for each in found.gaps} == {"3"}
    assert found.references["skin_tone"].chosen == "named in the config"


def test_crossings_are_spread_over_and_held_against_a_reference_only_if_one_is_named(make):
    rng = np.random.default_rng(10)
    made = make.clustered(rng, 200)
    sex = rng.choice(["f", "m"], len(made))
    made = dataclasses.replace(made, groups={**made.groups, "sex": sex})
    crossed = (("skin_tone", "sex"),)
    found = gaps_of(made, crossings=crossed)
    name = "skin_tone x sex"
    assert any(each.attribute == name for each in found.spreads)
    assert not any(each.attribute == name for each in found.gaps)
    found = gaps_of(made, crossings=crossed, reference={name: "1 x f"})
    assert sum(each.attribute == name for each in found.gaps) == 5 * 3


def test_a_family_too_great_for_the_number_of_resamples_is_told(make):
    made = make.clustered(np.random.default_rng(18), 150)
    found = gaps_of(made, replicates=100, metrics=(*SHARES, "ppv", "npv"))
    assert "12 comparisons" in found.not_compared["findings in so great a family"]


def test_plain_values_survive_json(make):
    found = gaps_of(make.clustered(np.random.default_rng(11), 150))
    assert gaps_from(json.loads(json.dumps(found.values(), allow_nan=False))) == found


def test_the_same_stream_gives_the_same_gaps_and_row_order_moves_none(make):
    rng = np.random.default_rng(12)
    made = make.clustered(rng, 60)
    assert gaps_of(made) == gaps_of(made)
    turned = make.reordered(made, rng.permutation(len(made)))
    for one, two in zip(gaps_of(made).gaps, gaps_of(turned).gaps, strict=True):
        assert two.difference.value == pytest.approx(one.difference.value)
        assert two.difference.low == pytest.approx(one.difference.low, abs=1e-6)


def test_p_values_are_the_levels_at_which_the_interval_just_leaves_out():
    def limits(level):
        half = norm.ppf((1 + level) / 2) * 0.02
        return 0.03 - half, 0.03 + half

    assert p_of_difference(limits) == pytest.approx(2 * norm.sf(1.5), rel=1e-4)
    assert p_of_margin(limits, 0.05) == pytest.approx(2 * norm.sf(1.0), rel=1e-4)
    assert p_of_margin(limits, 0.01) == 1.0
    assert p_of_difference(lambda level: None) is None


def test_a_p_value_agrees_with_its_interval():
    rng = np.random.default_rng(13)
    for _ in range(50):
        one, two = rng.uniform(0.2, 0.9, 2)
        spread = rng.uniform(0.01, 0.2)

        def limits(level, one=one, two=two, spread=spread):
            half = norm.ppf((1 + level) / 2) * spread
            return mover_difference(one, (one - half, one + half), two, (two - half, two + half))

        low, high = limits(0.95)
        assert (p_of_difference(limits) <= 0.05) == (low > 0 or high < 0)


def test_holm_agrees_with_statsmodels_and_leaves_unasked_questions_out():
    rng = np.random.default_rng(14)
    asked = rng.random(12) ** 2
    assert holm(asked.tolist()) == pytest.approx(multipletests(asked, method="holm")[1])
    assert holm([None, 0.03, None]) == (None, 0.03, None)


@pytest.mark.parametrize(
    ("p_value", "margin_p", "enough", "answer"),
    [
        (0.01, 0.9, True, (SHOWN, False)),
        (0.01, 0.01, True, (SHOWN, True)),
        (0.5, 0.01, True, (RULED_OUT, False)),
        (0.5, 0.5, True, (CANNOT_TELL, False)),
        (0.001, 0.5, False, (CANNOT_TELL, False)),
        (None, None, True, (CANNOT_TELL, False)),
    ],
)
def test_three_answers(p_value, margin_p, enough, answer):
    assert verdict(p_value, margin_p, 0.95, enough=enough) == answer


def test_chance_is_what_the_note_measured_at_the_sizes_of_ddi(make):
    """49, 74 and 48 malignant, sensitivity .75: the spread is .099 on average with no gap."""
    rng = np.random.default_rng(15)
    means = []
    for _ in range(15):
        tone = np.repeat(["1-2", "3-4", "5-6"], [49, 74, 48])
        hit = rng.random(171) < 0.75
        made = make.binary(np.where(hit, 0.9, 0.1), np.ones(171), groups={"skin_tone": tone})
        found = gaps_of(made, replicates=100, metrics=("sensitivity",))
        means.append(found.spreads[0].null.mean)
    assert np.mean(means) == pytest.approx(0.099, abs=0.008)


def other_laws(make, rng, sizes):
    """One AUROC of .85 in all groups; in the last one the scores lie otherwise."""
    tone = np.repeat(list(sizes), [num for num, _ in sizes.values()])
    malignant = np.concatenate([np.arange(num) < events for num, events in sizes.values()])
    latent = rng.normal(size=len(tone)) + np.sqrt(2) * norm.ppf(0.85) * malignant
    odd = malignant & (tone == list(sizes)[-1])
    alike = np.flatnonzero(odd)
    latent[alike] = np.where(np.arange(len(alike)) < 0.85 * len(alike), 9.0, -9.0)
    return make.binary(1 / (1 + np.exp(-latent)), malignant, groups={"skin_tone": tone})


def test_chance_is_that_of_each_groups_own_scores(make):
    """Two groups of one size and one AUROC: the one whose scores are lumped errs far more."""
    rng = np.random.default_rng(19)
    sizes = {"1": (400, 120), "2": (400, 120), "3": (400, 120)}
    found = gaps_of(other_laws(make, rng, sizes), metrics=("auroc",), null_draws=2000)
    usual, lumped = (each.null.high for each in found.gaps)
    assert lumped > 1.3 * usual
    assert found.spreads[0].verdict != SHOWN


def test_chance_holds_no_gap_that_prevalence_makes(make):
    """PPV of one law of scores at prevalences of .6 and .1 differs: that is found, not chance."""
    rng = np.random.default_rng(20)
    malignant = np.concatenate([np.arange(600) < 360, np.arange(600) < 60])
    tone = np.repeat(["a", "b"], 600)
    made = make.binary(
        np.where(rng.random(1200) < np.where(malignant, 0.8, 0.2), 0.9, 0.1),
        malignant,
        groups={"skin_tone": tone},
    )
    (gap,) = gaps_of(made, metrics=("ppv",), primary=None).gaps
    assert abs(gap.difference.value) > 0.3
    assert gap.null.high < 0.15
    assert gap.verdict == SHOWN
    same = gaps_of(made, metrics=("sensitivity",), primary=None).gaps[0]
    assert abs(same.difference.value) < same.null.high


def test_chance_agrees_with_counting_it_out_at_the_sizes_of_fitzpatrick17k(make):
    """Six types, 91 to 12 malignant, sensitivity .75: a spread of .181 by chance alone."""
    sizes, rng = [91, 148, 91, 60, 29, 12], np.random.default_rng(21)
    shares = rng.binomial(sizes, 0.75, size=(20_000, 6)) / sizes
    counted = np.ptp(shares, axis=1)
    tone = np.repeat([str(at) for at in range(6)], sizes)
    hit = np.concatenate([np.arange(size) < round(0.75 * size) for size in sizes])
    made = make.binary(np.where(hit, 0.9, 0.1), np.ones(len(hit)), groups={"skin_tone": tone})
    (spread,) = gaps_of(made, metrics=("sensitivity",), null_draws=4000).spreads
    assert spread.null.mean == pytest.approx(counted.mean(), abs=0.012)
    assert spread.null.high == pytest.approx(np.quantile(counted, 0.95), abs=0.025)


def test_of_two_groups_all_pairs_ask_what_one_pair_asks():
    for z in (0.3, 1.96, 4.0):
        assert p_of_pairs(z, 2, independent=True) == pytest.approx(2 * norm.sf(z), rel=1e-6)


@pytest.mark.parametrize("sizes", [(20, 20, 20), (5, 60, 60, 200)])
def test_all_pairs_together_are_asked_as_tukey_and_kramer_do(sizes):
    """Held against scipy's test of means, whose errors are nearly known at so many items."""
    rng = np.random.default_rng(22)
    means = rng.normal(0, 0.3, len(sizes))
    many = [rng.normal(size=100 * size) for size in sizes]
    many = [each - each.mean() + mean / 10 for each, mean in zip(many, means, strict=True)]
    result = tukey_hsd(*many)
    error = np.sqrt(
        sum(((each - each.mean()) ** 2).sum() for each in many) / (sum(map(len, many)) - len(many))
    )
    pairs = [
        (one, other, abs(many[one].mean() - many[other].mean()))
        for one in range(len(sizes))
        for other in range(one)
    ]
    for one, other, apart in pairs:
        z = apart / (error * np.sqrt(1 / len(many[one]) + 1 / len(many[other])))
        found = p_of_pairs(z, len(sizes), independent=True)
        assert found == pytest.approx(result.pvalue[one, other], rel=0.05, abs=1e-4)


@pytest.mark.parametrize("independent", [True, False])
def test_the_level_of_a_pair_is_that_at_which_all_pairs_hold_theirs(independent):
    for groups in (2, 3, 6):
        own = alpha_of_pair(0.05, groups, independent=independent)
        again = p_of_pairs(norm.isf(own / 2), groups, independent=independent)
        assert again == pytest.approx(0.05, rel=1e-4)


def test_beyond_what_resamples_tell_the_normal_law_goes_on():
    def limits(level):
        half = norm.ppf((1 + level) / 2) * 0.02
        return 0.2 - half, 0.2 + half

    assert z_of_difference(0.2, limits, 0.001) == pytest.approx(10.0)
    assert z_of_difference(0.2, lambda level: None) is None


def test_what_could_be_shown_is_told_at_the_level_that_an_answer_needs(make):
    rng = np.random.default_rng(23)
    sizes = dict.fromkeys("abcd", 300)
    made = toned(make, sizes, dict.fromkeys(sizes, 0.85), rng)
    named = PrimaryComparison(metric="specificity", group="b")
    found = gaps_of(made, metrics=("specificity",), primary=named)
    assert found.family == 3
    assert found.alone_alpha == pytest.approx(0.05)
    assert found.family_alpha == pytest.approx(0.05 / 3)
    first, second, _ = found.gaps
    apart = (norm.isf(0.05 / 6) + norm.ppf(0.8)) / (norm.isf(0.025) + norm.ppf(0.8))
    assert second.detectable / first.detectable == pytest.approx(apart, rel=0.06)
    assert found.spreads[0].detectable > second.detectable


def test_below_the_floor_of_events_no_gap_could_be_shown(make):
    rng = np.random.default_rng(24)
    made = toned(make, {"a": 400, "b": 60}, {"a": 0.9, "b": 0.9}, rng)
    found = {each.metric: each for each in gaps_of(made, metrics=SHARES).gaps}
    assert found["sensitivity"].detectable is None
    assert found["specificity"].detectable > 0


def test_nothing_is_ruled_out_in_a_figure_that_nobody_set_a_margin_for(make):
    rng = np.random.default_rng(25)
    made = toned(make, {"a": 4000, "b": 4000}, {"a": 0.95, "b": 0.95}, rng)
    asked = ("brier", "net_benefit_at_0.2", "ppv", "specificity")
    found = {each.metric: each for each in gaps_of(made, metrics=asked, primary=None).gaps}
    assert found["specificity"].verdict == RULED_OUT
    for name in asked[:3]:
        assert (found[name].margin, found[name].margin_p) == (None, None)
        assert found[name].verdict != RULED_OUT
    named = gaps_of(made, metrics=("brier",), primary=None, margins={"brier": 0.05})
    assert named.gaps[0].verdict == RULED_OUT
    assert named.spreads[0].margin == 0.05


def test_the_two_groups_that_a_spread_rests_on_need_not_be_the_farthest_apart(make):
    rng = np.random.default_rng(26)
    sizes = {"a": 3000, "b": 3000, "tiny": 50}
    made = toned(make, sizes, {"a": 0.9, "b": 0.8, "tiny": 0.82}, rng)
    benign = made.labels == 0
    tiny = np.flatnonzero((made.groups["skin_tone"] == "tiny") & benign)
    scores = made.malignancy_scores.copy()
    scores[tiny] = np.where(np.arange(len(tiny)) < 0.75 * len(tiny), 0.2, 0.8)
    made = make.binary(scores, made.labels, groups=dict(made.groups))
    (spread,) = gaps_of(made, metrics=("specificity",)).spreads
    assert (spread.best, spread.worst) == ("a", "tiny")
    assert spread.clearest == ("a", "b")
    assert spread.verdict == SHOWN


def test_errors_keep_a_patients_images_together(make):
    rng = np.random.default_rng(16)
    made = toned(make, {"a": 60, "b": 60}, {"a": 0.7, "b": 0.7}, rng)
    once = gaps_of(made, metrics=("specificity",)).spreads[0].null
    alike = (
        gaps_of(make.reordered(made, np.repeat(np.arange(len(made)), 6)), metrics=("specificity",))
        .spreads[0]
        .null
    )
    assert alike.high == pytest.approx(once.high, rel=0.25)


def test_a_statistic_stands_beside_its_draws():
    found = null_of(0.3, np.array([0.1, 0.2, 0.3, 0.4]))
    assert (found.mean, found.excess) == (pytest.approx(0.25), pytest.approx(0.05))
    assert found.draws == 4
    assert null_of(0.3, np.array([0.1, np.nan, np.nan])) is None


def test_groups_that_share_patients_are_compared_with_their_correlation(make):
    """Two sites of each patient, always right or wrong together: the difference is certain."""
    rng = np.random.default_rng(17)
    right = np.repeat(rng.random(300) < 0.7, 2)
    patients = np.repeat(np.arange(300), 2).astype(str)
    site = np.tile(["arm", "back"], 300)
    malignant = np.repeat(np.arange(300) < 150, 2)
    made = make.binary(
        np.where(malignant == right, 0.9, 0.1), malignant, patients, {"skin_tone": site}
    )
    same = gaps_of(made, metrics=("specificity",)).gaps[0].difference
    apart = dataclasses.replace(made, patients=np.arange(600).astype(str))
    other = gaps_of(apart, metrics=("specificity",)).gaps[0].difference
    assert same.high - same.low < 0.1 * (other.high - other.low)
