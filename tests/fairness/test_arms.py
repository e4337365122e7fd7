"""Arms with several seeds on the same patients: means, intervals, changes and their answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm, t
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests

from skinml.errors import DataError
from skinml.fairness.arm_means import error_of, mean_draws
from skinml.fairness.arm_values import comparison_from
from skinml.fairness.arms import ArmRuns, compare_arms
from skinml.fairness.catalogue import measures_of
from skinml.fairness.cells import overall_cell
from skinml.fairness.delong import delong
from skinml.fairness.settings import FairnessSettings, PrimaryComparison
from skinml.fairness.side_by_side import mean_of_estimates
from skinml.fairness.verdicts import CANNOT_TELL, RULED_OUT, SHOWN
from skinml.records import Estimate

TONES = {"0-2": 120, "4-5": 300}
OPTIONS = FairnessSettings(
    replicates=400, groups=("skin_tone",), reference={"skin_tone": "4-5"}, margin=0.05
)


def cohort(make, rng, models, *, tones=TONES, images=1, cost=(0.0, 0.0)):
    """Predictions of models that see the same truth with more or less noise of their own.

    Args:
        models: For each model the standard deviation of its noise.
        cost: By how much the last model's scores are worse in the first and in the other group.
    """
    tone = np.repeat(np.repeat(list(tones), list(tones.values())), images)
    patient = np.repeat(np.arange(sum(tones.values())), images)
    malignant = (np.arange(patient[-1] + 1) % 3 == 0)[patient]
    seen = 1.6 * malignant + rng.normal(size=patient[-1] + 1)[patient]
    seen += 0.3 * rng.normal(size=len(patient))
    made = []
    for place, noise in enumerate(models):
        scores = seen + noise * rng.normal(size=len(patient))
        if place == len(models) - 1:
            scores -= np.where(tone == next(iter(tones)), *cost) * malignant
        made.append(
            make.binary(expit(scores - 1), malignant, patient.astype(str), {"skin_tone": tone})
        )
    return made


def arm(name, predictions, seeds=None):
    seeds = tuple(range(len(predictions))) if seeds is None else seeds
    return ArmRuns(name, seeds, tuple(predictions), (0.5,) * len(predictions))


def compared(arms, options=OPTIONS, seed=0, attributes=("skin_tone",)):
    rng = np.random.default_rng(seed)
    return compare_arms(arms, attributes=attributes, settings=options, rng=rng)


def change(found, question, group="overall", metric="auroc"):
    (one,) = [
        c for c in found.changes if (c.question, c.group, c.metric) == (question, group, metric)
    ]
    return one


def half_width(estimate):
    return (estimate.high - estimate.low) / 2


def test_figures_gaps_and_changes_are_those_of_scikit_learn_averaged_over_seeds(make):
    models = cohort(make, np.random.default_rng(1), [0.1, 0.2, 0.5, 0.6])
    found = compared([arm("none", models[:2]), arm("epsilon 1", models[2:])])

    def area(group, predictions):
        at = predictions.groups["skin_tone"] == group if group else slice(None)
        return roc_auc_score(predictions.labels[at], predictions.malignancy_scores[at])

    dark, light, everybody = (
        [area(group, each) for each in models] for group in ("0-2", "4-5", None)
    )
    mean = found.figure("epsilon 1", "overall", "overall", "auroc")
    assert mean.by_seed == pytest.approx(everybody[2:])
    assert mean.estimate.value == pytest.approx(np.mean(everybody[2:]))
    assert mean.seed_sd == pytest.approx(np.std(everybody[2:], ddof=1))
    gaps = np.subtract(dark, light)
    assert found.gaps[0].mean.estimate.value == pytest.approx(gaps[:2].mean())
    harder = change(found, "gap", "0-2").mean
    assert harder.estimate.value == pytest.approx(gaps[2:].mean() - gaps[:2].mean())
    assert harder.by_seed == pytest.approx(gaps[2:] - gaps[:2])
    worst = {each.arm: each.group for each in found.worst}
    assert worst == {
        name: ("0-2" if np.mean(dark[at]) < np.mean(light[at]) else "4-5")
        for name, at in (("none", slice(2)), ("epsilon 1", slice(2, 4)))
    }


def test_with_one_seed_and_one_image_a_patient_the_error_is_that_of_delong(make):
    """The change of a gap is a difference of two independent groups' paired differences."""
    models = cohort(make, np.random.default_rng(2), [0.2, 0.8], tones={"0-2": 300, "4-5": 400})
    options = OPTIONS.model_copy(update={"replicates": 3000})
    found = compared([arm("none", models[:1]), arm("epsilon 1", models[1:])], options)

    def paired_variance(rows):
        scores = np.stack([each.malignancy_scores[rows] for each in models])
        _, spread = delong(scores, models[0].malignant[rows])
        return spread[0, 0] + spread[1, 1] - 2 * spread[0, 1]

    tone = models[0].groups["skin_tone"]
    dark, light = (paired_variance(tone == group) for group in ("0-2", "4-5"))
    expected = {
        ("overall", "overall"): (paired_variance(tone != ""), len(tone) / 3),
        ("group", "0-2"): (dark, 100),
        ("gap", "0-2"): (dark + light, 100),
    }
    for (question, group), (variance, support) in expected.items():
        estimate = change(found, question, group).mean.estimate
        # Both widen a normal interval: Student's t, and the factor of the plain bootstrap.
        wide = t.ppf(0.975, support - 1) * np.sqrt(support / (support - 1))
        assert half_width(estimate) / wide == pytest.approx(np.sqrt(variance), rel=0.06)


