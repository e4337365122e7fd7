"""DeLong's variance of the area under the ROC curve: a cross-check of the bootstrap.

It takes items as independent, so that it holds where each patient has one item.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

from skinml.errors import DataError, require_same_length
from skinml.records import BoolArray, Estimate, FloatArray

METHOD = "DeLong 1988"
NO_WIDTH = "DeLong's variance is 0 where the classes are apart, or with one item of a class"


def delong(scores: FloatArray, positive: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Compute the areas of several scores on the same items, and their covariance.

    Args:
        scores: (k, n) k scores of each item; higher means more likely positive.
        positive: (n,) the truth; at least one item of each.

    Returns:
        (k,) areas, ties counting one half, and (k, k) their covariance; NaN where a truth has
        one item only.

    Raises:
        DataError: If lengths differ or a truth has no item.

    Source:
        DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44:837; by ranks as in Sun and Xu 2014,
        IEEE Signal Processing Letters 21:1389.
    """
    require_same_length(scores=scores.T, positive=positive)
    ups, downs = scores[:, positive], scores[:, ~positive]
    num_up, num_down = ups.shape[1], downs.shape[1]
    if min(num_up, num_down) == 0:
        raise DataError(
            rule="items of both truths",
            got=f"num_positives={num_up}, num_negatives={num_down}",
            do="Ask for an AUROC only where both are there.",
        )
    joined = rankdata(np.concatenate([ups, downs], axis=1), axis=1)
    # The share of the other truth that each item is ranked beyond.
    beyond_down = (joined[:, :num_up] - rankdata(ups, axis=1)) / num_down
    below_up = 1 - (joined[:, num_up:] - rankdata(downs, axis=1)) / num_up
    areas = beyond_down.mean(axis=1)
    if min(num_up, num_down) < 2:
        return areas, np.full((len(areas), len(areas)), np.nan)
    spread = (
        np.atleast_2d(np.cov(beyond_down)) / num_up + np.atleast_2d(np.cov(below_up)) / num_down
    )
    return areas, spread


def delong_estimate(scores: FloatArray, positive: BoolArray, level: float) -> Estimate:
    """Estimate an area with DeLong's interval.

    Args:
        scores: (n,) higher means more likely positive.
        positive: (n,) the truth; at least one item of each.
        level: Nominal coverage.

    Returns:
        The estimate; without limits where the variance is 0 or not defined.

    Raises:
        DataError: If lengths differ or a truth has no item.
    """
    areas, spread = delong(scores[None, :], positive)
    area, variance = float(areas[0]), float(spread[0, 0])
    if not variance > 0:
        return Estimate(area, level=level, method=METHOD, reason=NO_WIDTH)
    half = float(ndtri((1 + level) / 2)) * sqrt(variance)
    return Estimate(area, max(area - half, 0.0), min(area + half, 1.0), level, METHOD)
