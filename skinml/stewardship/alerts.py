"""Rules that make somebody look at the audit log: refusals that repeat, and bulk access.

A flag accuses nobody. It says that a stated number was passed, by whom and since when.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol

from skinml.errors import require_positive
from skinml.stewardship.audit_log import AuditEntry

Rule = Literal["repeated refusals", "bulk access"]
REFUSED = frozenset({"refusal", "run refused"})
READ = frozenset({"access", "export"})


class Rules(Protocol):
    """The numbers that a flag needs, such as `skinml.stewardship.policy.AlertRules`."""

    @property
    def refusals(self) -> int:
        """So many refusals of one actor are a flag."""

    @property
    def within_hours(self) -> int:
        """When they fall within so many hours."""

    @property
    def bulk_patients(self) -> int:
        """So many patients read or exported by one actor within these hours are a flag, too."""


@dataclass(frozen=True)
class Flag:
    """A number that was passed.

    Attributes:
        rule: Which.
        actor: By whom.
        count: The most refusals, or patients, that fell within the hours.
        since: When the first of those was that passed the number, ISO 8601, UTC.
    """

    rule: Rule
    actor: str
    count: int
    since: str


@dataclass(frozen=True)
class _Step:
    """One entry as a rule sees it: when, and what it adds."""

    at: datetime
    since: str
    count: int
    patient: str | None = None


def flags(entries: Iterable[AuditEntry], rules: Rules) -> tuple[Flag, ...]:
    """Hold an audit log against the rules.

    Entries count as refusals where their event is "refusal" or "run refused", and as access where
    it is "access" or "export". An access to one named patient counts that patient once within the
    hours; one that states a number of patients counts that number each time, for who they were is
    not in the log. Training reads patients under an approved run and is no access.

    Args:
        entries: Entries of the log.
        rules: The numbers, each above zero; a flag is raised where one is reached.

    Returns:
        One flag for each time that a number was reached, the latest first. What goes on without
        falling below the number is one flag, with the greatest count.

    Raises:
        ConfigError: If a number is not above zero.

    >>> from skinml.stewardship.policy import AlertRules
    >>> at = "2026-03-01T09:00:00+00:00"
    >>> refused = AuditEntry(0, at, "eve", "refusal", {"action": "erase", "reason": "role"})
    >>> flags([refused] * 3, AlertRules())
    (Flag(rule='repeated refusals', actor='eve', count=3, since='2026-03-01T09:00:00+00:00'),)
    """
    require_positive(
        refusals=rules.refusals, within_hours=rules.within_hours, bulk_patients=rules.bulk_patients
    )
    steps: dict[tuple[Rule, str], list[_Step]] = defaultdict(list)
    for entry in entries:
        at = datetime.fromisoformat(entry.at)
        if entry.event in REFUSED:
            steps["repeated refusals", entry.actor].append(_Step(at, entry.at, 1))
        elif entry.event in READ:
            steps["bulk access", entry.actor].append(_read(at, entry))
    least: dict[Rule, int] = {
        "repeated refusals": rules.refusals,
        "bulk access": rules.bulk_patients,
    }
    hours = timedelta(hours=rules.within_hours)
    found = [
        Flag(rule, actor, count, since)
        for (rule, actor), taken in steps.items()
        for count, since in _episodes(taken, hours, least[rule])
    ]
    return tuple(sorted(found, key=lambda flag: flag.since, reverse=True))


def _read(at: datetime, entry: AuditEntry) -> _Step:
    """Count the patients of an access: one by name, or as many as it states."""
    patient, stated = entry.fields.get("patient"), entry.fields.get("patients")
    if patient is not None and (stated is None or stated <= 1):
        return _Step(at, entry.at, 0, str(patient))
    return _Step(at, entry.at, int(stated or 0))


def _episodes(taken: Sequence[_Step], hours: timedelta, least: int) -> list[tuple[int, str]]:
    """Find each time that a window of so many hours reached a number: greatest count, beginning."""
    window: deque[_Step] = deque()
    named: Counter[str] = Counter()
    found: list[tuple[int, str]] = []
    total, latest = 0, None  # the time of the last step that was part of an episode
    for step in sorted(taken, key=lambda each: each.at):
        window.append(step)
        total += step.count
        if step.patient is not None:
            named[step.patient] += 1
        while step.at - window[0].at > hours:
            gone = window.popleft()
            total -= gone.count
            if gone.patient is not None:
                named[gone.patient] -= 1
                if not named[gone.patient]:
                    del named[gone.patient]
        reached = total + len(named)
        if reached < least:
            latest = None
        elif latest is None or window[0].at > latest:
            found.append((reached, window[0].since))
            latest = step.at
        else:
            found[-1] = (max(reached, found[-1][0]), found[-1][1])
            latest = step.at
    return found
