"""How large a gap is by chance: what sampling alone makes of groups that truly have one figure.

A gap between the greatest and the least of several groups is never 0, and is large where groups
are small. What it would be with no true gap is found by drawing each group's figure around one
common value, with the sampling error that this very group would have there: its own number of
patients, its images of a patient, and how its own scores lie. Only the figures are taken to be
equal, not how scores or truths are distributed: two groups may have one AUROC and other scores, or
one net benefit at another prevalence.
Shapes: g groups, d draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skinml.fairness.sides import Side, correlation, is_bounded
from skinml.records import FloatArray


@dataclass(frozen=True)
class Null:
    """A statistic beside what it is by chance.

    Attributes:
        mean: Its mean with no true gap.
        high: Its 95th percentile with no true gap.
        excess: What was found less that mean.
        draws: Draws of all groups' figures.
    """

    mean: float
    high: float
    excess: float
    draws: int


def null_of(found: float, by_chance: FloatArray) -> Null | None:
    """Put a statistic beside its draws by chance.

    Args:
        found: The statistic, the greater the farther from no gap.
        by_chance: (d,) what it is in each draw; NaN where it is undefined.

    Returns:
        The reference; None where half of the draws have no value.
    """
    drawn = by_chance[np.isfinite(by_chance)]
    if drawn.size * 2 <= by_chance.size:
        return None
    return Null(
        mean=float(drawn.mean()),
        high=float(np.quantile(drawn, 0.95)),
        excess=found - float(drawn.mean()),
        draws=int(drawn.size),
    )


def chance_figures(
    metric: str, sides: Sequence[Side], draws: int, rng: np.random.Generator
) -> FloatArray:
    """Draw what groups' figures would be, were the true figure the same in all.

    Args:
        metric: The figure.
        sides: The groups.
        draws: Draws d.
        rng: The stream to draw from.

    Returns:
        (g, d); NaN for a group whose figure or error is not known. Draws are normal, cut to the
        figure's range, and correlated as far as groups share patients.
    """
    found = np.full((len(sides), draws), np.nan)
    told = [at for at, side in enumerate(sides) if side.value is not None]
    if not told:
        return found
    values = np.array([sides[at].value for at in told], dtype=float)
    # The errors at one value of all groups: a group that is all right is not without error.
    first = np.array([sides[at].error_at(float(values.mean())) for at in told])
    weights = np.where(np.isfinite(first) & (first > 0), 1 / np.maximum(first, 1e-12) ** 2, 0.0)
    if weights.sum() <= 0:
        return found
    common = float(weights @ values / weights.sum())
    errors = np.array([sides[at].error_at(common) for at in told])
    errors = np.where(np.isfinite(errors), errors, np.nan)
    drawn = common + errors[:, None] * _normal([sides[at] for at in told], draws, rng)
    found[told] = np.clip(drawn, 0.0, 1.0) if is_bounded(metric) else drawn
    return found


def _normal(sides: Sequence[Side], draws: int, rng: np.random.Generator) -> FloatArray:
    """(g, d) standard normal numbers, correlated as the groups' figures are."""
    ties = np.eye(len(sides))
    for one in range(len(sides)):
        for other in range(one):
            ties[one, other] = ties[other, one] = correlation(sides[one], sides[other])
    plain = rng.normal(size=(len(sides), draws))
    if np.array_equal(ties, np.eye(len(sides))):
        return plain
    # Correlations were estimated one by one: together they need not be possible.
    sizes, vectors = np.linalg.eigh(ties)
    root = vectors * np.sqrt(np.maximum(sizes, 0.0))
    scale = np.sqrt((root**2).sum(axis=1, keepdims=True))
    return np.asarray((root / scale) @ plain)
