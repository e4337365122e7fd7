"""A figure of several runs of one config: its mean, and an interval that patients and seeds make.

Two things make such a mean uncertain: which patients were tested, seen from resampled patients, and
what else was drawn by chance (noise, first weights), seen from the spread between seeds. The
variance of the mean is the sum of both: that of the resampled means, and that between seeds over
their number. A part that belongs to patient and seed together is counted twice, on the safe side.
Shapes: b replicates, s seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf, sqrt

import numpy as np
from scipy.special import stdtrit

from skinml.fairness.intervals import Interval, unseen_around
from skinml.fairness.measures import Measure, limits_of
from skinml.fairness.settings import FairnessSettings
from skinml.records import Estimate, FloatArray

PATIENTS, SEEDS = "patients resampled", "spread between seeds"
ONE_SEED = "one seed: the spread between seeds is not in the interval"
NO_INTERVAL = "too few patients, or too many resamples without a value, for an interval"
_MOST_UNDEFINED = 0.05
_ROUNDING = 1e-10
# Shown four times in five.
_POWER = 0.8


@dataclass(frozen=True)
class SeedMean:
    """A figure's mean over the runs of an arm.

    Attributes:
        estimate: The mean with its interval.
        seed_sd: Standard deviation between the seeds; None with one seed, or where arms with
            other seeds are held against each other.
        by_seed: The figure of each run, in the order of the seeds; empty as above.
    """

    estimate: Estimate
    seed_sd: float | None = None
    by_seed: tuple[float | None, ...] = ()


@dataclass(frozen=True, repr=False)
class Draws:
    """A mean over seeds, or a difference of such means, with what moves it. Per patient.

    Attributes:
        value: The mean; None: undefined.
        replicates: (b,) the mean in each resample of the patients.
        parts: For each arm in it, (s,) its runs' share of the value.
        seeds: For each arm in it, its seeds.
        support: Effective patients in the smallest part that it rests on.
        same: Whether it is the difference of predictions that are equal.
        measures: The runs' own figures, where it is a mean over one arm.
        reason: Why it is undefined.
    """

    value: float | None
    replicates: FloatArray
    parts: Mapping[str, FloatArray]
    seeds: Mapping[str, tuple[int, ...]]
    support: float
    same: bool = False
    measures: tuple[Measure, ...] = field(default=())
    reason: str = ""

    @property
    def matched(self) -> FloatArray | None:
        """(s,) the value by seed, where all arms in it have the same seeds."""
        if self.value is None or len(set(self.seeds.values())) != 1:
            return None
        return np.asarray(sum(self.parts.values()))

    @cached_property
    def error(self) -> Error | None:
        """How far chance may have moved the value, see `error_of`."""
        return error_of(self)

    @property
    def one_seed(self) -> bool:
        """Whether an arm in it has a single seed, whose luck nobody can tell."""
        return any(len(each) < 2 for each in self.seeds.values())


def mean_draws(
    arm: str, seeds: tuple[int, ...], measures: Sequence[Measure], replicates: FloatArray
) -> Draws:
    """Average a figure over the runs of an arm.

    Args:
        arm: The arm's name.
        seeds: The runs' seeds.
        measures: The figure of each run.
        replicates: (s, b) each run's figure under weights that all runs share.

    Returns:
        The mean; undefined where one run's figure is.
    """
    missing = next((each for each in measures if each.value is None), None)
    support = min(each.support for each in measures)
    if missing is not None:
        nothing = np.full(replicates.shape[1], np.nan)
        return Draws(None, nothing, {}, {arm: seeds}, support, reason=missing.reason)
    floors = np.array([each.floor for each in measures])[:, None]
    values = np.array([each.value for each in measures], dtype=float)
    drawn = np.maximum(replicates, floors).mean(axis=0)
    return Draws(
        float(values.mean()),
        drawn,
        {arm: values},
        {arm: seeds},
        support,
        measures=tuple(measures),
        reason=measures[0].reason,
    )


def difference(first: Draws, second: Draws, *, same: bool = False) -> Draws:
    """Take one mean from another, paired by patient, and by seed within an arm.

    Args:
        first: What is taken from.
        second: What is taken away.
        same: Whether both are of the same predictions.

    Returns:
        The difference; undefined where one of them is, or where they rest on different classes.
    """
    seeds, support = {**second.seeds, **first.seeds}, min(first.support, second.support)
    reason = _incomparable(first, second)
    if reason or first.value is None or second.value is None:
        nothing = np.full(len(first.replicates), np.nan)
        return Draws(None, nothing, {}, seeds, support, reason=reason)
    parts = {arm: values.copy() for arm, values in first.parts.items()}
    for arm, values in second.parts.items():
        parts[arm] = parts[arm] - values if arm in parts else -values
    return Draws(
        first.value - second.value,
        first.replicates - second.replicates,
        parts,
        seeds,
        support,
        same=same,
    )


def _incomparable(first: Draws, second: Draws) -> str:
    for each in (first, second):
        if each.value is None:
            return each.reason
    if first.reason != second.reason:
        return "the figures rest on different classes"
    return ""


@dataclass(frozen=True)
class Error:
    """How far chance may have moved a value.

    Attributes:
        terms: Variances with their degrees of freedom: what resampled patients show, then what the
            spread between seeds shows.
    """

    terms: tuple[tuple[float, float], ...]

    @property
    def standard(self) -> float:
        """The standard error."""
        return sqrt(sum(variance for variance, _ in self.terms))

    @property
    def seeds(self) -> float:
        """The variance that the spread between seeds shows."""
        return sum(variance for variance, _ in self.terms[1:])

    def quantile(self, probability: float) -> float:
        """Read what stands for Student's t at a probability.

        With two or three seeds Satterthwaite's degrees of freedom come out too large whenever the
        seeds happen to lie close together: a change that was luck was then shown in 16% of
        simulated comparisons. The mean of each part's own t, weighted by the parts, is on the
        safe side.

        Args:
            probability: Above 0 and below 1.

        Returns:
            The quantile, in standard errors.

        Source:
            Cochran and Cox 1957, Experimental Designs, section 4.14.
        """
        total = sum(variance for variance, _ in self.terms)
        if total == 0:
            return float(stdtrit(self.terms[0][1], probability))
        parts = (variance * float(stdtrit(free, probability)) for variance, free in self.terms)
        return sum(parts) / total


def error_of(draws: Draws) -> Error | None:
    """Find the error of a mean or of a difference of means.

    Args:
        draws: What was drawn.

    Returns:
        The error; None where too many resamples have no value, or patients are fewer than two.
    """
    finite = draws.replicates[np.isfinite(draws.replicates)]
    lost = len(draws.replicates) - finite.size
    if draws.value is None or draws.support < 2 or lost > _MOST_UNDEFINED * len(draws.replicates):
        return None
    free = draws.support - 1
    patients = float(finite.var(ddof=1)) * draws.support / free
    terms = _seed_terms(draws)
    if patients + sum(variance for variance, _ in terms) <= _ROUNDING**2:
        return Error(((0.0, free),))
    return Error(((patients, free), *terms))


def _seed_terms(draws: Draws) -> list[tuple[float, float]]:
    """Variance of the mean over seeds, and its degrees of freedom; of each arm, or of pairs."""
    matched = draws.matched
    every = [matched] if matched is not None else list(draws.parts.values())
    return [
        (float(each.var(ddof=1)) / len(each), len(each) - 1.0) for each in every if len(each) >= 2
    ]


def mean_limits(draws: Draws, level: float) -> tuple[Interval | None, str]:
    """Make the interval of an arm's mean at a level.

    The patients' part is the figure's own rule, exact for few of them; the seeds' part is joined to
    it as the variance of an independent estimate.

    Args:
        draws: The mean.
        level: Nominal coverage.

    Returns:
        The limits, None where there are none, and the words for the method.
    """
    error = draws.error
    if draws.value is None:
        return None, ""
    base, method = _patient_limits(draws, level)
    if base is None or error is None or error.seeds == 0:
        return base, method
    half = error.quantile((1 + level) / 2) * sqrt(error.seeds)
    down, up = draws.value - base[0], base[1] - draws.value
    low, high = draws.value - sqrt(down**2 + half**2), draws.value + sqrt(up**2 + half**2)
    floor, top = _range_of(draws.measures[0])
    return (max(low, floor), min(high, top)), f"{method}, and {SEEDS}"


def _patient_limits(draws: Draws, level: float) -> tuple[Interval | None, str]:
    """The figure's own rule on the mean; where it goes by one run's values, the runs' mean."""
    every = [limits_of(each, draws.replicates, level) for each in draws.measures]
    if draws.value is None or any(limits is None for limits, _ in every):
        return None, every[0][1] if every else ""
    found, method = draws.measures[0].interval(draws.value, draws.replicates, level)
    if found is None:
        return None, method
    if method.startswith("patient bootstrap") or len(every) == 1:
        return (min(found[0], draws.value), max(found[1], draws.value)), method
    limits = np.array([found for found, _ in every])
    low, high = limits.mean(axis=0).tolist()
    return (min(low, draws.value), max(high, draws.value)), method


