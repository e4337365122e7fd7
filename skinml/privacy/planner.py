"""What a run would cost and how noisy it would be, from public figures alone.

Nothing here looks at a patient. The releases are those that the recipe itself plans, so that a
plan and the run after it cannot differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import sqrt

from skinml.errors import ConfigError, require_positive
from skinml.privacy.accounting import (
    CERTIFICATE_GRID,
    PLOT_GRID,
    calibrate_noise,
    epsilon,
    gaussian_mu,
    only_gaussians,
)
from skinml.privacy.events import Event, GaussianEvent, merged, with_noise_divided
from skinml.privacy.plan import Release, by_split, epsilon_across_clinics
from skinml.privacy.settings import PrivacySettings
from skinml.privacy.trust import noise_rule
from skinml.records import EVERY_SPLIT

_TRAINING = "train"


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
            noise_in_sum=factor * one.noise_std,
        )
        for one, count in times.items()
    )


def _share(release: Release, times: dict[Release, int]) -> float | None:
    split = _TRAINING if release.split == EVERY_SPLIT else release.split
    beside = [
        replace(one, steps=n) for one, n in times.items() if one.split in (split, EVERY_SPLIT)
    ]
    if release.noise_multiplier == 0:
        return None
    if len(beside) == 1:
        return 1.0
    gaussians = only_gaussians(one.event for one in beside)
    if gaussians is None:
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
    parts = by_split(releases).values()
    return tuple(
        Reading(reach, max(epsilon_across_clinics(part, settings, reach) for part in parts))
        for reach in sorted(reaches)
    )


def training_line(lines: Sequence[ReleaseLine]) -> ReleaseLine:
    """Choose the release that a round of training is about.

    Args:
        lines: The run's releases.

    Returns:
        The one about training patients that is repeated most often, the last of several.
    """
    training = [line for line in lines if line.split == _TRAINING]
    return max(reversed(training), key=lambda line: line.times)


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


def require_honest_clinics(settings: PrivacySettings, num_clinics: int) -> None:
    """Refuse a sum that too few honest clinics would protect, and say what would be possible.

    With t = k - dropouts the rule 2 t > k + c of secure sums is c + 2 dropouts < k; at least one of
    the t is honest then.

    Args:
        settings: Trust model, dropouts and colluding clinics.
        num_clinics: Clinics k in the run.

    Raises:
        ConfigError: If dropouts and colluding clinics are too many for k.

    Source:
        Bonawitz et al. 2017, section 5.2, for the bound against a coordinator that lies.
    """
    dropouts, colluding = settings.tolerated_dropouts, settings.colluding_clinics
    if settings.trust != "distributed" or colluding + 2 * dropouts < num_clinics:
        return
    spare = num_clinics - 2 * dropouts - 1
    nearest = (
        f"privacy.colluding_clinics={spare}"
        if spare >= 0
        else f"privacy.tolerated_dropouts={(num_clinics - 1) // 2} and privacy.colluding_clinics=0"
    )
    raise ConfigError(
        rule="more clinics in a sum than its colluding clinics and twice its dropouts, so that the "
        "honest ones protect it",
        got=f"{num_clinics} clinics, tolerated_dropouts={dropouts}, colluding_clinics={colluding}",
        do=f"The nearest possible: {nearest}, or a run of {2 * dropouts + colluding + 1} clinics.",
    )


def louder(events: Iterable[Event], scale: float) -> list[Event]:
    """Multiply the noise of events.

    Args:
        events: Any events; unprotected ones stay as they are.
        scale: The factor, above zero.

    Returns:
        The events with other noise.
    """
    return [with_noise_divided(event, 1 / scale) for event in events]


def repeated(events: Iterable[Event], times: int) -> list[Event]:
    """Let events happen several times.

    Args:
        events: Any events.
        times: How often, from 0.

    Returns:
        The events with their counts multiplied.

    Example:
        >>> repeated([GaussianEvent(2.0, 3)], 4)
        [GaussianEvent(noise_multiplier=2.0, count=12)]
    """
    return [replace(event, count=event.count * times) for event in events] if times else []


def epsilon_by_rounds(
    releases: Sequence[Release],
    name: str,
    rounds: Iterable[int],
    delta: float,
    *,
    grid: float = CERTIFICATE_GRID,
) -> tuple[tuple[int, float], ...]:
    """Compute what other numbers of rounds would cost at the planned noise.

    Args:
        releases: The releases of all rounds.
        name: The release that each round of training repeats.
        rounds: The numbers of rounds, from 0.
        delta: Delta that epsilon is read at.
        grid: Width of the privacy loss grid.

    Returns:
        Pairs (rounds, epsilon) for a training patient of one clinic.
    """
    training = by_split(releases)[_TRAINING]
    each = next(release.event for release in training if release.name == name)
    beside = [release.event for release in training if release.name != name]
    return tuple((n, epsilon([*beside, *repeated([each], n)], delta, grid=grid)) for n in rounds)


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
        Pairs (epsilon, noise multiplier) for a plot; all shares of the budget stay as planned.

    Raises:
        ConfigError: If the run promises nothing.
    """
    training = by_split(releases)[_TRAINING]
    events = merged(release.event for release in training)
    noise = next(release.noise_multiplier for release in training if release.name == name)
    scale, pairs = 1.0, []
    for eps in epsilons:  # each one's scale is near the last one's
        scale = calibrate_noise(
            lambda s: louder(events, s), eps, delta, guess=scale, grid=PLOT_GRID
        )
        pairs.append((eps, noise * scale))
    return tuple(pairs)
