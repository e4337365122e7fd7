"""Adaptive steps at the coordinator: FedAdam and FedYogi, taken on sums that have their noise.

They read nothing but what was released and what follows from it, so that they cost no privacy.
Their moments are arrays of the learner's state: a checkpoint of the state holds them too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from skinml.errors import require_in_range, require_one_of, require_positive
from skinml.records import Arrays, FloatArray

FIRST_MOMENT = "server/first moment of "
SECOND_MOMENT = "server/second moment of "
ADAPTIVE = ("fedadam", "fedyogi")
SLOWEST_DECAY = 0.99999
"""Greatest decay of a moment: with 1 it would never move."""


@dataclass(frozen=True)
class ServerOptimiser:
    """How the coordinator turns the clinics' move into its own step.

    Attributes:
        name: "fedadam" or "fedyogi".
        learning_rate: Step eta of the coordinator, above zero.
        beta_1: Decay of the first moment, from 0 to `SLOWEST_DECAY`.
        beta_2: Decay of the second moment, from 0 to `SLOWEST_DECAY`.
        tau: Added to the root of the second moment, above zero; its square is where the second
            moment begins.
    """

    name: Literal["fedadam", "fedyogi"]
    learning_rate: float
    beta_1: float = 0.9
    beta_2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        """Refuse what the paper's algorithm does not know."""
        require_one_of(ADAPTIVE, name=self.name)
        require_positive(learning_rate=self.learning_rate, tau=self.tau)
        require_in_range(0.0, SLOWEST_DECAY, beta_1=self.beta_1, beta_2=self.beta_2)


def with_moments(optimiser: ServerOptimiser, state: Arrays, names: Iterable[str]) -> Arrays:
    """Put the moments before the first step into a learner's state.

    Args:
        optimiser: The optimiser.
        state: The learner's state.
        names: The arrays of the state that the optimiser moves.

    Returns:
        The state with two more float64 arrays for each name: zeros, and tau squared.
    """
    begun: dict[str, FloatArray] = {}
    for name in names:
        begun[FIRST_MOMENT + name] = np.zeros(state[name].shape)
        begun[SECOND_MOMENT + name] = np.full(state[name].shape, optimiser.tau**2)
    return dict(state) | begun


def without_moments(state: Arrays) -> Arrays:
    """Take the moments out of a state: they go to no clinic and into no model.

    Args:
        state: A learner's state.

    Returns:
        The other arrays.
    """
    ours = (FIRST_MOMENT, SECOND_MOMENT)
    return {name: values for name, values in state.items() if not name.startswith(ours)}


def optimised(optimiser: ServerOptimiser, state: Arrays, moves: Arrays) -> dict[str, FloatArray]:
    """Take one adaptive step.

    Args:
        optimiser: The optimiser.
        state: The learner's state, with the moments of each array that is moved.
        moves: By name, how far the clinics together would move each array: the pseudo-gradient
            Delta of the paper, for a head the negative gradient step.

    Returns:
        The moved arrays in their own type, and their moments; to be put into the state.

    Guarantees:
        A function of its arguments alone: where the moves are released, or follow from released
        sums, it is post-processing.

    Source:
        Reddi et al. 2021, arXiv:2003.00295, Algorithm 2, without a correction of the bias, which
        the algorithm does not have: its second moment begins at tau squared.

    Example:
        >>> adam = ServerOptimiser("fedadam", learning_rate=1.0, beta_1=0.0, beta_2=0.0)
        >>> state = with_moments(adam, {"weight": np.zeros(1)}, ["weight"])
        >>> optimised(adam, state, {"weight": np.array([3.0])})["weight"].round(3).tolist()
        [1.0]
    """
    changed: dict[str, FloatArray] = {}
    for name, move in moves.items():
        delta, old = move.astype(np.float64), state[SECOND_MOMENT + name]
        squared, rest = np.square(delta), 1 - optimiser.beta_2
        first = optimiser.beta_1 * state[FIRST_MOMENT + name] + (1 - optimiser.beta_1) * delta
        if optimiser.name == "fedadam":
            second = optimiser.beta_2 * old + rest * squared
        else:
            second = old - rest * squared * np.sign(old - squared)
        step = optimiser.learning_rate * first / (np.sqrt(second) + optimiser.tau)
        changed[name] = (state[name] + step).astype(state[name].dtype)
        changed[FIRST_MOMENT + name] = first
        changed[SECOND_MOMENT + name] = second
    return changed