def _range_of(measure: Measure) -> tuple[float, float]:
    bounded = measure.kind != "other" or measure.name in ("balanced_accuracy", "auroc", "brier")
    return (0.0, 1.0) if bounded else (measure.floor, inf)


def difference_limits(draws: Draws, level: float) -> Interval | None:
    """Make the interval of a difference of means at a level.

    Args:
        draws: The difference.
        level: Nominal coverage.

    Returns:
        The limits; None where there are none.
    """
    error = draws.error
    if draws.value is None or error is None:
        return None
    if error.standard == 0:
        # No patient told them apart here; as many patients may still hide this share.
        value = draws.value
        return (value, value) if draws.same else unseen_around(value, draws.support, level)
    half = error.quantile((1 + level) / 2) * error.standard
    return draws.value - half, draws.value + half


def detectable(draws: Draws, level: float) -> float | None:
    """Find the smallest true difference that would have been shown four times in five.

    Args:
        draws: The difference.
        level: Coverage of the interval that would have to leave out 0.

    Returns:
        The difference; None where nothing is known of its error.
    """
    error = draws.error
    if error is None or error.standard == 0:
        return None
    return (error.quantile((1 + level) / 2) + error.quantile(_POWER)) * error.standard


def seed_mean(draws: Draws, settings: FairnessSettings, *, of_difference: bool) -> SeedMean:
    """Write a mean down.

    Args:
        draws: The mean, or the difference of means.
        settings: Level and floor of events.
        of_difference: Which of both it is.

    Returns:
        The mean with its interval and the spread between seeds.
    """
    level, matched = settings.level, draws.matched
    if draws.value is None:
        return SeedMean(Estimate(None, level=level, reason=draws.reason))
    if of_difference:
        limits, method = difference_limits(draws, level), f"{PATIENTS}, paired"
        method = method if draws.one_seed else f"{method}, and {SEEDS}"
    else:
        limits, method = mean_limits(draws, level)
    notes = [draws.reason, "" if limits else NO_INTERVAL, ONE_SEED if draws.one_seed else ""]
    if draws.support < settings.min_events:
        method = f"{method}, few events"
    reason = "; ".join(note for note in notes if note)
    low, high = limits or (None, None)
    spread = float(matched.std(ddof=1)) if matched is not None and len(matched) > 1 else None
    return SeedMean(
        Estimate(draws.value, low, high, level, method, reason),
        spread,
        () if matched is None else tuple(matched.tolist()),
    )
