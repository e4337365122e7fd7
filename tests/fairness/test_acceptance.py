"""What a criterion makes of a figure, of a gap, and of what the data cannot tell."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from skinml.fairness.acceptance import MET, NOT_MET, judge
from skinml.fairness.criteria import Criterion
from skinml.fairness.gaps import Gap, Gaps, Spread
from skinml.fairness.verdicts import CANNOT_TELL, RULED_OUT, SHOWN
from skinml.records import Estimate, GroupResult


def group(name: str, estimate: Estimate, attribute: str = "skin_tone") -> GroupResult:
    return GroupResult(attribute, name, 9, 9, 4, 5, {"auroc": estimate})


def gaps(*verdicts: str, within: bool = False) -> Gaps:
    found = tuple(
        Gap(
            "skin_tone",
            "auroc",
            f"tone {at}",
            "tone 9",
            Estimate(-0.02, -0.04, 0.01),
            Estimate(0.98),
            verdict=verdict,
            within_margin=within,
            detectable=0.1,
        )
        for at, verdict in enumerate(verdicts)
    )
    return Gaps(0.95, 0.05, 30, len(found), {}, found, ())


def answers(criterion: dict[str, object], estimate: Estimate, found: Gaps | None = None):
    everybody = group("overall", estimate, "overall")
    groups = [group("light", estimate), group("unknown", Estimate(0.1, 0.05, 0.2))]
    return judge([Criterion.model_validate(criterion)], everybody, groups, found)[0]


@pytest.mark.parametrize(
    ("low", "value", "high", "answer"),
    [
        (0.81, 0.85, 0.89, MET),
        (0.80, 0.85, 0.89, MET),
        (0.79, 0.85, 0.89, CANNOT_TELL),
        (0.70, 0.75, 0.79, NOT_MET),
    ],
)
def test_by_the_limit_an_interval_that_holds_the_bound_cannot_tell(low, value, high, answer):
    found = answers({"figure": "auroc", "at_least": 0.8}, Estimate(value, low, high))
    assert found.answer == answer
    assert found.accepted == (answer == MET)
    assert f"{value:.3f} ({low:.3f} to {high:.3f})" in found.reason


def test_by_the_value_there_is_no_cannot_tell():
    asked = {"figure": "auroc", "at_least": 0.8, "by": "value"}
    assert answers(asked, Estimate(0.81, 0.7, 0.9)).answer == MET
    assert answers(asked, Estimate(0.79, 0.7, 0.9)).answer == NOT_MET


def test_at_most_reads_the_upper_limit():
    asked = {"figure": "auroc", "at_most": 0.9}
    assert answers(asked, Estimate(0.8, 0.7, 0.89)).answer == MET
    assert answers(asked, Estimate(0.95, 0.91, 0.99)).answer == NOT_MET


@pytest.mark.parametrize(
    "estimate", [Estimate(None, reason="no malignant items"), Estimate(0.9, reason="few")]
)
def test_what_is_undefined_or_has_no_limit_cannot_tell(estimate):
    found = answers({"figure": "auroc", "at_least": 0.1}, estimate)
    assert (found.answer, found.accepted) == (CANNOT_TELL, False)
    relaxed = {"figure": "auroc", "at_least": 0.1, "allow_cannot_tell": True}
    assert answers(relaxed, estimate).accepted


def test_every_group_is_asked_but_not_those_that_nobody_knows():
    asked = {"figure": "auroc", "column": "skin_tone", "group": "every", "at_least": 0.8}
    assert answers(asked, Estimate(0.9, 0.85, 0.95)).answer == MET
    missing = {**asked, "group": "dark"}
    assert answers(missing, Estimate(0.9, 0.85, 0.95)).answer == CANNOT_TELL


@pytest.mark.parametrize(
    ("verdicts", "answer"),
    [
        ((RULED_OUT, RULED_OUT), MET),
        ((RULED_OUT, CANNOT_TELL), CANNOT_TELL),
        ((CANNOT_TELL, SHOWN), NOT_MET),
    ],
)
def test_the_worst_of_all_comparisons_counts(verdicts, answer):
    found = answers({"gap": "auroc", "column": "skin_tone"}, Estimate(0.9), gaps(*verdicts))
    assert found.answer == answer
    assert f"tone {verdicts.index(verdicts[-1] if answer != MET else RULED_OUT)}" in found.reason


def test_a_gap_that_is_shown_inside_the_margin_is_inside_the_margin():
    asked = {"gap": "auroc", "column": "skin_tone"}
    assert answers(asked, Estimate(0.9), gaps(SHOWN, within=True)).answer == MET
    relaxed = {**asked, "allow_cannot_tell": True}
    assert not answers(relaxed, Estimate(0.9), gaps(SHOWN)).accepted


def test_without_comparisons_no_gap_is_ruled_out():
    asked = {"gap": "auroc", "column": "skin_tone"}
    assert answers(asked, Estimate(0.9)).answer == CANNOT_TELL
    named = replace(gaps(), not_compared={"skin_tone": "fewer than two groups are known"})
    assert "fewer than two groups" in answers(asked, Estimate(0.9), named).reason


@pytest.mark.parametrize(
    "criterion",
    [
        {},
        {"figure": "auroc"},
        {"figure": "auroc", "gap": "auroc", "column": "sex"},
        {"figure": "auroc", "at_least": 0.8, "at_most": 0.9},
        {"gap": "auroc"},
        {"gap": "auroc", "column": "sex", "at_least": 0.1},
        {"figure": "auroc", "at_least": 0.8, "group": "dark"},
        {"figure": "auroc", "at_least": 0.8, "column": "sex"},
        {"figure": "auroc", "at_least": 0.8, "bound": 1},
    ],
)
def test_a_criterion_that_says_two_things_or_none_is_refused(criterion):
    with pytest.raises(ValidationError):
        Criterion.model_validate(criterion)


OVERALL_RESULT = group("overall", Estimate(0.9, 0.85, 0.95), "overall")


@pytest.mark.parametrize(
    "asked",
    [
        {"figure": "aurocc", "at_least": 0.1},
        {"figure": "auroc", "column": "skin_tone", "group": "V-VI typo", "at_least": 0.1},
        {"gap": "auroc", "column": "skintone"},
    ],
)
def test_what_was_never_measured_is_accepted_by_no_criterion(asked):
    criterion = Criterion(**asked, allow_cannot_tell=True)
    (found,) = judge([criterion], OVERALL_RESULT, [], None)
    assert (found.answer, found.accepted) == (CANNOT_TELL, False)


@pytest.mark.parametrize(
    "asked", [{"at_least": 0.8, "by": "upper limit"}, {"at_most": 0.8, "by": "lower limit"}]
)
def test_the_limit_on_the_good_side_cannot_be_asked_for(asked):
    with pytest.raises(ValidationError, match="the good side"):
        Criterion(figure="auroc", **asked)


FEW = Estimate(0.95, 0.7, 1.0, method="Clopper-Pearson on patients, few events")


def test_the_bare_value_of_few_patients_meets_nothing():
    asked = {"figure": "auroc", "at_least": 0.8, "by": "value"}
    assert (answers(asked, FEW).answer, answers(asked, FEW).accepted) == (CANNOT_TELL, False)
    assert "too few patients" in answers(asked, FEW).reason
    failed = replace(FEW, value=0.5, low=0.3, high=0.7)
    assert answers(asked, failed).answer == CANNOT_TELL
    assert answers(asked, replace(FEW, method="patient bootstrap")).answer == MET


@pytest.mark.parametrize(
    "asked",
    [
        {"figure": "auroc", "column": "skin_tone", "group": "every", "at_least": 0.8},
        {"gap": "auroc", "column": "skin_tone"},
        {"gap": "auroc", "column": "skin_tone", "group": "every"},
    ],
)
def test_every_group_is_each_one_that_has_to_be_there(asked):
    good = Estimate(0.9, 0.85, 0.95)
    groups = [group(name, good) for name in ("light", "brown")]
    criterion = Criterion(**asked, allow_cannot_tell=True)

    def found(*names):
        expected = {"skin_tone": names} if names else {}
        return judge([criterion], OVERALL_RESULT, groups, gaps(RULED_OUT), expected)[0]

    assert found("light", "brown").accepted
    assert found("light", "brown").reason == found("light").reason
    absent = found("light", "brown", "dark")
    assert (absent.answer, absent.accepted) == (CANNOT_TELL, False)
    assert "no patient of skin_tone dark" in absent.reason
    assert found().accepted
    assert "which there should be, nobody named" in found().reason


def test_a_failure_stays_a_failure_where_a_group_is_absent_too():
    asked = Criterion(figure="auroc", column="skin_tone", group="every", at_least=0.8)
    groups = [group("light", Estimate(0.5, 0.4, 0.6))]
    (found,) = judge([asked], OVERALL_RESULT, groups, None, {"skin_tone": ("light", "dark")})
    assert found.answer == NOT_MET


def test_groups_on_either_side_of_the_reference_may_not_differ_either():
    names = {"attribute": "skin_tone", "metric": "sensitivity"}
    near = Estimate(0.03, 0.01, 0.045)
    gaps = [
        Gap(
            group=group, reference="III-IV", difference=near, ratio=near, verdict=RULED_OUT, **names
        )
        for group in ("I-II", "V-VI")
    ]
    apart = Spread(value=0.06, best="I-II", worst="V-VI", verdict=SHOWN, **names)
    whole = Gaps(0.95, 0.05, 30, 3, {}, tuple(gaps), (apart,))
    criterion = Criterion(gap="sensitivity", column="skin_tone")
    (found,) = judge([criterion], OVERALL_RESULT, [], whole)
    assert found.answer == NOT_MET
    assert "I-II against V-VI" in found.reason
    (one,) = judge([criterion.model_copy(update={"group": "I-II"})], OVERALL_RESULT, [], whole)
    assert one.answer == MET
