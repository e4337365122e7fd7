"""What a lesion looks like by its class, and the maps of one lesion in its own frame.

The frame of a lesion is a square whose half side is FRAME radii of a round lesion of mean size;
`scene` turns, scales and shifts it onto the skin, so that two photographs of one lesion agree.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from skinml.data.synthetic.texture import band_noise, smooth_noise
from skinml.records import BoolArray, FloatArray

FRAME = 1.9

MALIGNANT = {
    "nv": False,
    "bkl": False,
    "df": False,
    "vasc": False,
    "mel": True,
    "bcc": True,
    "akiec": True,
}
"""The classes: naevus, benign keratosis, dermatofibroma, vascular lesion, melanoma, basal cell
carcinoma, actinic keratosis or squamous cell carcinoma in situ."""


@dataclass(frozen=True)
class Appearance:
    """How a lesion looks, each from 0 (none) to 1 (as much as is drawn).

    Attributes:
        size: Diameter.
        asymmetry: How unlike its mirror images the outline is.
        irregularity: Notches of the border.
        blur: How slowly the lesion fades into the skin.
        pigment: Melanin on top of the skin's.
        variegation: Unevenness of the pigment.
        redness: Blood on top of the skin's.
        halo: Redness around the lesion.
        veil: Blue-grey areas, of pigment deep in the skin.
        scale: Pale flakes of keratin.
        crust: Dark red-brown crust or ulcer.
        vessels: Fine branching vessels.
        height: How far it stands out.
        gloss: Pearly shine.
    """

    size: float
    asymmetry: float
    irregularity: float
    blur: float
    pigment: float
    variegation: float
    redness: float
    halo: float
    veil: float
    scale: float
    crust: float
    vessels: float
    height: float
    gloss: float


# The middle of each class, in the order of Appearance. Chosen by the textbook picture of each
# class and then drawn together until a linear classifier on frozen features is about as good as on
# photographs (see SPREAD).
CENTRES: dict[str, tuple[float, ...]] = {
    "nv": (0.35, 0.18, 0.15, 0.35, 0.55, 0.25, 0.10, 0.05, 0.05, 0.00, 0.00, 0.00, 0.25, 0.15),
    "bkl": (0.50, 0.30, 0.30, 0.20, 0.45, 0.40, 0.12, 0.05, 0.05, 0.45, 0.05, 0.00, 0.50, 0.10),
    "df": (0.30, 0.20, 0.15, 0.55, 0.30, 0.20, 0.30, 0.15, 0.05, 0.15, 0.00, 0.05, 0.50, 0.25),
    "vasc": (0.30, 0.20, 0.20, 0.25, 0.05, 0.20, 0.85, 0.10, 0.20, 0.00, 0.05, 0.20, 0.45, 0.40),
    "mel": (0.65, 0.65, 0.65, 0.25, 0.70, 0.75, 0.20, 0.25, 0.45, 0.05, 0.15, 0.05, 0.35, 0.15),
    "bcc": (0.50, 0.45, 0.40, 0.35, 0.12, 0.40, 0.40, 0.30, 0.20, 0.10, 0.35, 0.70, 0.55, 0.70),
    "akiec": (0.60, 0.50, 0.55, 0.55, 0.15, 0.40, 0.50, 0.45, 0.02, 0.60, 0.40, 0.10, 0.35, 0.10),
}
SPREAD = 0.23
"""Standard deviation of every attribute inside a class. Larger makes the classes overlap more.

