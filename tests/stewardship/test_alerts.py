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
    expected = []
    for actor in ("eve", "bo"):
        for rule, events, bound in (
            ("repeated refusals", {"refusal"}, least),
            ("bulk access", {"access", "export"}, bulk),
        ):
            steps = sorted((x for x in drawn if x[2] == actor and x[1] in events), key=at_hour)
            expected += [(rule, actor, n) for n in episodes(steps, rule, hours, bound)]
    assert sorted(told(entries, rules)) == sorted(expected)


def at_hour(step: Any) -> int:
    return int(step[0])


def episodes(steps: list[Any], rule: str, hours: int, bound: int) -> list[int]:
    """The greatest count of each run of windows that reach the bound and overlap the one before."""
    found: list[int] = []
    last: tuple[int, int] | None = None  # position, and hour, of the last window that reached it
    for end, step in enumerate(steps):
        window = [x for x in steps[: end + 1] if x[0] >= step[0] - hours]
        fields = [x[3] for x in window]
        count = len(window)
        if rule == "bulk access":
            count = sum(x.get("patients", 0) for x in fields)
            count += len({x["patient"] for x in fields if "patient" in x})
        if count < bound:
            continue
        if last is not None and last[0] == end - 1 and window[0][0] <= last[1]:
            found[-1] = max(found[-1], count)
        else:
            found.append(count)
        last = (end, step[0])
    return found


def test_a_second_time_is_a_second_flag_however_small_against_the_first() -> None:
    entries = [*refusals(0, 1, 2, 3, 4), *refusals(100, 101, 102), entry(200, "access", patients=9)]
    found = told(entries)
    assert found == [("repeated refusals", "eve", 3), ("repeated refusals", "eve", 5)]
    bulk = [entry(0, "access", patients=500), entry(90, "access", patients=100)]
    assert told(bulk) == [("bulk access", "eve", 100), ("bulk access", "eve", 500)]


def test_what_goes_on_is_one_flag_that_keeps_its_beginning() -> None:
    found = flags(refusals(*range(0, 200, 6)), RULES)
    assert [(flag.count, flag.since) for flag in found] == [(5, "2026-03-01T00:00:00+00:00")]
