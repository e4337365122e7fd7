"""Figures of the audit's page: ROC curves of membership attacks, and pictures inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import log10

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 420, 340, 58, 46, 10, 14
# A rate of zero has no place on a logarithmic axis: it is drawn on the edge.
_LEAST = 1e-3
_TICKS = (0.001, 0.01, 0.1, 1.0)


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        title: What it is of.
        points: Pairs of false- and true-positive rate.
        colour: A CSS colour.
        dashes: SVG's stroke-dasharray; empty for a whole line.
    """

    title: str
    points: tuple[tuple[float, float], ...]
    colour: str
    dashes: str = ""


def roc_svg(lines: Sequence[Line], alt: str) -> Markup:
    """Draw ROC curves on logarithmic axes, where low false-positive rates can be seen.

    Args:
        lines: The curves.
        alt: What a reader who cannot see the figure is told.

    Returns:
        An SVG element without any reference to the network. Equal arguments give equal text.
    """
    start = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(alt)}" '
    parts = [start + 'font-size="12" fill="currentColor">']
    for tick in _TICKS:
        x, y, text = _x(tick), _y(tick), f"{tick:.1%}".replace(".0%", "%")
        for ends in ((x, _y(_LEAST), x, _y(1)), (_x(_LEAST), y, _x(1), y)):
            parts.append(_stroke(ends))
        parts.append(f'<text x="{x:.1f}" y="{_y(_LEAST) + 17:.1f}" text-anchor="middle">{text}')
        parts.append(
            f'</text><text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text x="{middle:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">'
        "not in training, wrongly suspected</text>"
        f'<text transform="translate(12 {(_y(_LEAST) + _TOP) / 2:.1f}) rotate(-90)" '
        'text-anchor="middle">in training, found</text>'
    )
    parts += [_curve(line) for line in lines]
    return Markup("".join([*parts, "</svg>"]))  # noqa: S704 -- every word in it is escaped above


def _stroke(ends: tuple[float, float, float, float]) -> str:
    x1, y1, x2, y2 = (f"{end:.1f}" for end in ends)
    return f'<path d="M{x1} {y1}L{x2} {y2}" stroke="currentColor" stroke-opacity="0.18"/>'


def _curve(line: Line) -> str:
    steps = " ".join(f"{_x(wrong):.1f},{_y(found):.1f}" for wrong, found in line.points)
    dashes = f' stroke-dasharray="{escape(line.dashes)}"' if line.dashes else ""
    return (
        f'<polyline points="{steps}" fill="none" stroke="{escape(line.colour)}" '
        f'stroke-width="2"{dashes}><title>{escape(line.title)}</title></polyline>'
    )


def _x(rate: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * _along(rate)


def _y(rate: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * _along(rate)


def _along(rate: float) -> float:
    """Place a rate between the least and 1, logarithmically."""
    return 1 - log10(max(rate, _LEAST)) / log10(_LEAST)


def png_uri(pixels: NDArray[np.uint8]) -> str:
    """Write a picture as an address that holds the picture itself.

    Args:
        pixels: (height, width, 3).

    Returns:
        A data address of a PNG image.
    """
    from matplotlib.image import imsave

    target = io.BytesIO()
    imsave(target, pixels, format="png")
    return "data:image/png;base64," + base64.b64encode(target.getvalue()).decode("ascii")
