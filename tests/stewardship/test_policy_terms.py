"""Proposals against a policy, every term looser and tighter; what a new policy changes."""

from __future__ import annotations

from dataclasses import fields, replace
from math import inf, nan, nextafter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinml.errors import BudgetExceededError, PolicyError
from skinml.stewardship.policy import FieldDays, Policy, PurposeDays, policy_from
from skinml.stewardship.policy_terms import (
    Proposal,
    compare,
    policy_difference,
    require_within,
)

VALUES: dict[str, Any] = {
    "clinic": "North",
    "purposes": ["research", "federated_training"],
    "licences": ["CC0", "CC-BY"],
    "coordinators": ["simulation", "study-centre"],
    "experiments": ["quickstart", "derm_tone"],
    "trust": ["distributed", "local"],
    "units": ["patient_within_clinic"],
    "privacy": {
        "least_noise_multiplier": 1.5,
        "max_epsilon_per_run": 3,
        "max_epsilon_per_year": 6,
        "max_epsilon_for_life": 10,
        "max_delta": 1e-5,
    },
    "least_patients": 50,
    "least_clinics": 3,
    "retention": {"images_days": None, "features_days": 9, "predictions_days": 9, "log_days": 9},
    "fields": ["age", "sex", "skin_tone"],
    "roles": {"steward": ["ada"], "clinician": [], "operator": ["*"], "auditor": ["di"]},
    "alerts": {"refusals": 3, "within_hours": 24, "bulk_patients": 100},
    "approval": {"without_asking": ["quickstart"]},
    "special_fields": {"genetic": [], "financial": []},
}
# Exactly as far as the policy goes.
LIMIT = Proposal(
    experiment="quickstart",
    purpose="federated_training",
    coordinator="simulation",
    trust="distributed",
    unit="patient_within_clinic",
    epsilon=3.0,
    delta=1e-5,
    noise_multiplier=1.5,
    clinics=3,
    patients=50,
    fields=("age", "sex", "skin_tone"),
    epsilon_year=6.0,
    epsilon_life=10.0,
)
# For each field of a proposal: its term, one value that is stricter or equal, some that are looser.
CASES: dict[str, tuple[str, Any, tuple[Any, ...]]] = {
    "experiment": ("experiment", "derm_tone", ("derm", "", "*", "Quickstart", "quickstart ")),
    "purpose": ("purpose", "research", ("care", "teaching", "", "*")),
    "coordinator": ("coordinator", "study-centre", ("study", "*", "")),
    "trust": ("trust", "local", ("central", "none", "")),
    "unit": ("unit", "patient_within_clinic", ("patient", "image")),
    "epsilon": ("epsilon_per_run", 2.9, (nextafter(3.0, 4.0), 50.0, inf, nan, -1.0)),
    "epsilon_year": ("epsilon_per_year", 5.9, (nextafter(6.0, 7.0), inf, nan, -1.0)),
    "epsilon_life": ("epsilon_for_life", 9.9, (nextafter(10.0, 11.0), inf, nan, -1.0)),
    "delta": ("delta", 1e-6, (nextafter(1e-5, 1.0), 1e-3, 1.0, inf, nan, -1.0)),
    "noise_multiplier": ("noise_multiplier", 1.6, (nextafter(1.5, 0.0), 0.0, None, nan)),
    "clinics": ("clinics", 4, (2, 1, 0, -5)),
    "patients": ("patients", 51, (49, 0, -1)),
    "fields": ("fields", ("age",), (("anatomical_site",), ("age", "sex", "skin_tone", "x"))),
}
LOOSER = [(field, value) for field, (_, _, looser) in CASES.items() for value in looser]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return policy_from(VALUES)


def change(**new: Any) -> Policy:
    """The policy with some values changed, those of sections by their own names."""
    return policy_from(changed(policy_from(VALUES).model_dump(), new))


