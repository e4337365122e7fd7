"""Gaps at the same mix of cases: what is left when both groups had the same diagnoses.

Each item of a group is weighted by the share that its diagnosis has among everybody over the share
that it has in the group (direct standardisation), among the diagnoses that both groups have. The
weights are taken as known, which makes intervals rather too wide than too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from skinml.fairness.catalogue import measures_of
from skinml.fairness.cells import Cell, part_of
from skinml.fairness.groups import Measured, replicate_cells
from skinml.fairness.settings import FairnessSettings
from skinml.fairness.sides import comparable, correlation, difference_limits, side_of
from skinml.records import Estimate, Predictions, StrArray

METHOD = "patient bootstrap at the pooled mix of cases"
# With fewer patients of a diagnosis one of them would stand for all.
LEAST_PATIENTS = 5


@dataclass(frozen=True)
class StandardisedGap:
    """A gap at the same mix of cases.

    Attributes:
        attribute: What the groups are of.
        metric: The figure.
        group: The group.
        reference: What it is held against.
        within: What cases are told apart by, such as "diagnosis".
        difference: The group's figure less the reference's, at the pooled mix.
        crude: The same at each group's own mix, over all its cases.
        covered: Share of the pooled items whose case both groups have.
        left_out: Cases that a group has too few of, each with the reason.
    """

    attribute: str
    metric: str
    group: str
    reference: str
    within: str
    difference: Estimate
    crude: float | None
    covered: float
    left_out: Mapping[str, str]


def cases_of(predictions: Predictions, settings: FairnessSettings) -> tuple[str, StrArray] | None:
    """Find what cases are told apart by.

    Args:
        predictions: What a model said.
        settings: The attribute.

    Returns:
        Its name and (n,) each item's case; the true class where the model tells more than two
        apart and the attribute is not there; None where there is neither.
    """
    if settings.case_mix in predictions.groups:
        return settings.case_mix, predictions.groups[settings.case_mix]
    if len(predictions.classes.names) > 2:
        return settings.case_mix, np.asarray(predictions.classes.names)[predictions.labels]
    return None


@dataclass(frozen=True)
class _Pair:
    attribute: str
    reference: str
    group: str
    within: str
    covered: float
    left_out: Mapping[str, str]
    cells: tuple[Cell, ...]


def standardised_gaps(
    everybody: Cell,
    pairs: Sequence[tuple[Measured, Measured]],
    cases: tuple[str, StrArray],
    settings: FairnessSettings,
    rng: np.random.Generator,
) -> tuple[StandardisedGap, ...]:
    """Compute gaps at the pooled mix of cases.

    Args:
        everybody: All items.
        pairs: Each group with its reference.
        cases: What cases are told apart by, and (n,) each item's case.
        settings: The figures, replicates and level.
        rng: The stream that patients are resampled from.

    Returns:
        One entry a pair and figure.
    """
    made = [_pair(everybody, group.cell, base.cell, cases) for group, base in pairs]
    measures = [measures_of(cell, settings, settings.metrics) for p in made for cell in p.cells]
    drawn = replicate_cells(measures, everybody.num_patients, settings.replicates, rng)
    cells = [cell for pair in made for cell in pair.cells]
    weighted = {id(each[0]): Measured(*each) for each in zip(cells, measures, drawn, strict=True)}
    found = []
    for pair, (group, base) in zip(made, pairs, strict=True):
        for metric in settings.metrics:
            if metric not in {each.name for each in group.measures}:
                continue
            sides = [side_of(each, metric, settings).value for each in (group, base)]
            crude = None if None in sides else float(sides[0] or 0) - float(sides[1] or 0)
            both = tuple(weighted[id(cell)] for cell in pair.cells)
            found.append(
                StandardisedGap(
                    pair.attribute,
                    metric,
                    pair.group,
                    pair.reference,
                    pair.within,
                    _difference(both, metric, settings),
                    crude,
                    pair.covered,
                    pair.left_out,
                )
            )
    return tuple(found)


def _pair(everybody: Cell, group: Cell, base: Cell, cases: tuple[str, StrArray]) -> _Pair:
    within, every_case = cases
    rows = np.concatenate([group.rows, base.rows])
    pooled, counts = np.unique(every_case[rows], return_counts=True)
    left_out = {}
    for case in pooled.tolist():
        short = [
            f"{num} of {cell.group}"
            for cell in (group, base)
            if (num := len(np.unique(cell.patients[every_case[cell.rows] == case])))
            < LEAST_PATIENTS
        ]
        if short:
            left_out[case] = f"patients: {', '.join(short)}, fewer than {LEAST_PATIENTS}"
    kept = ~np.isin(pooled, list(left_out))
    covered = float(counts[kept].sum() / counts.sum())
    shares = dict(zip(pooled[kept].tolist(), (counts[kept]).tolist(), strict=True))
    cells = tuple(
        _weighted(everybody, cell, every_case, shares) for cell in (group, base) if shares
    )
    return _Pair(group.attribute, base.group, group.group, within, covered, left_out, cells)


def _weighted(everybody: Cell, cell: Cell, cases: StrArray, shares: Mapping[str, int]) -> Cell:
    rows = cell.rows[np.isin(cases[cell.rows], list(shares))]
    names, own, counts = np.unique(cases[rows], return_inverse=True, return_counts=True)
    target = np.array([shares[name] for name in names.tolist()], dtype=float)
    weights = (target / target.sum()) / (counts / counts.sum())
    made = part_of(everybody, cell.attribute, cell.group, rows)
    return replace(made, weights=weights[own.reshape(-1)])


def _difference(both: tuple[Measured, ...], metric: str, settings: FairnessSettings) -> Estimate:
    if not both:
        return Estimate(None, level=settings.level, reason="no case that both groups have")
    side, reference = (side_of(each, metric, settings) for each in both)
    reason = comparable(side, reference)
    if reason or side.value is None or reference.value is None:
        return Estimate(None, level=settings.level, reason=reason)
    value = side.value - reference.value
    limits = difference_limits(side, reference, correlation(side, reference))(settings.level)
    if limits is None:
        return Estimate(value, level=settings.level, reason="too few patients for an interval")
    return Estimate(value, *limits, settings.level, METHOD)
