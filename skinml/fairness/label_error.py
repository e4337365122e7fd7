"""How a gap would grow if some patients were put into the wrong group: correction by assumption.

An item whose group was misread takes its performance into another group. Given the share of each
true group that is labelled as each other one, and that a misreading has nothing to do with
performance, the figures of the true groups follow: such errors make gaps smaller. Where images are
misread because they are hard, in poor light say, the error is tied to performance, gaps may have
been made larger, and this correction says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from skinml.fairness.intervals import mover_sum
from skinml.fairness.settings import FairnessSettings
from skinml.fairness.sides import Side
from skinml.records import Estimate, FloatArray

METHOD = "corrected by assumption for label error (Zou and Donner 2008)"
PUBLISHED = (
    "how often two annotation firms gave the same Fitzpatrick type to 15,230 images of "
    "Fitzpatrick17k (Groh et al. 2021): {}; one of them is taken as true, and a disagreement "
    "goes to the neighbours in equal parts"
)
GIVEN = "fairness.label_error"
SCALES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How much of the assumed error is corrected for; 0 is the gap as it was found."""
# Shares of items on which the two firms agree, are one step and are two steps apart: six types
# agree in 47.9% and lie within one in 91.0%, three bins of two types agree in 76.8%.
_SIX = (0.479, 0.431, 0.090)
_THREE = (0.768, 0.232)
FITZPATRICK = "fitzpatrick"
"""The scale whose label error was published."""
_TONES = ("skin_tone", FITZPATRICK, "monk", "ita_bin")
_ROMAN = ("I", "II", "III", "IV", "V", "VI")
# Beyond this, figures of true groups hang on the last digit of what was found.
_MOST_ILL = 1e3


@dataclass(frozen=True)
class LabelErrorPoint:
    """The gap under one assumption.

    Attributes:
        scale: The part of the assumed error that is corrected for, from 0 to 1.
        difference: The corrected gap.
        possible: Whether the corrected figures lie within the figure's own range.
    """

    scale: float
    difference: Estimate
    possible: bool


@dataclass(frozen=True)
class LabelErrorCurve:
    """How a gap would grow with the assumed error of the labels. Correction by assumption.

    Attributes:
        attribute: What the groups are of.
        metric: The figure.
        group: The group.
        reference: What it is held against.
        groups: All groups in the order of the scale.
        confusion: For each true group, the share that is labelled as each group.
        source: Where that table comes from.
        points: The gap at each part of the error; empty where there is no curve.
        reason: Why there is none.
    """

    attribute: str
    metric: str
    group: str
    reference: str
    groups: tuple[str, ...]
    confusion: tuple[tuple[float, ...], ...]
    source: str
    points: tuple[LabelErrorPoint, ...]
    reason: str = ""


def published_confusion(num_groups: int) -> tuple[FloatArray, str] | None:
    """Build the table that two annotation firms' agreement implies.

    Args:
        num_groups: Groups of the scale; published are six types and three bins of two types.

    Returns:
        (g, g) rows are true groups, columns are labels; and its source. None for other numbers.

    Source:
        Groh et al. 2021, CVPR workshops, arXiv:2104.09957; the agreement was recomputed from the
        data set's file. Of an end group all that is one step away goes to its one neighbour.

    >>> published_confusion(3)[0].tolist()
    [[0.768, 0.232, 0.0], [0.116, 0.768, 0.116], [0.0, 0.232, 0.768]]
    """
    known = {6: (_SIX, "47.9%, within one type 91.0%"), 3: (_THREE, "76.8% in three bins")}
    if num_groups not in known:
        return None
    shares, words = known[num_groups]
    steps = np.abs(np.subtract.outer(np.arange(num_groups), np.arange(num_groups)))
    table = np.zeros((num_groups, num_groups))
    for step, share in enumerate(shares):
        at = steps == step
        table += np.where(at, share / np.maximum(at.sum(axis=1, keepdims=True), 1), 0.0)
    return table, PUBLISHED.format(words)


def scale_order(
    attribute: str, groups: Sequence[str], settings: FairnessSettings
) -> tuple[str, ...] | None:
    """Put groups in the order of their scale.

    Args:
        attribute: What the groups are of.
        groups: Their names.
        settings: The order, where the config tells it.

    Returns:
        The order: the config's, or that of the numbers or Roman numerals that the names begin
        with; None where it is not known.
    """
    if attribute in settings.order:
        order = tuple(name for name in settings.order[attribute] if name in groups)
        return order if len(order) == len(groups) else None
    if all(name in _ROMAN for name in groups):
        return tuple(sorted(groups, key=_ROMAN.index))
    numbers = [re.match(r"\d+", name) for name in groups]
    if any(number is None for number in numbers):
        return None
    starts = {name: int(number[0]) for name, number in zip(groups, numbers, strict=True) if number}
    return tuple(sorted(groups, key=starts.__getitem__))


