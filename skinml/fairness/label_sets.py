"""Label sets that hold their coverage in each group, from noised counts of validation patients.

Split conformal prediction, apart for each group: a label is in an image's set if the model's
probability for it misses 1 by no more than it did for most validation patients of that group. What
leaves the clinics of their distances, 1 less the probability of the true class, is one noised table
of running counts; how often the truth may be missed takes that noise into account.

Shapes in this file: r rows of the table (groups, or groups by truth), b bins of the distance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt, sqrt
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from skinml.errors import DataError, require_in_range, require_one_of
from skinml.fairness.count_tables import bins_of, equal_weights, places_of
from skinml.records import BoolArray, FloatArray, IntArray, Labels, Predictions

BINS = 64
EVERYBODY = "everybody"
# Part of the misses set aside for a group whose true size is below what its noised size allows.
_SIZE_PART = 0.01
_UNITS = 2**14
_UNIT_NORM = float(norm.pdf(0.0))
# Weights and factors have 14 binary digits each: their products are multiples of 2**-28.
_SCALE = 2**14
_ROUNDING = 1e-6


@dataclass(frozen=True)
class SetsLayout:
    """Which rows there are. Public: it follows from the config, never from the data.

    Attributes:
        attribute: What the groups are of; "everybody" where there is one group.
        groups: Their names; whoever is in none of them is in the last one.
        apart: Whether patients with and without a malignant truth are counted apart.
        share: Part of the release's squared sensitivity that this table has, above 0, below 1.
    """

    attribute: str
    groups: tuple[str, ...]
    apart: bool
    share: float

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.groups) * (2 if self.apart else 1)


@dataclass(frozen=True)
class LabelSets:
    """How far from 1 the probability of a label in the set may be, by group.

    Attributes:
        attribute: What the groups are of.
        coverage: Share of the patients of each group whose true label is to be in the set.
        cuts: For each group the limits of labels that are not malignant, and that are: a label is
            in the set where 1 less its probability is below. None: nothing could be held with so
            few patients, and every label is in the set.
        apart: Whether the coverage is held for either truth, too.
    """

    attribute: str
    coverage: float
    cuts: Mapping[str, tuple[float | None, float | None]]
    apart: bool = False

    def values(self) -> dict[str, Any]:
        """Write the sets as plain values for a bundle.

        Returns:
            What `read_label_sets` reads.
        """
        return {
            "attribute": self.attribute,
            "coverage": self.coverage,
            "apart": self.apart,
            "cuts": {name: list(pair) for name, pair in self.cuts.items()},
        }

    def limits(self, group: str | None) -> tuple[float | None, float | None]:
        """Look up the limits of a group.

        Args:
            group: Its name; None where nobody knows it.

        Returns:
            The group's; where it is not known the widest of all groups, so that the coverage holds
            whichever it is.

        Raises:
            ConfigError: If there is no such group.
        """
        if group is not None:
            require_one_of(tuple(self.cuts), **{self.attribute: group})
            return self.cuts[group]
        columns = list(zip(*self.cuts.values(), strict=True))
        return _widest(columns[0]), _widest(columns[1])

    def members(self, probabilities: FloatArray, group: str | None, classes: Labels) -> BoolArray:
        """Say which labels are in the set of an image.

        Args:
            probabilities: (k,) of the model, as it gives them.
            group: Whose image it is; None where nobody knows.
            classes: The k labels.

        Returns:
            (k,).

        Raises:
            ConfigError: If there is no such group.
        """
        limits = self.limits(group)
        return np.asarray(
            [
                limit is None or 1 - float(probability) < limit
                for probability, limit in zip(
                    probabilities, (limits[int(bad)] for bad in classes.malignant), strict=True
                )
            ]
        )


def _widest(limits: tuple[float | None, ...]) -> float | None:
    known = [limit for limit in limits if limit is not None]
    return max(known) if len(known) == len(limits) else None


def read_label_sets(values: Mapping[str, Any]) -> LabelSets | None:
    """Read label sets from the plain values of a bundle.

    Args:
        values: What `LabelSets.values` wrote; empty where the run released no such counts.

    Returns:
        The sets; None where there are none.

    Raises:
        DataError: If the values are of another form.
    """
    if not values:
        return None
    try:
        cuts = {str(name): (pair[0], pair[1]) for name, pair in values["cuts"].items()}
        made = LabelSets(values["attribute"], float(values["coverage"]), cuts, values["apart"])
        sound = all(c is None or 0 <= c <= 1 for pair in cuts.values() for c in pair)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        sound = False
    if not (sound and cuts):
        raise DataError(
            rule="label sets with a limit from 0 to 1, or none, for each group",
            got="values of another form",
            do="Use a model that was saved by a finished run.",
        )
    return made


@lru_cache(maxsize=1)
def running_factor() -> FloatArray:
    """The root of running counts: applied twice it adds up bins from the greatest distance down.

    Returns:
        (b, b) lower triangular, with binom(2i, i) / 4**i on the i-th diagonal below the main one.

    Source:
        Fichtenberger, Henzinger and Upadhyay 2023, arXiv:2202.11205: noise added after the first
        application and passed through the second is, in each running count, near the least that
        any such mechanism adds; plain bins' noise would grow with their number.

    >>> factor = running_factor()
    >>> bool(np.allclose(factor @ factor, np.tril(np.ones((BINS, BINS)))))
    True
    """
    steps = np.arange(1, BINS)
    column = np.concatenate([[1.0], np.cumprod((2 * steps - 1) / (2 * steps))])
    lag = np.subtract.outer(np.arange(BINS), np.arange(BINS))
    return np.where(lag >= 0, column[np.clip(lag, 0, None)], 0.0)


def threshold_units(share: float, max_clinics: int, beside: float = 0.0) -> int:
    """Weigh what a patient adds to the scores that the threshold comes from, beside the sets.

    Args:
        share: Part of the squared sensitivity that the sets have.
        max_clinics: At how many clinics the patient may be.
        beside: Part of it that something else in the same release has.

    Returns:
        The greatest whole number of multiples of 2**-28 for which all parts together stay within
        a sensitivity of 1 / max_clinics, exactly.
    """
    return isqrt((2**56 - int(share * 2**56) - int(beside * 2**56)) // max_clinics**2)


def set_table(predictions: Predictions, layout: SetsLayout, max_clinics: int) -> IntArray:
    """Add up what validation patients tell about label sets, each patient with an equal weight.

    A patient's images share the patient's weight, as in Lee et al.

    Args:
        predictions: What a model said of the images.
        layout: The rows.
        max_clinics: At how many clinics a patient may be.

    Returns:
        (r, b) multiples of 2**-28.

    Guarantees:
        Adding or removing all images of a patient moves the table by at most
        sqrt(share) / max_clinics in the L2 norm, exactly: the factor's columns are cut down to
        whole numbers, and its longest one is the bound. Each image has a bin, whatever the model
        said of it.

    Source:
        Lee, Barber and Willett 2023, arXiv:2306.06342, theorem 1, for equal weights of patients.
    """
    table = np.zeros((layout.rows, BINS), dtype=np.int64)
    if len(predictions) > 0:
        truths = np.arange(len(predictions)), predictions.labels
        far = 1 - predictions.probabilities.astype(np.float64)[truths]
        values = predictions.groups.get(layout.attribute)
        row = (
            np.full(len(predictions), len(layout.groups) - 1)
            if values is None
            else places_of(values, layout.groups)
        )
        if layout.apart:
            row = 2 * row + predictions.malignant
        # From the greatest distance down, as the counts run.
        bin_ = BINS - 1 - bins_of(far, BINS, otherwise=1.0)
        np.add.at(table, (row, bin_), equal_weights(predictions.patients, _UNITS))
    return np.asarray(table @ _whole_factor(layout.share, max_clinics).T)


@lru_cache(maxsize=8)
def _whole_factor(share: float, max_clinics: int) -> IntArray:
    """(b, b) the weighed factor in multiples of 2**-14, cut down, so that columns only shrink."""
    factor = running_factor()
    weight = sqrt(share) / max_clinics / float(np.linalg.norm(factor, axis=0).max())
    made = np.trunc(factor * weight * _SCALE).astype(np.int64)
    longest = int(np.einsum("ij,ij->j", made, made).max())
    if longest > int(share * _SCALE**2) // max_clinics**2:  # rounding in the weight itself
        made = np.maximum(made - 1, 0)
    return np.asarray(made)


@lru_cache(maxsize=8)
def _running_counts(share: float, max_clinics: int) -> FloatArray:
    """(b, b) from a row of the table to patients in the greatest 1, 2, ... b bins, exactly."""
    whole = _whole_factor(share, max_clinics) / _SCALE
    return np.asarray(np.tril(np.ones((BINS, BINS))) @ np.linalg.inv(whole))


def label_sets(
    released: FloatArray,
    layout: SetsLayout,
    *,
    std: float,
    coverage: float,
    max_clinics: int,
) -> LabelSets:
    """Find each group's limits from the released table.

    Args:
        released: (r, b) the noisy sum over the clinics.
        layout: Its rows.
        std: Standard deviation of the noise in each number of the sum; 0 where there is none.
        coverage: Share of each group's patients whose truth is to be in the set.
        max_clinics: At how many clinics a patient may be.

    Returns:
        The sets. The last group holds whoever is in no other; its limits are not kept where there
        are others, for whoever's group nobody knows is in one of them.

    Raises:
        ConfigError: If the coverage is not above 0 and below 1.

    Guarantees:
        For a new patient of a group, exchangeable with the group's validation patients, the true
        label of an image drawn from theirs is in the set with a probability of at least coverage,
        over patients, image and noise; see `limit_bin`.

    Source:
        Vovk 2012, arXiv:1209.2673, section 3, for sets by category; Angelopoulos, Bates, Zrnic and
        Jordan 2022, arXiv:2102.06202, for quantiles under differential privacy.
    """
    running = _running_counts(layout.share, max_clinics)
    limits = [_limit(limit_bin(row, running, std, coverage, max_clinics)) for row in released]
    width = 2 if layout.apart else 1
    cuts = {
        name: (limits[width * at], limits[width * at + width - 1])
        for at, name in enumerate(layout.groups)
    }
    if len(cuts) > 1:
        cuts.pop(layout.groups[-1])
    return LabelSets(layout.attribute, coverage, cuts, layout.apart)


def _limit(bin_: int) -> float | None:
    return None if bin_ == BINS - 1 else (bin_ + 1) / BINS


def limit_bin(
    row: FloatArray, running: FloatArray, std: float, coverage: float, max_clinics: int = 1
) -> int:
    """Find the last bin of the distance that a set takes in.

    With n patients, T(j) of them in bins above j, and the share a of misses, split conformal
    prediction takes the first bin j with D(j) = T(j) + 1 - a (n + 1) <= 0. Under noise the first j
    is taken from which on all noisy D(i) are at most -m. Let q(c) be the bin that misses the share
    c without noise. A bin before q(c) is taken only if the noise of D at q(c) - 1, where D exceeds
    (c - a)(n + 1), is below -m - (c - a)(n + 1). The noise does not depend on patients, so the
    truth is missed with a probability of at most the integral over c from 0 to 1 of
    Phi(-(m + (c - a)(n + 1)) / s), with s the noise's deviation in whichever bin makes this
    greatest. The margin m is the least for which this is at most a. A lower limit stands for n,
    below which the true n is with a probability that is taken off a beforehand.

    Whoever may be at K clinics counts at each, and so does the new patient: K stands for the 1 in
    D. With k <= K of the new patient's, D then is at least the rank among n + k less a (n + k).

    Args:
        row: (b,) what was released of the group.
        running: (b, b) from there to patients in the greatest 1, 2, ... b bins.
        std: Standard deviation of the noise in each number; 0 where there is none.
        coverage: 1 - a, above 0 and below 1.
        max_clinics: At how many clinics a patient may be, K.

    Returns:
        The bin, counted from the least distance; b - 1, every distance, where nothing less holds.

    Raises:
        ConfigError: If the coverage is not above 0 and below 1.
    """
    require_in_range(0.01, 0.999, coverage=coverage)
    misses = 1 - coverage
    if std:
        misses *= 1 - _SIZE_PART
    above = running @ row
    total = float(above[-1])
    # above[i] counts bins from the top down to b - 1 - i; of those above bin j there are b - 1 - j.
    excess = above[:-1] + max_clinics - misses * (total + max_clinics)
    margin = 0.0
    if std:
        lengths = _noise_of_excess(running, std, misses)
        spread = std * float(np.linalg.norm(running[-1]))
        least = total - float(norm.isf(_SIZE_PART * (1 - coverage))) * spread
        if least <= 0:
            return BINS - 1
        margin = _margin(float(lengths.min()), float(lengths.max()), misses * (least + 1))
    # Rounding of sums of roots must not turn an exact 0 into more.
    fits = excess + margin <= _ROUNDING
    taken = int(np.argmin(fits)) if not fits.all() else len(fits)
    return BINS - 1 - taken


def rank_noise(layout: SetsLayout, std: float, coverage: float, max_clinics: int) -> float:
    """Tell how far the noise moves the rank of a group's limit among its validation patients.

    Args:
        layout: The rows.
        std: Standard deviation of the noise in each number of the released table.
        coverage: What the sets are to hold, above 0 and below 1.
        max_clinics: At how many clinics a patient may be.

    Returns:
        A standard deviation in patients, the greatest of all bins.
    """
    running = _running_counts(layout.share, max_clinics)
    # Two limits, each for its part of the group, have noise that adds up.
    rows = sqrt(2) if layout.apart else 1.0
    return rows * float(_noise_of_excess(running, std, 1 - coverage).max())


def _noise_of_excess(running: FloatArray, std: float, misses: float) -> FloatArray:
    """(b - 1,) standard deviation of D in each bin but the last, see `limit_bin`."""
    return np.asarray(std * np.linalg.norm(running[:-1] - misses * running[-1], axis=1))


def _margin(shortest: float, longest: float, allowed: float) -> float:
    """Solve for the least margin, in patients, with so many allowed misses."""

    def surplus(margin: float) -> float:
        room = allowed - margin
        if room <= 0:
            return longest * _loss(-room / longest) - allowed
        below = room - shortest * (_UNIT_NORM - _loss(room / shortest))
        return below + longest * _UNIT_NORM - allowed

    most = allowed + 40 * longest
    return float(brentq(surplus, 0.0, most)) if surplus(most) < 0 else most


def _loss(value: float) -> float:
    """Mean of what a standard normal variable exceeds a value by."""
    return float(norm.pdf(value) - value * norm.sf(value))
