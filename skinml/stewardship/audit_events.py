"""What an audit log may say: a closed list of events, and the only fields that each may have.

No field takes free text. A patient appears as a pseudonym, a file as a digest, everything else as
a count, a date or a word that skinml or the clinic's policy coined.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, date, datetime
from math import inf, isfinite
from typing import Any, Literal, get_args

from skinml.errors import ConfigError
from skinml.stewardship.consent_rules import GIVERS, HOWS, REASONS
from skinml.stewardship.deidentification import REASONS as PICTURE_REASONS
from skinml.stewardship.deidentification import STATES
from skinml.stewardship.policy import Trust, Unit
from skinml.stewardship.purposes import DATA_KINDS, PURPOSES
from skinml.stewardship.roles import ACTIONS

Event = Literal[
    "folder created",
    "folder opened",
    "policy changed",
    "federation joined",
    "consent granted",
    "consent withdrawn",
    "use restricted",
    "request received",
    "request answered",
    "consents imported",
    "admission",
    "refusal",
    "run proposed",
    "run answered",
    "bundle refused",
    "run approved",
    "run refused",
    "training started",
    "counting started",
    "release",
    "not finite",
    "run ended",
    "export",
    "access",
    "import",
    "pictures reviewed",
    "key rotated",
    "erasure",
    "retention",
    "correction",
    "anchor",
    "alert",
]
EVENTS: tuple[Event, ...] = get_args(Event)

REFUSAL_REASONS = ("role", "policy", "budget", "consent", "licence", "integrity")
"""Why something was refused as a whole."""

EXCLUSION_REASONS = (*filter(None, REASONS), "no licence", "erased")
"""Why a patient was not admitted."""

KINDS = (
    "images",
    "originals",
    "records",
    "features",
    "predictions",
    "pseudonyms",
    "consents",
    "contributions",
    "model",
    "report",
    "ledger",
    "audit log",
    "evidence",
    "requests",
)
"""What was read, brought in or taken out."""

RIGHTS = ("access", "correct", "restrict", "erase", "object")
"""What a patient can ask for."""

KEYS = ("clinic key", "patient keys", "signing key", "passphrase")
OUTCOMES = ("completed", "incomplete", "failed", "interrupted", "refused")
BASES = ("licence", "consent")
ANSWERS = ("yes", "no", "rule")
"""What somebody said when asked; `rule`: the policy says yes without asking."""
ALERT_RULES = ("repeated refusals", "bulk access")
UNBOUNDED = "unbounded"
"""How an infinite epsilon is written: JSON has no infinity."""

_ACTOR = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+$\\-]{0,63}")
_NAME = re.compile(r"[A-Za-z0-9_*][A-Za-z0-9_.@+-]{0,127}")
_MOST_WORDS = 64

Check = Callable[[Any], Any]


def _count(value: Any) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value < 2**53 else None


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        return None
    if value == inf:
        return UNBOUNDED
    return float(value) if isfinite(value) else None


def _flag(value: Any) -> Any:
    return value if isinstance(value, bool) else None


def _day(value: Any) -> Any:
    plain = isinstance(value, date) and not isinstance(value, datetime)
    return value.isoformat() if plain else None


def _time(value: Any) -> Any:
    if not isinstance(value, datetime) or value.tzinfo is None:
        return None
    return written_time(value)


def _text(pattern: re.Pattern[str]) -> Check:
    return lambda value: value if isinstance(value, str) and pattern.fullmatch(value) else None


def _word(allowed: Collection[str]) -> Check:
    return lambda value: value if isinstance(value, str) and value in allowed else None


def _several(one: Check) -> Check:
    def check(value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return None
        found = [one(each) for each in value]
        return None if None in found or len(found) > _MOST_WORDS else found

    return check


def _counts(allowed: Collection[str]) -> Check:
    def check(value: Any) -> Any:
        if not isinstance(value, Mapping) or not set(value) <= set(allowed):
            return None
        found = {key: _count(each) for key, each in value.items()}
        return None if None in found.values() else found

    return check


_HEX_32 = _text(re.compile(r"[0-9a-f]{32}"))
_HEX_64 = _text(re.compile(r"[0-9a-f]{64}"))
_A_NAME = _text(_NAME)

# A field's name always means the same and is always written the same way.
FIELDS: Mapping[str, Check] = {
    "action": _word(ACTIONS),
    "admitted": _counts(BASES),
    "after": _HEX_64,
    "answer": _word(ANSWERS),
    "attempt": _count,
    "before": _HEX_64,
    "changes": _count,
    "coordinator": _A_NAME,
    "count": _count,
    "data": _several(_word(DATA_KINDS)),
    "day": _day,
    "delta": _number,
    "digest": _HEX_64,
    "entries": _count,
    "epsilon": _number,
    "experiment": _A_NAME,
    "form": _A_NAME,
    "given_by": _word(GIVERS),
    "head": _HEX_64,
    "how": _word(HOWS),
    "journal": _word(("consent", "audit", "ledger", "pictures")),
    "key": _word(KEYS),
    "kind": _word(KINDS),
    "noise_multiplier": _number,
    "objects": _count,
    "outcome": _word(OUTCOMES),
    "patient": _HEX_32,
    "patients": _count,
    "policy": _HEX_64,
    "public_key": _HEX_64,
    "purpose": _word(PURPOSES),
    "purposes": _several(_word(PURPOSES)),
    "reasons": _counts(PICTURE_REASONS),
    "states": _counts(STATES),
    "reason": _word((*REFUSAL_REASONS, *EXCLUSION_REASONS)),
    "refused": _counts(EXCLUSION_REASONS),
    "releases": _several(_A_NAME),
    "restricted": _flag,
    "right": _word(RIGHTS),
    "round": _count,
    "rounds": _count,
    "rows": _count,
    "rule": _word(ALERT_RULES),
    "run": _A_NAME,
    "simulated": _flag,
    "since": _time,
    "source": _HEX_64,
    "terms": _several(_A_NAME),
    "trust": _word(get_args(Trust)),
    "unit": _word(get_args(Unit)),
    "valid_from": _day,
    "valid_until": _day,
    "who": _text(_ACTOR),
    "within_hours": _count,
    "withdrawn_on": _day,
}

_RUN = ("run", "experiment", "purpose", "coordinator", "trust", "unit", "epsilon", "delta")
_PROPOSED = (*_RUN, "noise_multiplier", "policy", "patients", "rows", "simulated", "day")
_READ = ("kind", "purpose", "patient", "patients", "rows", "objects", "run", "day")

# Which fields an event may have; those in front of the bar it must have.
_TABLE: Mapping[Event, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "folder created": ((), ("public_key", "policy", "simulated")),
    "folder opened": ((), ("policy", "entries", "simulated")),
    "policy changed": (("after",), ("before", "changes")),
    "consent granted": (
        ("patient", "purposes"),
        ("data", "valid_from", "valid_until", "form", "how", "given_by"),
    ),
    "consent withdrawn": (("patient", "purposes"), ("withdrawn_on",)),
    # What a patient asks for, by the request's number in `count`; `day` is the last to answer.
    "request received": (("patient", "right", "count"), ("day",)),
    "request answered": (("patient", "right", "count", "answer"), ()),
    "use restricted": (("patient", "restricted"), ("day",)),
    "consents imported": (("source", "rows"), ("patients", "changes")),
    "admission": (
        ("purpose", "day", "patients"),
        ("rows", "admitted", "refused", "run", "experiment", "round"),
    ),
    "refusal": (
        ("action", "reason"),
        ("run", "experiment", "purpose", "terms", "patients", "refused", "day"),
    ),
    # A coordinator asks; `digest` names all that it asks for.
    "federation joined": (("coordinator", "public_key"), ("source",)),
    "run proposed": (("run", "digest"), ("experiment", "purpose", "coordinator")),
    "run answered": (("run", "digest", "answer"), _PROPOSED),
    # The code that travels to a clinic, by its SHA-256.
    "bundle refused": (("digest",), ()),
    "run approved": (("run",), _PROPOSED),
    "run refused": (("reason",), (*_PROPOSED, "terms")),
    "training started": (("run",), (*_PROPOSED, "round")),
    # A run that counts patients and trains nothing.
    "counting started": (("run",), _PROPOSED),
    "release": (
        ("run",),
        ("round", "attempt", "releases", "purpose", "patients", "count", "entries", "head", "unit"),
    ),
    # Images of so many patients gave NaN or infinity in a round, and counted as zeros.
    "not finite": (("run", "round", "patients"), ()),
    "run ended": (("run", "outcome"), ("rounds", "entries", "head", "epsilon")),
    "export": (("kind",), (*_READ, "digest", "count", "head")),
    "access": (("kind",), _READ),
    "import": (("kind",), (*_READ, "source", "states", "reasons")),
    # A person changed the state of pictures: how many are in which now.
    "pictures reviewed": (("states",), ("reasons",)),
    "key rotated": (("key",), ("count", "public_key")),
    # Values beside a patient's pictures were wrong: how many pictures have others now.
    "correction": (("patient", "rows"), ()),
    # What was kept for its days: pictures in `count`, values of fields in `rows`.
    "retention": (("count",), ("patients", "objects", "rows", "policy")),
    "erasure": (("patients",), ("patient", "objects", "rows", "reason")),
    "anchor": (("journal", "count", "head"), ()),
    "alert": (("rule", "who", "count", "since"), ("within_hours",)),
}


def is_name(word: str) -> bool:
    """Tell whether the log can hold a word as the name of an experiment, a run or a coordinator.

    Args:
        word: The word.

    Returns:
        Whether it can.
    """
    return _A_NAME(word) is not None


def fields_of(event: Event) -> tuple[str, ...]:
    """List the fields that an event may have.

    Args:
        event: The event.

    Returns:
        Their names, those that it must have first.
    """
    needed, allowed = _TABLE[event]
    return tuple(dict.fromkeys((*needed, *allowed)))


def checked_fields(event: Event, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Check the fields of an event and bring them into the form in which they are written.

    Args:
        event: The event.
        fields: Its fields; None stands for a field that is not there.

    Returns:
        The fields as JSON values: dates and times in ISO 8601, an infinite epsilon as
        "unbounded".

    Raises:
        ConfigError: If the event or a field is not in the table, a needed field is missing, or a
            value is of another kind. The message never holds a value.

    >>> from datetime import date
    >>> checked_fields("admission", {"purpose": "care", "day": date(2026, 3, 1), "patients": 12})
    {'day': '2026-03-01', 'patients': 12, 'purpose': 'care'}
    """
    if event not in _TABLE:
        raise _refused("an event of the audit log's table", "another word")
    given = {name: value for name, value in sorted(fields.items()) if value is not None}
    unknown = sorted(set(given) - set(fields_of(event)))
    missing = sorted(set(_TABLE[event][0]) - set(given))
    if unknown or missing:
        wrong = [f"unknown {name}" for name in unknown] + [f"no {name}" for name in missing]
        raise _refused(f"the fields of the event '{event}'", ", ".join(wrong))
    written = {name: FIELDS[name](value) for name, value in given.items()}
    for name, value in written.items():
        if value is None:
            kind = type(given[name]).__name__
            raise _refused(f"a {name} of the event '{event}' in its closed form", f"a {kind}")
    return written


def checked_actor(actor: str) -> str:
    """Check the name of who acted.

    Args:
        actor: The operating system's name of a user, or the name of a coordinator.

    Returns:
        The name.

    Raises:
        ConfigError: If it could not be a user's name.
    """
    if not isinstance(actor, str) or not _ACTOR.fullmatch(actor):
        raise _refused("a user's name of up to 64 letters, digits and . _ @ + $ -", "another text")
    return actor


def written_time(now: datetime) -> str:
    """Write a time.

    Args:
        now: With its time zone.

    Returns:
        ISO 8601 in UTC to the second, such as 2026-03-01T09:30:00+00:00.

    Raises:
        ConfigError: If the time has no zone.
    """
    if now.tzinfo is None:
        raise _refused("a time with its time zone", "a time without one")
    return now.astimezone(UTC).isoformat(timespec="seconds")


def _refused(rule: str, got: str) -> ConfigError:
    return ConfigError(
        rule=rule, got=got, do="Write what skinml/stewardship/audit_events.py allows, no more."
    )