def test_the_error_of_a_mean_is_the_textbooks(make):
    """A share where every item counts: a difference of paired shares has an exact variance."""
    rng = np.random.default_rng(3)
    size = 250
    hits = rng.random((2, size)) < np.array([[0.8], [0.65]])
    tone = np.where(np.arange(size) < 100, "0-2", "4-5")
    models = [
        make.binary(np.where(hit, 0.9, 0.1), np.ones(size), None, {"skin_tone": tone})
        for hit in hits
    ]
    options = OPTIONS.model_copy(
        update={"replicates": 4000, "primary": PrimaryComparison(metric="sensitivity")}
    )
    found = compared([arm("none", models[:1]), arm("epsilon 1", models[1:])], options)
    moved = hits[1].astype(float) - hits[0]
    estimate = change(found, "overall", metric="sensitivity").mean.estimate
    exact = np.sqrt(moved.var(ddof=1) / size)
    assert half_width(estimate) == pytest.approx(t.ppf(0.975, size - 1) * exact, rel=0.04)
    dark, light = moved[:100], moved[100:]
    exact = np.sqrt(dark.var(ddof=1) / 100 + light.var(ddof=1) / 150)
    estimate = change(found, "gap", "0-2", "sensitivity").mean.estimate
    assert half_width(estimate) == pytest.approx(t.ppf(0.975, 99) * exact, rel=0.05)


def test_seeds_add_their_variance_and_their_own_students_t(make):
    rng = np.random.default_rng(4)
    models = cohort(make, rng, [0.3, 1.0, 2.0])
    cells = [overall_cell(each, threshold=0.5) for each in models]
    measures = [measures_of(cell, OPTIONS, ["auroc"])[0] for cell in cells]
    replicates = 0.8 + 0.02 * rng.normal(size=(3, 4000))
    error = error_of(mean_draws("a", (0, 1, 2), measures, replicates))
    values = np.array([each.value for each in measures])
    support = measures[0].support
    patients = replicates.mean(axis=0).var(ddof=1) * support / (support - 1)
    seeds = values.var(ddof=1) / 3
    assert error.seeds == pytest.approx(seeds)
    assert error.standard == pytest.approx(np.sqrt(patients + seeds))
    weighted = patients * t.ppf(0.975, support - 1) + seeds * t.ppf(0.975, 2)
    assert error.quantile(0.975) == pytest.approx(weighted / (patients + seeds))


