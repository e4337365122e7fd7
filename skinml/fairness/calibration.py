"""Whether scores mean what they say: recalibration by logistic regression, calibration error.

All of it is computed for many weightings of the same items at once.
Shapes: n items, m patients, b weightings, k bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from skinml.fairness.discrimination import Statistic, ratio
from skinml.fairness.resampling import effective_patients
from skinml.records import BoolArray, FloatArray, IntArray

# Scores of exactly 0 or 1 have no logit; this is the farthest that a score is taken to be.
_CLIP = 1e-6
_STEPS = 40
# Newton's error is the square of its last step, so that this step is exact to about 1e-10.
_TOLERANCE = 1e-5
# A slope or intercept beyond this is a separated sample on its way to infinity.
_LIMIT = 1e3
# Log odds that differ by less than this are one score with rounding.
_NO_SPREAD = 1e-9
# Patients that a bin of the calibration error shall hold, so that its variance can be told.
PATIENTS_PER_BIN = 5


def score_logits(scores: FloatArray) -> FloatArray:
    """Turn scores to log odds; 0 and 1 count as 1e-6 and 1 - 1e-6.

    Args:
        scores: (n,) from 0 to 1.

    Returns:
        (n,) finite log odds.
    """
    return np.asarray(logit(np.clip(scores.astype(float), _CLIP, 1 - _CLIP)))


def calibration_intercept_statistic(
    scores: FloatArray, positive: BoolArray, usual: FloatArray | None = None
) -> Statistic:
    """Prepare calibration in the large: the intercept beside a slope fixed at 1.

    Zero is perfect; below zero the scores are too high on the whole.

    Args:
        scores: (n,) from 0 to 1.
        positive: (n,) the truth.
        usual: (n,) weights that the others are near, from whose fit they begin; None: each 1.

    Returns:
        A function of (n, b) weights to (b,) intercepts in log odds; NaN where one class has no
        weight.

    Source:
        Cox 1958, Biometrika 45; Steyerberg 2019, Clinical Prediction Models, section 15.3.
    """
    offsets = score_logits(scores)
    truth = positive.astype(float)
    # Replicates begin at the fit to all items, from where two or three steps are enough.
    first = np.ones(len(truth)) if usual is None else usual
    start = _fit_intercept(first[:, None], offsets, truth, 0.0)[0]

    def intercept(weights: FloatArray) -> FloatArray:
        return _fit_intercept(weights, offsets, truth, start)

    return intercept


def _fit_intercept(
    weights: FloatArray, offsets: FloatArray, truth: FloatArray, start: float
) -> FloatArray:
    """(b,) intercepts by Newton's method."""
    total, events = weights.sum(axis=0), truth @ weights
    both = (events > 0) & (events < total)
    found = np.full(weights.shape[1], np.nan)
    used = weights if both.all() else weights[:, both]
    value = np.full(used.shape[1], start if np.isfinite(start) else 0.0)
    for _ in range(_STEPS):
        expected = np.asarray(expit(offsets[:, None] + value))
        weighted = used * expected
        first = weighted.sum(axis=0)
        spread = first - np.einsum("ib,ib->b", weighted, expected)
        step = (events[both] - first) / spread
        # The sum is monotone in the intercept; a bounded step cannot overshoot for ever.
        value += np.clip(step, -2.0, 2.0)
        if np.all(np.abs(step) < _TOLERANCE):
            break
    found[both] = value
    return found


def calibration_slope_statistic(
    scores: FloatArray, positive: BoolArray, usual: FloatArray | None = None
) -> Statistic:
    """Prepare the calibration slope: logistic regression of the truth on the score's log odds.

    One is perfect; below one the scores are too extreme.

    Args:
        scores: (n,) from 0 to 1.
        positive: (n,) the truth.
        usual: (n,) weights that the others are near, from whose fit they begin; None: each 1.

    Returns:
        A function of (n, b) weights to (b,) slopes; NaN where there is no finite fit: one class
        has no weight, all scores are equal, or the scores separate the classes.

    Source:
        Cox 1958, Biometrika 45.
    """
    predictor = score_logits(scores)
    # Centred and scaled, so that the two by two systems are well conditioned.
    centre, scale = float(predictor.mean()), float(predictor.std())
    if scale <= _NO_SPREAD:
        return lambda weights: np.full(weights.shape[1], np.nan)
    design = (predictor - centre) / scale
    powers = np.stack([np.ones_like(design), design, design**2])
    truth = positive.astype(float)
    first = np.ones(len(truth)) if usual is None else usual
    start = _fit_line(first[:, None], powers, truth, np.zeros(2))[:, 0]

    def slope(weights: FloatArray) -> FloatArray:
        return np.asarray(_fit_line(weights, powers, truth, start)[1] / scale)

    return slope


def _fit_line(
    weights: FloatArray, powers: FloatArray, truth: FloatArray, start: FloatArray
) -> FloatArray:
    """(2, b) level and slope by Newton's method; NaN where there is no finite fit."""
    num = weights.shape[1]
    line = np.tile(np.where(np.isfinite(start).all(), start, 0.0)[:, None], (1, num))
    done, failed = np.zeros(num, dtype=bool), np.zeros(num, dtype=bool)
    for _ in range(_STEPS):
        todo = np.flatnonzero(~(done | failed))
        if todo.size == 0:
            break
        used = weights if todo.size == num else weights[:, todo]
        step, singular = _newton_step(used, powers, truth, line[:, todo])
        line[:, todo] += step
        done[todo] = np.max(np.abs(step), axis=0) < _TOLERANCE
        failed[todo] = singular | (np.abs(line[1, todo]) > _LIMIT)
    return np.where(done & ~failed, line, np.nan)


