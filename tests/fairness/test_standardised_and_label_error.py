"""Gaps at the same mix of cases, and gaps corrected by assumption for error of the labels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from skinml.fairness.evaluation import evaluate_fairness
from skinml.fairness.label_error import (
    SCALES,
    label_error_curve,
    mixing,
    published_confusion,
    scale_order,
)
from skinml.fairness.settings import FairnessSettings
from skinml.fairness.sides import Side

OPTIONS = FairnessSettings(
    replicates=300, null_draws=100, groups=("skin_tone",), metrics=("sensitivity", "specificity")
)


def gaps_of(predictions, **changes):
    options = OPTIONS.model_copy(update=changes)
    rng = np.random.default_rng(0)
    return evaluate_fairness(predictions, threshold=0.5, settings=options, rng=rng, figures=()).gaps


def confounded(make, rng, per_cell, right):
    """The tones have other mixes of two malignant diagnoses, which alone decide who is found."""
    parts = [np.array([(tone, case)] * count) for (tone, case), count in per_cell.items()]
    tone, case = np.concatenate(parts).T
    hit = rng.random(len(tone)) < np.array([right[name] for name in case])
    malignant = np.char.startswith(case, "m")
    scores = np.where(malignant == hit, 0.9, 0.1)
    return make.binary(scores, malignant, groups={"skin_tone": tone, "diagnosis": case})


PER_CELL = {
    ("light", "m1"): 400,
    ("light", "m2"): 100,
    ("light", "nevus"): 500,
    ("dark", "m1"): 60,
    ("dark", "m2"): 240,
    ("dark", "nevus"): 300,
}
RIGHT = {"m1": 0.95, "m2": 0.55, "nevus": 0.8}


def by_hand(made, metric_malignant=True):
    """Sensitivity of each tone within each diagnosis, averaged at the pooled mix."""
    tone, case = made.groups["skin_tone"], made.groups["diagnosis"]
    found = {}
    cases = [name for name in ("m1", "m2", "nevus") if name.startswith("m") == metric_malignant]
    shares = np.array([(case == name).sum() for name in cases], dtype=float)
    right = (made.decisions == made.labels).astype(float)
    for group in ("light", "dark"):
        means = [right[(tone == group) & (case == name)].mean() for name in cases]
        found[group] = float(shares @ means / shares.sum())
    return found["dark"] - found["light"]


def test_a_gap_that_the_mix_of_cases_makes_goes_away_at_the_same_mix(make):
    made = confounded(make, np.random.default_rng(0), PER_CELL, RIGHT)
    found = gaps_of(made)
    crude = next(each for each in found.gaps if each.metric == "sensitivity")
    assert crude.verdict == "gap shown"
    same = next(each for each in found.standardised if each.metric == "sensitivity")
    assert same.crude == pytest.approx(crude.difference.value)
    assert same.difference.value == pytest.approx(by_hand(made))
    assert same.difference.low < 0 < same.difference.high
    assert (same.within, same.covered, same.left_out) == ("diagnosis", 1.0, {})


def test_cases_that_a_group_lacks_are_named_and_left_out(make):
    rng = np.random.default_rng(1)
    made = confounded(make, rng, {**PER_CELL, ("dark", "m2"): 3}, RIGHT)
    same = gaps_of(made).standardised[0]
    assert list(same.left_out) == ["m2"]
    assert "3 of dark" in same.left_out["m2"]
    assert 0.5 < same.covered < 1
    case, tone = made.groups["diagnosis"], made.groups["skin_tone"]
    right = made.decisions == made.labels
    expected = right[(case == "m1") & (tone == "dark")].mean()
    expected -= right[(case == "m1") & (tone == "light")].mean()
    assert same.difference.value == pytest.approx(expected)


def test_without_a_common_case_there_is_no_standardised_gap(make):
    cells = {("light", "m1"): 100, ("light", "nevus"): 90, ("dark", "m2"): 100}
    made = confounded(make, np.random.default_rng(2), cells, RIGHT)
    same = gaps_of(made).standardised[0]
    assert same.difference.value is None
    assert same.difference.reason == "no case that both groups have"


def test_the_true_class_stands_in_for_the_case_where_there_are_many(make):
    made = make.classes(np.random.default_rng(3), 600)
    found = gaps_of(made, groups=("sex",)).standardised
    assert {each.within for each in found} == {"diagnosis"}
    binary = make.clustered(np.random.default_rng(4))
    told = gaps_of(binary)
    assert told.standardised == ()
    assert "carry no diagnosis" in told.not_compared["at the same mix of cases"]


def test_weights_make_a_standardised_interval_wider_than_a_crude_one_of_equal_cases(make):
    rng = np.random.default_rng(5)
    even = dict.fromkeys(PER_CELL, 200)
    made = confounded(make, rng, even, RIGHT)
    found = gaps_of(made)
    crude = next(each for each in found.gaps if each.metric == "sensitivity").difference
    same = next(each for each in found.standardised if each.metric == "sensitivity").difference
    assert (same.low, same.high) == pytest.approx((crude.low, crude.high), abs=0.02)
    skewed = gaps_of(confounded(make, rng, {**PER_CELL, ("dark", "m1"): 12}, RIGHT))
    wide = next(each for each in skewed.standardised if each.metric == "sensitivity").difference
    assert wide.high - wide.low > 1.3 * (same.high - same.low)


def test_published_tables_agree_as_often_as_the_two_firms_did():
    six, source = published_confusion(6)
    assert six.sum(axis=1) == pytest.approx(np.ones(6))
    assert np.diag(six) == pytest.approx(np.full(6, 0.479))
    steps = np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    assert np.where(steps <= 1, six, 0).sum(axis=1) == pytest.approx(np.full(6, 0.910))
    assert "Groh" in source
    assert published_confusion(4) is None


def test_the_published_table_shrinks_a_gap_as_much_as_the_note_measured():
    """A dark-light gap of .20 shows at 71 to 76% of its size with another firm's labels."""
    counts = np.array([2947 + 4808, 3308 + 2781, 1533 + 635], dtype=float)
    table, _ = published_confusion(3)
    found = mixing(table, table.T @ counts) @ np.array([0.9, 0.9, 0.7])
    assert (found[0] - found[2]) / 0.20 == pytest.approx(0.70, abs=0.01)


