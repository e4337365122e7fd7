"""Whether scores mean what they say: recalibration by logistic regression, calibration error.

All of it is computed for many weightings of the same items at once.
Shapes: n items, b weightings, k bins.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array
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


def calibration_intercept_statistic(scores: FloatArray, positive: BoolArray) -> Statistic:
    """Prepare calibration in the large: the intercept beside a slope fixed at 1.

    Zero is perfect; below zero the scores are too high on the whole.

    Args:
        scores: (n,) from 0 to 1.
        positive: (n,) the truth.

    Returns:
        A function of (n, b) weights to (b,) intercepts in log odds; NaN where one class has no
        weight.

    Source:
        Cox 1958, Biometrika 45; Steyerberg 2019, Clinical Prediction Models, section 15.3.
    """
    offsets = score_logits(scores)
    truth = positive.astype(float)
    # Replicates begin at the fit to all items, from where two or three steps are enough.
    start = _fit_intercept(np.ones((len(truth), 1)), offsets, truth, 0.0)[0]

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


def calibration_slope_statistic(scores: FloatArray, positive: BoolArray) -> Statistic:
    """Prepare the calibration slope: logistic regression of the truth on the score's log odds.

    One is perfect; below one the scores are too extreme.

    Args:
        scores: (n,) from 0 to 1.
        positive: (n,) the truth.

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
    start = _fit_line(np.ones((len(truth), 1)), powers, truth, np.zeros(2))[:, 0]

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


def calibration_error_statistic(
    scores: FloatArray, outcomes: BoolArray, patients: IntArray, *, greatest_bins: int
) -> Statistic:
    """Prepare the debiased expected calibration error in its root-mean-square form.

    In each equal-mass bin the squared gap between mean outcome and mean score is too large by
    the gap's variance. That variance, estimated between patients, is taken off, so that a small
    group does not look badly calibrated because it is small. The result is the signed root of
    the sum over bins: a negative number says that the gaps are smaller than chance makes them,
    and is to be shown as 0.

    Args:
        scores: (n,) from 0 to 1.
        outcomes: (n,) whether what the score is the probability of came true.
        patients: (n,) each item's patient as a number.
        greatest_bins: Greatest number of bins.

    Returns:
        A function of (n, b) weights, equal within a patient, to (b,) signed roots.

    Source:
        Kumar, Liang and Ma 2019, arXiv:1909.10155, section 5, with the binomial variance of a
        bin replaced by the variance between patients (Liang and Zeger 1986).
    """
    bins = equal_mass_bins(scores, patients, greatest_bins)
    num_bins = int(bins.max()) + 1
    table = _bin_table(outcomes - scores.astype(float), patients, bins, num_bins)

    def error(weights: FloatArray) -> FloatArray:
        sums = np.asarray(table @ weights).reshape(6, num_bins, -1)
        items, gap_sum, patients_in, squares, cross, sizes = sums
        gap = np.nan_to_num(ratio(gap_sum, items))
        spread = squares - 2 * gap * cross + gap**2 * sizes
        several = patients_in > 1
        factor = np.where(several, ratio(patients_in, patients_in - 1), 0.0)
        # One patient alone cannot tell chance from miscalibration: the bin then counts as 0.
        variance = np.where(several, factor * np.nan_to_num(ratio(spread, items**2)), gap**2)
        total = ((gap**2 - variance) * items).sum(axis=0)
        square = ratio(total, items.sum(axis=0))
        return np.sign(square) * np.sqrt(np.abs(square))

    return error


def _bin_table(gaps: FloatArray, patients: IntArray, bins: IntArray, num_bins: int) -> csr_array:
    """(6 k, n) rows whose products with weights are the sums that the error is made of."""
    pairs, first, pair_of = np.unique(
        patients.astype(np.int64) * num_bins + bins, return_index=True, return_inverse=True
    )
    gap_of_pair = np.bincount(pair_of.reshape(-1), weights=gaps, minlength=len(pairs))
    size_of_pair = np.bincount(pair_of.reshape(-1), minlength=len(pairs)).astype(float)
    items = np.arange(len(gaps))
    # What belongs to a patient within a bin is carried by the patient's first item there.
    carried = (np.ones(len(pairs)), gap_of_pair**2, gap_of_pair * size_of_pair, size_of_pair**2)
    values = np.concatenate([np.ones(len(gaps)), gaps, *carried])
    rows = np.concatenate(
        [bins, bins + num_bins, *(bins[first] + kind * num_bins for kind in range(2, 6))]
    )
    columns = np.concatenate([items, items, *(first for _ in carried)])
    return csr_array((values, (rows, columns)), shape=(6 * num_bins, len(gaps)))
