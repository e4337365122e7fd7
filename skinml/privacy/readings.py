"""What a composition says beside its epsilon: to somebody who guesses, and if a patient is swapped.

An epsilon alone gives loose answers to such questions. The trade-off between false alarms and
misses, which the events themselves determine, gives tight ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import exp, expm1, inf, log

from scipy.optimize import minimize_scalar

from skinml.errors import require_in_range
from skinml.privacy.accounting import delta, epsilon, gaussian_mu
from skinml.privacy.closed_form import gaussian_epsilon
from skinml.privacy.events import (
    DiscreteGaussianEvent,
    Event,
    GaussianEvent,
    merged,
    with_noise_divided,
)
from skinml.privacy.ledger import Entry, compositions

# Beyond it the chance of a greater loss is below what double precision can tell.
_GREATEST_EPSILON = 50.0
_NEAR_ZERO = (1e-9, 1e-7, 1e-5, 1e-3)
_GREATEST_LOSS = 20.0
_FIRST_STEP, _GROWTH, _TOLERANCE = 0.05, 1.1, 1e-4


def advantage(entries: Iterable[Entry]) -> float:
    """Bound by how much a guess about one patient can beat a coin.

    Somebody knows everything but whether one patient took part, which is as likely as not, sees
    all of these releases and guesses. The best guess is right with chance (1 + advantage) / 2.
    The advantage is the total variation distance of the two outcomes, which is delta at epsilon 0.

    Args:
        entries: Entries of one ledger.

    Returns:
        From 0 (a coin) to 1 (certainty); the greatest over the patients who compose differently.

    Guarantees:
        An upper bound. For Gaussian differential privacy mu it is 2 Phi(mu / 2) - 1 up to the
        accountant's grid.

    Source:
        Kairouz, Oh and Viswanath 2015, arXiv:1311.0776, Theorem 2.1; Dong, Roth and Su 2019,
        arXiv:1905.02383, section 2.
    """
    found = compositions(entries).values()
    return max((_distance(merged(events)) for events in found), default=0.0)


def _distance(events: Sequence[Event]) -> float:
    # e^epsilon - 1 + delta bounds it for each epsilon; at 0 itself discrete noise, whose bounds
    # have a little slack, has no delta below 1.
    return min(1.0, *(expm1(eps) + delta(events, eps) for eps in (0.0, *_NEAR_ZERO)))


def recognised(entries: Iterable[Entry], false_alarms: float) -> float:
    """Bound which share of the patients who took part a test can recognise.

    Args:
        entries: Entries of one ledger.
        false_alarms: Share of those who did not take part that the test suspects, above 0 and
            below 1.

    Returns:
        The greatest share of those who did; false_alarms where nothing was released.

    Raises:
        ConfigError: If false_alarms is outside its range.

    Guarantees:
        An upper bound: e^epsilon false_alarms + delta(epsilon) bounds it for each epsilon, and the
        least of these bounds is returned.

    Source:
        Wasserman and Zhou 2010, arXiv:0811.2501, Theorem 2.4; Dong, Roth and Su 2019, Proposition
        2.5: the least over all epsilons is the trade-off function.
    """
    require_in_range(1e-300, 1 - 1e-12, false_alarms=false_alarms)
    found = compositions(entries).values()
    return max((_power(merged(events), false_alarms) for events in found), default=false_alarms)


def _power(events: Sequence[Event], false_alarms: float) -> float:
    def alarms(eps: float) -> float:
        return exp(eps) * false_alarms + delta(events, eps)

    def misses(eps: float) -> float:  # the same bound of the mirrored test
        return 1 - exp(-eps) * max(0.0, 1 - false_alarms - delta(events, eps))

    # Each has one valley. Wherever the search ends in it, what it found is a bound.
    valleys = ((alarms, -log(false_alarms)), (misses, _GREATEST_LOSS))
    found = (
        minimize_scalar(bound, bounds=(0.0, end), method="bounded", options={"xatol": 2e-3}).fun
        for bound, end in valleys
    )
    return float(min(1.0, *found))


def replace_one_epsilon(entries: Iterable[Entry], at_delta: float) -> float:
    """Compute epsilon for neighbours where one patient's records are replaced by another's.

    Args:
        entries: Entries of one ledger.
        at_delta: Delta to read epsilon at, above 0 and below 1.

    Returns:
        Epsilon; infinite where one release had no secret noise.

    Guarantees:
        An upper bound. Sums without sampling move by up to twice their sensitivity, which is as
        if they had half the noise; where patients were sampled, one was removed and another
        added, by the group privacy of two.

    Source:
        Dwork and Roth 2014, Theorem 2.2, for groups.
    """
    found = compositions(entries).values()
    return max((_replaced(merged(events), at_delta) for events in found), default=0.0)


def _replaced(events: Sequence[Event], at_delta: float) -> float:
    gaussians = [event for event in events if isinstance(event, GaussianEvent)]
    if len(gaussians) == len(events):  # in closed form: the accountant takes seconds for much loss
        return gaussian_epsilon(2 * gaussian_mu(gaussians), at_delta)
    if all(_is_plain_sum(event) for event in events):
        return epsilon([with_noise_divided(event, 2) for event in events], at_delta)

    if delta(events, 0.0) == 0:
        return 0.0

    def within(eps: float) -> bool:
        return (1 + exp(eps)) * delta(events, eps) <= at_delta

    # Any epsilon that is within is a bound; the accountant's cut tails let none be from some on.
    low, high = 0.0, _FIRST_STEP
    while not within(high):
        low, high = high, high * _GROWTH
        if high > _GREATEST_EPSILON:
            return inf
    while high - low > _TOLERANCE:
        middle = (low + high) / 2
        low, high = (low, middle) if within(middle) else (middle, high)
    return 2 * high


def _is_plain_sum(event: Event) -> bool:
    match event:
        case GaussianEvent():
            return True
        case DiscreteGaussianEvent():
            return event.sampling_prob == 1
        case _:
            return False
