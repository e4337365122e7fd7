"""The loop: one for a lone clinic, a simulation and a deployment alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from skinml.records import Arrays
from skinml.training.checkpoint import Progress
from skinml.training.learner import Learner, Round


@dataclass(frozen=True)
class Exchanged:
    """What came back from one round.

    Attributes:
        total: Sums over the clinics, with all noise that belongs in them.
        num_clinics: How many clinics are in the sums.
    """

    total: Arrays
    num_clinics: int


@dataclass(frozen=True)
class Fitted:
    """A trained model.

    Attributes:
        arrays: The model's arrays by name.
        history: For each round, public figures of the exchange.
    """

    arrays: Arrays
    history: tuple[Mapping[str, float], ...] = field(default=())


Exchange = Callable[[Round, Arrays], Exchanged]


def fit(
    learner: Learner,
    exchange: Exchange,
    on_round: Callable[[int, Mapping[str, float]], None] | None = None,
    *,
    resume: Progress | None = None,
    keep: Callable[[Progress], None] | None = None,
) -> Fitted:
    """Train a model over all rounds of its recipe.

    Args:
        learner: The recipe.
        exchange: Carries a query to the clinics and brings the sums back: by a function call, by
            a simulated or by a real network.
        on_round: Called after each round with its number and public figures.
        resume: Where an interrupted run of the same schedule stood; none: at the beginning.
        keep: Called after each round with where the run stands, before `on_round`.

    Returns:
        The model.

    Raises:
        SkinmlError: Whatever the exchange raises; of a broken run remains what was kept.

    Guarantees:
        A round that was interrupted is exchanged again as a whole: the clinics charge it again.
        The figures are functions of the released sums alone, and so cost no privacy.
    """
    done = Progress(0, learner.start()) if resume is None else resume
    state, history = done.state, list(done.history)
    for round_ in learner.rounds[done.rounds_done :]:
        answer = exchange(round_, learner.query(round_, state))
        state = learner.advance(round_, state, answer.total, answer.num_clinics)
        flat = np.concatenate([values.ravel() for values in answer.total.values()])
        figures = {
            "num_clinics": float(answer.num_clinics),
            "update_norm": float(np.linalg.norm(flat)),
        }
        history.append(figures)
        if keep is not None:
            keep(Progress(len(history), state, tuple(history)))
        if on_round is not None:
            on_round(round_.number, figures)
    return Fitted(learner.model(state), tuple(history))