def _newton_step(
    weights: FloatArray, powers: FloatArray, truth: FloatArray, line: FloatArray
) -> tuple[FloatArray, BoolArray]:
    """One Newton step of every weighting's logistic regression, and which cannot be solved."""
    expected = np.asarray(expit(line[0] + powers[1][:, None] * line[1]))
    weighted = weights * expected
    gradient = (powers[:2] * truth) @ weights - powers[:2] @ weighted
    weighted *= 1 - expected
    information = powers @ weighted
    determinant = information[0] * information[2] - information[1] ** 2
    singular = determinant <= 1e-12 * np.maximum(weights.sum(axis=0), 1.0) ** 2
    safe = np.where(singular, 1.0, determinant)
    step = np.stack(
        [
            information[2] * gradient[0] - information[1] * gradient[1],
            information[0] * gradient[1] - information[1] * gradient[0],
        ]
    )
    return np.clip(np.where(singular, 0.0, step / safe), -5.0, 5.0), singular


def equal_mass_bins(scores: FloatArray, patients: IntArray, greatest: int) -> IntArray:
    """Put items of like scores together; equal scores are never parted.

    Args:
        scores: (n,) any finite numbers, n at least 1.
        patients: (n,) each item's patient as a number.
        greatest: Greatest number of bins; few patients make fewer bins.

    Returns:
        (n,) each item's bin from 0, in rising order of the scores.
    """
    num = int(np.clip(effective_patients(patients) // PATIENTS_PER_BIN, 1, greatest))
    # Cuts are scores that occur, so that copies of all items move none of them.
    cuts = np.unique(np.quantile(scores, np.arange(1, num) / num, method="inverted_cdf"))
    raw = np.searchsorted(cuts, scores, side="left")
    return np.unique(raw, return_inverse=True)[1].reshape(-1)


@dataclass(frozen=True)
class BinRows:
    """What the calibration error sums: six numbers of each patient in each bin.

    Attributes:
        bins: For each bin, (p,) its patients and (6, p) of each the weight of the items, the sum
            of outcome less score, 1, that sum squared, the product of both, the weight squared.
    """

    bins: tuple[tuple[IntArray, FloatArray], ...]

    def weigh(self, weights: FloatArray) -> FloatArray:
        """(m, b) weights of patients to (6 k, b) sums, a bin behind the other."""
        return np.concatenate([parts @ weights[patients] for patients, parts in self.bins])


def bin_rows(
    scores: FloatArray,
    outcomes: BoolArray,
    patients: IntArray,
    *,
    num_patients: int,
    weights: FloatArray | None = None,
    greatest_bins: int,
) -> BinRows:
    """Prepare the sums of the calibration error.

    Args:
        scores: (n,) from 0 to 1.
        outcomes: (n,) whether what the score is the probability of came true.
        patients: (n,) each item's patient as a number.
        num_patients: Patients m that weights will be given of.
        weights: (n,) how much each item counts; None: each once.
        greatest_bins: Greatest number of bins.

    Returns:
        The sums.
    """
    bins = equal_mass_bins(scores, patients, greatest_bins)
    each = np.ones(len(scores)) if weights is None else weights
    pairs, pair_of = np.unique(bins.astype(np.int64) * num_patients + patients, return_inverse=True)
    pair_of = pair_of.reshape(-1)
    size = np.bincount(pair_of, weights=each)
    gap = np.bincount(pair_of, weights=each * (outcomes - scores.astype(float)))
    parts = np.stack([size, gap, np.ones(len(pairs)), gap**2, gap * size, size**2])
    ends = np.searchsorted(pairs, np.arange(1, int(bins.max()) + 1) * num_patients)
    people = np.split(pairs % num_patients, ends)
    return BinRows(tuple(zip(people, np.split(parts, ends, axis=1), strict=True)))


def calibration_error(sums: FloatArray) -> FloatArray:
    """The debiased expected calibration error in its root-mean-square form.

    In each equal-mass bin the squared gap between mean outcome and mean score is too large by
    the gap's variance. That variance, estimated between patients, is taken off, so that a small
    group does not look badly calibrated because it is small. The result is the signed root of
    the sum over bins: a negative number says that the gaps are smaller than chance makes them,
    and is to be shown as 0.

    Args:
        sums: (6 k, b) as `BinRows` weighs them.

    Returns:
        (b,) signed roots.

    Source:
        Kumar, Liang and Ma 2019, arXiv:1909.10155, section 5, with the binomial variance of a
        bin replaced by the variance between patients (Liang and Zeger 1986).
    """
    by_bin = sums.reshape(-1, 6, sums.shape[1])
    items, gap_sum, patients_in, squares, cross, sizes = by_bin.transpose(1, 0, 2)
    gap = np.nan_to_num(ratio(gap_sum, items))
    spread = squares - 2 * gap * cross + gap**2 * sizes
    several = patients_in > 1
    factor = np.where(several, ratio(patients_in, patients_in - 1), 0.0)
    # One patient alone cannot tell chance from miscalibration: the bin then counts as 0.
    variance = np.where(several, factor * np.nan_to_num(ratio(spread, items**2)), gap**2)
    total = ((gap**2 - variance) * items).sum(axis=0)
    square = ratio(total, items.sum(axis=0))
    return np.asarray(np.sign(square) * np.sqrt(np.abs(square)))