def changed(values: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    return {
        name: changed(value, new) if isinstance(value, dict) else new.get(name, value)
        for name, value in values.items()
    }


def verdicts(policy: Policy, proposal: Proposal) -> dict[str, str]:
    return {term.name: term.verdict for term in compare(policy, proposal)}


def test_every_field_of_a_proposal_is_compared(policy):
    assert set(CASES) == {field.name for field in fields(Proposal)}
    assert set(verdicts(policy, LIMIT)) == {name for name, _, _ in CASES.values()}


def test_as_far_as_the_policy_goes_is_within(policy):
    assert set(verdicts(policy, LIMIT).values()) == {"within"}
    require_within(policy, LIMIT)


@pytest.mark.parametrize("field", CASES)
def test_a_stricter_term_is_allowed_and_touches_no_other(policy, field):
    name, stricter, _ = CASES[field]
    found = verdicts(policy, replace(LIMIT, **{field: stricter}))
    words = ("experiment", "purpose", "coordinator", "trust", "unit", "patients")
    assert found.pop(name) == ("within" if name in words else "stricter")
    assert set(found.values()) == {"within"}


@pytest.mark.parametrize(("field", "value"), LOOSER)
def test_one_looser_term_refuses_the_run_and_is_the_one_named(policy, field, value):
    name = CASES[field][0]
    proposal = replace(LIMIT, **{field: value})
    found = verdicts(policy, proposal)
    assert found.pop(name) == "refused"
    assert set(found.values()) == {"within"}
    budget = field.startswith("epsilon")
    with pytest.raises(BudgetExceededError if budget else PolicyError) as caught:
        require_within(policy, proposal)
    assert caught.value.exit_code == 3
    (line,) = caught.value.details
    assert line.startswith(f"{name}: ")


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(CASES)), st.integers(0, 9), max_size=13))
def test_a_run_is_refused_exactly_when_one_term_is_and_for_budget_only_by_epsilons(chosen):
    policy, proposal, bad = policy_from(VALUES), LIMIT, set()
    for field, number in chosen.items():
        _, stricter, looser = CASES[field]
        if number < 5:
            proposal = replace(proposal, **{field: stricter})
        else:
            proposal = replace(proposal, **{field: looser[number % len(looser)]})
            bad.add(field)
    if not bad:
        require_within(policy, proposal)
        return
    with pytest.raises((PolicyError, BudgetExceededError)) as caught:
        require_within(policy, proposal)
    only_budget = bad <= {"epsilon", "epsilon_year", "epsilon_life"}
    assert isinstance(caught.value, BudgetExceededError) is only_budget
    assert len(caught.value.details) == len(bad)


def test_patients_that_are_not_counted_are_refused_but_before_counting(policy):
    uncounted = replace(LIMIT, patients=None)
    assert verdicts(policy, uncounted)["patients"] == "open"
    require_within(policy, uncounted, before_counting=True)
    with pytest.raises(PolicyError, match="patients"):
        require_within(policy, uncounted)
    with pytest.raises(PolicyError):
        require_within(policy, replace(LIMIT, patients=49), before_counting=True)


@pytest.mark.parametrize("number", [7, 4321])
def test_no_word_tells_how_many_patients_there_are(number):
    policy = change(least_patients=1000)
    proposal = replace(LIMIT, patients=number)
    with pytest.raises(PolicyError) as caught:
        require_within(policy, replace(proposal, trust="none", patients=min(number, 999)))
    told = str(caught.value) + str(caught.value.details) + str(compare(policy, proposal))
    assert str(number) not in told


def test_null_takes_a_ceiling_away_and_nothing_else():
    nothing = dict.fromkeys(VALUES["privacy"])
    free = change(**nothing)
    unbounded = replace(
        LIMIT, epsilon=inf, epsilon_year=inf, epsilon_life=inf, noise_multiplier=None, delta=0.5
    )
    require_within(free, unbounded)
    for bad in (nan, -1.0):
        for field in ("epsilon", "epsilon_year", "epsilon_life", "delta", "noise_multiplier"):
            with pytest.raises((PolicyError, BudgetExceededError)):
                require_within(free, replace(unbounded, **{field: bad}))
    with pytest.raises(PolicyError):
        require_within(free, replace(unbounded, delta=1.0))


def test_a_star_allows_any_experiment_and_an_empty_list_none():
    other = replace(LIMIT, experiment="anything")
    require_within(change(experiments=["*"]), other)
    with pytest.raises(PolicyError):
        require_within(change(experiments=[]), LIMIT)
    with pytest.raises(PolicyError):
        require_within(change(coordinators=[]), LIMIT)


@pytest.mark.parametrize("asked", [3.0000001, np.float64(3.0000001), nextafter(3.0, 4.0)])
def test_a_number_just_above_its_ceiling_does_not_read_like_the_ceiling(policy, asked):
    (term,) = [t for t in compare(policy, replace(LIMIT, epsilon=asked)) if t.verdict == "refused"]
    assert term.allowed == "at most 3"
    assert float(term.asked) > 3


def test_a_number_that_rounds_to_its_limit_is_called_within_not_stricter(policy):
    proposal = replace(LIMIT, epsilon=2.9999999966, noise_multiplier=1.5000000001)
    assert set(verdicts(policy, proposal).values()) == {"within"}