def test_every_image_twice_changes_no_interval(make):
    models = cohort(make, np.random.default_rng(5), [0.2, 0.6], images=2)
    twice = [make.reordered(each, np.repeat(np.arange(len(each)), 2)) for each in models]
    once, doubled = (
        compared([arm("none", each[:1]), arm("epsilon 1", each[1:])]) for each in (models, twice)
    )
    for a, b in zip(once.changes, doubled.changes, strict=True):
        if a.metric == "auroc":
            assert b.mean.estimate.value == pytest.approx(a.mean.estimate.value)
            assert half_width(b.mean.estimate) == pytest.approx(half_width(a.mean.estimate))


def test_the_first_arm_decides_the_sign(make):
    models = cohort(make, np.random.default_rng(6), [0.2, 0.6])
    a, b = arm("a", models[:1]), arm("b", models[1:])
    there, back = compared([a, b]), compared([b, a])
    for one, other in zip(there.changes, back.changes, strict=True):
        assert one.mean.estimate.value == pytest.approx(-other.mean.estimate.value)
        assert one.mean.estimate.low == pytest.approx(-other.mean.estimate.high)


def test_the_same_model_twice_has_changed_nothing_and_that_is_certain(make):
    (model,) = cohort(make, np.random.default_rng(7), [0.3])
    found = compared([arm("a", [model]), arm("b", [model])])
    for each in found.changes:
        estimate = each.mean.estimate
        assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)
        assert each.verdict == RULED_OUT


def test_a_cost_that_falls_on_one_group_is_shown_and_one_that_falls_on_all_is_not(make):
    rng = np.random.default_rng(8)
    sizes = {"0-2": 900, "4-5": 900}
    unequal = cohort(make, rng, [0.1, 0.1], tones=sizes, cost=(1.0, 0.0))
    found = compared([arm("a", unequal[:1]), arm("b", unequal[1:])])
    assert change(found, "gap", "0-2").verdict == SHOWN
    assert change(found, "gap", "0-2").mean.estimate.high < 0
    equal = cohort(make, rng, [0.1, 0.1], tones=sizes, cost=(0.5, 0.5))
    found = compared([arm("a", equal[:1]), arm("b", equal[1:])])
    assert change(found, "overall").verdict == SHOWN
    assert change(found, "gap", "0-2").verdict == RULED_OUT


def test_few_malignant_patients_get_an_interval_and_no_answer(make):
    models = cohort(make, np.random.default_rng(9), [0.1, 0.1], tones={"0-2": 60, "4-5": 600})
    found = compared([arm("a", models[:1]), arm("b", models[1:])])
    asked = change(found, "gap", "0-2")
    assert asked.verdict == CANNOT_TELL
    assert asked.reason == "one figure rests on what 20 patients would tell, fewer than 30"
    assert asked.mean.estimate.low is not None
    assert change(found, "group", "4-5").verdict != CANNOT_TELL


def test_p_values_are_corrected_over_the_arms_of_each_question(make):
    models = cohort(make, np.random.default_rng(10), [0.1, 0.4, 0.6, 0.9])
    found = compared([arm(str(at), [each]) for at, each in enumerate(models)])
    assert found.families == {
        "overall: auroc": 3,
        "overall: balanced_accuracy": 3,
        "group: auroc": 6,
        "gap: auroc": 3,
    }
    for family in found.families:
        asked = [each for each in found.changes if f"{each.question}: {each.metric}" == family]
        corrected = multipletests([each.p_value for each in asked], method="holm")[1]
        assert [each.p_adjusted for each in asked] == pytest.approx(corrected)


def test_a_p_value_agrees_with_the_interval(make):
    models = cohort(make, np.random.default_rng(11), [0.1, 0.5])
    found = compared([arm("a", models[:1]), arm("b", models[1:])])
    for each in found.changes:
        estimate = each.mean.estimate
        assert (each.p_value <= 0.05) == (estimate.low > 0 or estimate.high < 0)


def test_seeds_are_paired_where_arms_have_the_same_ones(make):
    models = cohort(make, np.random.default_rng(12), [0.1, 0.1, 0.1, 0.1])
    a = arm("a", models[:2])
    paired = change(compared([a, arm("b", models[2:])]), "overall")
    apart = change(compared([a, arm("b", models[2:], seeds=(8, 9))]), "overall")
    assert len(paired.mean.by_seed) == 2
    assert apart.mean.by_seed == ()
    assert apart.mean.estimate.value == pytest.approx(paired.mean.estimate.value)