def side(group, value, half):
    return Side(group, value, "", 100.0, lambda level: (value - half, value + half), lambda v: half)


def curve(values, counts, scale="fitzpatrick", **changes):
    options = OPTIONS.model_copy(update={"scale": {"skin_tone": scale}, **changes})
    sides = [side(name, value, 0.05) for name, value in values.items()]
    names = list(values)
    return label_error_curve(
        "skin_tone", "sensitivity", sides, counts, (names[-1], names[0]), options
    )


def test_the_curve_begins_at_the_gap_that_was_found_and_grows_to_the_true_one():
    true = np.array([0.9, 0.85, 0.7])
    counts = np.array([500.0, 400.0, 150.0])
    table, _ = published_confusion(3)
    labelled = table.T @ counts
    seen = mixing(table, labelled) @ true
    found = curve(dict(zip(("1-2", "3-4", "5-6"), seen, strict=True)), labelled)
    assert [each.scale for each in found.points] == list(SCALES)
    first, last = found.points[0].difference, found.points[-1].difference
    assert first.value == pytest.approx(seen[2] - seen[0])
    assert first.high - first.low == pytest.approx(2 * 0.05 * np.sqrt(2))
    assert last.value == pytest.approx(true[2] - true[0])
    assert last.high - last.low > first.high - first.low
    sizes = [abs(each.difference.value) for each in found.points]
    assert sizes == sorted(sizes)
    assert all(each.possible for each in found.points)
    assert "by assumption" in last.method


def test_a_table_of_the_config_goes_first_and_labels_that_tell_nothing_say_so():
    table = ((0.5, 0.5), (0.5, 0.5))
    found = curve(
        {"1": 0.8, "2": 0.6},
        [90.0, 90.0],
        label_error={"skin_tone": table},
    )
    assert found.source == "fairness.label_error"
    assert found.points[-1].difference.value is None
    assert not found.points[-1].possible


def test_where_there_is_no_curve_it_says_why():
    assert "fairness.order.skin_tone" in curve({"pale": 0.9, "brown": 0.8}, [9, 9]).reason
    assert "no published table" in curve({"1": 0.9, "2": 0.8}, [9, 9]).reason
    lacking = [side("1", 0.9, 0.1), side("2", None, 0.1), side("3", 0.8, 0.1)]
    lacking[1] = dataclasses.replace(lacking[1], limits=lambda level: None)
    toned = OPTIONS.model_copy(update={"scale": {"skin_tone": "fitzpatrick"}})
    found = label_error_curve("skin_tone", "auroc", lacking, [9, 9, 9], ("1", "3"), toned)
    assert found.reason == "no figure for 2"
    assert label_error_curve("sex", "auroc", lacking, [9, 9, 9], ("1", "3"), OPTIONS) is None


@pytest.mark.parametrize("scale", ["milk", "monk", "ita_apparent_groh_2021", ""])
def test_the_published_error_of_one_scale_is_not_taken_for_another(scale):
    values = {"0-1": 0.9, "2-3": 0.85, "4-5": 0.7}
    found = curve(values, [500, 400, 150], scale=scale)
    assert found.points == ()
    assert f"no table is published for {f'the scale {scale}' if scale else 'these'}" in found.reason
    assert "fairness.label_error.skin_tone" in found.reason
    assert curve(values, [500, 400, 150]).points
    given = {"skin_tone": published_confusion(3)[0].tolist()}
    assert curve(values, [500, 400, 150], scale=scale, label_error=given).points


@pytest.mark.parametrize(
    ("groups", "order"),
    [
        (("10-12", "1-3", "4"), ("1-3", "4", "10-12")),
        (("IV", "I", "VI"), ("I", "IV", "VI")),
        (("dark", "light"), None),
    ],
)
def test_scales_are_put_in_order_where_their_names_tell_it(groups, order):
    assert scale_order("skin_tone", groups, OPTIONS) == order
    named = OPTIONS.model_copy(update={"order": {"skin_tone": ("light", "dark")}})
    assert scale_order("skin_tone", ("dark", "light"), named) == ("light", "dark")


def test_cases_are_no_groups_of_their_own_unless_they_are_to_be_compared(make):
    made = confounded(make, np.random.default_rng(6), PER_CELL, RIGHT)
    options = OPTIONS.model_copy(update={"crossings": (("skin_tone", "diagnosis"),)})

    def attributes(options):
        rng = np.random.default_rng(0)
        found = evaluate_fairness(made, threshold=0.5, settings=options, rng=rng, figures=()).groups
        return list(dict.fromkeys(each.attribute for each in found))

    assert attributes(options) == ["skin_tone", "skin_tone x diagnosis"]
    compared = OPTIONS.model_copy(update={"groups": ("diagnosis",)})
    assert attributes(compared) == ["skin_tone", "diagnosis"]
