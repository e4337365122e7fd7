"""Group DRO: the groups with the larger loss count more, round by round.

The coordinator keeps a share q of each known group and multiplies it by exp(step times the group's
mean loss) in each round; a patient of a group of n then weighs q / n. The losses are a charged
release of their own beside each round's gradient: each patient adds its loss, cut at a public
bound, to the cell of its group, so that one patient moves the sums by at most that bound. So this
needs no trust model of its own: under each the losses have the noise that the gradients have.

Shapes in this file: p patients, g groups with "unknown" as the last, k classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skinml.privacy.quantise import GRID
from skinml.records import Arrays, FloatArray
from skinml.training.group_weights import (
    GROUP_SIZES,
    GROUP_WEIGHTS,
    GroupBalance,
    factors_of,
)

GROUP_LOSSES = "group_losses"
LOG_SHARES = "group_log_shares"


def loss_sums(
    chances: FloatArray, groups: NDArray[np.intp], num_groups: int, bound: float, share: float
) -> FloatArray:
    """Add up the patients' losses by group.

    Args:
        chances: (p,) the probability that the model gives to each patient's class; NaN where the
            weights overflowed.
        groups: (p,) each patient's group.
        num_groups: g.
        bound: Greatest loss of a patient, above zero; a larger one counts as it.
        share: Part of the bound that this clinic may use of one patient.

    Returns:
        (g,) sums of multiples of `GRID`.

    Guarantees:
        One patient adds at most share times bound to one number, exactly, and nothing to the
        others; what is not finite adds nothing.

    >>> loss_sums(np.array([1.0, 0.0]), np.array([0, 1]), 3, 2.0, 1.0).tolist()
    [0.0, 2.0, 0.0]
    """
    # Below the least positive number the logarithm would say that the loss is infinite.
    losses = -np.log(np.maximum(chances, np.finfo(np.float64).tiny))
    held = np.clip(np.where(np.isfinite(losses), losses, 0.0), 0.0, bound)
    units = np.trunc(share * held / GRID)
    limit = int(share * bound / GRID)
    return np.bincount(groups, np.minimum(units, limit), num_groups) * GRID


def start_of_shares(balance: GroupBalance) -> dict[str, FloatArray]:
    """Make the shares before the first round: all equal.

    Args:
        balance: How groups are weighed.

    Returns:
        "group_log_shares" (g - 1,), zeros.
    """
    return {LOG_SHARES: np.zeros(len(balance.names))}


def moved_shares(balance: GroupBalance, state: Arrays, losses: FloatArray) -> dict[str, FloatArray]:
    """Move the shares by the groups' released losses.

    Args:
        balance: How groups are weighed.
        state: The coordinator's "group_log_shares" and "group_sizes".
        losses: (g,) noised sums of losses, in patients; "unknown" has no share.

    Returns:
        The next "group_log_shares" and "group_weights": post-processing of released sums.

    Source:
        Sagawa et al. 2020, arXiv:1911.08731, Algorithm 1, with all patients in each step.
    """
    sizes = state[GROUP_SIZES][:-1]
    told, divisors = sizes > 0, np.where(sizes > 0, sizes, 1.0)
    mean = np.clip(losses[:-1] / divisors, 0.0, balance.losses or 0.0)
    logs = state[LOG_SHARES] + np.where(told, balance.step * mean, 0.0)
    logs = logs - logs.max()  # only their differences count
    weights = np.exp(logs) / divisors
    return {LOG_SHARES: logs, GROUP_WEIGHTS: factors_of(weights, sizes, balance.greatest_ratio)}
