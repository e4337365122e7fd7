"""What happened to a patient's data, as frozen values: the ledger stores these, never epsilons.

How events may evolve: a field is never removed or redefined, a new mechanism is a new type, and a
reader that does not know a type refuses it rather than guess (after the contract that
dp_accounting states for its own events).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from math import inf
from typing import Any

from skinml.errors import (
    ConfigError,
    IntegrityError,
    SkinmlError,
    require_in_range,
    require_positive,
)

VERSION = 1
# Below it a share is too coarse for the bounds that `skinml.privacy.accounting` uses.
LEAST_GRID_STD = 8.0
# A sampled, selected or repeated thing inside another may not go on for ever.
_DEEPEST = 4


def _require_whole(count: int) -> None:
    # Read from JSON, a count could be 0.5, which would halve what was spent.
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ConfigError(
            rule="a whole count from 1", got=f"count={count}", do="Count whole releases."
        )


@dataclass(frozen=True)
class GaussianEvent:
    """A sum over all patients, each clipped, was released with Gaussian noise.

    Attributes:
        noise_multiplier: Noise standard deviation divided by the L2 sensitivity.
        count: How many such releases.
    """

    noise_multiplier: float
    count: int = 1

    def __post_init__(self) -> None:
        require_positive(noise_multiplier=self.noise_multiplier)
        _require_whole(self.count)


@dataclass(frozen=True)
class SampledGaussianEvent:
    """A sum over a secret Poisson sample of patients was released with Gaussian noise.

    Attributes:
        noise_multiplier: Noise standard deviation divided by the L2 sensitivity.
        sampling_prob: Chance of each patient to be in the sample, independent of all others.
        count: How many such releases, each with a sample of its own.
    """

    noise_multiplier: float
    sampling_prob: float
    count: int = 1

    def __post_init__(self) -> None:
        require_positive(noise_multiplier=self.noise_multiplier)
        _require_whole(self.count)
        require_in_range(0, 1, sampling_prob=self.sampling_prob)


@dataclass(frozen=True)
class DiscreteGaussianEvent:
    """An integer sum was released with discrete Gaussian noise, in one share or in several.

    Attributes:
        noise_multiplier: Standard deviation of all shares together, divided by the L2 sensitivity.
        grid_std: Standard deviation of one share in units of the grid, from 8.
        shares: How many independent shares make up the noise: those of honest parties.
        dimension: Numbers in the sum.
        sampling_prob: Chance of each patient to be in the secret Poisson sample; 1 takes all.
        count: How many such releases.
    """

    noise_multiplier: float
    grid_std: float
    shares: int
    dimension: int
    sampling_prob: float = 1.0
    count: int = 1

    def __post_init__(self) -> None:
        require_positive(noise_multiplier=self.noise_multiplier)
        require_in_range(LEAST_GRID_STD, 2.0**60, grid_std=self.grid_std)
        require_in_range(0, 1, sampling_prob=self.sampling_prob)
        for whole in (self.shares, self.dimension, self.count):
            _require_whole(whole)


@dataclass(frozen=True)
class UnprotectedEvent:
    """Something was released without any noise: no epsilon bounds it.

    Attributes:
        count: How many such releases.
    """

    count: int = 1

    def __post_init__(self) -> None:
        _require_whole(self.count)


@dataclass(frozen=True)
class CompositionEvent:
    """Several things happened to the same patients, each chosen after seeing those before.

    Attributes:
        events: What happened.
        count: How often all of it happened.
    """

    events: tuple[Event, ...]
    count: int = 1

    def __post_init__(self) -> None:
        _require_whole(self.count)


@dataclass(frozen=True)
class RepeatAndSelectEvent:
    """A private run was repeated a random number of times and only the best result released.

    The number of repetitions follows a truncated negative binomial distribution: shape 1 is the
    geometric distribution. Its mean is public and fixed before the first repetition.

    Attributes:
        event: What one repetition costs.
        mean: Mean number of repetitions, above 1.
        shape: Shape of the distribution, from 0.1 to 100.
        count: How many such selections.

    Source:
        Papernot and Steinke 2022, arXiv:2110.03620, Theorem 2.
    """

    event: Event
    mean: float
    shape: float = 1.0
    count: int = 1

    def __post_init__(self) -> None:
        _require_whole(self.count)
        require_positive(mean_repetitions_beyond_one=self.mean - 1)
        require_in_range(0.1, 100, shape=self.shape)


Event = (
    GaussianEvent
    | SampledGaussianEvent
    | DiscreteGaussianEvent
    | UnprotectedEvent
    | CompositionEvent
    | RepeatAndSelectEvent
)

_TYPES: Mapping[str, type[Event]] = {
    "gaussian": GaussianEvent,
    "sampled_gaussian": SampledGaussianEvent,
    "discrete_gaussian": DiscreteGaussianEvent,
    "unprotected": UnprotectedEvent,
    "composition": CompositionEvent,
    "repeat_and_select": RepeatAndSelectEvent,
}
_NAMES = {kind: name for name, kind in _TYPES.items()}
_NUMBERS = (int, float)


def event_to_json(event: Event) -> dict[str, object]:
    """Turn an event into plain values.

    Args:
        event: The event.

    Returns:
        Its fields, its type's name and, where it is not the first, the version of its form.
    """
    values: dict[str, object] = {"type": _NAMES[type(event)]}
    for each in fields(event):
        values[each.name] = _plain(getattr(event, each.name))
    return values


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [event_to_json(each) for each in value]
    return value if isinstance(value, _NUMBERS) else event_to_json(value)  # type: ignore[arg-type]


def event_from_json(values: Mapping[str, object]) -> Event:
    """Read an event back.

    Args:
        values: What `event_to_json` gave.

    Returns:
        The event.

    Raises:
        IntegrityError: If the type is unknown or a field is missing, unknown or of another kind.
    """
    return _event_of(values, 0)


def _event_of(values: object, depth: int) -> Event:
    if not isinstance(values, Mapping) or depth > _DEEPEST:
        raise _unknown(values)
    given = dict(values)
    kind = _TYPES.get(str(given.pop("type", None)))
    if kind is None or set(given) != {each.name for each in fields(kind)}:
        raise _unknown(values)
    try:
        read: dict[str, Any] = {n: _value_of(n, value, depth) for n, value in given.items()}
        return kind(**read)
    except ConfigError as error:
        raise IntegrityError(
            rule=error.rule, got=error.got, do="Restore the ledger from a backup."
        ) from error


def _value_of(name: str, value: object, depth: int) -> object:
    if name == "event":
        return _event_of(value, depth + 1)
    if name == "events" and isinstance(value, list):
        return tuple(_event_of(each, depth + 1) for each in value)
    if type(value) not in _NUMBERS or name == "events":
        raise _unknown({name: value})
    return value


def _unknown(values: object) -> SkinmlError:
    found = dict(values) if isinstance(values, Mapping) else {}
    return IntegrityError(
        rule=f"a privacy event of a known type ({', '.join(sorted(_TYPES))}) with its fields",
        got=f"type={found.get('type')!r} with fields {sorted(map(str, found))}",
        do="Read this ledger with the release of skinml that wrote it.",
    )


def merged(events: Iterable[Event]) -> tuple[Event, ...]:
    """Add up the counts of equal events, whatever their order; open compositions.

    Args:
        events: Any events.

    Returns:
        One event for each mechanism and parameters, in a fixed order; no composition among them.
    """
    counts: dict[Event, int] = {}
    for event in _opened(events, 1):
        one = replace(event, count=1)
        counts[one] = counts.get(one, 0) + event.count
    return tuple(replace(one, count=count) for one, count in sorted(counts.items(), key=repr))


def _opened(events: Iterable[Event], times: int) -> Iterator[Event]:
    for event in events:
        if isinstance(event, CompositionEvent):
            yield from _opened(event.events, times * event.count)
        else:
            yield replace(event, count=times * event.count)


def with_noise_divided(event: Event, divisor: float) -> Event:
    """Tell what an event costs somebody who moves the sum further than its sensitivity.

    Args:
        event: The event.
        divisor: By how much further, above 0.

    Returns:
        The event with less noise against the sensitivity; an unprotected one as it is.
    """
    match event:
        case GaussianEvent() | SampledGaussianEvent() | DiscreteGaussianEvent():
            return replace(event, noise_multiplier=event.noise_multiplier / divisor)
        case UnprotectedEvent():
            return event
        case CompositionEvent():
            inner = tuple(with_noise_divided(each, divisor) for each in event.events)
            return replace(event, events=inner)
        case RepeatAndSelectEvent():
            return replace(event, event=with_noise_divided(event.event, divisor))


def least_noise(event: Event) -> float:
    """Tell the smallest noise multiplier in an event.

    Args:
        event: The event.

    Returns:
        Noise standard deviation over sensitivity; 0 where something was released without noise.
    """
    match event:
        case GaussianEvent() | SampledGaussianEvent() | DiscreteGaussianEvent():
            return event.noise_multiplier
        case UnprotectedEvent():
            return 0.0
        case CompositionEvent():
            return min(map(least_noise, event.events), default=inf)
        case RepeatAndSelectEvent():
            return least_noise(event.event)
