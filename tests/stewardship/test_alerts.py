"""Flags by stated rules, against a brute-force look at every window."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinml.errors import ConfigError
from skinml.stewardship.alerts import flags
from skinml.stewardship.audit_log import AuditEntry
from skinml.stewardship.policy import AlertRules

START = datetime(2026, 3, 1, tzinfo=UTC)
RULES = AlertRules(refusals=3, within_hours=24, bulk_patients=100)


def entry(hours: float, event: str, actor: str = "eve", **fields: Any) -> AuditEntry:
    at = (START + timedelta(hours=hours)).isoformat(timespec="seconds")
    return AuditEntry(0, at, actor, event, fields)


def refusals(*hours: float, actor: str = "eve") -> list[AuditEntry]:
    return [entry(hour, "refusal", actor) for hour in hours]


def told(entries: list[AuditEntry], rules: AlertRules = RULES) -> list[tuple[str, str, int]]:
    return [(flag.rule, flag.actor, flag.count) for flag in flags(entries, rules)]


def test_an_ordinary_day_raises_no_flag() -> None:
    entries = [*refusals(1, 2), entry(3, "access", patients=99), entry(4, "folder opened")]
    assert told(entries) == []
    assert flags([], RULES) == ()


def test_the_bound_itself_is_a_flag_and_one_less_is_none() -> None:
    assert told(refusals(0, 12, 24)) == [("repeated refusals", "eve", 3)]
    assert told(refusals(0, 12, 24.001)) == []
    assert told([entry(0, "access", patients=99)]) == []
    assert told([entry(0, "export", patients=100)]) == [("bulk access", "eve", 100)]


def test_actors_are_counted_apart() -> None:
    assert told([*refusals(0, 1), *refusals(2, 3, actor="bo")]) == []


def test_runs_refused_count_and_other_events_do_not() -> None:
    entries = [*refusals(0, 1), entry(2, "run refused")]
    assert told(entries) == [("repeated refusals", "eve", 3)]
    others = ("training started", "import", "admission", "release")
    assert told([entry(0, event, patients=10_000) for event in others]) == []


def test_one_patient_read_a_hundred_times_is_one_patient_and_a_hundred_are_bulk() -> None:
    same = [entry(n / 100, "access", patient="a0" * 16) for n in range(200)]
    assert told(same) == []
    many = [entry(n / 100, "access", patient=f"{n:032x}", patients=1) for n in range(100)]
    assert told(many) == [("bulk access", "eve", 100)]
    assert told(many[:-1]) == []


def test_a_flag_says_since_when_and_the_latest_comes_first() -> None:
    found = flags([*refusals(0, 30, 31, 32), entry(40, "access", patients=500)], RULES)
    assert [flag.rule for flag in found] == ["bulk access", "repeated refusals"]
    assert found[1].since == "2026-03-02T06:00:00+00:00"


@pytest.mark.parametrize("name", ["refusals", "within_hours", "bulk_patients"])
def test_rules_that_would_flag_everything_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        flags([], RULES.model_copy(update={name: 0}))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 60),
            st.sampled_from(["refusal", "access", "export"]),
            st.sampled_from(["eve", "bo"]),
            st.one_of(
                st.fixed_dictionaries({"patients": st.integers(0, 8)}),
                st.fixed_dictionaries({"patient": st.sampled_from(["a", "b", "c"])}),
            ),
        ),
        max_size=12,
    ),
    st.integers(1, 4),
    st.integers(1, 30),
    st.integers(1, 12),
)
def test_flags_are_those_of_a_look_at_every_window(
    drawn: list[Any], least: int, hours: int, bulk: int
) -> None:
    rules = AlertRules(refusals=least, within_hours=hours, bulk_patients=bulk)
    entries = [entry(at, event, actor, **fields) for at, event, actor, fields in drawn]
    expected = set()
    for actor in ("eve", "bo"):
        worst = {"repeated refusals": 0, "bulk access": 0}
        for begin in range(61):
            window = [x for x in drawn if x[2] == actor and begin <= x[0] <= begin + hours]
            refused = sum(x[1] == "refusal" for x in window)
            read = [x[3] for x in window if x[1] != "refusal"]
            patients = sum(x.get("patients", 0) for x in read)
            patients += len({x["patient"] for x in read if "patient" in x})
            worst["repeated refusals"] = max(worst["repeated refusals"], refused)
            worst["bulk access"] = max(worst["bulk access"], patients)
        bounds = {"repeated refusals": least, "bulk access": bulk}
        expected |= {(r, actor, n) for r, n in worst.items() if n >= bounds[r]}
    assert set(told(entries, rules)) == expected