def test_strange_names_of_a_coordinator_are_not_repeated(policy):
    for name in ("x" * 5000, "a\nb", "\x1b[2Jclean", ""):
        with pytest.raises(PolicyError) as caught:
            require_within(policy, replace(LIMIT, coordinator=name, fields=(name,)))
        assert caught.value.details[0].endswith("a name that cannot be shown asked")
        assert len("".join(caught.value.details)) < 300


# For each value of a policy: a stricter and a looser one, with the words of both.
CHANGES: tuple[tuple[str, Any, Any], ...] = (
    ("purposes", ["research"], ["research", "federated_training", "care"]),
    ("licences", ["CC0"], ["CC0", "CC-BY", "research-only"]),
    ("coordinators", ["simulation"], ["simulation", "study-centre", "Other"]),
    ("experiments", ["quickstart"], ["*"]),
    ("trust", ["local"], ["distributed", "local", "none"]),
    ("units", ["patient_within_clinic"], ["patient_within_clinic", "patient"]),
    ("least_noise_multiplier", 2, None),
    ("least_noise_multiplier", 1.6, 1.4),
    ("max_epsilon_per_run", 2, 4),
    ("max_epsilon_per_run", 2.5, None),
    ("max_epsilon_per_year", 5, 7),
    ("max_epsilon_for_life", 9, None),
    ("max_delta", 1e-6, 1e-4),
    ("least_patients", 51, 49),
    ("least_clinics", 4, 1),
    ("images_days", 30, None),
    ("originals_days", 30, None),
    ("originals", "drop", "keep"),
    ("features_days", 8, 10),
    ("predictions_days", 8, None),
    ("fields", ["age"], ["age", "sex", "skin_tone", "modality"]),
    ("steward", ["ada"], ["ada", "bo"]),
    ("clinician", [], ["*"]),
    ("operator", ["ada"], ["*"]),
    ("auditor", [], ["di", "ed"]),
    ("refusals", 2, 4),
    ("answer_days", 20, 60),
    *((name, 90, None) for name in (*PurposeDays.model_fields, *FieldDays.model_fields)),
    ("within_hours", 48, 12),
    ("bulk_patients", 50, 200),
    ("without_asking", [], ["*"]),
    ("genetic", [], ["care"]),
    ("financial", [], ["care"]),
)


@pytest.mark.parametrize(("name", "stricter", "looser"), CHANGES)
def test_a_change_names_its_field_and_its_way(policy, name, stricter, looser):
    for value, way in ((stricter, "stricter"), (looser, "looser")):
        new = change(**{name: value})
        if new == policy:
            continue  # the example is already at that end
        (line,) = policy_difference(policy, new)
        assert line.startswith(f"{name}: ")
        assert line.endswith(f"({way})")
        opposite = {"stricter": "looser", "looser": "stricter"}[way]
        (back,) = policy_difference(new, policy)
        assert back.endswith(f"({opposite})")


def test_every_value_of_a_policy_has_a_tested_way_or_is_named_here(policy):
    known = {name for name, _, _ in CHANGES} | {"schema_version", "clinic", "log_days"}
    leaves = list(leaves_of(policy.model_dump()))
    assert len(leaves) == len(set(leaves)), "two values of one name could not be told apart"
    assert set(leaves) == known


def leaves_of(values):
    for name, value in values.items():
        yield from leaves_of(value) if isinstance(value, dict) else [name]


def test_the_words_of_a_difference(policy):
    new = change(
        max_epsilon_per_run=2,
        images_days=30,
        log_days=None,
        clinician=["bo", "cy"],
        trust=["local", "central"],
    )
    assert policy_difference(policy, new) == (
        "trust: distributed, local -> local, central (stricter and looser)",
        "max_epsilon_per_run: 3 -> 2 (stricter)",
        "images_days: no limit -> 30 (stricter)",
        "log_days: 9 -> no limit (changed)",
        "clinician: none -> bo, cy (looser)",
    )


def test_another_order_changes_nothing(policy):
    assert policy_difference(policy, change(fields=["skin_tone", "age", "sex"])) == ()


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 3), st.floats(0.01, 3))
def test_a_stricter_policy_allows_nothing_that_the_looser_one_refuses(one, two):
    tight, loose = (change(max_epsilon_per_run=x) for x in sorted((one, two)))
    for asked in (one, two, (one + two) / 2):
        found = [verdicts(p, replace(LIMIT, epsilon=asked)) for p in (tight, loose)]
        if found[0]["epsilon_per_run"] != "refused":
            assert found[1]["epsilon_per_run"] != "refused"
