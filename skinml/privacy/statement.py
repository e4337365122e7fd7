"""What a ledger says at a date: epsilon by run, purpose, split and year.

Every figure is recomputed from the events of its entries. Epsilons are never added up, so that
the parts of a statement do not sum to its total.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from itertools import pairwise
from math import sqrt

from skinml.errors import require_in_range
from skinml.privacy.accounting import epsilon, gaussian_mu, only_gaussians
from skinml.privacy.closed_form import gaussian_epsilon
from skinml.privacy.events import (
    CompositionEvent,
    DiscreteGaussianEvent,
    Event,
    RepeatAndSelectEvent,
    SampledGaussianEvent,
    UnprotectedEvent,
    with_noise_divided,
)
from skinml.privacy.ledger import Binding, Entry, compositions, entries_of_year, spent

# The unit that already speaks for a patient at all clinics: each clip was divided among them.
_WHOLE_PATIENT = "patient"


@dataclass(frozen=True)
class Cost:
    """What some releases cost together.

    Attributes:
        num_releases: How many entries of the ledger.
        epsilon: Recomputed from their events; infinite where one of them had no secret noise.
        num_bare: Releases that had no noise at all.
        num_fixed: Releases whose noise a test had fixed, which protects nobody.
    """

    num_releases: int
    epsilon: float
    num_bare: int
    num_fixed: int


@dataclass(frozen=True)
class RunCost:
    """What one run cost.

    Attributes:
        run: The run's id.
        first: When its first release was reserved, ISO 8601, UTC.
        last: When its last one was.
        num_rounds: Rounds with a release.
        num_clinics: Clinics of its sums.
        units: Whose records were protected as a whole: one, if nobody changed it in mid-run.
        trusts: The trust models, likewise.
        simulated: Whether one machine saw everything, in all of it.
        cost: All of its releases.
        across: Epsilon for a patient whose data lie at all of its clinics.
    """

    run: str
    first: str
    last: str
    num_rounds: int
    num_clinics: int
    units: tuple[str, ...]
    trusts: tuple[str, ...]
    simulated: bool
    cost: Cost
    across: float


@dataclass(frozen=True)
class Statement:
    """What one ledger says at the end of a day.

    Attributes:
        day: The day, in UTC.
        delta: Delta that every epsilon is read at.
        runs: Each run that released something, in the order of their last releases.
        purposes: What the releases were for, in the order of the ledger.
        splits: Which patients they read: "train", "validation", "test".
        year: The releases of the last 365 days, at whatever time of the day they are asked for.
        total: All releases.
        across: Epsilon of all of them for a patient who is at all clinics of every run.
        units: Whose records were protected as a whole.
        num_split_keys: Keys by which patients were put into splits; with more than one, a patient
            may have been in several, so that the total composes them all.
        num_later: Entries that were left out because they are later.
        num_backwards: Entries dated before the one in front of them: a clock was set back.
    """

    day: date
    delta: float
    runs: tuple[RunCost, ...]
    purposes: Mapping[str, Cost]
    splits: Mapping[str, Cost]
    year: Cost
    total: Cost
    across: float
    units: tuple[str, ...]
    num_split_keys: int
    num_later: int
    num_backwards: int


def statement(
    entries: Sequence[Entry], delta: float, day: date, *, with_later: bool = False
) -> Statement:
    """Compute what a ledger says at a date.

    Args:
        entries: All entries of one ledger, in its order.
        delta: Delta to read epsilon at, above 0 and below 1.
        day: The last day that counts, in UTC.
        with_later: Whether entries of later days count as well. Today, none are expected: one
            that is there comes from a clock that was set back since, and was released.

    Returns:
        The statement.

    Raises:
        ConfigError: If delta is outside its range, or the day is before 1970.

    Guarantees:
        Each figure is the epsilon of the composition of its releases, never a sum of epsilons.
        What a ceiling is held against (runs, year, total) is what `ledger.spent` tells the gate,
        an upper bound; the year's figure is at least what the gate charges at any time of the day.
    """
    require_in_range(1e-300, 1 - 1e-12, delta=delta)
    require_in_range(1970, 9999, year=day.year)
    chosen = tuple(entries) if with_later else entries_until(entries, day)
    return Statement(
        day=day,
        delta=delta,
        runs=tuple(_run_cost(run, own, delta) for run, own in _by_run(chosen)),
        purposes=_costs(chosen, lambda entry: entry.purpose, delta),
        splits=_costs(chosen, lambda entry: entry.split, delta),
        year=_cost(year_until(chosen, day), delta),
        total=_cost(chosen, delta),
        across=_reading(map(_at_all_clinics, chosen), delta),
        units=_words(entry.binding.unit for entry in chosen),
        num_split_keys=len({entry.binding.split_key_id for entry in chosen}),
        num_later=len(entries) - len(chosen),
        num_backwards=sum(_moment(b) < _moment(a) for a, b in pairwise(chosen)),
    )


def entries_until(entries: Sequence[Entry], day: date) -> tuple[Entry, ...]:
    """Choose the entries that a ledger held at the end of a day.

    The order of the ledger cannot be changed, but a clock can: what stands in front of an entry
    of the day was there by then, whatever it is dated.

    Args:
        entries: All entries of one ledger, in its order.
        day: The last day that counts, in UTC.

    Returns:
        The first entries of the ledger, up to the last one that is dated that day or earlier.
    """
    count = max(
        (at for at, entry in enumerate(entries, 1) if _moment(entry).date() <= day), default=0
    )
    return tuple(entries[:count])


def year_until(entries: Iterable[Entry], day: date) -> list[Entry]:
    """Choose the entries of the 365 days that end on a day.

    Args:
        entries: Entries of one ledger, none later than the day.
        day: The day, in UTC.

    Returns:
        Whatever the gate counts at some time of the day, from its first moment on.
    """
    return entries_of_year(entries, datetime.combine(day, time.min, UTC))


def epsilon_everywhere(ledgers: Iterable[Sequence[Entry]], delta: float) -> float:
    """Compute the epsilon of a patient whose data lie at all clinics of several ledgers.

    A sum over clinics stands in the ledger of each; here it counts once, and as moved by all of
    the patient's clinics.

    Args:
        ledgers: The entries of each clinic.
        delta: Delta to read epsilon at.

    Returns:
        Epsilon of everything that these clinics released; infinite where one release had no
        secret noise.
    """
    joined: dict[tuple[object, ...], Entry] = {}
    for entries in ledgers:
        seen: Counter[tuple[object, ...]] = Counter()
        for entry in entries:
            bound = entry.binding
            key = (bound.run, bound.round, bound.attempt, entry.name, entry.split, entry.event)
            seen[key] += 1
            same = joined.setdefault((*key, seen[key]), entry)
            if not entry.guarantee:  # one clinic's fixed noise is enough to lose the promise
                joined[(*key, seen[key])] = replace(same, guarantee=False)
    return _reading(map(_at_all_clinics, joined.values()), delta)


def _run_cost(run: str, entries: Sequence[Entry], delta: float) -> RunCost:
    bindings = [entry.binding for entry in entries]
    times = sorted(entries, key=_moment)
    return RunCost(
        run=run,
        first=times[0].time,
        last=times[-1].time,
        num_rounds=len({bound.round for bound in bindings}),
        num_clinics=max(_num_clinics(bound) for bound in bindings),
        units=_words(bound.unit for bound in bindings),
        trusts=_words(bound.trust for bound in bindings),
        simulated=all(bound.simulated for bound in bindings),
        cost=_cost(entries, delta),
        across=_reading(map(_at_all_clinics, entries), delta),
    )


def _costs(
    entries: Sequence[Entry], name_of: Callable[[Entry], str], delta: float
) -> Mapping[str, Cost]:
    groups = _grouped(entries, name_of)
    return {name: _cost(own, delta) for name, own in groups.items()}


def _cost(entries: Sequence[Entry], delta: float) -> Cost:
    bare = sum(isinstance(entry.event, UnprotectedEvent) for entry in entries)
    fixed = sum(
        not entry.guarantee and not isinstance(entry.event, UnprotectedEvent) for entry in entries
    )
    return Cost(len(entries), spent(entries, delta), bare, fixed)


def _by_run(entries: Iterable[Entry]) -> list[tuple[str, list[Entry]]]:
    groups = _grouped(entries, lambda entry: entry.binding.run)
    return sorted(groups.items(), key=lambda group: group[1][-1].index)


def _grouped(entries: Iterable[Entry], name_of: Callable[[Entry], str]) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(name_of(entry), []).append(entry)
    return groups


def _num_clinics(bound: Binding) -> int:
    return max(len(set(bound.participants)), 1)


def _at_all_clinics(entry: Entry) -> Entry:
    """Turn a release into what it is to a patient who is at all clinics of its sum."""
    clinics = _num_clinics(entry.binding)
    if clinics == 1 or entry.binding.unit == _WHOLE_PATIENT:
        return entry
    one_sum = entry.binding.trust != "local"
    return replace(entry, event=_moved_by(entry.event, clinics, one_sum=one_sum))


def _moved_by(event: Event, clinics: int, *, one_sum: bool) -> Event:
    match event:
        case UnprotectedEvent():
            return event
        case CompositionEvent():
            inner = tuple(_moved_by(each, clinics, one_sum=one_sum) for each in event.events)
            return replace(event, events=inner)
        case RepeatAndSelectEvent():
            return replace(event, event=_moved_by(event.event, clinics, one_sum=one_sum))
        case SampledGaussianEvent() | DiscreteGaussianEvent() if event.sampling_prob < 1:
            # Each clinic draws by itself. The noise of one sum is that of as many parts with a
            # share of its variance each; whoever saw the parts could add them up.
            apart = with_noise_divided(event, sqrt(clinics) if one_sum else 1.0)
            return replace(apart, count=event.count * clinics)
        case _ if one_sum:  # all of them move the same sum
            return with_noise_divided(event, clinics)
        case _:
            return replace(event, count=event.count * clinics)


def _words(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(words)))


def _moment(entry: Entry) -> datetime:
    return datetime.fromisoformat(entry.time).astimezone(UTC)


def _reading(entries: Iterable[Entry], delta: float) -> float:
    """Compute what `ledger.spent` does, for figures that no ceiling is held against.

    Gaussians alone by the closed form: the accountant takes seconds where epsilon is great.
    """
    found = compositions(entries).values()
    return max((_composed(events, delta) for events in found), default=0.0)


def _composed(events: list[Event], delta: float) -> float:
    gaussians = only_gaussians(events)
    if gaussians is not None:
        return gaussian_epsilon(gaussian_mu(gaussians), delta)
    return epsilon(events, delta)
