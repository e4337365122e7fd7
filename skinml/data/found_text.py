"""Where writing is in a picture: one model finds what looks like lines, another tries to read them.

The first alone takes every second dermoscopic lesion for a line; what cannot be read is none.
What the second reads is counted and dropped: it may be a name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from skinml.data.onnx_models import text_finder, text_reader
from skinml.stewardship.deidentification import Box, Sighting

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
_SHORT, _LONG = 448, 1280
_MULTIPLE = 32
_INK, _LINE = 0.3, 0.5  # probabilities from which on a pixel, and on average a line, is writing
_GROW = 1.6  # the model marks the core of a line: so much its outline is moved out
_HEIGHT, _WIDEST = 48, 960
_MOST_LINES = 60
_SLANTED = 8.0  # degrees


def find_text(pixels: Pixels) -> list[Sighting]:
    """Look for writing.

    Args:
        pixels: (H, W, 3) uint8, RGB.

    Returns:
        What could be read in part at least, with how many letters and digits and how surely.
    """
    image = Image.fromarray(pixels)
    found = []
    for box, angle, thick in _lines(image)[:_MOST_LINES]:
        score, letters = _read(image, box, angle, thick)
        if letters:
            found.append(Sighting(box, score, letters))
    return found


def _lines(image: Image.Image) -> list[tuple[Box, float, float]]:
    """Find what looks like lines: where, how slanted in degrees, how thick; largest first."""
    width, height = image.size
    scale = min(max(1.0, _SHORT / min(width, height)), _LONG / max(width, height))
    size = _multiple(width * scale), _multiple(height * scale)
    ink = text_finder().run(None, {"x": _input(image.resize(size, Image.Resampling.BILINEAR))})
    ink = ink[0][0, 0]
    labels, _ = ndimage.label(ndimage.binary_dilation(ink > _INK))
    found = []
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels[place] == number
        down, across = inside.shape
        if min(down, across) < 3 or ink[place][inside].mean() < _LINE:
            continue
        grow = down * across * _GROW / (2 * (down + across))
        to_x, to_y = width / size[0], height / size[1]
        box = Box(
            max(0, int((place[1].start - grow) * to_x)),
            max(0, int((place[0].start - grow) * to_y)),
            min(width, int(np.ceil((place[1].stop + grow) * to_x))),
            min(height, int(np.ceil((place[0].stop + grow) * to_y))),
            "text",
        )
        angle, thick = _bar(inside)
        found.append((box, angle, (thick + 2 * grow) * to_y))
    return sorted(found, key=lambda each: -each[0].area)


def _multiple(side: float) -> int:
    return max(_MULTIPLE, round(side / _MULTIPLE) * _MULTIPLE)


def _bar(inside: Any) -> tuple[float, float]:
    """Describe a mark as a bar: degrees that it falls to the right, and its thickness."""
    rows, columns = np.nonzero(inside)
    if len(rows) < 3:
        return 0.0, 0.0
    sizes, axes = np.linalg.eigh(np.cov(np.stack([columns, rows]).astype(float)))
    if sizes[1] < 4 * sizes[0]:
        return 0.0, 0.0
    angle = float(np.degrees(np.arctan2(axes[1, 1], axes[0, 1])))
    return (angle + 90) % 180 - 90, float(np.sqrt(12 * sizes[0]))  # of a bar of even weight


def _read(image: Image.Image, box: Box, angle: float, thick: float) -> tuple[float, int]:
    """Try to read a line, also upside down; the surer of both, and how many letters it has."""
    line = image.crop((box.left, box.top, box.right, box.bottom))
    if _SLANTED <= abs(angle) <= 90 - _SLANTED:
        line = _straightened(line, angle, thick)
    if line.height > 1.5 * line.width:
        line = line.transpose(Image.Transpose.ROTATE_90)
    over = line.transpose(Image.Transpose.ROTATE_180)
    return max(_letters(line), _letters(over))


def _straightened(line: Image.Image, angle: float, thick: float) -> Image.Image:
    """Turn a slanted line so that it lies, and cut off what the turn put above and below it."""
    turned = line.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    half = min(max(12.0, thick), turned.height) / 2
    middle = turned.height / 2
    return turned.crop((0, int(middle - half), turned.width, int(np.ceil(middle + half))))


def _letters(line: Image.Image) -> tuple[float, int]:
    width = max(_HEIGHT, min(_WIDEST, round(_HEIGHT * line.width / max(1, line.height))))
    reader, alphabet = text_reader()
    shown = line.resize((width, _HEIGHT), Image.Resampling.BILINEAR)
    answer = reader.run(None, {"x": _input(shown)})[0][0]
    best, sure = answer.argmax(axis=1), answer.max(axis=1)
    fresh = (best > 0) & np.append(True, best[1:] != best[:-1])
    if not fresh.any():
        return 0.0, 0
    letters = sum(alphabet[number].isalnum() for number in best[fresh])
    return float(sure[fresh].mean()), letters


def _input(image: Image.Image) -> Any:
    """(1, 3, H, W) float32 from -1 to 1, blue first, as the models were trained."""
    values = np.asarray(image, dtype=np.float32)[:, :, ::-1] / 127.5 - 1
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])
