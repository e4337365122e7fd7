"""Items that a figure cannot tell apart, joined to one row: resampling costs by rows, not items.

All that a replicate changes is how much of each row there is. One sparse product of the patients'
weights with what each patient has in each row gives it, whatever number of figures is read off
afterwards. A figure's own value is computed on the items themselves.
Shapes: n items, m patients, r rows, b replicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.sparse import csc_array

from skinml.fairness.cells import Cell
from skinml.records import BoolArray, FloatArray, IntArray

LEVELS = 1000
"""Greatest number of score levels. Up to as many distinct scores nothing is lost; beyond that a
replicate's AUROC takes scores of one level as tied, which moves it by well under 0.001, and the
shift is taken off."""


class Weighable(Protocol):
    """What turns weights of patients to weights of whatever a statistic sums over."""

    def weigh(self, weights: FloatArray) -> FloatArray:
        """(m, b) weights of patients to (r, b) weights of rows."""


@dataclass(frozen=True)
class ScoreRows:
    """Items of equal truth, alarm and score level.

    Attributes:
        levels: (r,) rank of the score.
        scores: (r,) mean score.
        truth: (r,) whether the item is a positive.
        alarms: (r,) whether it is called one.
        losses: (r,) mean squared difference of score and truth.
        exact: Whether each level is a single score.
        sums: (r, m) what each patient has in each row.
    """

    levels: IntArray
    scores: FloatArray
    truth: BoolArray
    alarms: BoolArray
    losses: FloatArray
    exact: bool
    sums: csc_array

    def weigh(self, weights: FloatArray) -> FloatArray:
        """(m, b) weights of patients to (r, b) weights of rows."""
        return np.asarray(self.sums @ weights)


@dataclass(frozen=True)
class LabelRows:
    """Items of equal label, decision right or wrong, and rank of the true class.

    Attributes:
        labels: (r,) index of the true class.
        right: (r,) whether the decided class is the true one.
        ranks: (r,) how many classes were given a higher probability than the true one.
        sums: (r, m) what each patient has in each row.
    """

    labels: IntArray
    right: BoolArray
    ranks: IntArray
    sums: csc_array

    def weigh(self, weights: FloatArray) -> FloatArray:
        """(m, b) weights of patients to (r, b) weights of rows."""
        return np.asarray(self.sums @ weights)


def score_rows(
    cell: Cell, scores: FloatArray, truth: BoolArray, edges: Sequence[float] = ()
) -> ScoreRows:
    """Join items by truth, alarm and level of a score.

    Args:
        cell: The items of a group.
        scores: (n,) the score.
        truth: (n,) whether the item is a positive.
        edges: Scores at which decisions change; no level holds items on both sides of one.

    Returns:
        The rows, at most four a level.
    """
    levels, exact = _levels(scores, edges)
    key = (levels * 2 + truth) * 2 + cell.alarms
    row_of, sums, first = _join(cell, key)
    items = np.bincount(row_of)
    losses = np.bincount(row_of, weights=(scores - truth) ** 2) / items
    means = np.bincount(row_of, weights=scores) / items
    # Rounding must not carry the mean of equal scores across an edge.
    least, most = np.full(len(items), np.inf), np.full(len(items), -np.inf)
    np.minimum.at(least, row_of, scores)
    np.maximum.at(most, row_of, scores)
    means = np.clip(means, least, most)
    return ScoreRows(levels[first], means, truth[first], cell.alarms[first], losses, exact, sums)


def label_rows(cell: Cell) -> LabelRows:
    """Join items by label, decision and rank of the true class.

    Args:
        cell: The items of a group.

    Returns:
        The rows. A class of equal probability counts as ranked before the true one.
    """
    own = cell.probabilities[np.arange(len(cell.labels)), cell.labels]
    # The true class itself is among those that are not below it.
    ranks = (cell.probabilities >= own[:, None]).sum(axis=1) - 1
    right = cell.decisions == cell.labels
    key = (cell.labels * len(cell.names) + ranks) * 2 + right
    _, sums, first = _join(cell, key)
    return LabelRows(cell.labels[first], right[first], ranks[first], sums)


def _levels(scores: FloatArray, edges: Sequence[float]) -> tuple[IntArray, bool]:
    """Rank the scores, or where there are too many put equally many on each level."""
    distinct, ranks = np.unique(scores, return_inverse=True)
    if len(distinct) <= LEVELS:
        return ranks.reshape(-1), True
    cuts = np.quantile(scores, np.arange(1, LEVELS) / LEVELS, method="inverted_cdf")
    cuts = np.unique(np.concatenate([cuts, np.asarray(edges, dtype=float)]))
    # A level begins with its cut: an item at an edge is above it.
    return np.searchsorted(cuts, scores, side="right"), False


def _join(cell: Cell, key: IntArray) -> tuple[IntArray, csc_array, IntArray]:
    """Number the rows; also what each patient has in each, and an item of each."""
    _, first, row_of = np.unique(key, return_index=True, return_inverse=True)
    row_of = row_of.reshape(-1)
    sums = csc_array((cell.weights, (row_of, cell.patients)), shape=(len(first), cell.num_patients))
    return row_of, sums, first
