"""How much a further run may spend under a ceiling, given what a ledger already holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import floor, sqrt

from skinml.errors import require_in_range, require_positive
from skinml.privacy.accounting import (
    CERTIFICATE_GRID,
    divergence,
    gaussian_mu,
    gaussian_mu_for,
    only_gaussians,
)
from skinml.privacy.closed_form import gaussian_epsilon
from skinml.privacy.events import DiscreteGaussianEvent, GaussianEvent
from skinml.privacy.headroom import Limit, most_epsilon
from skinml.privacy.ledger import Entry, compositions, spent

# What is left is told in steps of 0.01, rounded down.
_STEPS = 100
# The closed form is exact; the accountant, which decides, lies above it by less than this.
_MARGIN = 2 * CERTIFICATE_GRID
_READ_BY_A_RUN = ("train", "validation")


def epsilon_left(entries: Iterable[Entry], ceiling: float, delta: float) -> float:
    """Find the greatest epsilon of one more run that a ceiling has room for.

    The run is thought of as one that spends its whole epsilon on the training patients and again
    on the validation patients, by Gaussian releases without sampling and under the last split
    key, as the head's recipe does.

    Args:
        entries: What counts against the ceiling.
        ceiling: The greatest epsilon, above zero.
        delta: Delta of the ceiling and of the run.

    Returns:
        Epsilon in steps of 0.01, rounded down; 0 where nothing is left.

    Raises:
        ConfigError: If the ceiling or delta is outside its range.

    Example:
        >>> epsilon_left((), 2.5, 1e-5)
        2.5
    """
    require_positive(ceiling=ceiling)
    require_in_range(1e-300, 1 - 1e-12, delta=delta)
    held = tuple(entries)
    if spent(held, delta) >= ceiling - _MARGIN:
        return 0.0
    if only_gaussians(entry.event for entry in held) is None:
        limit = Limit("life", ceiling, "a ceiling", held)
        return floor(_STEPS * most_epsilon(limit, _one_more(held), delta)) / _STEPS
    # In closed form, for the accountant takes seconds where epsilon is great.
    grids = (entry.event for entry in held if isinstance(entry.event, DiscreteGaussianEvent))
    reach = ceiling - 2 * sum(map(divergence, grids))
    lefts = (_left(events, runs, reach, delta) for events, runs in _charged_with(held))
    return min(lefts) / _STEPS


def _charged_with(entries: Iterable[Entry]) -> list[tuple[list[GaussianEvent], int]]:
    """Pair the events that a next run adds to with how often it adds its whole epsilon."""
    found = {split: only_gaussians(events) or [] for split, events in compositions(entries).items()}
    if "" in found:
        return [(found[""], len(_READ_BY_A_RUN))]
    return [(found.get(split, []), 1) for split in _READ_BY_A_RUN]


def _left(events: Sequence[GaussianEvent], runs: int, ceiling: float, delta: float) -> int:
    """Find how many steps of epsilon can be added to Gaussians, so many times."""
    if not events:
        return floor(ceiling * _STEPS + 1e-9)
    room = gaussian_mu_for(ceiling - _MARGIN, delta) ** 2 - gaussian_mu(events) ** 2
    return floor(_STEPS * gaussian_epsilon(sqrt(room / runs), delta)) if room > 0 else 0


def _one_more(held: Sequence[Entry]) -> list[Entry]:
    """Write down a run beside others; how much noise it has is to be found."""
    return [
        replace(held[-1], name="any", split=split, event=GaussianEvent(1.0))
        for split in _READ_BY_A_RUN
    ]
