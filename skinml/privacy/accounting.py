"""What events cost, epsilon at a delta or the reverse, by dp-accounting's loss distributions.

The relation is always add-or-remove-one: neighbouring cohorts differ in all records of one
patient. Epsilons are recomputed from events and never summed.

Discrete Gaussian noise is accounted as a Gaussian with a little less noise, plus the divergences
that `skinml.privacy.discrete` bounds: an upper bound. Selections among repeated runs are composed
by Renyi differential privacy together with everything beside them, which is looser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from math import exp, inf, log, sqrt
from typing import Any

from scipy.optimize import brentq

from skinml.errors import ConfigError, require_in_range, require_positive
from skinml.privacy.closed_form import gaussian_delta, gaussian_epsilon
from skinml.privacy.discrete import (
    ROUNDING_VARIANCE,
    SAMPLER_DIVERGENCE,
    TAIL_CHANCE,
    rounding_divergence,
    sum_divergence,
)
from skinml.privacy.events import (
    DiscreteGaussianEvent,
    Event,
    GaussianEvent,
    RepeatAndSelectEvent,
    SampledGaussianEvent,
    UnprotectedEvent,
    merged,
)

# Grid of the privacy loss for figures that are stored or shown (notes of dp-accounting: an error
# of at most the interval per composed distribution, always on the safe side).
CERTIFICATE_GRID = 1e-4
PLOT_GRID = 1e-3  # coarser, for plots
# As coarse while searching: the answer is found again on the finer grid, from near by.
_SEARCH_GRID = 1e-3
_TOLERANCE = 1e-3
# Beyond it e^epsilon is no number any more, and no promise long before.
_GREATEST_EPSILON = 700.0
# Beyond it, as for a patient at fifty clinics, a grid for one Gaussian takes gigabytes: there the
# closed form stands in, which is exact.
_GREATEST_MU = 8.0
# No selection runs so many times its mean number of repetitions: the chance is below e**-100.
_LONGEST = 1000


def epsilon(events: Iterable[Event], delta: float, *, grid: float = CERTIFICATE_GRID) -> float:
    """Compute what all events together cost.

    Gaussian releases without sampling are first joined into the one Gaussian that they equal
    (Dong, Roth and Su 2019, Corollary 3.3), which is exact.

    Args:
        events: All releases about the same patients.
        delta: Delta to read epsilon at, above 0 and below 1.
        grid: Width of the privacy loss grid.

    Returns:
        Epsilon; 0 without events, infinity where one of them was unprotected.

    Raises:
        ConfigError: If delta is outside its range.

    Guarantees:
        An upper bound: the grid rounds the privacy loss upwards.

    Source:
        Koskela, Jalko and Honkela 2020, arXiv:1906.03049; Doroshenko et al. 2022,
        arXiv:2207.04380 (the accountant's pessimistic discretisation).

    Example:
        >>> round(epsilon([GaussianEvent(5.0, 50)], 1e-5), 2)
        6.57
    """
    require_in_range(1e-300, 1 - 1e-12, delta=delta)
    distinct = merged(events)
    if _unbounded(distinct):
        return inf
    reduced, slack, never = _reduced(distinct)
    if not reduced:
        return 0.0
    left = delta * exp(-slack) - never
    if never > 0 and left > 0:
        # As in `delta`; half of it gives an epsilon that the answer does not pass.
        cut = never * exp(min(_composed_epsilon(reduced, left / 2, grid), _GREATEST_EPSILON))
        left = left - cut if cut <= left / 2 else 0.0
    return _composed_epsilon(reduced, left, grid) + 2 * slack if left > 0 else inf


def delta(events: Iterable[Event], eps: float, *, grid: float = CERTIFICATE_GRID) -> float:
    """Compute with which chance all events together may cost more than an epsilon.

    Args:
        events: All releases about the same patients.
        eps: Epsilon to read delta at, zero or above.
        grid: Width of the privacy loss grid.

    Returns:
        Delta; 0 without events, 1 where one of them was unprotected.

    Raises:
        ConfigError: If epsilon is outside its range.

    Guarantees:
        An upper bound: the grid rounds the privacy loss upwards. Of `epsilon` it is the inverse up
        to the grid: delta(events, epsilon(events, d)) is at most d.

    Source:
        As for `epsilon`.

    Example:
        >>> round(delta([GaussianEvent(5.0, 50)], 6.573), 6)
        1e-05
    """
    require_in_range(0, _GREATEST_EPSILON, epsilon=eps)
    distinct = merged(events)
    if _unbounded(distinct):
        return 1.0
    reduced, slack, never = _reduced(distinct)
    if not reduced:
        return 0.0
    if eps < 2 * slack:
        return 1.0
    inner = eps - 2 * slack
    # The other cohort's ideal law is at most e^slack its drawn one + never, e^inner times.
    cut = (1 + exp(inner)) * never
    return min(1.0, exp(slack) * (_composed_delta(reduced, inner, grid) + cut))


def as_gaussian(event: DiscreteGaussianEvent) -> GaussianEvent | SampledGaussianEvent:
    """Find the Gaussian that a discrete one is as private as, up to its `divergence`.

    Args:
        event: A release on a grid.

    Returns:
        The event of a continuous Gaussian whose variance is smaller by four squared grid units.

    Source:
        See `skinml.privacy.discrete.rounding_divergence`.

    Example:
        >>> as_gaussian(DiscreteGaussianEvent(1.0, grid_std=8.0, shares=1, dimension=1))
        GaussianEvent(noise_multiplier=0.9682458365518543, count=1)
    """
    variance = event.shares * event.grid_std**2
    noise = event.noise_multiplier * sqrt(1 - ROUNDING_VARIANCE / variance)
    if event.sampling_prob == 1:
        return GaussianEvent(noise, event.count)
    return SampledGaussianEvent(noise, event.sampling_prob, event.count)


def only_gaussians(events: Iterable[Event]) -> list[GaussianEvent] | None:
    """Read events as Gaussians without sampling, for what their closed form answers at once.

    Args:
        events: Any events.

    Returns:
        One Gaussian event for each, discrete ones by `as_gaussian` and so without their
        divergence; None where an event is of another kind.
    """
    found: list[GaussianEvent] = []
    for event in merged(events):
        one = as_gaussian(event) if isinstance(event, DiscreteGaussianEvent) else event
        if not isinstance(one, GaussianEvent):
            return None
        found.append(one)
    return found


def divergence(event: DiscreteGaussianEvent) -> float:
    """Bound how far releases on a grid are from post-processed Gaussians, all counted.

    Args:
        event: Releases on a grid.

    Returns:
        The max-divergence, either way: of the shares' sum, the rounding and the sampler.
    """
    each = (
        sum_divergence(event.grid_std, event.shares)
        + rounding_divergence(event.grid_std * sqrt(event.shares))
        + event.shares * SAMPLER_DIVERGENCE
    )
    return event.count * event.dimension * each


_Accountable = GaussianEvent | SampledGaussianEvent | RepeatAndSelectEvent


def _unbounded(events: Iterable[Event]) -> bool:
    """Tell whether nothing bounds what happened; `merged` has opened the compositions."""
    return any(
        isinstance(event, UnprotectedEvent)
        or (isinstance(event, RepeatAndSelectEvent) and _unbounded(merged([event.event])))
        for event in events
    )


def _reduced(events: Iterable[Event]) -> tuple[tuple[_Accountable, ...], float, float]:
    """Turn discrete events into Gaussians; add up their divergence and what is never drawn."""
    slack = never = 0.0
    gaussians: list[GaussianEvent] = []
    others: list[_Accountable] = []
    for event in events:
        if isinstance(event, DiscreteGaussianEvent):
            slack += divergence(event)
            never += event.count * event.dimension * event.shares * TAIL_CHANCE
            event = as_gaussian(event)
        if isinstance(event, GaussianEvent):
            gaussians.append(event)
        elif isinstance(event, RepeatAndSelectEvent):
            _, inner_slack, inner_never = _reduced(merged([event.event]))
            slack += event.count * event.mean * _LONGEST * inner_slack
            never += event.count * event.mean * _LONGEST * inner_never
            others.append(event)
        elif isinstance(event, SampledGaussianEvent) and event.sampling_prob > 0:
            others.append(event)
    # One Gaussian equals them all, whatever their number; an event more tells nothing else.
    joined = [GaussianEvent(1 / gaussian_mu(gaussians))] if gaussians else []
    return (*joined, *others), slack, never


@lru_cache(maxsize=256)  # every clinic of a run asks the same
def _composed_epsilon(events: tuple[_Accountable, ...], delta: float, grid: float) -> float:
    first, *others = events
    if isinstance(first, GaussianEvent) and not others:
        mu = gaussian_mu([first])
        if mu > _GREATEST_MU:
            return gaussian_epsilon(mu, delta)
    return float(_composed(events, grid).get_epsilon(delta))


@lru_cache(maxsize=256)
def _composed_delta(events: tuple[_Accountable, ...], eps: float, grid: float) -> float:
    return float(_composed(events, grid).get_delta(eps))


@lru_cache(maxsize=2)  # some megabytes each; epsilon and delta of the same events need one
def _composed(events: tuple[_Accountable, ...], grid: float) -> Any:
    # Imported here: dp-accounting takes a second to load, and most commands never need it.
    from dp_accounting import privacy_accountant
    from dp_accounting.pld import pld_privacy_accountant
    from dp_accounting.rdp import rdp_privacy_accountant

    relation = privacy_accountant.NeighboringRelation.ADD_OR_REMOVE_ONE
    selecting = any(isinstance(event, RepeatAndSelectEvent) for event in events)
    accountant = (
        rdp_privacy_accountant.RdpAccountant(neighboring_relation=relation)
        if selecting
        else pld_privacy_accountant.PLDAccountant(relation, value_discretization_interval=grid)
    )
    for event in events:
        accountant.compose(_vendor_event(event), event.count)
    return accountant


def _vendor_event(event: _Accountable) -> Any:
    """Say one of several equal events in dp-accounting's words."""
    from dp_accounting import dp_event

    if isinstance(event, RepeatAndSelectEvent):
        inner, _, _ = _reduced(merged([event.event]))
        parts = [dp_event.SelfComposedDpEvent(_vendor_event(one), one.count) for one in inner]
        return dp_event.RepeatAndSelectDpEvent(
            dp_event.ComposedDpEvent(parts), event.mean, event.shape
        )
    noise = dp_event.GaussianDpEvent(event.noise_multiplier)
    if isinstance(event, SampledGaussianEvent):
        return dp_event.PoissonSampledDpEvent(event.sampling_prob, noise)
    return noise


def gaussian_mu(events: Iterable[GaussianEvent]) -> float:
    """Compute the mu of Gaussian differential privacy that Gaussian releases add up to.

    Args:
        events: Gaussian releases without sampling.

    Returns:
        The root of the sum of 1 / noise_multiplier squared over all releases.

    Source:
        Dong, Roth and Su 2019, arXiv:1905.02383, Corollary 3.3.
    """
    return sqrt(sum(event.count / event.noise_multiplier**2 for event in events))


def gaussian_mu_for(eps: float, delta: float) -> float:
    """Find the greatest mu whose delta at epsilon is within the target, in closed form.

    Args:
        eps: Target epsilon, above zero.
        delta: Target delta, above 0 and below 1.

    Returns:
        Mu of Gaussian differential privacy.

    Raises:
        ConfigError: If epsilon or delta is outside its range.
    """
    require_positive(epsilon=eps)
    require_in_range(1e-300, 1 - 1e-12, delta=delta)

    def excess(log_mu: float) -> float:
        return gaussian_delta(exp(log_mu), eps) - delta

    # From 1e-6 (no loss to speak of) to 2 (eps + 10): delta is near 1 there for any epsilon.
    return exp(float(brentq(excess, log(1e-6), log(2 * (eps + 10)), xtol=1e-12)))


def calibrate_noise(
    events_at: Callable[[float], Iterable[Event]],
    eps: float,
    delta: float,
    *,
    guess: float = 1.0,
    grid: float = CERTIFICATE_GRID,
) -> float:
    """Find the least noise that keeps a schedule within a target.

    Args:
        events_at: The schedule's events for a noise scale; more noise at a greater scale.
        eps: Target epsilon, above zero.
        delta: Target delta.
        guess: Where to begin: the nearer to the answer, the quicker.
        grid: Width of the privacy loss grid; a wider one than the default asks for a little more
            noise, which is enough for a plot.

    Returns:
        The scale, at most 0.1% above the least one on that grid.

    Raises:
        ConfigError: If no scale up to a million times the guess reaches the target.

    Guarantees:
        epsilon(events_at(scale), delta) is at most eps.
    """
    require_positive(epsilon=eps, guess=guess)

    def within(scale: float, width: float) -> bool:
        return epsilon(events_at(scale), delta, grid=width) <= eps

    what = "amount of noise"
    near = _least(lambda scale: within(scale, max(grid, _SEARCH_GRID)), guess, eps, delta, what)
    if grid >= _SEARCH_GRID:
        return near
    # The coarse grid asks for too much noise, most so where epsilon is small.
    return _least(lambda scale: within(scale, grid), near, eps, delta, what)


def calibrate_rounds(
    events_of: Callable[[int], Iterable[Event]],
    eps: float,
    delta: float,
    *,
    most: int = 1_000_000,
) -> int:
    """Find how many rounds fit into a budget at a given noise.

    Args:
        events_of: All events for a number of rounds, those beside the rounds included; with 0
            rounds the latter alone.
        eps: Target epsilon, above zero.
        delta: Target delta.
        most: Where the search ends, from 1.

    Returns:
        The greatest whole number of rounds, 0 where one is too many; most where that many fit.

    Raises:
        ConfigError: If already what stands beside the rounds passes the target.

    Guarantees:
        epsilon(events_of(rounds), delta) is at most eps.

    Example:
        >>> calibrate_rounds(lambda n: [GaussianEvent(5.0, n)] if n else [], 6.6, 1e-5)
        50
    """
    require_positive(epsilon=eps, most=most)

    def within(rounds: int, grid: float) -> bool:
        return epsilon(events_of(rounds), delta, grid=grid) <= eps

    if not within(0, CERTIFICATE_GRID):
        raise ConfigError(
            rule="a budget that the releases beside the rounds can keep",
            got=f"privacy.epsilon={eps:g} at delta={delta:g}",
            do="Raise privacy.epsilon, or plan fewer releases beside the rounds.",
        )
    near = _greatest(lambda rounds: within(rounds, _SEARCH_GRID), 0, most)
    return _greatest(lambda rounds: within(rounds, CERTIFICATE_GRID), near, most)


def calibrate_sampling(
    events_at: Callable[[float], Iterable[Event]], eps: float, delta: float
) -> float:
    """Find the greatest sampling rate that keeps a schedule of given noise within a target.

    Args:
        events_at: The schedule's events for a sampling rate above 0 and at most 1; they cost more
            at a greater rate.
        eps: Target epsilon, above zero.
        delta: Target delta.

    Returns:
        The rate, at most 0.1% below the greatest one; 1 where everybody may be in every sample.

    Raises:
        ConfigError: If no rate down to a millionth reaches the target.

    Guarantees:
        epsilon(events_at(rate), delta) is at most eps. It bounds the run only while the samples
        are Poisson, one draw a patient, and secret to the clinic.
    """
    require_positive(epsilon=eps)

    def within(inverse: float, grid: float) -> bool:
        return epsilon(events_at(min(1.0, 1 / inverse)), delta, grid=grid) <= eps

    if within(1.0, CERTIFICATE_GRID):
        return 1.0
    what = "sampling rate"
    near = _least(lambda inverse: within(inverse, _SEARCH_GRID), 1.0, eps, delta, what)
    least = _least(lambda inverse: within(inverse, CERTIFICATE_GRID), near, eps, delta, what)
    return min(1.0, 1 / least)


def _greatest(within: Callable[[int], bool], guess: int, most: int) -> int:
    """Find the greatest number that is within, where 0 is; gallop from the guess, then halve."""
    low, high, step = guess, most + 1, 1
    while low > 0 and not within(low):
        low, high, step = max(0, low - step), low, 2 * step
    while high - low > 1:
        middle = min(low + step, (low + high) // 2)
        if within(middle):
            low, step = middle, 2 * step
        else:
            high = middle
    return low


def _least(
    within: Callable[[float], bool], guess: float, eps: float, delta: float, what: str
) -> float:
    """Find the least scale that is enough, up to the tolerance and never below it."""
    low, high = _bracket(within, guess, eps, delta, what)
    while high / low > 1 + 1.001 * _TOLERANCE:
        middle = sqrt(low * high)
        low, high = (low, middle) if within(middle) else (middle, high)
    return high


def _bracket(
    within: Callable[[float], bool], guess: float, eps: float, delta: float, what: str
) -> tuple[float, float]:
    """Gallop from the guess until one scale is too small and the other is not."""
    step = 1 + _TOLERANCE
    enough = within(guess)
    low = high = guess
    while True:
        if enough:
            low, high = low / step, low
            if not within(low):
                return low, high
        else:
            low, high = high, high * step
            if within(high):
                return low, high
        step = min(step**2, 2.0)
        if high > 1e6 * guess or low < 1e-6 * guess:
            raise ConfigError(
                rule=f"a budget that some {what} can just keep",
                got=f"privacy.epsilon={eps:g} at delta={delta:g}",
                do="Raise privacy.epsilon, or plan fewer releases.",
            )
