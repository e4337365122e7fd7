"""What a run would cost and how noisy it would be, from public figures and a ledger alone.

Nothing here looks at a patient. The releases are those that the recipe itself plans, so that a
plan and the run after it cannot differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import floor, inf, sqrt
from typing import Literal

from skinml.errors import ConfigError, require_positive
from skinml.privacy.accounting import calibrate_noise, calibrate_rounds, epsilon, gaussian_mu
from skinml.privacy.events import Event, GaussianEvent, UnprotectedEvent, merged
from skinml.privacy.ledger import Entry, spent
from skinml.privacy.plan import Release, epsilon_across_clinics
from skinml.privacy.settings import PrivacySettings
from skinml.privacy.trust import noise_rule

MOST_RUNS = 1000
"""Where counting the runs that still fit ends."""

Span = Literal["run", "year", "life"]


@dataclass(frozen=True)
class ReleaseLine:
    """One kind of release, over the whole run.

    Attributes:
        name: What leaves.
        split: Which split of patients it reads.
        times: How many noisy sums the run makes of it.
        sampling_prob: Chance of a patient to be in one of them.
        noise_multiplier: Noise over what one patient can change; 0 where nothing is promised.
        share: Its part of the split's budget, in mu squared; None where mu does not tell it.
        noise_in_sum: Standard deviation of the noise in each number of the sum over all clinics,
            in the sum's own units.
    """

    name: str
    split: str
    times: int
    sampling_prob: float
    noise_multiplier: float
    share: float | None
    noise_in_sum: float


@dataclass(frozen=True)
class Reading:
    """Epsilon of the run for a patient whose data lie at so many clinics.

    Attributes:
        clinics: At how many of them.
        epsilon: Infinite where nothing is promised.
    """

    clinics: int
    epsilon: float


@dataclass(frozen=True)
class NoiseToSignal:
    """Noise in an averaged gradient over the clip, for each number of the gradient.

    Attributes:
        step: Of one round (end to end: of one local step).
        run: Of the mean over all of them.
    """

    step: float
    run: float


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


@dataclass(frozen=True)
class PlanCurves:
    """What a plot of a plan shows; a training patient of one clinic is meant.

    Attributes:
        by_rounds: Pairs (rounds, epsilon) at the planned noise.
        by_epsilon: Pairs (epsilon, noise multiplier) at the planned rounds.
        rounds: The planned rounds.
        epsilon: The planned epsilon.
        noise_multiplier: The planned noise of a round.
        delta: Delta that epsilon is read at.
        release: The name of what a round of training releases.
    """

    by_rounds: tuple[tuple[int, float], ...]
    by_epsilon: tuple[tuple[float, float], ...]
    rounds: int
    epsilon: float
    noise_multiplier: float
    delta: float
    release: str


def release_lines(
    releases: Iterable[Release], settings: PrivacySettings, num_clinics: int
) -> tuple[ReleaseLine, ...]:
    """Join the releases of all rounds into one line a kind.

    Args:
        releases: The releases of all rounds.
        settings: The promise.
        num_clinics: Clinics in the run.

    Returns:
        The lines in the order of the schedule.

    Raises:
        ConfigError: If no honest clinic would be left.
    """
    factor = noise_factor(settings, num_clinics)
    times: dict[Release, int] = {}
    for release in releases:
        one = replace(release, steps=1)
        times[one] = times.get(one, 0) + release.steps
    return tuple(
        ReleaseLine(
            name=one.name,
            split=one.split,
            times=count,
            sampling_prob=one.sampling_prob,
            noise_multiplier=one.noise_multiplier,
            share=_share(one, times),
            noise_in_sum=factor * one.noise_multiplier * one.sensitivity,
        )
        for one, count in times.items()
    )


def _share(release: Release, times: dict[Release, int]) -> float | None:
    beside = [replace(one, steps=n) for one, n in times.items() if one.split == release.split]
    if release.noise_multiplier == 0:
        return None
    if len(beside) == 1:
        return 1.0
    events = [one.event for one in beside]
    gaussians = [event for event in events if isinstance(event, GaussianEvent)]
    if len(gaussians) < len(events):
        return None
    own = GaussianEvent(release.noise_multiplier, times[release])
    return (gaussian_mu([own]) / gaussian_mu(gaussians)) ** 2


def noise_factor(settings: PrivacySettings, num_clinics: int) -> float:
    """Compute how much more noise the sum of all clinics has than one party alone would need.

    Args:
        settings: The promise.
        num_clinics: Clinics in the run, none of which drops out.

    Returns:
        The sum's standard deviation over sensitivity times noise multiplier: root of k under
        "local", root of k / (t - c) under "distributed", 1 under "central", 0 under "none"; times
        max_clinics_per_patient, by which every contribution was divided.

    Raises:
        ConfigError: If no honest clinic would be left.
    """
    rule = noise_rule(settings, num_clinics)
    alone = sqrt(num_clinics * rule.clinic**2 + rule.coordinator**2)
    return alone * settings.max_clinics_per_patient


def readings(
    releases: Sequence[Release], settings: PrivacySettings, num_clinics: int
) -> tuple[Reading, ...]:
    """Read the run's epsilon for a patient at one clinic, at as many as promised, and at all.

    Args:
        releases: The releases of all rounds.
        settings: The promise.
        num_clinics: Clinics in the run.

    Returns:
        One reading for each different number of clinics, rising.
    """
    reaches = {1, min(settings.max_clinics_per_patient, num_clinics), num_clinics}
    by_split: dict[str, list[Release]] = {}
    for release in releases:
        by_split.setdefault(release.split, []).append(release)
    return tuple(
        Reading(
            reach,
            max(epsilon_across_clinics(part, settings, reach) for part in by_split.values()),
        )
        for reach in sorted(reaches)
    )


def training_line(lines: Sequence[ReleaseLine]) -> ReleaseLine:
    """Choose the release that a round of training is about.

    Args:
        lines: The run's releases.

    Returns:
        The one about training patients that is repeated most often.
    """
    return max((line for line in lines if line.split == "train"), key=lambda line: line.times)


def noise_to_signal(
    line: ReleaseLine, settings: PrivacySettings, num_clinics: int, patients: float
) -> NoiseToSignal:
    """Compute how much of a clipped gradient's mean is noise.

    Args:
        line: The release of a round's gradients.
        settings: The promise.
        num_clinics: k.
        patients: Training patients N of all clinics together, a public figure.

    Returns:
        noise multiplier * factor / (sampling_prob * N) of one step, where the factor is that of
        `noise_factor`; over all T steps divided by the root of T. At a given epsilon without
        sampling the latter does not depend on T: more rounds cost no signal as a whole.

    Raises:
        ConfigError: If there are no patients, or no honest clinic would be left.

    Example:
        >>> line = ReleaseLine("gradient", "train", 100, 1.0, 20.0, None, 10.0)
        >>> noise_to_signal(line, PrivacySettings(trust="local"), 4, 1000.0)
        NoiseToSignal(step=0.04, run=0.004)
    """
    require_positive(patients=patients)
    noise = line.noise_multiplier * noise_factor(settings, num_clinics)
    step = noise / (line.sampling_prob * patients)
    return NoiseToSignal(step, step / sqrt(line.times))


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
    found = [_most_beside(held, new, limit.ceiling, delta) for held, new in pairs if new]
    return min(found, default=limit.ceiling)


def _most_beside(
    held: Sequence[Event], new: Sequence[Event], ceiling: float, delta: float
) -> float:
    if not held:
        return ceiling
    scale = calibrate_noise(lambda s: [*held, *_louder(new, s)], ceiling, delta)
    return epsilon(_louder(new, scale), delta)


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
            lambda runs: [*held, *_repeated(new, runs)], limit.ceiling, delta, most=MOST_RUNS
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
        noise = min(_noise(event) for event in new)
        if noise < least:
            found = min(found, epsilon(_louder(new, least / noise), delta))
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


def require_honest_clinics(settings: PrivacySettings, num_clinics: int) -> None:
    """Refuse a sum in which no clinic is left to add honest noise, and say what would be possible.

    Args:
        settings: Trust model, dropouts and colluding clinics.
        num_clinics: Clinics in the run.

    Raises:
        ConfigError: If no honest clinic would be left among those that must survive.
    """
    dropouts, colluding = settings.tolerated_dropouts, settings.colluding_clinics
    if settings.trust != "distributed" or num_clinics - dropouts - colluding >= 1:
        return
    spare = num_clinics - 1
    nearest = (
        f"privacy.colluding_clinics={spare - dropouts}"
        if dropouts <= spare
        else f"privacy.tolerated_dropouts={spare} and privacy.colluding_clinics=0"
    )
    raise ConfigError(
        rule="at least one honest clinic among those that must survive",
        got=f"{num_clinics} clinics, tolerated_dropouts={dropouts}, colluding_clinics={colluding}",
        do=f"The nearest possible: {nearest}, or a run of {dropouts + colluding + 1} clinics.",
    )


def _by_patients(
    held: Sequence[Entry], planned: Sequence[Entry]
) -> tuple[tuple[tuple[Event, ...], tuple[Event, ...]], ...]:
    """Part held and planned events by whose they may be, as `skinml.privacy.ledger.spent` does."""
    keys = {entry.binding.split_key_id for entry in (*held, *planned)}
    splits = sorted({entry.split for entry in (*held, *planned)})
    groups = [set(splits)] if len(keys) > 1 else [{split} for split in splits]
    return tuple((_events(held, group), _events(planned, group)) for group in groups)


def _events(entries: Sequence[Entry], splits: set[str]) -> tuple[Event, ...]:
    return merged(
        entry.event if entry.guarantee else UnprotectedEvent(entry.event.count)
        for entry in entries
        if entry.split in splits
    )


def _unbounded(entries: Iterable[Entry]) -> bool:
    return any(isinstance(e.event, UnprotectedEvent) or not e.guarantee for e in entries)


def _noise(event: Event) -> float:
    return 0.0 if isinstance(event, UnprotectedEvent) else event.noise_multiplier


def _louder(events: Iterable[Event], scale: float) -> list[Event]:
    return [
        event
        if isinstance(event, UnprotectedEvent)
        else replace(event, noise_multiplier=scale * event.noise_multiplier)
        for event in events
    ]


def _repeated(events: Iterable[Event], times: int) -> list[Event]:
    return [replace(event, count=event.count * times) for event in events] if times else []


def epsilon_by_rounds(
    releases: Sequence[Release], name: str, rounds: Iterable[int], delta: float
) -> tuple[tuple[int, float], ...]:
    """Compute what other numbers of rounds would cost at the planned noise.

    Args:
        releases: The releases of all rounds.
        name: The release that each round of training repeats.
        rounds: The numbers of rounds, from 0.
        delta: Delta that epsilon is read at.

    Returns:
        Pairs (rounds, epsilon) for a training patient of one clinic.
    """
    training = [release for release in releases if release.split == "train"]
    each = next(release.event for release in training if release.name == name)
    beside = [release.event for release in training if release.name != name]
    return tuple((n, epsilon([*beside, *_repeated([each], n)], delta)) for n in rounds)


def noise_by_epsilon(
    releases: Sequence[Release], name: str, epsilons: Iterable[float], delta: float
) -> tuple[tuple[float, float], ...]:
    """Compute the noise multiplier of a release that other epsilons would ask for.

    Args:
        releases: The releases of all rounds.
        name: The release.
        epsilons: Epsilons of the run, above zero.
        delta: Delta that they are read at.

    Returns:
        Pairs (epsilon, noise multiplier); all shares of the budget stay as planned.

    Raises:
        ConfigError: If the run promises nothing.
    """
    training = [release for release in releases if release.split == "train"]
    events = merged(release.event for release in training)
    noise = next(release.noise_multiplier for release in training if release.name == name)
    return tuple(
        (eps, noise * calibrate_noise(lambda scale: _louder(events, scale), eps, delta))
        for eps in epsilons
    )
