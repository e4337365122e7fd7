"""Which day it is: the gate, the desk and retention count alike, on computers whose zones agree.

Nobody tells skinml where the clinic is: it knows UTC and the zone that each computer is set to.
Where something ends, the later of the two days counts, and where somebody's time to answer begins,
the earlier one. A runner in a container that is set to UTC, beside a desk in Auckland, still counts
up to 13 hours behind that desk: set the zone of both to the clinic's.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, tzinfo

from skinml.errors import ConfigError


def day_of(now: datetime, zone: tzinfo | None = None) -> date:
    """Tell the day of a moment: the later of the day in UTC and the day on this computer's clock.

    What ends, such as a consent, a licence and the days of a picture, ends at the latest when it
    does on this computer's clock. And what a person at the desk calls today is never a day that
    lies ahead.

    Args:
        now: The moment, with its zone.
        zone: The clinic's zone; by default this computer's.

    Returns:
        The day.

    Raises:
        ConfigError: If the time has no zone.

    >>> from datetime import timedelta, timezone
    >>> evening, auckland = datetime(2026, 3, 1, 23, tzinfo=UTC), timezone(timedelta(hours=13))
    >>> str(day_of(evening, auckland)), str(day_of(evening, UTC))
    ('2026-03-02', '2026-03-01')
    """
    return max(_days(now, zone))


def first_day_of(now: datetime, zone: tzinfo | None = None) -> date:
    """Tell the earlier of the two days of a moment: the one that a time to answer begins on.

    Args:
        now: The moment, with its zone.
        zone: The clinic's zone; by default this computer's.

    Returns:
        The day.

    Raises:
        ConfigError: If the time has no zone.

    >>> from datetime import timedelta, timezone
    >>> evening = datetime(2026, 3, 1, 20, tzinfo=timezone(timedelta(hours=-5)))
    >>> str(first_day_of(evening, evening.tzinfo)), str(day_of(evening, evening.tzinfo))
    ('2026-03-01', '2026-03-02')
    """
    return min(_days(now, zone))


def desk_day_of(now: datetime, zone: tzinfo | None = None) -> date:
    """Tell the day of a moment on this computer's clock, as a person at the desk would date it.

    Such as a withdrawal: the day before is a form's that it took back, and the same day may be
    that of a new one.

    Args:
        now: The moment, with its zone.
        zone: The clinic's zone; by default this computer's.

    Returns:
        The day.

    Raises:
        ConfigError: If the time has no zone.
    """
    return _days(now, zone)[1]


def _days(now: datetime, zone: tzinfo | None) -> tuple[date, date]:
    """Tell the day in UTC and the day in a zone."""
    if now.tzinfo is None:
        raise ConfigError(
            rule="a time with its zone", got="a time without", do="Pass datetime.now(UTC)."
        )
    return now.astimezone(UTC).date(), now.astimezone(zone).date()


def this_day() -> date:
    """Tell which day it is, see `day_of`.

    Returns:
        The day.
    """
    return day_of(datetime.now(UTC))
