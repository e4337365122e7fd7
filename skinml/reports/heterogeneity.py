"""How far clinics differ beyond chance, and what another clinic like them may expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log, log1p, sqrt

import numpy as np
from scipy.stats import norm, t

from skinml.records import Estimate, RunRecord

CLINIC = "clinic"
METRICS = ("auroc", "sensitivity", "specificity")
# Fewer clinics tell nothing of how clinics spread.
_LEAST_FOR_PREDICTION = 3


@dataclass(frozen=True)
class Heterogeneity:
    """How one figure differs between clinics.

    Attributes:
        metric: The figure.
        num_clinics: Clinics with a figure and an interval.
        least: The least clinic's figure.
        greatest: The greatest clinic's.
        i_squared_percent: The share of the clinics' variation that chance does not explain.
        low: Lower limit for another clinic like these; None from fewer than three clinics.
        high: Upper limit.
        left_out: Clinics without a figure or an interval.
    """

    metric: str
    num_clinics: int
    least: float
    greatest: float
    i_squared_percent: float
    low: float | None
    high: float | None
    left_out: tuple[str, ...]


def heterogeneity(record: RunRecord) -> tuple[Heterogeneity, ...]:
    """Work out how figures differ between clinics.

    Each figure is taken to log odds, its standard error from its interval. A clinic whose figure is
    0 or 1 counts too, as of so many patients who were all alike.

    Args:
        record: What the run may show.

    Returns:
        An entry for each figure that at least two clinics have.

    Source:
        DerSimonian and Laird 1986; Higgins and Thompson 2002 for I squared; Higgins, Thompson and
        Spiegelhalter 2009 for the interval of another clinic; the half added at 0 or 1 as in
        Haldane 1956.
    """
    groups = [each for each in record.groups if each.attribute == CLINIC]
    found = []
    for metric in METRICS:
        told = {
            each.group: each.estimates[metric] for each in groups if _usable(each.estimates, metric)
        }
        if len(told) >= 2:
            left_out = tuple(each.group for each in groups if each.group not in told)
            found.append(_of(metric, list(told.values()), left_out))
    return tuple(found)


def _usable(estimates: Mapping[str, Estimate], metric: str) -> bool:
    each = estimates.get(metric)
    if each is None or each.value is None or each.low is None or each.high is None:
        return False
    inside = 0 <= each.low <= each.value <= each.high <= 1 and each.low < each.high
    return inside and (each.low > 0 or each.high < 1) and _odds(each)[1] > 0


def _of(metric: str, told: Sequence[Estimate], left_out: tuple[str, ...]) -> Heterogeneity:
    values = np.array([each.value for each in told], dtype=float)
    odds, variance = np.array([_odds(each) for each in told]).T
    weight = 1 / variance
    mean, num = float(weight @ odds / weight.sum()), len(odds)
    q = float(weight @ (odds - mean) ** 2)
    scale = float(weight.sum() - (weight**2).sum() / weight.sum())
    tau2 = max(0.0, (q - (num - 1)) / scale)
    share = max(0.0, (q - (num - 1)) / q) if q > 0 else 0.0
    low = high = None
    if num >= _LEAST_FOR_PREDICTION:
        wide = 1 / (variance + tau2)
        centre = float(wide @ odds / wide.sum())
        reach = float(t.ppf((1 + told[0].level) / 2, num - 2)) * sqrt(tau2 + 1 / wide.sum())
        low, high = _share(centre - reach), _share(centre + reach)
    return Heterogeneity(
        metric,
        num,
        float(values.min()),
        float(values.max()),
        100 * share,
        low,
        high,
        left_out,
    )


def _odds(each: Estimate) -> tuple[float, float]:
    """A figure's log odds and their variance, from its interval.

    At 0 or 1, or where a limit is, log odds have no end. A figure of 0 or 1 is taken for that of as
    many patients as its interval tells, all alike, half of one added to either side; a limit at the
    edge is left, and the other one tells the spread.
    """
    value, low, high = float(each.value or 0.0), float(each.low or 0.0), float(each.high or 0.0)
    z = float(norm.ppf((1 + each.level) / 2))
    if value in (0.0, 1.0):
        known = low if value == 1 else 1 - high
        size = log((1 - each.level) / 2) / log(known)
        centre = log((size + 0.5) / 0.5)
        return (centre if value else -centre), 1 / (size + 0.5) + 2.0
    centre = _logit(value)
    if low <= 0:
        spread = (_logit(high) - centre) / z
    elif high >= 1:
        spread = (centre - _logit(low)) / z
    else:
        spread = (_logit(high) - _logit(low)) / (2 * z)
    return centre, spread**2


def _logit(share: float) -> float:
    return log(share) - log1p(-share)


def _share(odds: float) -> float:
    return 1 / (1 + exp(-odds)) if odds > -log(1e300) else 0.0