Chosen on 1,042 images of 700 patients, five folds by patient, logistic regression (C=10) on frozen
EfficientNet-Lite0 features, malignant or not. AUROC at difficulty 0: 0.925 overall, 0.931 / 0.927 /
0.908 on tones 1-3 / 4-6 / 7-10. At difficulty 0.35: 0.887 overall, 0.920 / 0.893 / 0.827.
"""


def draw_appearance(diagnosis: str, signal: float, rng: np.random.Generator) -> Appearance:
    """Draw how one lesion looks.

    Args:
        diagnosis: A key of MALIGNANT.
        signal: Share of the difference between classes that is left: at 1 the class's own middle,
            at 0 the middle of all classes. The spread inside a class does not depend on it.
        rng: The source of the draw.

    Returns:
        Attributes from 0 to 1.
    """
    everyone = np.mean(list(CENTRES.values()), axis=0)
    middle = everyone + signal * (np.asarray(CENTRES[diagnosis]) - everyone)
    drawn = np.clip(middle + SPREAD * rng.standard_normal(len(fields(Appearance))), 0, 1)
    return Appearance(*(float(value) for value in drawn))


@dataclass(frozen=True)
class LesionMaps:
    """One lesion in its own frame, (size, size) each.

    Attributes:
        cover: From 0 (skin) to 1 (lesion).
        pigment: Melanin fraction on top of the skin's; also below zero, where it is paler.
        blood: Blood fraction on top of the skin's.
        veil: Share of blue-grey.
        scale: Share of keratin.
        crust: Share of crust.
        height: Relief; 1 is as high as a lesion gets.
    """

    cover: FloatArray
    pigment: FloatArray
    blood: FloatArray
    veil: FloatArray
    scale: FloatArray
    crust: FloatArray
    height: FloatArray

    def layers(self) -> FloatArray:
        """(7, size, size) the maps in the order of the attributes."""
        return np.stack([getattr(self, item.name) for item in fields(self)])


def _soft_step(value: FloatArray, width: float) -> FloatArray:
    return np.asarray(1 / (1 + np.exp(-np.clip(value / width, -30, 30))))


def draw_outline(look: Appearance, size: int, rng: np.random.Generator) -> FloatArray:
    """Draw how far inside the lesion each point is.

    An ellipse, bent by a second blob on one side (asymmetry) and by noise of the scale of notches
    (irregularity).

    Args:
        look: The lesion's attributes.
        size: Height and width of the frame in pixels.
        rng: The source of the draw.

    Returns:
        (size, size) about 1 at the middle, 0 at the border, below zero outside.
    """
    axis = np.linspace(-FRAME, FRAME, size)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    bend = 0.08 + 0.16 * look.asymmetry
    x = x + bend * smooth_noise(rng, size, 2.0)
    y = y + bend * smooth_noise(rng, size, 2.0)
    longer = 1 + rng.uniform(0.05, 0.2) + 0.3 * look.asymmetry * rng.uniform(0, 1)
    body = 1 - np.hypot(x / longer, y * longer)
    angle = rng.uniform(0, 2 * np.pi)
    reach = rng.uniform(0.6, 0.9)
    lobe = rng.uniform(0.45, 0.65) * look.asymmetry / 0.6
    beside = lobe - np.hypot(x - reach * np.cos(angle), y - reach * np.sin(angle))
    inside = np.logaddexp(6 * body, 6 * beside) / 6
    notches = 0.6 * band_noise(rng, size, 5.0, 1.5) + 0.4 * band_noise(rng, size, 10.0, 3.0)
    return np.asarray(inside + 0.22 * look.irregularity * notches)


def outline_mask(look: Appearance, size: int, rng: np.random.Generator) -> BoolArray:
    """Draw the area of a lesion with a sharp border.

    Args:
        look: The lesion's attributes.
        size: Height and width of the frame in pixels.
        rng: The source of the draw.

    Returns:
        (size, size) True inside the lesion.
    """
    return np.asarray(draw_outline(look, size, rng) > 0)


def _vessels(rng: np.random.Generator, size: int) -> FloatArray:
    """(size, size) share of fine winding vessels: where two smooth fields change their sign."""
    lines = np.zeros((size, size))
    for cycles in (3.0, 5.0):
        field = smooth_noise(rng, size, cycles)
        present = _soft_step(smooth_noise(rng, size, 2.5) - 0.2, 0.2)
        lines = np.maximum(lines, np.exp(-((field / 0.10) ** 2)) * present)
    return lines


def draw_lesion(look: Appearance, size: int, rng: np.random.Generator) -> LesionMaps:
    """Draw one lesion in its own frame.

    Args:
        look: The lesion's attributes.
        size: Height and width of the frame in pixels.
        rng: The source of the draw.

    Returns:
        The maps of pigment, blood, veil, scale, crust and relief.
    """
    inside = draw_outline(look, size, rng)
    cover = _soft_step(inside, 0.02 + 0.16 * look.blur**1.5)
    core = _soft_step(inside - 0.25, 0.12)
    patches = smooth_noise(rng, size, 3.5) + 0.5 * smooth_noise(rng, size, 8.0)
    angle = rng.uniform(0, 2 * np.pi)
    axis = np.linspace(-1, 1, size)
    tilt = axis[:, None] * np.sin(angle) + axis[None, :] * np.cos(angle)
    uneven = look.variegation * (0.75 * patches + 1.5 * look.asymmetry * tilt)
    globules = 0.25 * band_noise(rng, size, 18.0, 4.0)
    pigment = look.pigment * cover * np.exp(np.clip(uneven + globules - 0.3, -3, 1.1))

    redder = np.exp(0.5 * look.variegation * smooth_noise(rng, size, 4.0))
    around = _soft_step(inside + 0.35, 0.18)
    blood = 0.33 * look.redness**1.5 * cover * redder + 0.06 * look.halo * around
    blood = blood + 0.22 * look.vessels * _vessels(rng, size) * cover

    veil_place = _soft_step(smooth_noise(rng, size, 2.5) - 1.1 + 1.3 * look.veil, 0.25)
    flakes = 0.6 * smooth_noise(rng, size, 7.0) + 0.6 * band_noise(rng, size, 20.0, 5.0)
    scale_place = _soft_step(flakes - 1.6 + 1.9 * look.scale, 0.25)
    crust_place = _soft_step(smooth_noise(rng, size, 5.0) - 2.0 + 1.8 * look.crust, 0.2)
    rough = 0.12 * look.scale * flakes + 0.05 * smooth_noise(rng, size, 10.0)
    dome = np.clip(inside + 0.1, 0, 0.8) ** 0.6
    return LesionMaps(
        cover=cover,
        pigment=pigment,
        blood=blood,
        veil=look.veil * veil_place * core,
        scale=0.7 * look.scale * scale_place * cover,
        crust=min(1.0, 1.3 * look.crust) * crust_place * core,
        height=look.height * (dome + rough * cover),
    )
