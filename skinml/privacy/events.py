"""What happened to a patient's data, as frozen values: the ledger stores these, never epsilons.

How events may evolve: a field is never removed or redefined, a new mechanism is a new type, and a
reader that does not know a type refuses it rather than guess (after the contract that
dp_accounting states for its own events).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from skinml.errors import ConfigError, IntegrityError, require_in_range, require_positive


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
class UnprotectedEvent:
    """Something was released without any noise: no epsilon bounds it.

    Attributes:
        count: How many such releases.
    """

    count: int = 1

    def __post_init__(self) -> None:
        _require_whole(self.count)


Event = GaussianEvent | SampledGaussianEvent | UnprotectedEvent

_TYPES: Mapping[str, type[GaussianEvent] | type[SampledGaussianEvent] | type[UnprotectedEvent]] = {
    "gaussian": GaussianEvent,
    "sampled_gaussian": SampledGaussianEvent,
    "unprotected": UnprotectedEvent,
}
_NAMES = {kind: name for name, kind in _TYPES.items()}


def event_to_json(event: Event) -> dict[str, float | int | str]:
    """Turn an event into plain values.

    Args:
        event: The event.

    Returns:
        Its fields and its type's name.
    """
    return {"type": _NAMES[type(event)], **asdict(event)}


def event_from_json(values: Mapping[str, object]) -> Event:
    """Read an event back.

    Args:
        values: What `event_to_json` gave.

    Returns:
        The event.

    Raises:
        IntegrityError: If the type is unknown or a field is missing, unknown or no number.
    """
    fields = dict(values)
    kind = _TYPES.get(str(fields.pop("type", None)))
    numbers = {k: v for k, v in fields.items() if type(v) in (int, float)}
    expected = set(kind.__dataclass_fields__) if kind else set()
    if kind is None or set(numbers) != expected or len(numbers) != len(fields):
        raise IntegrityError(
            rule=f"a privacy event of a known type ({', '.join(sorted(_TYPES))}) with its fields",
            got=f"type={values.get('type')!r} with fields {sorted(fields)}",
            do="Read this ledger with the release of skinml that wrote it.",
        )
    try:
        return kind(**numbers)  # type: ignore[arg-type]  # the fields were checked just above
    except ConfigError as error:
        raise IntegrityError(
            rule=error.rule, got=error.got, do="Restore the ledger from a backup."
        ) from error


def merged(events: Iterable[Event]) -> tuple[Event, ...]:
    """Add up the counts of equal events, whatever their order.

    Args:
        events: Any events.

    Returns:
        One event for each mechanism and parameters, in a fixed order.
    """
    counts: dict[Event, int] = {}
    for event in events:
        one = _with_count(event, 1)
        counts[one] = counts.get(one, 0) + event.count
    return tuple(_with_count(one, count) for one, count in sorted(counts.items(), key=repr))


def _with_count(event: Event, count: int) -> Event:
    match event:
        case GaussianEvent():
            return GaussianEvent(event.noise_multiplier, count)
        case SampledGaussianEvent():
            return SampledGaussianEvent(event.noise_multiplier, event.sampling_prob, count)
        case UnprotectedEvent():
            return UnprotectedEvent(count)
