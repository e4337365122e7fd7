"""What the ceilings of epsilon leave: for one more run, for how many such runs, at which noise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor, inf
from typing import Literal

from skinml.errors import ConfigError
from skinml.privacy.accounting import calibrate_noise, calibrate_rounds, epsilon
from skinml.privacy.events import Event, least_noise, merged
from skinml.privacy.ledger import Entry, charged, compositions, spent
from skinml.privacy.planner import louder, repeated
from skinml.records import EVERY_SPLIT

MOST_RUNS = 1000
"""Where counting the runs that still fit ends."""

Span = Literal["run", "year", "life"]


@dataclass(frozen=True)
class Limit:
    """A ceiling of epsilon and what counts towards it.

    Attributes:
        span: What is added up.
        ceiling: The greatest epsilon.
        rule: Where it stands.
        held: Entries of the ledger that count; none for a run by itself.
    """

    span: Span
    ceiling: float
    rule: str
    held: tuple[Entry, ...]


@dataclass(frozen=True)
class Room:
    """What a ceiling leaves.

    Attributes:
        limit: The ceiling.
        spent: Epsilon so far.
        with_run: Epsilon with the planned run.
        most_epsilon: Greatest epsilon of one more run of this recipe; never more than 0.1% below
            the greatest.
        runs: How many of the planned runs still fit, at most `MOST_RUNS`; None for a single run.
    """

    limit: Limit
    spent: float
    with_run: float
    most_epsilon: float
    runs: int | None

    @property
    def kept(self) -> bool:
        """Whether the planned run keeps the ceiling."""
        return self.with_run <= self.limit.ceiling


def room_under(limit: Limit, planned: Sequence[Entry], delta: float) -> Room:
    """Hold a planned run against a ceiling.

    Args:
        limit: The ceiling with what counts towards it.
        planned: The run's releases as entries.
        delta: Delta that every epsilon is read at.

    Returns:
        What the ceiling leaves.
    """
    return Room(
        limit=limit,
        spent=spent(limit.held, delta),
        with_run=spent([*limit.held, *planned], delta),
        most_epsilon=most_epsilon(limit, planned, delta),
        runs=None if limit.span == "run" else runs_that_fit(limit, planned, delta),
    )


def most_epsilon(limit: Limit, planned: Sequence[Entry], delta: float) -> float:
    """Find the greatest epsilon that one more run of a recipe could have under a ceiling.

    Args:
        limit: The ceiling with what counts towards it.
        planned: The run's releases as entries, at any epsilon; their noise is scaled.
        delta: Delta that every epsilon is read at.

    Returns:
        Epsilon at delta; 0 where nothing is left or the run promises nothing.

    Guarantees:
        With its releases at that epsilon the ceiling is kept, and the answer is at most 0.1% of
        noise away from the greatest.
    """
    pairs = _by_patients(limit.held, planned)
    if _unbounded(planned) or any(epsilon(held, delta) >= limit.ceiling for held, _ in pairs):
        return 0.0
    if not limit.held:
        return limit.ceiling
    found = (
        _most_beside(_events(limit.held, name), _of(planned, name), limit.ceiling, delta)
        for name in compositions((*limit.held, *planned))
    )
    return min(found, default=limit.ceiling)


def _most_beside(
    held: Sequence[Event], planned: Sequence[Entry], ceiling: float, delta: float
) -> float:
    new = merged(map(charged, planned))
    if not (held and new):
        return ceiling
    try:
        scale = calibrate_noise(lambda s: [*held, *louder(new, s)], ceiling, delta)
    except ConfigError:  # what is left is less than the grid can tell
        return 0.0
    # The run's own epsilon: its splits are apart, whatever they compose with.
    own = compositions(planned).values()
    return max(epsilon(louder(events, scale), delta) for events in own)


def runs_that_fit(limit: Limit, planned: Sequence[Entry], delta: float) -> int:
    """Count how often a planned run still fits under a ceiling, one after another.

    Args:
        limit: The ceiling with what counts towards it.
        planned: The run's releases as entries.
        delta: Delta that every epsilon is read at.

    Returns:
        The number of whole runs, 0 where the first is too many, at most `MOST_RUNS`.

    Guarantees:
        The ledger's total after so many runs, recomputed from all events, keeps the ceiling.
    """
    pairs = _by_patients(limit.held, planned)
    if any(epsilon(held, delta) > limit.ceiling for held, _ in pairs):
        return 0

    def count(held: Sequence[Event], new: Sequence[Event]) -> int:
        return calibrate_rounds(
            lambda runs: [*held, *repeated(new, runs)], limit.ceiling, delta, most=MOST_RUNS
        )

    return min((count(held, new) for held, new in pairs if new), default=MOST_RUNS)


def epsilon_for_noise(planned: Sequence[Entry], least: float, delta: float) -> float:
    """Find the greatest epsilon at which no release has less noise than a floor.

    Args:
        planned: The run's releases as entries, at any epsilon.
        least: The least noise multiplier allowed.
        delta: Delta that epsilon is read at.

    Returns:
        Epsilon at delta; infinity where each release already has enough, 0 where the run promises
        nothing.
    """
    if _unbounded(planned):
        return 0.0
    found = inf
    for _, new in _by_patients((), planned):
        noise = min(least_noise(event) for event in new)
        if noise < least:
            found = min(found, epsilon(louder(new, least / noise), delta))
    return found


def rounded_down(value: float) -> float:
    """Write an epsilon so that it can be typed and still keeps its ceiling.

    Args:
        value: Zero or above.

    Returns:
        The next lower multiple of 0.001.

    Example:
        >>> rounded_down(1.40059), rounded_down(2.0), rounded_down(2.3)
        (1.4, 2.0, 2.3)
    """
    # A multiple of 0.001 need not be one in binary: 2.3 * 1000 is 2299.9999999999995.
    return floor(value * 1000 * (1 + 1e-12)) / 1000


def _by_patients(
    held: Sequence[Entry], planned: Sequence[Entry]
) -> tuple[tuple[tuple[Event, ...], tuple[Event, ...]], ...]:
    """Pair held and planned events that compose."""
    names = compositions((*held, *planned))
    return tuple((_events(held, name), _events(planned, name)) for name in names)


def _events(entries: Sequence[Entry], name: str) -> tuple[Event, ...]:
    return merged(map(charged, _of(entries, name)))


def _of(entries: Sequence[Entry], name: str) -> list[Entry]:
    """Choose the entries of one of the `compositions`."""
    return [entry for entry in entries if name in ("", entry.split) or entry.split == EVERY_SPLIT]


def _unbounded(entries: Iterable[Entry]) -> bool:
    return any(least_noise(e.event) == 0 or not e.guarantee for e in entries)
