"""Arms beside each other where their runs cannot be paired: means of what each run published.

From noised counts, or where clinics keep no predictions any more, nobody can resample the patients
of two runs together. Figures then stand beside each other, and no difference is tested.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skinml.fairness.arm_means import SeedMean
from skinml.fairness.arm_values import ArmComparison, ArmFigure, ArmGap, GroupCount
from skinml.fairness.arms import BESIDE, primary_metric
from skinml.fairness.gaps import Gap, Reference, gaps_from
from skinml.fairness.settings import FairnessSettings
from skinml.fairness.sides import badness
from skinml.records import UNKNOWN_GROUP, Estimate, GroupResult

MEAN_LIMITS = "mean of the runs' own limits"


@dataclass(frozen=True)
class PublishedRun:
    """What one run published.

    Attributes:
        seed: Its seed.
        overall: The figures on everybody.
        groups: Each group's.
        gaps: The comparisons of groups, as `skinml.fairness.gaps` writes them; None: none.
    """

    seed: int
    overall: GroupResult
    groups: tuple[GroupResult, ...]
    gaps: Mapping[str, Any] | None


def side_by_side(
    arms: Mapping[str, Sequence[PublishedRun]],
    *,
    attributes: Sequence[str],
    settings: FairnessSettings,
    why: str,
    beside: Sequence[str] = BESIDE,
) -> ArmComparison:
    """Put what runs published beside each other, without testing any difference.

    Args:
        arms: The runs of each arm by its name, the first arm first.
        attributes: What groups are of.
        settings: Figure and level.
        why: Why nothing is paired.
        beside: Figures beside the primary one.

    Returns:
        The comparison. An interval is as wide as the mean of the runs' own.
    """
    metric = primary_metric(settings)
    every = [run for runs in arms.values() for run in runs]
    metrics = tuple(
        dict.fromkeys(
            name
            for name in (metric, *beside)
            if all(name in run.overall.estimates for run in every)
        )
    )
    figures = tuple(_figures(arms, attributes, metrics))
    gaps = _gaps(every[0], attributes, metric)
    references = {gap.attribute: Reference(gap.reference, "as in the runs") for gap in gaps}
    return ArmComparison(
        arms=tuple(arms),
        metric=metric,
        metrics=metrics,
        references=references,
        level=settings.level,
        margin=settings.margin_of(metric),
        min_events=settings.min_events,
        replicates=0,
        counts=tuple(_counts(every[0], attributes)),
        figures=figures,
        gaps=tuple(_arm_gaps(arms, attributes, metric)),
        worst=tuple(_worst(figures, tuple(arms), attributes, metric)),
        unpaired=why,
    )


def _chosen(run: PublishedRun, attributes: Sequence[str]) -> list[GroupResult]:
    return [run.overall, *(each for each in run.groups if each.attribute in attributes)]


def _figures(
    arms: Mapping[str, Sequence[PublishedRun]], attributes: Sequence[str], metrics: Sequence[str]
) -> Iterator[ArmFigure]:
    for arm, runs in arms.items():
        by_run = [{(e.attribute, e.group): e for e in _chosen(run, attributes)} for run in runs]
        for key in by_run[0]:
            for metric in metrics:
                found = [
                    groups[key].estimates[metric]
                    if key in groups
                    else Estimate(None, reason="a run has no such group")
                    for groups in by_run
                ]
                yield ArmFigure(arm, *key, metric, mean_of_estimates(found))


def mean_of_estimates(estimates: Sequence[Estimate]) -> SeedMean:
    """Average what several runs published of one figure.

    Args:
        estimates: The runs' estimates, at least one.

    Returns:
        The mean, with the mean of their limits: as wide as if all runs were wrong together, which
        the same patients make likely.
    """
    values = [each.value for each in estimates]
    level = estimates[0].level
    missing = next((each for each in estimates if each.value is None), None)
    if missing is not None:
        return SeedMean(Estimate(None, level=level, reason=missing.reason), None, tuple(values))
    known = np.array(values, dtype=float)
    spread = float(known.std(ddof=1)) if len(known) > 1 else None
    low, high = _mean(each.low for each in estimates), _mean(each.high for each in estimates)
    one = len(estimates) == 1
    method = estimates[0].method if one else f"{MEAN_LIMITS}: {estimates[0].method}"
    reason = next((each.reason for each in estimates if each.reason), "")
    estimate = Estimate(float(known.mean()), low, high, level, method, reason)
    return SeedMean(estimate, spread, tuple(values))


def _mean(limits: Iterator[float | None]) -> float | None:
    found = list(limits)
    known = [limit for limit in found if limit is not None]
    return float(np.mean(known)) if known and len(known) == len(found) else None


def _gaps(run: PublishedRun, attributes: Sequence[str], metric: str) -> list[Gap]:
    if run.gaps is None:
        return []
    every = gaps_from(run.gaps).gaps
    return [each for each in every if each.attribute in attributes and each.metric == metric]


def _arm_gaps(
    arms: Mapping[str, Sequence[PublishedRun]], attributes: Sequence[str], metric: str
) -> Iterator[ArmGap]:
    for arm, runs in arms.items():
        by_run = [
            {
                (g.attribute, g.group, g.reference): g.difference
                for g in _gaps(r, attributes, metric)
            }
            for r in runs
        ]
        for key in by_run[0]:
            if all(key in gaps for gaps in by_run):
                mean = mean_of_estimates([gaps[key] for gaps in by_run])
                yield ArmGap(arm, *key, metric, mean)


def _worst(
    figures: Sequence[ArmFigure], arms: Sequence[str], attributes: Sequence[str], metric: str
) -> Iterator[ArmFigure]:
    for arm in arms:
        for attribute in attributes:
            known = [
                each
                for each in figures
                if (each.arm, each.attribute, each.metric) == (arm, attribute, metric)
                and UNKNOWN_GROUP not in each.group
                and each.mean.estimate.value is not None
            ]
            if len(known) > 1:
                values = np.array([each.mean.estimate.value for each in known], dtype=float)
                yield known[int(np.argmax(badness(metric, values)))]


def _counts(run: PublishedRun, attributes: Sequence[str]) -> Iterator[GroupCount]:
    for each in _chosen(run, attributes):
        yield GroupCount(
            each.attribute,
            each.group,
            each.num_images,
            each.num_patients,
            each.num_positives,
            each.num_negatives,
        )