def test_one_seed_is_told_as_such(make):
    models = cohort(make, np.random.default_rng(13), [0.1, 0.3, 0.3])
    found = compared([arm("a", models[:1]), arm("b", models[1:])])
    assert all(each.one_seed for each in found.changes)
    assert "one seed" in found.figure("a", "overall", "overall", "auroc").estimate.reason
    assert found.figure("b", "overall", "overall", "auroc").estimate.reason == ""


def test_patients_of_an_unknown_group_are_no_side_of_a_gap(make):
    tones = {"0-2": 90, "4-5": 150, "unknown": 90}
    models = cohort(make, np.random.default_rng(14), [0.1, 0.3], tones=tones)
    found = compared([arm("a", models[:1]), arm("b", models[1:])])
    assert {each.group for each in found.gaps} == {"0-2"}
    assert "unknown" in {each.group for each in found.figures}
    assert "unknown" not in {each.group for each in found.worst}


def test_a_group_without_malignant_items_has_no_gap_and_says_why(make):
    (model,) = cohort(make, np.random.default_rng(15), [0.1])
    model.groups["skin_tone"][:] = np.where(model.malignant, "4-5", "0-2")
    found = compared([arm("a", [model]), arm("b", [model])])
    asked = change(found, "gap", "0-2")
    assert asked.mean.estimate.value is None
    assert asked.verdict == CANNOT_TELL
    assert "no malignant items" in asked.reason


def test_runs_on_other_patients_are_refused(make):
    rng = np.random.default_rng(16)
    (a,), (b,) = cohort(make, rng, [0.1]), cohort(make, rng, [0.1], tones={"0-2": 9, "4-5": 300})
    with pytest.raises(DataError, match="same items"):
        compared([arm("a", [a]), arm("b", [b])])


def test_a_comparison_comes_back_from_its_plain_values(make):
    models = cohort(make, np.random.default_rng(17), [0.1, 0.3])
    found = compared([arm("a", models[:1]), arm("b", models[1:])])
    assert comparison_from(found.values()) == found


def test_the_same_stream_gives_the_same_comparison(make):
    models = cohort(make, np.random.default_rng(18), [0.1, 0.3])
    arms = [arm("a", models[:1]), arm("b", models[1:])]
    assert compared(arms) == compared(arms)
    assert compared(arms) != compared(arms, seed=1)


def test_what_cannot_be_paired_gets_the_mean_of_the_runs_own_limits():
    found = mean_of_estimates([Estimate(0.8, 0.7, 0.9), Estimate(0.9, 0.85, 0.95)])
    assert found.estimate.value == pytest.approx(0.85)
    assert (found.estimate.low, found.estimate.high) == pytest.approx((0.775, 0.925))
    assert found.seed_sd == pytest.approx(0.1 / np.sqrt(2))
    nothing = mean_of_estimates([Estimate(0.8, 0.7, 0.9), Estimate(None, reason="no patients")])
    assert (nothing.estimate.value, nothing.estimate.reason) == (None, "no patients")


def test_what_could_have_been_seen_is_seen_four_times_in_five(make):
    models = cohort(make, np.random.default_rng(19), [0.2, 0.6])
    asked = change(compared([arm("a", models[:1]), arm("b", models[1:])]), "overall")
    error = half_width(asked.mean.estimate) / t.ppf(0.975, 139)
    assert asked.detectable / error == pytest.approx(norm.ppf(0.975) + norm.ppf(0.8), rel=0.02)


def test_a_figure_without_a_margin_is_never_ruled_out(make):
    (model,) = cohort(make, np.random.default_rng(20), [0.3])
    options = OPTIONS.model_copy(update={"primary": PrimaryComparison(metric="brier")})
    found = compared([arm("a", [model]), arm("b", [model])], options)
    assert change(found, "overall", metric="brier").verdict == CANNOT_TELL
    options = options.model_copy(update={"margins": {"brier": 0.01}})
    found = compared([arm("a", [model]), arm("b", [model])], options)
    assert change(found, "overall", metric="brier").verdict == RULED_OUT
