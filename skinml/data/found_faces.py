"""Where faces are in a picture, by CenterFace.

Source: Xu et al. 2020, "CenterFace: Joint Face Detection and Alignment Using Face as Point".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from skinml.data.onnx_models import face_model
from skinml.stewardship.deidentification import Box, Sighting

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
_STRIDE = 4  # pixels of the picture for each place of the model's answer
_MULTIPLE = 32
_LARGE, _SMALL = 640, 224
_SAME = 0.3  # two boxes that overlap by more are one face
_MARGIN = 0.12
_BAND = (0.45, 0.3)  # of the distance of the eyes: beyond each eye, above and below both


def find_faces(pixels: Pixels, least: float) -> list[Sighting]:
    """Look for faces, large and small, upright and lying.

    Args:
        pixels: (H, W, 3) uint8, RGB.
        least: Score from which on something is told.

    Returns:
        What was found, surest first, each with a margin and with a band over the eyes.
    """
    image = Image.fromarray(pixels)
    found = _at(image, _LARGE, 0, least)
    for turns in range(4):
        found += _at(image, _SMALL, turns, least)
    kept: list[Sighting] = []
    for each in sorted(found, key=lambda sighting: -sighting.score):
        if all(_overlap(each.box, other.box) < _SAME for other in kept):
            kept.append(each)
    return kept


def _at(image: Image.Image, side: int, turns: int, least: float) -> list[Sighting]:
    """Look at one size and one orientation, in quarter turns against the clock."""
    width, height = image.size
    scale = min(1.0, side / max(width, height))
    small = image.resize((max(1, round(width * scale)), max(1, round(height * scale))))
    turned = np.rot90(np.asarray(small), turns)
    faces = []
    for score, points in _answers(turned, least):
        upright = np.array([_unturned(point, small.size, turns) for point in points])
        scaled = upright * (width / small.width, height / small.height)
        faces.append(_sighting(score, scaled, width, height))
    return faces


def _answers(pixels: Pixels, least: float) -> list[tuple[float, np.ndarray[Any, Any]]]:
    """Ask the model: a score, and the points upper left, lower right, left eye, right eye."""
    height, width = pixels.shape[:2]
    padded = np.zeros(
        (1, 3, -(-height // _MULTIPLE) * _MULTIPLE, -(-width // _MULTIPLE) * _MULTIPLE), np.float32
    )
    padded[0, :, :height, :width] = pixels.transpose(2, 0, 1)
    heat, sizes, offsets, marks = face_model().run(None, {"input.1": padded})
    told = []
    for row, column in np.argwhere(heat[0, 0] > least):
        down, across = np.exp(sizes[0, :, row, column]) * _STRIDE
        middle_y = (row + offsets[0, 0, row, column] + 0.5) * _STRIDE
        middle_x = (column + offsets[0, 1, row, column] + 0.5) * _STRIDE
        left, top = middle_x - across / 2, middle_y - down / 2
        eyes = marks[0, :4, row, column]
        points = [
            (left, top),
            (left + across, top + down),
            (left + eyes[1] * across, top + eyes[0] * down),
            (left + eyes[3] * across, top + eyes[2] * down),
        ]
        told.append((float(heat[0, 0, row, column]), np.array(points)))
    return told


def _unturned(point: Any, size: tuple[int, int], turns: int) -> tuple[float, float]:
    """Take a point of a turned picture back into the picture that was turned."""
    x, y = float(point[0]), float(point[1])
    width, height = size
    return ((x, y), (width - y, x), (width - x, height - y), (y, height - x))[turns]


def _sighting(score: float, points: Any, width: int, height: int) -> Sighting:
    low, high = points[:2].min(axis=0), points[:2].max(axis=0)
    margin = (high - low) * _MARGIN
    box = _box(low - margin, high + margin, width, height, "face")
    eyes = points[2:]
    apart = float(np.hypot(*(eyes[1] - eyes[0])))
    along, beside = (apart * part for part in _BAND)
    lying = abs(eyes[1][1] - eyes[0][1]) > abs(eyes[1][0] - eyes[0][0])
    reach = np.array([beside, along] if lying else [along, beside])
    band = _box(eyes.min(axis=0) - reach, eyes.max(axis=0) + reach, width, height, "eyes")
    return Sighting(box, score, eyes=band)


def _box(low: Any, high: Any, width: int, height: int, sort: Any) -> Box:
    left, top = (max(0, int(np.floor(value))) for value in low)
    right, bottom = (int(np.ceil(value)) for value in high)
    return Box(min(left, width), min(top, height), min(right, width), min(bottom, height), sort)


def _overlap(one: Box, other: Box) -> float:
    """Share of two boxes' union that is in both."""
    across = min(one.right, other.right) - max(one.left, other.left)
    down = min(one.bottom, other.bottom) - max(one.top, other.top)
    both = max(0, across) * max(0, down)
    return both / max(1, one.area + other.area - both)
