"""Which day it is: one rule, which no clock's zone makes laxer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from skinml.errors import ConfigError
from skinml.stewardship.days import day_of, desk_day_of, first_day_of

ROOT = Path(__file__).resolve().parents[2]
HOURS = range(-12, 15)
MOMENTS = [datetime(2026, 2, 28, hour, 30, tzinfo=UTC) for hour in range(24)]


@pytest.mark.parametrize("hours", HOURS)
def test_the_day_is_never_before_that_of_utc_or_of_the_wall_clock(hours: int) -> None:
    zone = timezone(timedelta(hours=hours))
    for moment in MOMENTS:
        days = {moment.date(), (moment + timedelta(hours=hours)).date()}
        assert day_of(moment, zone) == max(days)
        assert first_day_of(moment, zone) == min(days)
        assert desk_day_of(moment, zone) == (moment + timedelta(hours=hours)).date()
        # The same moment, told in another zone.
        assert day_of(moment.astimezone(timezone(timedelta(hours=3))), zone) == max(days)


def test_a_time_without_a_zone_has_no_day() -> None:
    for ask in (day_of, first_day_of, desk_day_of):
        with pytest.raises(ConfigError, match="with its zone"):
            ask(datetime(2026, 1, 1))


@pytest.mark.parametrize("hours", [14, -12])
def test_the_zone_is_that_of_this_computer(hours: int) -> None:
    """Of the later day in both: 14 hours ahead it is mostly tomorrow, 12 behind never yesterday."""
    code = (
        "from datetime import datetime, UTC\n"
        "from skinml.stewardship.days import day_of\n"
        "print(*(day_of(datetime(2026, 5, 9, hour, tzinfo=UTC)).day for hour in (2, 9, 11, 23)))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TZ": f"XXX{-hours:+d}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert told.split() == (["9", "9", "10", "10"] if hours == 14 else ["9", "9", "9", "9"])


EVENING_AT_THE_DESK = """
import sys
from datetime import datetime, timedelta
from pathlib import Path
from skinml.clinic.consents import add_consent, withdraw_consent
from skinml.clinic.requests import note_request
from skinml.errors import DataError
from tests.clinic.rights import FORM, make

now = datetime.fromisoformat(sys.argv[2])
day = now.date()
folder = make(Path(sys.argv[1]))
for patient, signed in (("Ada", day), ("Bo", day - timedelta(days=1))):
    add_consent(folder, patient, FORM | {"valid_from": str(day - timedelta(days=9))}, now=now)
    withdraw_consent(folder, patient, now=now)
    told = "taken"
    try:
        add_consent(folder, patient, FORM | {"valid_from": str(signed)}, now=now)
    except DataError as error:
        told = error.got
    print(told)
asked = note_request(folder, "Ada", "access", now=now)
print((asked.received - day).days, (asked.due - day).days)
"""


@pytest.mark.parametrize(
    ("zone", "moment", "came"),
    [
        ("XXX5", "2026-03-01T20:00:00-05:00", "0 30"),
        ("XXX-13", "2026-03-02T08:00:00+13:00", "-1 29"),
    ],
)
def test_a_form_of_the_evening_of_a_withdrawal_counts_and_one_of_the_day_before_does_not(
    tmp_path: Path, zone: str, moment: str, came: str
) -> None:
    """In New York it is tomorrow in UTC by then, and in Auckland in the morning still yesterday."""
    told = subprocess.run(
        [sys.executable, "-c", EVENING_AT_THE_DESK, str(tmp_path), moment],
        env={**os.environ, "TZ": zone, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    late = "an earlier valid_from for federated_training"
    assert told[:2] == ["taken", late]
    assert told[2] == came


def test_nothing_else_in_the_clinics_rooms_says_which_day_it_is() -> None:
    own_ways = re.compile(
        r"date\.today\(|\bnow\([^)]*\)\.date\(\)|\bnow\.date\(\)|utcnow\(|date\.fromtimestamp\("
    )
    places = [
        f"{path.relative_to(ROOT)}:{number}"
        for room in ("clinic", "stewardship", "cli", "experiments", "deployment", "data")
        for path in sorted((ROOT / "skinml" / room).rglob("*.py"))
        if path.name != "days.py"
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if own_ways.search(line)
    ]
    assert places == []