def label_error_curve(
    attribute: str,
    metric: str,
    sides: Sequence[Side],
    counts: Sequence[float],
    pair: tuple[str, str],
    settings: FairnessSettings,
) -> LabelErrorCurve | None:
    """Correct a gap for a growing error of the labels.

    Args:
        attribute: What the groups are of.
        metric: The figure; it is treated as a mean over the items that it rests on, which an
            AUROC only nearly is.
        sides: All groups' figures.
        counts: For each side, the items that its figure rests on.
        pair: The group, and the reference that it is held against.
        settings: The order of the groups and the table.

    Returns:
        The curve; None for an attribute that is no skin tone and has no table. A curve without
        points says why: above all, no other scale than Fitzpatrick's has a published table.
    """
    if attribute not in settings.label_error and attribute not in _TONES:
        return None
    named = tuple(side.group for side in sides)
    if attribute not in settings.label_error and not _is_fitzpatrick(attribute, settings):
        scale = settings.scale.get(attribute, "")
        of, do = f"the scale {scale}", f"give one in fairness.label_error.{attribute}"
        if not scale:
            of = "these groups, whose scale nobody named"
            do = f"set fairness.scale.{attribute} if it is {FITZPATRICK}, or {do}"
        return _none(attribute, metric, pair, named, f"no table is published for {of}: {do}")
    order = scale_order(attribute, named, settings)
    if order is None:
        do = f"name all groups in fairness.order.{attribute}"
        return _none(attribute, metric, pair, named, f"the order of the groups is not known: {do}")
    found = _confusion(attribute, len(order), settings)
    if found is None:
        do = f"give a table for {len(order)} groups in fairness.label_error.{attribute}"
        return _none(attribute, metric, pair, order, f"no published table fits: {do}")
    table, source = found
    by_name = {side.group: (side, count) for side, count in zip(sides, counts, strict=True)}
    ordered = [by_name[name][0] for name in order]
    limits = [side.limits(settings.level) for side in ordered]
    short = [
        name
        for name, side, pair_of in zip(order, ordered, limits, strict=True)
        if side.value is None or pair_of is None
    ]
    if short:
        return _none(attribute, metric, pair, order, f"no figure for {', '.join(short)}")
    values = np.array([side.value for side in ordered], dtype=float)
    ends = np.array([each for each in limits if each is not None], dtype=float)
    sizes = np.array([by_name[name][1] for name in order], dtype=float)
    chosen = np.array([(name == pair[0]) * 1.0 - (name == pair[1]) for name in order])
    points = [_point(scale, table, values, ends, sizes, chosen, settings.level) for scale in SCALES]
    return LabelErrorCurve(
        attribute,
        metric,
        *pair,
        order,
        tuple(tuple(float(share) for share in row) for row in table),
        source,
        tuple(points),
    )


def _is_fitzpatrick(attribute: str, settings: FairnessSettings) -> bool:
    scale = settings.scale.get(attribute, attribute)
    return scale.casefold().startswith(FITZPATRICK)


def _none(
    attribute: str, metric: str, pair: tuple[str, str], groups: tuple[str, ...], reason: str
) -> LabelErrorCurve:
    return LabelErrorCurve(attribute, metric, *pair, groups, (), "", (), reason)


def _confusion(
    attribute: str, num_groups: int, settings: FairnessSettings
) -> tuple[FloatArray, str] | None:
    if attribute in settings.label_error:
        table = np.array(settings.label_error[attribute], dtype=float)
        if len(table) != num_groups:
            return None
        return table / table.sum(axis=1, keepdims=True), GIVEN
    return published_confusion(num_groups)


def mixing(table: FloatArray, labelled: FloatArray) -> FloatArray:
    """Find which true groups each labelled group is made of.

    Args:
        table: (g, g) for each true group, the share that is labelled as each group.
        labelled: (g,) items of each labelled group.

    Returns:
        (g, g) for each labelled group, the share that truly is of each group.
    """
    from scipy.optimize import nnls

    true, _ = nnls(table.T, labelled)
    joint = true[:, None] * table
    sizes = joint.sum(axis=0)
    return np.asarray((joint / np.where(sizes > 0, sizes, 1.0)).T)


def _point(
    scale: float,
    table: FloatArray,
    values: FloatArray,
    limits: FloatArray,
    counts: FloatArray,
    chosen: FloatArray,
    level: float,
) -> LabelErrorPoint:
    part = (1 - scale) * np.eye(len(table)) + scale * table
    mixed = mixing(part, counts)
    if not isfinite(np.linalg.cond(mixed)) or np.linalg.cond(mixed) > _MOST_ILL:
        reason = "with so much error the labels tell nothing about the true groups"
        return LabelErrorPoint(scale, Estimate(None, level=level, reason=reason), possible=False)
    back = np.linalg.inv(mixed)
    true = back @ values
    factors = chosen @ back
    low, high = mover_sum(factors, values, limits)
    difference = Estimate(float(factors @ values), low, high, level, METHOD)
    possible = bool((true >= 0).all() and (true <= 1).all())
    return LabelErrorPoint(scale, difference, possible)
