"""The plot of a privacy plan: epsilon against rounds, and noise against epsilon."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from skinml.privacy.planner import PlanCurves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CURVE, _ASKED = "#0072b2", "#d55e00"  # Okabe and Ito (2008)
_INCHES, _DOTS = (8.0, 3.4), 150


def plan_png(curves: PlanCurves) -> bytes:
    """Draw both curves beside one another, with the planned run marked.

    Args:
        curves: What to draw.

    Returns:
        A PNG image of 1200 x 510 pixels; equal arguments give equal bytes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    noise = f"noise multiplier {curves.noise_multiplier:.3g}"
    left.plot(*zip(*curves.by_rounds, strict=True), color=_CURVE, label=noise)
    left.set_xlabel("rounds of training")
    left.set_ylabel(f"epsilon at delta {curves.delta:g}")
    left.set_xlim(left=0)
    left.set_ylim(bottom=0)
    _mark(left, curves.rounds, curves.epsilon)
    right.plot(*zip(*curves.by_epsilon, strict=True), color=_CURVE, label=f"{curves.rounds} rounds")
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlabel(f"epsilon of the run at delta {curves.delta:g}")
    right.set_ylabel(f"noise multiplier of each {curves.release}")
    _plain_ticks(right)
    _mark(right, curves.epsilon, curves.noise_multiplier)
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=_DOTS, metadata={"Software": None})
    return target.getvalue()


def _mark(axes: Axes, x: float, y: float) -> None:
    axes.plot([x], [y], "o", color=_ASKED, markersize=7, label="this plan", zorder=3)
    axes.grid(color="black", alpha=0.15, linewidth=0.6)
    axes.legend(frameon=False, fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _plain_ticks(axes: Axes) -> None:
    """Write 0.5 and 20 instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
