"""Plots of a comparison: figures by group, and gaps, arm by arm.

Colours are those of Okabe and Ito (2008), and each line has a mark of its own, so that nobody needs
to tell colours apart. On the page they are CSS variables; a file of its own has them written out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor

from markupsafe import Markup

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM = 560, 340, 54, 12, 52
_LINE, _LETTER, _SPREAD = 20, 7.2, 0.5
_TEXT = 13
# Beyond this many lines marks come back hollow.
_STYLES = (
    ("var(--blue)", "circle"),
    ("var(--vermillion)", "square"),
    ("var(--green)", "diamond"),
    ("currentColor", "triangle"),
)
_WRITTEN_OUT = {
    "var(--blue)": "#0072b2",
    "var(--vermillion)": "#d55e00",
    "var(--green)": "#007a5a",
    "currentColor": "#1b1f24",
    "var(--paper)": "#ffffff",
}
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2)
_MOST_TICKS = 8

Point = tuple[float, float | None, float | None]


@dataclass(frozen=True)
class Series:
    """A line of a plot.

    Attributes:
        name: What it is.
        points: For each arm the value with its limits; None where it is undefined.
        dashed: Whether it stands for everybody.
    """

    name: str
    points: tuple[Point | None, ...]
    dashed: bool = False


@dataclass(frozen=True)
class Plot:
    """What to draw.

    Attributes:
        name: Unique on the page, of letters, digits and "-".
        title: What the plot is of.
        arms: What stands below the axis, an arm each.
        below: The words below the arms.
        series: The lines.
        band: Half the width of the band around 0 that counts as nothing; None draws neither.
        alt: What a reader who cannot see the plot is told.
    """

    name: str
    title: str
    arms: tuple[str, ...]
    below: str
    series: tuple[Series, ...]
    band: float | None
    alt: str


@dataclass(frozen=True)
class _Frame:
    low: float
    high: float
    step: float
    top: int
    num_arms: int

    def x(self, arm: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (arm + 0.5) / self.num_arms

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - self.top)


def plot_svg(plot: Plot) -> Markup:
    """Draw a plot for the page.

    Args:
        plot: What to draw.

    Returns:
        An SVG element without any reference to the network. Equal arguments give equal text.
    """
    start = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
    start += f'aria-labelledby="{plot.name}-t"><title id="{plot.name}-t">{escape(plot.alt)}</title>'
    return Markup(f"{start}{_drawing(plot)}</svg>")  # noqa: S704 -- all words are escaped


def plots_file(plots: Sequence[Plot]) -> str:
    """Draw plots below one another in a file of its own.

    Args:
        plots: What to draw.

    Returns:
        An SVG document on white.
    """
    tall = _HEIGHT + 30
    whole_height = tall * len(plots)
    size = f'width="{_WIDTH}" height="{whole_height}"'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {whole_height}" '
    parts = [f'{start}{size} font-family="sans-serif"><rect {size} fill="var(--paper)"/>']
    for place, plot in enumerate(plots):
        parts.append(f'<g transform="translate(0 {place * tall})">')
        parts.append('<text x="8" y="20" font-weight="bold" fill="currentColor">')
        parts.append(f"{escape(plot.title)}</text>")
        parts.append(f'<g transform="translate(0 28)"><title>{escape(plot.alt)}</title>')
        parts.append(f"{_drawing(plot)}</g></g>")
    whole = "".join([*parts, "</svg>\n"])
    for variable, colour in _WRITTEN_OUT.items():
        whole = whole.replace(variable, colour)
    return whole


def _drawing(plot: Plot) -> str:
    legend, rows = _legend(plot.series)
    frame = _frame(plot, top=8 + rows * _LINE)
    parts = [f'<g font-size="{_TEXT}" fill="currentColor">', legend, *_axes(plot, frame)]
    wide = _SPREAD / max(len(plot.series), 1)
    for place, series in enumerate(plot.series):
        shift = (place - (len(plot.series) - 1) / 2) * wide
        parts += _line(series, place, shift, frame)
    return "".join([*parts, "</g>"])


def _legend(every: Sequence[Series]) -> tuple[str, int]:
    """Name the lines above the plot; how many rows that takes."""
    parts, x, row = [], float(_LEFT), 0
    for place, series in enumerate(every):
        width = 22 + _LETTER * len(series.name) + 14
        if x > _LEFT and x + width > _WIDTH:
            x, row = float(_LEFT), row + 1
        y = 12 + row * _LINE
        parts.append(_mark(x + 6, y, place))
        parts.append(f'<text x="{x + 16:.1f}" y="{y + 4.5:.1f}">{escape(series.name)}</text>')
        x += width
    return "".join(parts), row + 1


def _frame(plot: Plot, *, top: int) -> _Frame:
    known = [p for series in plot.series for p in series.points if p is not None]
    ends = [end for point in known for end in point if end is not None]
    ends += [] if plot.band is None else [-plot.band, plot.band, 0.0]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    step = next((s for s in _STEPS if (high - low) / s <= _MOST_TICKS - 1), _STEPS[-1])
    bottom = step * floor(low / step + 1e-9)
    above = max(step * ceil(high / step - 1e-9), bottom + step)
    return _Frame(bottom, above, step, top, len(plot.arms))


def _axes(plot: Plot, frame: _Frame) -> Iterator[str]:
    right = _WIDTH - _RIGHT
    if plot.band is not None:
        above, below = frame.y(plot.band), frame.y(-plot.band)
        yield f'<rect x="{_LEFT}" y="{above:.1f}" width="{right - _LEFT}" '
        yield f'height="{below - above:.1f}" fill="currentColor" fill-opacity="0.09"/>'
    for number in range(round((frame.high - frame.low) / frame.step) + 1):
        value = frame.low + number * frame.step
        y, zero = frame.y(value), plot.band is not None and abs(value) < frame.step / 2
        strength = "0.7" if zero else "0.18"
        yield f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="currentColor" '
        yield f'stroke-opacity="{strength}"/>'
        text = f"{value:.2f}".replace("-0.00", "0.00")
        yield f'<text x="{_LEFT - 8}" y="{y + 4.5:.1f}" text-anchor="end">{text}</text>'
    for place, arm in enumerate(plot.arms):
        yield f'<text x="{frame.x(place):.1f}" y="{_HEIGHT - _BOTTOM + 20}" '
        yield f'text-anchor="middle">{escape(arm)}</text>'
    middle = (_LEFT + right) / 2
    yield f'<text x="{middle:.1f}" y="{_HEIGHT - 10}" text-anchor="middle">'
    yield f"{escape(plot.below)}</text>"


def _line(series: Series, place: int, shift: float, frame: _Frame) -> Iterator[str]:
    colour, _ = _STYLES[place % len(_STYLES)]
    known = [(frame.x(at + shift), p) for at, p in enumerate(series.points) if p is not None]
    steps = " ".join(f"{x:.1f},{frame.y(point[0]):.1f}" for x, point in known)
    dashes = ' stroke-dasharray="5 4"' if series.dashed else ""
    yield f'<polyline points="{steps}" fill="none" stroke="{colour}" stroke-width="1" '
    yield f'stroke-opacity="0.55"{dashes}/>'
    for x, (value, low, high) in known:
        if low is not None and high is not None:
            yield f'<path d="M{x:.1f} {frame.y(low):.1f}V{frame.y(high):.1f}" '
            yield f'stroke="{colour}" stroke-width="2"/>'
        yield _mark(x, frame.y(value), place)


def _mark(x: float, y: float, place: int) -> str:
    colour, shape = _STYLES[place % len(_STYLES)]
    fill = colour if place < len(_STYLES) else "var(--paper)"
    look = f'fill="{fill}" stroke="{colour}" stroke-width="1.5"'
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" {look}/>'
    paths: Mapping[str, str] = {
        "square": "m-4.2 -4.2h8.4v8.4h-8.4z",
        "diamond": "m0 -5.6l5.6 5.6l-5.6 5.6l-5.6 -5.6z",
        "triangle": "m0 -5.2l5 9h-10z",
    }
    return f'<path d="M{x:.1f} {y:.1f}{paths[shape]}" {look}/>'
