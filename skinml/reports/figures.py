"""Figures as SVG that sits inside the page: forest plots by group, and the training's course.

The colours are those of Okabe and Ito (2008), which readers with colour-blindness can tell apart.
They are written as CSS variables, and text as `currentColor`, so that a figure follows the page's
light or dark colours.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from skinml.records import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins that Matplotlib draws with and that the page's own colours replace.
_INK = "#010203"
_COLOURS = {"#0072b2": "var(--blue)", "#d55e00": "var(--vermillion)", "#009e73": "var(--green)"}
_FOREST_STYLE = {
    "auroc": ("#0072b2", "o"),
    "sensitivity": ("#d55e00", "s"),
    "specificity": ("#009e73", "D"),
}
_MAX_LABEL = 19
# A curve of more points has no marks on it.
_MOST_MARKED = 12
# Inches: every forest plot has the same axes, so that groups can be compared down the page.
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 3.6, 1.3, 0.12, 0.06, 0.26


@dataclass(frozen=True)
class ForestRow:
    """One line of a forest plot.

    Attributes:
        label: The group's name.
        note: A second, smaller line, such as the number of events.
        estimate: The figure of the group.
        few: Whether the group has too few events for a finding; drawn hollow.
    """

    label: str
    note: str
    estimate: Estimate
    few: bool


def forest_svg(
    name: str, rows: Sequence[ForestRow], *, metric: str, overall: float | None, alt: str
) -> str:
    """Draw one figure of all groups of an attribute, with intervals.

    Args:
        name: A name of the plot that is unique on the page, made of letters, digits and "-".
        rows: The groups from top to bottom, at least one.
        metric: The figure's name, which chooses colour, marker and range.
        overall: The figure of everybody, drawn as a dashed line; None draws none.
        alt: What a reader who cannot see the plot is told.

    Returns:
        An SVG element without any reference to the network. Equal arguments give equal text.
    """
    colour, marker = _FOREST_STYLE.get(metric, ("#0072b2", "o"))
    figure, axes = _canvas(left=_LEFT, bottom=_BOTTOM, height=0.32 + 0.36 * len(rows))
    low = _left_end(rows, overall) if metric == "auroc" else 0.0
    if overall is not None:
        axes.axvline(overall, color=_INK, linestyle=(0, (4, 3)), linewidth=0.9, zorder=1)
    for place, row in enumerate(rows):
        _draw_row(axes, place, row, (colour, marker), low)
    axes.set_xlim(low, 1.0)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=_INK, alpha=0.15, linewidth=0.6)
    return _as_svg(figure, name, alt)


class Line(Enum):
    """What a line of a curve is: its colour, and its form for whoever sees no colours."""

    MODEL = ("#0072b2", "-", "o")
    EVERYBODY = ("#d55e00", "--", "")
    REFERENCE = (_INK, ":", "")


@dataclass(frozen=True)
class Series:
    """One line of a plot of curves.

    Attributes:
        x: (n,) places.
        y: (n,) values.
        line: What it is.
        limits: (n,) the interval of each value; None draws none.
    """

    x: Sequence[float]
    y: Sequence[float]
    line: Line
    limits: Sequence[tuple[float, float]] | None = None


def curve_svg(
    name: str,
    series: Sequence[Series],
    *,
    axes: tuple[str, str],
    limits: tuple[tuple[float, float], tuple[float, float]],
    alt: str,
) -> str:
    """Draw curves.

    Args:
        name: A name of the plot that is unique on the page, made of letters, digits and "-".
        series: The lines.
        axes: The words below and beside.
        limits: The ranges of both axes.
        alt: What a reader who cannot see the plot is told.

    Returns:
        An SVG element without any reference to the network. Equal arguments give equal text.
    """
    figure, plot = _canvas(left=0.72, bottom=0.48, height=2.6)
    for each in series:
        colour, form, marker = each.line.value
        few = marker and len(each.x) <= _MOST_MARKED
        plot.plot(
            each.x,
            each.y,
            color=colour,
            linestyle=form,
            linewidth=1.5,
            marker=marker if few else "",
            markersize=4.5,
            zorder=2,
        )
        for x, (low, high) in zip(each.x, each.limits or (), strict=False):
            plot.plot([x, x], [low, high], color=colour, linewidth=1.2, zorder=2)
    plot.set_xlim(*limits[0])
    plot.set_ylim(*limits[1])
    plot.set_xlabel(axes[0], color=_INK, fontsize=9)
    plot.set_ylabel(axes[1], color=_INK, fontsize=9)
    plot.grid(color=_INK, alpha=0.15, linewidth=0.6)
    return _as_svg(figure, name, alt)


def history_svg(name: str, rounds: Sequence[float], values: Sequence[float], *, alt: str) -> str:
    """Draw how one figure of the optimiser went over the rounds.

    Args:
        name: A name of the plot that is unique on the page, made of letters, digits and "-".
        rounds: (n,) the rounds' numbers.
        values: (n,) the figure in each round.
        alt: What a reader who cannot see the plot is told.

    Returns:
        An SVG element without any reference to the network. Equal arguments give equal text.
    """
    figure, axes = _canvas(left=0.55, bottom=0.42, height=1.8)
    axes.plot(rounds, values, color="#0072b2", linewidth=1.4, marker="o", markersize=2.5)
    axes.set_xlabel("round", color=_INK, fontsize=9)
    axes.grid(axis="y", color=_INK, alpha=0.15, linewidth=0.6)
    return _as_svg(figure, name, alt)


def _canvas(*, left: float, bottom: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height))
    FigureCanvasSVG(figure)
    width, tall = _WIDTH - left - _RIGHT, height - bottom - _TOP
    axes = figure.add_axes((left / _WIDTH, bottom / height, width / _WIDTH, tall / height))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(_INK)
    axes.tick_params(colors=_INK, labelsize=9)
    axes.patch.set_alpha(0)
    figure.patch.set_alpha(0)
    return figure, axes


def _left_end(rows: Sequence[ForestRow], overall: float | None) -> float:
    values = [row.estimate.low for row in rows] + [row.estimate.value for row in rows] + [overall]
    least = min([value for value in values if value is not None], default=0.5)
    return 0.4 if least >= 0.42 else 0.2 if least >= 0.22 else 0.0


def _draw_row(axes: Axes, place: int, row: ForestRow, style: tuple[str, str], low: float) -> None:
    colour, marker = style
    estimate = row.estimate
    at: dict[str, Any] = {
        "transform": axes.get_yaxis_transform(),
        "va": "center",
        "parse_math": False,
    }
    edge = (0.05 - _LEFT) / (_WIDTH - _LEFT - _RIGHT)
    axes.text(edge, place - 0.16, _shorten(row.label), fontsize=9, color=_INK, **at)
    axes.text(edge, place + 0.2, row.note, fontsize=7.5, color=_INK, **at)
    if estimate.value is None:
        axes.text(
            low + 0.01, place, "undefined", va="center", fontsize=9, fontstyle="italic", color=_INK
        )
        return
    if estimate.low is not None and estimate.high is not None:
        ends = [estimate.low, estimate.high]
        axes.plot(ends, [place, place], color=colour, linewidth=2, solid_capstyle="butt", zorder=2)
    axes.plot(
        [estimate.value],
        [place],
        marker=marker,
        markersize=6,
        color=colour,
        markerfacecolor="none" if row.few else colour,
        markeredgewidth=1.4,
        clip_on=False,
        zorder=3,
    )


def _shorten(label: str) -> str:
    name = "".join(letter for letter in label if letter.isprintable())
    return name if len(name) <= _MAX_LABEL else f"{name[: _MAX_LABEL - 1]}…"


def _as_svg(figure: Figure, name: str, alt: str) -> str:
    from matplotlib import rc_context

    target = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        # The reader's browser draws the letters: what Matplotlib's own font lacks does not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    return _for_page(target.getvalue(), name, alt)


def _for_page(svg: str, name: str, alt: str) -> str:
    """Keep the drawing alone: no prologue, no metadata, ids of its own, the page's colours."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r' xmlns(:\w+)?="[^"]*"', "", body)
    body = body.replace("xlink:href", "href")
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'href="#', f'href="#{name}-', body).replace("url(#", f"url(#{name}-")
    body = re.sub(r"<defs>\s*<style.*?</defs>", "", body, flags=re.DOTALL)
    for drawn, shown in {_INK: "currentColor", **_COLOURS}.items():
        body = body.replace(drawn, shown)
    body = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", body)
    words = f'<title id="{name}-t">{html.escape(alt)}</title>'
    opening = re.match(r"<svg[^>]*>", body)
    view_box = re.search(r'viewBox="([^"]*)"', opening.group() if opening else "")
    start = f'<svg viewBox="{view_box.group(1) if view_box else ""}" role="img"'
    rest = body[opening.end() :] if opening else body
    return f'{start} aria-labelledby="{name}-t">{words}{rest}'
