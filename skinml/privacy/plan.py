"""A run's releases, planned before the first one: names, sensitivities, noise, events.

Everything here follows from the public config alone, so that neighbouring cohorts run the same
schedule (pitfall: a size of private data inside the mechanism).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import isqrt, prod, sqrt

from skinml.errors import require_positive
from skinml.privacy.accounting import calibrate_noise, divergence, epsilon, gaussian_mu_for
from skinml.privacy.events import (
    DiscreteGaussianEvent,
    Event,
    GaussianEvent,
    SampledGaussianEvent,
    UnprotectedEvent,
)
from skinml.privacy.quantise import GRID
from skinml.privacy.settings import PrivacySettings
from skinml.privacy.trust import MOST_CLINICS
from skinml.records import ADMISSION_CELLS, EVERY_SPLIT

ADMISSIONS = "admissions"
STATISTICS = "statistics"
TEST_COUNTS = "test_counts"
# Kept free, as a part of epsilon, for the grids of a run's few small releases planned apart.
_SLACK_OF_OTHERS = 1e-6
# More noise than the closed form asks for: enough that the accountant, whatever the grids of the
# releases, agrees at once, so that a plan without features has the noise of its run.
_ROOM = 1e-5


@dataclass(frozen=True)
class Release:
    """One thing that leaves a clinic.

    Attributes:
        name: What it is, such as "gradient"; the key of the array in the message.
        purpose: "training", "label counts", "losses", "validation", "evaluation",
            "admissions" or "statistics".
        split: Which split of patients it reads, or `records.EVERY_SPLIT`.
        sensitivity: Greatest L2 change by one patient, after clipping; infinite where there is no
            bound, and so no noise.
        noise_multiplier: Noise standard deviation over sensitivity; 0 where nothing is promised.
        shape: Shape of the array that leaves.
        sampling_prob: Chance of each patient to be in the secret Poisson sample; 1 takes all.
        steps: Noisy steps inside this one release.
        grid: The sum consists of multiples of it and so does the noise; 0: both are continuous.
        noise_parts: At most how many parties' noise makes up what is promised.
    """

    name: str
    purpose: str
    split: str
    sensitivity: float
    noise_multiplier: float
    shape: tuple[int, ...]
    sampling_prob: float = 1.0
    steps: int = 1
    grid: float = 0.0
    noise_parts: int = 1

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise that is promised, in the units of the sum."""
        return self.noise_multiplier and self.sensitivity * self.noise_multiplier

    @cached_property
    def event(self) -> Event:
        """What the accountant is told of it; made once, for every round looks at all later ones."""
        if self.noise_multiplier == 0:
            return UnprotectedEvent(self.steps)
        if self.grid:
            std = self.sensitivity * self.noise_multiplier / self.grid
            return DiscreteGaussianEvent(
                self.noise_multiplier,
                grid_std=std / sqrt(self.noise_parts),
                shares=self.noise_parts,
                dimension=prod(self.shape),
                sampling_prob=self.sampling_prob,
                count=self.steps,
            )
        if self.sampling_prob == 1:
            return GaussianEvent(self.noise_multiplier, self.steps)
        return SampledGaussianEvent(self.noise_multiplier, self.sampling_prob, self.steps)


def gaussian_releases(
    settings: PrivacySettings, shares: Sequence[tuple[Release, float]]
) -> tuple[Release, ...]:
    """Give each of some unsampled releases the noise of its share of the budget.

    Args:
        settings: Epsilon, delta and trust model.
        shares: Each release (its noise multiplier is ignored) with its part of mu squared; the
            parts add up to 1.

    Returns:
        The releases with noise multipliers; all zero under trust "none".

    Guarantees:
        Composed, also with the run's `admissions_release`, they cost at most settings.epsilon at
        settings.delta.
    """
    if not settings.private:
        return tuple(replace(release, noise_multiplier=0.0) for release, _ in shares)
    parts = _noise_parts(settings)
    slack = sum(_slack(replace(release, noise_parts=parts)) for release, _ in shares)
    target = settings.epsilon * (1 - _SLACK_OF_OTHERS) - slack
    mu = gaussian_mu_for(target, settings.delta)
    scale = calibrate_noise(
        lambda s: [GaussianEvent(s)], target, settings.delta, guess=(1 + _ROOM) / mu
    )
    left = 1 - settings.admissions_share
    return tuple(
        replace(
            release,
            noise_multiplier=scale * sqrt(release.steps / (left * share)),
            noise_parts=parts,
        )
        for release, share in shares
    )


def _noise_parts(settings: PrivacySettings) -> int:
    return MOST_CLINICS if settings.trust == "distributed" else 1


def _slack(release: Release) -> float:
    """Bound by how much a release on a grid costs more than its Gaussian, as an epsilon.

    With any noise that a plan can ask for the grid is fine: the bound does not depend on it.
    """
    event = replace(release, noise_multiplier=1.0).event
    return 3 * divergence(event) if isinstance(event, DiscreteGaussianEvent) else 0.0


