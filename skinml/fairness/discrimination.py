"""The area under the ROC curve for many weightings of the same items at once.

Shapes: n items, b weightings, u distinct scores.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from skinml.errors import require_same_length
from skinml.records import BoolArray, FloatArray

# (n, b) weights of the items -> (b,) values; NaN where a weighting leaves the value undefined.
Statistic = Callable[[FloatArray], FloatArray]


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Divide, with NaN where the denominator is zero.

    Args:
        numerator: Any shape.
        denominator: The same shape.

    Returns:
        The quotients, NaN where undefined.
    """
    defined = denominator != 0
    result = np.full(np.shape(denominator), np.nan)
    np.divide(numerator, denominator, out=result, where=defined)
    return result


def auroc_statistic(scores: FloatArray, positive: BoolArray) -> Statistic:
    """Prepare the area under the ROC curve of fixed scores for any weights.

    Args:
        scores: (n,) higher means more likely positive; ties count one half.
        positive: (n,) the truth.

    Returns:
        A function of (n, b) weights to (b,) areas from 0 to 1; NaN where one class has no weight.

    Raises:
        DataError: If the arrays differ in length.

    Source:
        Mann and Whitney 1947: the weighted share of pairs in the right order.

    >>> area = auroc_statistic(np.array([0.1, 0.4, 0.8]), np.array([False, True, True]))
    >>> area(np.ones((3, 1))).tolist()
    [1.0]
    """
    require_same_length(scores=scores, positive=positive)
    order = np.argsort(scores, kind="stable")
    ranked, truth = scores[order], positive[order]
    level = np.concatenate([[0], np.cumsum(ranked[1:] != ranked[:-1])]).astype(np.intp)
    up, down = order[truth], order[~truth]
    up_level, down_level = level[truth], level[~truth]
    # Cumulative negatives are read off at these positions: below the level, and up to it.
    below = np.searchsorted(down_level, up_level, side="left")
    upto = np.searchsorted(down_level, up_level, side="right")

    def area(weights: FloatArray) -> FloatArray:
        cumulative = np.zeros((len(down) + 1, weights.shape[1]))
        np.cumsum(weights[down], axis=0, out=cumulative[1:])
        ups = weights[up]
        won = np.einsum("ib,ib->b", ups, cumulative[below])
        won += np.einsum("ib,ib->b", ups, cumulative[upto])
        return ratio(0.5 * won, ups.sum(axis=0) * cumulative[-1])

    return area
