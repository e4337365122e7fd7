"""Calibration and decision curves of everybody and of the headline's groups: figures and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from skinml.fairness.curves import CalibrationPoint, GroupCurves, NetBenefitPoint
from skinml.records import RunRecord
from skinml.reports.derived import Derived
from skinml.reports.figures import Line, Series, curve_svg
from skinml.reports.kept import curves_of
from skinml.reports.numbers import count, figure, interval
from skinml.reports.sections import Plot
from skinml.reports.view import Cell, Row, Table, group_title

_MOST_GROUPS = 8
# Every fifth risk is enough for a table.
_TABLED = 5
_BELOW = ". The table below has the same numbers."


@dataclass(frozen=True)
class Curves:
    """The page's part on curves.

    Attributes:
        calibration: A figure a group.
        decision: A figure a group.
        tables: The same numbers.
    """

    calibration: tuple[Plot, ...]
    decision: tuple[Plot, ...]
    tables: tuple[Table, ...]


def curves_part(record: RunRecord, derived: Derived) -> Curves | None:
    """Make the figures and tables of curves.

    Args:
        record: What the run may show.
        derived: The derived figures, for the headline attribute.

    Returns:
        Everybody's and the headline attribute's groups; None where the record has no curves.
    """
    chosen = [
        each for each in curves_of(record) if each.attribute in ("overall", derived.headline)
    ][: _MOST_GROUPS + 1]
    if not chosen:
        return None
    return Curves(
        tuple(_calibration(number, each) for number, each in enumerate(chosen, 1)),
        tuple(_decision(number, each) for number, each in enumerate(chosen, 1)),
        tuple(table for each in chosen for table in (_calibrated(each), _benefit(each))),
    )


def _title(curves: GroupCurves) -> str:
    return "Everybody" if curves.attribute == "overall" else group_title(curves.group)


def _calibration(number: int, curves: GroupCurves) -> Plot:
    points = curves.calibration
    told = [each for each in points if each.observed.value is not None]
    svg = curve_svg(
        f"calibration-{number}",
        [
            Series(
                [each.mean_score for each in told],
                [each.observed.value or 0.0 for each in told],
                Line.MODEL,
                [_limits(each) for each in told],
            ),
            Series([0.0, 1.0], [0.0, 1.0], Line.REFERENCE),
        ],
        axes=("stated risk", "observed share"),
        limits=((0.0, 1.0), (0.0, 1.0)),
        alt=f"Calibration of {_title(curves)}: " + "; ".join(map(_said, told)) + _BELOW,
    )
    return Plot(_title(curves), Markup(svg))  # noqa: S704 - every word inside was escaped


def _limits(point: CalibrationPoint) -> tuple[float, float]:
    value = point.observed.value or 0.0
    low, high = point.observed.low, point.observed.high
    return (value if low is None else low, value if high is None else high)


def _said(point: CalibrationPoint) -> str:
    return f"stated {figure(point.mean_score, 2)}, observed {figure(point.observed.value, 2)}"


def _decision(number: int, curves: GroupCurves) -> Plot:
    points = curves.net_benefit
    risks = [each.risk for each in points]
    top = max([each.model for each in points] + [each.everybody for each in points] + [0.01])
    # Alarms for everybody soon cost more than a page can show; below that nobody looks.
    low = -0.25 * top
    svg = curve_svg(
        f"decision-{number}",
        [
            Series(risks, [each.model for each in points], Line.MODEL),
            Series(risks, [each.everybody for each in points], Line.EVERYBODY),
            Series([risks[0], risks[-1]], [0.0, 0.0], Line.REFERENCE),
        ],
        axes=("risk from which somebody acts", "net benefit"),
        limits=((0.0, risks[-1]), (low, 1.05 * top)),
        alt=f"Net benefit for {_title(curves)}. {net_benefit_alt(points)}{_BELOW}",
    )
    return Plot(_title(curves), Markup(svg))  # noqa: S704 - every word inside was escaped


def net_benefit_alt(points: Sequence[NetBenefitPoint]) -> str:
    """Describe a decision curve by what was computed, and no further.

    Args:
        points: The curve, at rising risks; at least one.

    Returns:
        At which of these risks the model's line is the highest.
    """
    looked = f"Of the risks from {figure(points[0].risk, 2)} to {figure(points[-1].risk, 2)}, "
    stretches: list[list[float]] = []
    before = False
    for each in points:
        better = each.model > max(each.everybody, 0.0)
        if better and not before:
            stretches.append([])
        if better:
            stretches[-1].append(each.risk)
        before = better
    words = [
        figure(each[0], 2) if len(each) == 1 else f"{figure(each[0], 2)} to {figure(each[-1], 2)}"
        for each in stretches
    ]
    return (
        f"{looked}the model's line lies above those of alarms for everybody and for nobody at "
        f"{', '.join(words) or 'none'}, without a test whether by more than chance"
    )


def _calibrated(curves: GroupCurves) -> Table:
    rows = tuple(
        Row(
            figure(each.mean_score, 3),
            (
                Cell(figure(each.observed.value, 3), interval(each.observed, 3)),
                Cell(count(each.num_items)),
            ),
        )
        for each in curves.calibration
    )
    columns = ("Mean stated risk", "Observed share", "Images")
    return Table(f"Calibration curve: {_title(curves)}", columns, rows)


def _benefit(curves: GroupCurves) -> Table:
    rows = tuple(
        Row(figure(each.risk, 2), (Cell(figure(each.model, 3)), Cell(figure(each.everybody, 3))))
        for each in curves.net_benefit[_TABLED - 1 :: _TABLED]
    )
    columns = ("Risk from which somebody acts", "The model", "Alarms for everybody")
    return Table(f"Net benefit: {_title(curves)}", columns, rows)
