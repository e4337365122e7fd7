"""Membership inference (tier T3): how well an attacker tells who was in training from the model.

The game: each patient is in a model's training with probability one half, by a coin of its own. The
attacker knows the patient's images and the coins of the reference models, not those of the
targets, and gives each pair of target and patient a score. The unit is the patient: its signal is
the mean over all its images.

Shapes in this file: r reference models, t target models, p patients, n images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from skinml.errors import DataError, require_same_length
from skinml.privacy.audit.findings import FLAG_CONFIDENCE
from skinml.records import BoolArray, Estimate, FloatArray, IntArray

Attack = Literal["LiRA", "RMIA"]
FALSE_POSITIVE_RATES = (0.001, 0.01)
_LEVEL = 0.95
_REPLICATES = 200
# A probability of exactly 0 or 1 would make an infinite signal.
_LEAST = 1e-12
# Models without noise differ in the last digits only where a patient changes nothing at all.
_LEAST_SPREAD = 1e-9


@dataclass(frozen=True)
class CaughtAt:
    """How many of those who were in training an attacker finds at a price.

    Attributes:
        false_positive_rate: Share of the others whom the attacker suspects wrongly.
        found: Share of those in training whom it finds.
        most: The greatest share that the promised epsilon allows; 1 without a promise.
    """

    false_positive_rate: float
    found: Estimate
    most: float


@dataclass(frozen=True)
class MembershipFinding:
    """What one attack achieved on the models of one kind of training (tier T3).

    Attributes:
        attack: "LiRA" or "RMIA".
        trust: The trust model; "none" for models trained without privacy.
        attribute: "overall", or what the groups are of.
        group: The group.
        num_patients: Patients of the group.
        num_targets: Models that were attacked.
        num_references: Models that the attacker trained.
        epsilon: What the ledger is charged; infinite without a promise.
        delta: The delta that epsilon is read at.
        auc: Chance that a patient of the training scores higher than another; 0.5 is a coin's.
        most_auc: The greatest area that epsilon allows; 1 without a promise.
        caught: At each false-positive rate.
        roc: Pairs of false- and true-positive rate, rising; empty for groups.
        most_roc: The same of the cleverest attack that epsilon allows; empty without a promise.
        lower_limit: Lower bound of epsilon that the guesses prove at `confidence`; 0 for groups.
        confidence: How sure the lower limit is.
    """

    attack: Attack
    trust: str
    attribute: str
    group: str
    num_patients: int
    num_targets: int
    num_references: int
    epsilon: float
    delta: float
    auc: Estimate
    most_auc: float
    caught: tuple[CaughtAt, ...]
    roc: tuple[tuple[float, float], ...] = ()
    most_roc: tuple[tuple[float, float], ...] = ()
    lower_limit: float = 0.0
    confidence: float = FLAG_CONFIDENCE

    @property
    def flagged(self) -> bool:
        """Whether even the lower limit lies above what the ledger is charged."""
        return self.lower_limit > self.epsilon


def patient_signals(
    probabilities: FloatArray, patients: IntArray, num_patients: int
) -> tuple[FloatArray, FloatArray]:
    """Condense the images' probabilities of their true classes into one signal a patient.

    Args:
        probabilities: (models, n) each model's probability of an image's true class, 0 to 1.
        patients: (n,) each image's patient, numbered from 0.
        num_patients: p.

    Returns:
        (models, p) mean log odds, and (models, p) mean log probability, over a patient's images.

    Source:
        Carlini et al. 2022, arXiv:2112.03570, section IV.C, for the log odds.

    >>> odds, logs = patient_signals(np.array([[0.5, 0.5, 0.9]]), np.array([0, 0, 1]), 2)
    >>> odds.round(3).tolist(), logs.round(3).tolist()
    ([[0.0, 2.197]], [[-0.693, -0.105]])
    """
    clipped = np.clip(probabilities.astype(np.float64), _LEAST, 1 - _LEAST)
    logs = np.log(clipped)
    counts = np.maximum(np.bincount(patients, minlength=num_patients), 1)

    def mean(values: FloatArray) -> FloatArray:
        sums = [np.bincount(patients, weights=row, minlength=num_patients) for row in values]
        return np.stack(sums) / counts

    return mean(logs - np.log1p(-clipped)), mean(logs)


def lira_scores(targets: FloatArray, references: FloatArray, members: BoolArray) -> FloatArray:
    """Score patients by the likelihood ratio of their signal, in training against not.

    The signal of a patient is taken as Gaussian around its own two means, with one variance each
    for all patients, which is steadier than a patient's own while references are few.

    Args:
        targets: (t, p) log odds under the attacked models.
        references: (r, p) the same under the attacker's own models.
        members: (r, p) who was in the training of which reference.

    Returns:
        (t, p) log likelihood ratios; the higher, the likelier in training.

    Raises:
        DataError: If a patient is in all references or in none.

    Source:
        Carlini et al. 2022, arXiv:2112.03570, algorithm 1, online, with a global variance.
    """
    inside, outside = members.sum(axis=0), (~members).sum(axis=0)
    if not (inside.all() and outside.all()):
        raise DataError(
            rule="references with and without each patient",
            got=f"{len(members)} references that some patient is in all or in none of",
            do="Train more reference models.",
        )
    scores = np.zeros(targets.shape)
    for mask, count, sign in ((members, inside, 1.0), (~members, outside, -1.0)):
        means = np.where(mask, references, 0.0).sum(axis=0) / count
        spread = np.where(mask, (references - means) ** 2, 0.0).sum()
        variance = max(spread / max(mask.sum() - len(means), 1), _LEAST_SPREAD**2)
        scores += sign * (-((targets - means) ** 2) / (2 * variance) - 0.5 * np.log(variance))
    return scores


def rmia_scores(targets: FloatArray, references: FloatArray, gamma: float = 1.0) -> FloatArray:
    """Score patients by how many other patients they outdo in likelihood under the target.

    Args:
        targets: (t, p) mean log probabilities under the attacked models.
        references: (r, p) the same under the attacker's own models, half of which trained on
            each patient.
        gamma: By which factor a patient must outdo another. Linear heads move so little by one
            patient that a factor above 1 would leave nearly everybody at zero.

    Returns:
        (t, p) shares from 0 to 1 of the other patients who are outdone.

    Source:
        Zarifzadeh, Liu and Shokri 2024, arXiv:2312.03262, equation 2 and algorithm 1, online;
        the other patients stand for the population.
    """
    ratios = targets - np.log(np.exp(references).mean(axis=0))
    ordered = np.sort(ratios, axis=1)
    others = max(ratios.shape[1] - 1, 1)
    least = ratios - np.log(gamma)
    outdone = np.stack(
        [np.searchsorted(row, mine, side="left") for row, mine in zip(ordered, least, strict=True)]
    )
    return np.asarray(outdone / others)


@dataclass(frozen=True)
class Curve:
    """A ROC curve over all pairs of target and patient, as counts at each distinct score.

    Attributes:
        found: (s,) pairs in training at or above each distinct score, from the highest on.
        wrong: (s,) pairs not in training, likewise.
    """

    found: FloatArray
    wrong: FloatArray

    @property
    def area(self) -> float | None:
        """The area under it, ties counting one half; None where one kind is missing."""
        if not (self.found[-1] and self.wrong[-1]):
            return None
        up = np.diff(self.found, prepend=0.0)
        # A pair is won against all who score lower, and half won against equals.
        below = self.wrong[-1] - self.wrong
        equal = np.diff(self.wrong, prepend=0.0)
        return float((up * (below + equal / 2)).sum() / (self.found[-1] * self.wrong[-1]))

    def found_at(self, rate: float) -> float | None:
        """Read the share found where at most a share of the others is suspected."""
        if not (self.found[-1] and self.wrong[-1]):
            return None
        # A rate is reached also where a float falls short of a whole number by its last digit.
        within = self.wrong <= rate * self.wrong[-1] * (1 + 1e-9)
        return float(self.found[within].max(initial=0.0) / self.found[-1])


def curve(scores: FloatArray, members: BoolArray, weights: FloatArray | None = None) -> Curve:
    """Make the ROC curve of scores.

    Args:
        scores: Any shape; the higher, the likelier in training.
        members: The same shape: who was in training.
        weights: The same shape; how often each pair counts, once by default.

    Returns:
        The curve.

    Raises:
        DataError: If the lengths differ.

    >>> drawn = curve(np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, False]))
    >>> drawn.area, drawn.found_at(0.0), drawn.found_at(0.5)
    (0.875, 0.5, 1.0)
    """
    flat, truth = scores.ravel(), members.ravel()
    counted = np.ones(flat.shape) if weights is None else weights.ravel()
    require_same_length(scores=flat, members=truth, weights=counted)
    order = np.argsort(-flat, kind="stable")
    return _cumulated(flat[order], truth[order], counted[order])


def _cumulated(scores: FloatArray, members: BoolArray, weights: FloatArray) -> Curve:
    """Cumulate from the highest score on; equal scores make one step."""
    last = np.append(scores[1:] != scores[:-1], True)
    return Curve(
        np.cumsum(np.where(members, weights, 0.0))[last],
        np.cumsum(np.where(members, 0.0, weights))[last],
    )


@dataclass(frozen=True)
class Measured:
    """The figures of one attack on one group.

    Attributes:
        auc: Area under the curve.
        found: The share found at each rate of `FALSE_POSITIVE_RATES`.
        roc: Pairs of false- and true-positive rate.
    """

    auc: Estimate
    found: tuple[Estimate, ...]
    roc: tuple[tuple[float, float], ...]


def measure(
    scores: FloatArray,
    members: BoolArray,
    rng: np.random.Generator,
    *,
    replicates: int = _REPLICATES,
) -> Measured:
    """Compute an attack's area and its catch at low false-positive rates, with intervals.

    Args:
        scores: (t, p).
        members: (t, p) who was in the training of which target.
        rng: A stream for resampling.
        replicates: Resamples of patients behind an interval.

    Returns:
        The figures. A false-positive rate is undefined with fewer patients than one over it:
        not one of so few could be suspected wrongly.
    """
    drawn, num_patients = curve(scores, members), scores.shape[1]
    areas, shares = _resampled(scores, members, rng, replicates)
    found = []
    for place, rate in enumerate(FALSE_POSITIVE_RATES):
        least = round(1 / rate)
        if num_patients < least:
            reason = f"{num_patients} patients; a rate of {rate:.1%} needs {least:,}"
            found.append(Estimate(None, reason=reason))
        else:
            found.append(_with_limits(drawn.found_at(rate), shares[:, place], num_patients))
    return Measured(_with_limits(drawn.area, areas, num_patients), tuple(found), _thinned(drawn))


def _resampled(
    scores: FloatArray, members: BoolArray, rng: np.random.Generator, replicates: int
) -> tuple[FloatArray, FloatArray]:
    """Draw patients anew, all their pairs together: pairs of one patient are alike."""
    num_targets, num_patients = scores.shape
    order = np.argsort(-scores.ravel(), kind="stable")
    ranked, truth = scores.ravel()[order], members.ravel()[order]
    owner = np.tile(np.arange(num_patients), num_targets)[order]
    areas = np.full(replicates, np.nan)
    shares = np.full((replicates, len(FALSE_POSITIVE_RATES)), np.nan)
    for number in range(replicates):
        drawn = np.bincount(rng.integers(num_patients, size=num_patients), minlength=num_patients)
        each = _cumulated(ranked, truth, drawn[owner].astype(np.float64))
        if each.area is not None:
            areas[number] = each.area
            shares[number] = [each.found_at(rate) for rate in FALSE_POSITIVE_RATES]
    return areas, shares


def _with_limits(value: float | None, replicates: FloatArray, num_patients: int) -> Estimate:
    if value is None:
        return Estimate(None, reason="nobody in training, or everybody")
    defined = replicates[np.isfinite(replicates)]
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(defined, [tail, 1 - tail]) if len(defined) else (0.0, 1.0)
    # Where all resamples agree, so many patients may still hide a share of others.
    hidden = 1 - tail ** (1 / num_patients)
    low = low if low > 0 and low < high else max(value - hidden, 0.0)
    high = high if high > low and high < 1 else min(value + hidden, 1.0)
    return Estimate(value, float(low), float(high), _LEVEL, "patient bootstrap")


def _thinned(drawn: Curve, points: int = 80) -> tuple[tuple[float, float], ...]:
    """Read the curve at rates that are even on a logarithmic axis."""
    if not drawn.wrong[-1]:
        return ()
    rates = np.geomspace(max(1 / drawn.wrong[-1], 1e-4), 1.0, points)
    pairs = ((float(rate), drawn.found_at(float(rate))) for rate in rates)
    return tuple((rate, share) for rate, share in pairs if share is not None)


def most_found(rate: float, mu: float | None) -> float:
    """Tell how many of those in training anybody could find at a false-positive rate.

    Args:
        rate: Share of the others who are suspected wrongly.
        mu: Of the Gaussian mechanism that bounds the releases; None without a promise.

    Returns:
        The greatest true-positive rate.

    Source:
        Dong, Roth and Su 2022, arXiv:1905.02383, equation 6.

    >>> round(most_found(0.01, 0.719), 3)
    0.054
    """
    return 1.0 if mu is None else float(ndtr(ndtri(rate) + mu))


def most_area(mu: float | None) -> float:
    """Tell the greatest area under a ROC curve that anybody could reach.

    Args:
        mu: Of the Gaussian mechanism that bounds the releases; None without a promise.

    Returns:
        From 0.5 to 1: the area under the curve of `most_found`.

    >>> round(most_area(0.719), 3)
    0.694
    """
    return 1.0 if mu is None else float(ndtr(mu / sqrt(2)))


def group_positions(groups: NDArray[np.str_], wanted: Sequence[str] = ()) -> dict[str, IntArray]:
    """Find the patients of each group.

    Args:
        groups: (p,) each patient's group.
        wanted: The groups in the order to be shown; by default all, sorted.

    Returns:
        Positions by group.
    """
    names = list(wanted) or sorted(set(groups.tolist()))
    return {name: np.flatnonzero(groups == name) for name in names}
