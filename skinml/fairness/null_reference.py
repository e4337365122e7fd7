"""How large a gap is by chance: the same figures when groups are dealt out to patients anew.

A gap between the greatest and the least of several groups is never 0, and is large where groups
are small. What it would be with no true gap is found by dealing: patients of the same truth
exchange their groups, so that each group keeps its size, its events and its images of a patient
together, and only the link between group and performance is cut.
Shapes: n items, f hands (a patient's items in one group), g groups, d draws.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from skinml.fairness.catalogue import measures_of
from skinml.fairness.cells import Cell, part_of
from skinml.fairness.groups import weighed
from skinml.fairness.settings import FairnessSettings
from skinml.records import FloatArray, IntArray

# Weights of hands that are held at once.
_BLOCK = 6_000_000
_MOST_AT_ONCE = 64


@dataclass(frozen=True)
class Null:
    """A statistic beside what it is by chance.

    Attributes:
        mean: Its mean with no true gap.
        high: Its 95th percentile with no true gap.
        excess: What was found less that mean.
        p_value: The share of chance draws, the one found among them, that are as large.
        draws: Random divisions of the patients.
    """

    mean: float
    high: float
    excess: float
    p_value: float
    draws: int


def null_of(found: float, by_chance: FloatArray) -> Null | None:
    """Put a statistic beside its draws by chance.

    Args:
        found: The statistic, the greater the farther from no gap.
        by_chance: (d,) what it is in each draw; NaN where it is undefined.

    Returns:
        The reference; None where half of the draws have no value.
    """
    drawn = by_chance[np.isfinite(by_chance)]
    if drawn.size * 2 <= by_chance.size:
        return None
    # Rounding must not make a draw that is the same count as smaller.
    as_large = int((drawn >= found - 1e-12).sum())
    return Null(
        mean=float(drawn.mean()),
        high=float(np.quantile(drawn, 0.95)),
        excess=found - float(drawn.mean()),
        p_value=(1 + as_large) / (1 + drawn.size),
        draws=int(drawn.size),
    )


def dealt_figures(
    everybody: Cell,
    groups: Sequence[Cell],
    figures: Collection[str],
    settings: FairnessSettings,
    rng: np.random.Generator,
) -> Mapping[str, FloatArray]:
    """Compute figures of groups that were dealt out to patients anew.

    Args:
        everybody: All items.
        groups: The groups that are compared, no item in two of them.
        figures: Names of the figures.
        settings: The number of draws.
        rng: The stream that groups are dealt from.

    Returns:
        For each figure (g, d); NaN where it is undefined.
    """
    pooled, group_of = _hands(everybody, groups)
    by_class = _by_class(pooled, figures)
    found: dict[str, FloatArray] = {}
    for names, strata in (
        ([name for name in figures if name not in by_class], pooled.malignant.astype(np.int64)),
        ([name for name in figures if name in by_class], pooled.labels),
    ):
        if names:
            found |= _dealt(pooled, group_of, len(groups), names, strata, settings, rng)
    return found


def _hands(everybody: Cell, groups: Sequence[Cell]) -> tuple[Cell, IntArray]:
    """The items of all groups as one cell whose patients are the hands, and each hand's group."""
    rows = np.concatenate([group.rows for group in groups])
    group_of_item = np.repeat(np.arange(len(groups)), [len(group.rows) for group in groups])
    keys, hand = np.unique(
        everybody.patients[rows].astype(np.int64) * len(groups) + group_of_item,
        return_inverse=True,
    )
    together = part_of(everybody, everybody.attribute, everybody.group, rows)
    pooled = replace(together, num_patients=len(keys), patients=hand.reshape(-1))
    return pooled, np.asarray(keys % len(groups))


def _by_class(pooled: Cell, figures: Collection[str]) -> set[str]:
    """Figures that look at each class: only patients of the same classes exchange groups."""
    if len(pooled.names) == 2:
        return set()
    whole = ("auroc", "balanced_accuracy", "ece")
    return {name for name in figures if name in whole or name.startswith(("top_", "auroc_of_"))}


def _dealt(
    pooled: Cell,
    group_of: IntArray,
    num_groups: int,
    figures: Sequence[str],
    kinds: IntArray,
    settings: FairnessSettings,
    rng: np.random.Generator,
) -> dict[str, FloatArray]:
    measures = measures_of(pooled, settings, figures)
    found = np.full((len(measures), num_groups, settings.null_draws), np.nan)
    strata = _strata(pooled, kinds)
    size = max(1, min(_MOST_AT_ONCE, _BLOCK // len(group_of)))
    for start in range(0, settings.null_draws, size):
        count = min(size, settings.null_draws - start)
        dealt = np.tile(group_of, (count, 1))
        for hands in strata:
            dealt[:, hands] = rng.permuted(dealt[:, hands], axis=1)
        for group in range(num_groups):
            weights = np.ascontiguousarray((dealt == group).T, dtype=np.float64)
            found[:, group, start : start + count] = weighed(measures, weights)
    floors = np.array([each.floor for each in measures])
    found = np.maximum(found, floors[:, None, None])
    return {each.name: values for each, values in zip(measures, found, strict=True)}


def _strata(pooled: Cell, kinds: IntArray) -> list[IntArray]:
    """The hands that hold items of the same kinds, some benign and some malignant, say."""
    has = np.zeros((pooled.num_patients, int(kinds.max()) + 1), dtype=bool)
    has[pooled.patients, kinds] = True
    _, stratum = np.unique(has, axis=0, return_inverse=True)
    stratum = stratum.reshape(-1)
    return [np.flatnonzero(stratum == at) for at in range(int(stratum.max()) + 1)]