@lru_cache(maxsize=32)  # asked for in each round of each clinic
def admissions_release(settings: PrivacySettings) -> Release | None:
    """Plan the release of how many patients a gate admitted, and refused for which reason.

    Each patient of the clinic, of whichever split, is in one cell of `records.ADMISSION_CELLS`.

    Args:
        settings: Epsilon, delta, trust model and the release's share.

    Returns:
        The release, of L2 sensitivity 1; None where it has no share, or nothing is promised: then
        no count leaves.
    """
    if not (settings.private and settings.admissions_share):
        return None
    cells = (len(ADMISSION_CELLS),)
    release = Release(ADMISSIONS, ADMISSIONS, EVERY_SPLIT, 1.0, 0.0, cells, grid=GRID)
    alone = settings.model_copy(update={"admissions_share": 0.0})
    return gaussian_releases(alone, [(release, settings.admissions_share)])[0]


@lru_cache(maxsize=32)  # asked for in each round of each clinic
def evaluation_release(settings: PrivacySettings, shape: tuple[int, ...]) -> Release:
    """Plan the release of counts of test patients that the published figures are made of.

    Test patients are in no other split, so the whole budget stands open to it.

    Args:
        settings: Epsilon, delta and trust model.
        shape: The counts' shape.

    Returns:
        The release, of L2 sensitivity 1 over all counts together.
    """
    release = Release(TEST_COUNTS, "evaluation", "test", 1.0, 0.0, shape, grid=GRID)
    return gaussian_releases(settings, [(release, 1.0)])[0]


@lru_cache(maxsize=32)  # asked for in each round of each clinic
def statistics_release(settings: PrivacySettings, num_cells: int) -> Release:
    """Plan the one release of tables that patients of every split are counted in.

    Args:
        settings: Epsilon, delta and trust model.
        num_cells: Cells of all tables.

    Returns:
        The release, of L2 sensitivity 1 over all tables together where each patient counts
        `units_of_patient` in one cell of each table.
    """
    release = Release(STATISTICS, STATISTICS, EVERY_SPLIT, 1.0, 0.0, (num_cells,), grid=GRID)
    return gaussian_releases(settings, [(release, 1.0)])[0]


def units_of_patient(columns: int, max_clinics: int) -> int:
    """Weigh a patient who is counted once in each of several ways.

    A patient who moves each of G tables by at most w in the L1 norm moves all together by at most
    w times the root of G in the L2 norm, and so the weight is 1 over the root of G. Where the
    patient may be at K clinics, it is 1/K of that at each.

    Args:
        columns: In how many ways, G.
        max_clinics: At how many clinics the patient may be, K.

    Returns:
        The greatest weight, in units of `GRID`, for which G times its square times the square of K
        is at most 1, exactly.

    >>> units_of_patient(4, 1) * GRID
    0.5
    """
    require_positive(columns=columns, max_clinics=max_clinics)
    return isqrt(round(1 / GRID) ** 2 // (columns * max_clinics**2))


def by_split(releases: Iterable[Release]) -> dict[str, list[Release]]:
    """Sort releases by the patients whom they are about.

    Args:
        releases: Any releases.

    Returns:
        The releases of each split, those about every split among them.
    """
    chosen = list(releases)
    return {
        split: [release for release in chosen if release.split in (split, EVERY_SPLIT)]
        for split in dict.fromkeys(release.split for release in chosen)
    }


def sampled_releases(settings: PrivacySettings, release: Release, rounds: int) -> Release:
    """Give a release of sampled steps, repeated each round, the noise of the whole budget.

    Args:
        settings: Epsilon, delta and trust model.
        release: The release of one round (its noise multiplier is ignored).
        rounds: How often it is repeated.

    Returns:
        The release with its noise multiplier; zero under trust "none".

    Guarantees:
        All rounds composed, also with the run's `admissions_release`, cost at most
        settings.epsilon at settings.delta.
    """
    if not settings.private:
        return replace(release, noise_multiplier=0.0)
    admissions = admissions_release(settings)
    beside = [admissions.event] if admissions else []
    release = replace(release, noise_parts=_noise_parts(settings))
    every = replace(release, steps=rounds * release.steps)
    scale = calibrate_noise(
        lambda s: [*beside, replace(every, noise_multiplier=s).event],
        settings.epsilon,
        settings.delta,
    )
    return replace(release, noise_multiplier=scale)


def epsilon_across_clinics(
    releases: Iterable[Release], settings: PrivacySettings, max_clinics: int
) -> float:
    """Compute the run's epsilon for a patient whose data lie at several clinics.

    In one sum the patient moves it by k times the clip (noise multiplier divided by k); under
    local noise the k releases compose, which is k times as many events. With sampling each clinic
    draws the patient by itself: the sum's noise is that of k parts with a share of its variance
    each, and whoever saw the parts could add them up. Where the clip is divided by
    max_clinics_per_patient, one clinic's part is as much smaller against the noise.

    Args:
        releases: The run's releases about one split, see `by_split`.
        settings: Trust model, delta.
        max_clinics: The number k of clinics that hold the patient.

    Returns:
        Epsilon at settings.delta; infinity without a guarantee.
    """
    events = []
    for release in releases:
        noise = release.noise_multiplier * settings.max_clinics_per_patient
        one_sum = settings.trust != "local" and noise > 0
        if one_sum and release.sampling_prob == 1:
            one = replace(release, noise_multiplier=noise / max_clinics)
        else:
            share = sqrt(max_clinics) if one_sum else 1.0
            steps = release.steps * max_clinics
            one = replace(release, noise_multiplier=noise / share, steps=steps)
        events.append(one.event)
    return epsilon(events, settings.delta)
