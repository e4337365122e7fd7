"""A lesion on a patient's skin, lit, before the camera.

Shapes: HW is (size, size), HW3 is (size, size, 3) in linear sRGB.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import affine_transform, gaussian_filter

from skinml.data.synthetic.lesions import FRAME, Appearance, LesionMaps
from skinml.data.synthetic.skin import skin_colour
from skinml.data.synthetic.texture import band_noise, pores, skin_lines, smooth_noise
from skinml.records import FloatArray

VEIL_COLOUR = np.array([0.16, 0.19, 0.25])
KERATIN_COLOUR = np.array([0.62, 0.52, 0.38])
CRUST_COLOUR = np.array([0.075, 0.022, 0.012])


@dataclass(frozen=True)
class Skin:
    """One patient's skin.

    Attributes:
        melanin: Volume fraction of melanosomes.
        blood: Volume fraction of blood.
        hair: Amount of hair, 0 to 1.
        freckles: Amount of freckles and sun spots, 0 to 1.
        relief: Depth of the skin's lines, 0 to 1.
    """

    melanin: float
    blood: float
    hair: float
    freckles: float
    relief: float


def bare_colour(skin: Skin) -> FloatArray:
    """Colour of a patient's skin without texture, light or camera.

    Args:
        skin: The patient's skin.

    Returns:
        (3,) linear sRGB.
    """
    return skin_colour(np.asarray(skin.melanin), np.asarray(skin.blood))


def _place(lesion: LesionMaps, diameter: float, rng: np.random.Generator) -> LesionMaps:
    """Turn, scale and shift a lesion's maps onto the image; diameter is a share of its width."""
    size = len(lesion.cover)
    angle = rng.uniform(0, 2 * np.pi)
    mirror = rng.choice([-1.0, 1.0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag([1.0, mirror]) / (diameter * FRAME)
    middle = np.full(2, (size - 1) / 2)
    aim = middle + rng.uniform(-0.14, 0.14, 2) * size
    shift = middle - matrix @ aim
    moved = (affine_transform(layer, matrix, shift, order=1) for layer in lesion.layers())
    return LesionMaps(*moved)


def _freckles(skin: Skin, size: int, rng: np.random.Generator) -> FloatArray:
    """HW factor on melanin: sun spots and freckles, which fade on darker skin."""
    spots = np.clip(smooth_noise(rng, size, rng.uniform(8, 14)) - 2.3 + 1.4 * skin.freckles, 0, 1)
    return np.asarray(1 + 1.2 * skin.freckles * spots)


def draw_hair(skin: Skin, size: int, rng: np.random.Generator) -> FloatArray:
    """Draw hairs as curves that mostly lie one way.

    Args:
        skin: The patient's skin, which says how much hair there is.
        size: Height and width of the image in pixels.
        rng: The source of the draw.

    Returns:
        HW cover by hair from 0 to 1.
    """
    enlarged = 3 * size
    canvas = Image.new("L", (enlarged, enlarged))
    pen = ImageDraw.Draw(canvas)
    flow = rng.uniform(0, 2 * np.pi)
    steps = np.linspace(0, 1, 12)
    for _ in range(int(rng.poisson(22 * skin.hair**2))):
        angle = flow + rng.normal(0, 0.35)
        bend = rng.normal(0, 0.9)
        length = rng.uniform(0.12, 0.5) * enlarged
        heading = angle + bend * steps
        x = rng.uniform(-0.1, 1.1) * enlarged + np.cumsum(np.cos(heading)) * length / len(steps)
        y = rng.uniform(-0.1, 1.1) * enlarged + np.cumsum(np.sin(heading)) * length / len(steps)
        points = list(zip(x.tolist(), y.tolist(), strict=True))
        width = max(1, round(enlarged / 380 * float(rng.uniform(0.6, 1.9))))
        pen.line(points, fill=int(rng.integers(120, 235)), width=width, joint="curve")
    small = canvas.resize((size, size), Image.Resampling.BOX)
    return np.asarray(small, dtype=float) / 255


def _tissue(skin: Skin, lesion: LesionMaps, rng: np.random.Generator) -> FloatArray:
    """HW3 colour of skin and lesion under even light."""
    size = len(lesion.cover)
    # Unevenness is seen by how much light it takes, which grows with melanin: dark skin has less.
    uneven = 0.12 * (skin.melanin / 0.03) ** -0.55
    mottle = np.exp(uneven * (smooth_noise(rng, size, 5) + 0.6 * smooth_noise(rng, size, 16)))
    follicles = 1 + 0.5 * pores(rng, size, rng.uniform(6, 14))
    flush = np.exp(0.25 * smooth_noise(rng, size, 4) + 0.15 * smooth_noise(rng, size, 12))

    # Pigment and blood are added in proportion to the skin's melanin too: on dark skin a fixed
    # amount would vanish, and nearly all of the difficulty is to be the planted one. What is left
    # at difficulty 0 was 0.02 of AUROC between tones 1-3 and 7-10 (see SPREAD in lesions.py).
    pigment = lesion.pigment * (0.17 + 1.1 * skin.melanin)
    blood = lesion.blood * (1 + 2 * skin.melanin)
    melanin = skin.melanin * mottle * _freckles(skin, size, rng) * follicles + pigment
    image = skin_colour(melanin, skin.blood * flush + blood)

    # What lies in or on the skin is seen through its melanin, so it darkens with the skin.
    dimmed = (bare_colour(skin) / bare_colour(_PALE)) ** 0.5
    covers = ((lesion.veil, VEIL_COLOUR), (lesion.scale, KERATIN_COLOUR))
    for share, colour in (*covers, (lesion.crust, CRUST_COLOUR)):
        image += share[..., None] * (colour * dimmed - image)
    return image


def _light_from_the_side(
    image: FloatArray, relief: FloatArray, shininess: FloatArray, rng: np.random.Generator
) -> FloatArray:
    """HW3 image lit on its relief, with the shine of the slopes that face the light."""
    direction = rng.uniform(0, 2 * np.pi)
    slope_y, slope_x = np.gradient(relief)
    facing = -(slope_y * np.sin(direction) + slope_x * np.cos(direction))
    lit = np.clip(1 + facing, 0.35, 1.7)
    shine = 0.9 * shininess * np.clip(facing - 0.12, 0, 1) ** 1.2
    shine = gaussian_filter(shine, 0.006 * len(relief))
    return np.asarray(image * lit[..., None] + shine[..., None])


def render_scene(
    skin: Skin, look: Appearance, lesion: LesionMaps, rng: np.random.Generator
) -> FloatArray:
    """Lay a lesion on skin and light it.

    Args:
        skin: The patient's skin.
        look: The lesion's attributes.
        lesion: The lesion's maps; their size is the image's.
        rng: The source of everything that differs between two photographs.

    Returns:
        HW3 linear sRGB, not below 0.
    """
    size = len(lesion.cover)
    diameter = (0.13 + 0.27 * look.size) * rng.uniform(0.85, 1.2)
    placed = _place(lesion, diameter, rng)
    image = _tissue(skin, placed, rng)

    lines = skin_lines(rng, size, rng.uniform(13, 22))
    furrows = lines * (1 - 0.6 * placed.cover) * (0.4 + 0.6 * skin.relief)
    furrows = furrows + 0.35 * band_noise(rng, size, size / 3, size / 12)
    relief = 0.08 * furrows * 128 / size + 0.085 * size * diameter * placed.height
    image = _light_from_the_side(image, relief, look.gloss * placed.cover, rng)
    oily = np.clip(smooth_noise(rng, size, 2) - 1.0, 0, 1) * np.clip(1 + furrows, 0, 2)
    image = image + (0.015 * rng.uniform(0, 1) * oily)[..., None]

    hair = draw_hair(skin, size, rng)[..., None]
    hair_colour = np.array([0.055, 0.035, 0.022]) * (1.8 - min(1.6, 12 * skin.melanin))
    return np.asarray(np.maximum(image + hair * (hair_colour - image), 0))


_PALE = Skin(melanin=0.012, blood=0.008, hair=0, freckles=0, relief=0)
