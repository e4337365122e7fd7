"""Colour of skin from how much melanin and blood it holds.

Two layers: an epidermis that only absorbs (melanin), over a dermis that scatters and absorbs
(blood), solved by Kubelka and Munk for a layer without a far side. Spectra from 400 to 700 nm are
summed to linear sRGB by the CIE 1931 observer.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.ndimage import map_coordinates

from skinml.errors import require_in_range
from skinml.records import FloatArray

WAVELENGTHS_NM = np.arange(400.0, 701.0, 10.0)
SATURATION = (
    0.7  # share of the blood's haemoglobin that carries oxygen, a mix of veins and arteries
)
EPIDERMIS_CM = 0.006
PATH_FACTOR = 1.35  # a diffuse ray crosses a layer on a slant, which lengthens its way
TONES = range(1, 11)
LIGHTEST_MELANIN, DARKEST_MELANIN = 0.012, 0.4
SURFACE = 0.03  # share of white light that the surface scatters back before it enters, all tones
GRID = 96

# Molar extinction of oxygenated and deoxygenated haemoglobin, 1/(cm M), every 10 nm from 400 nm.
# Source: S. Prahl, Tabulated Molar Extinction Coefficient for Hemoglobin in Water, OMLC 1998.
_OXYGENATED_TABLE = """
    266232 466840 480360 246072 102580 62816 44480 33209 26629 23684 20933 20035 24202 39957 53236
    43016 32613 44496 50104 14401 3200 1506 942 610 442 368 320 294 278 276 290"""
_DEOXYGENATED_TABLE = """
    223296 303956 407560 528600 413280 103292 23389 16156 14550 16684 20862 25774 31590 39036 46592
    53412 53788 45072 37020 28324 14677 9444 6510 5149 4345 3750 3227 2795 2408 2052 1794"""
OXYGENATED = np.array([float(word) for word in _OXYGENATED_TABLE.split()])
DEOXYGENATED = np.array([float(word) for word in _DEOXYGENATED_TABLE.split()])

XYZ_TO_SRGB = np.array(
    [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]
)
D65_WHITE = np.array([0.95047, 1.0, 1.08883])


def tone_melanin(tone: int, offset: float = 0.0) -> float:
    """Melanin of a Monk-like skin tone.

    The ten tones are equal steps of the logarithm between very light and very dark skin, so no
    offset makes two tones overlap.

    Args:
        tone: 1 (lightest) to 10 (darkest).
        offset: Place within the tone in steps, -0.45 to 0.45.

    Returns:
        Volume fraction of melanosomes in the epidermis.

    Raises:
        ConfigError: If the tone or the offset lies outside its range.

    Source:
        Range of fractions: Jacques 1998, Skin Optics, 1.3% (light) to 43% (dark); the dark end is
        lower here so that a lesion can still be darker than the skin around it.

    Example:
        >>> [round(tone_melanin(tone), 3) for tone in (1, 5, 10)]
        [0.012, 0.057, 0.4]
    """
    require_in_range(1, 10, tone=tone)
    require_in_range(-0.45, 0.45, offset=offset)
    step = (tone - 1 + offset) / (len(TONES) - 1)
    return float(LIGHTEST_MELANIN * (DARKEST_MELANIN / LIGHTEST_MELANIN) ** step)


def reflectance(melanin: FloatArray, blood: FloatArray) -> FloatArray:
    """Spectrum of the light that skin gives back.

    Args:
        melanin: (...) volume fraction of melanosomes in the epidermis, 0 to 1.
        blood: (...) volume fraction of blood in the dermis, 0 to 1.

    Returns:
        (..., 31) reflectance from 0 to 1 at 400, 410, ... 700 nm.

    Source:
        Jacques 1998, Skin Optics: melanosomes 6.6e11 nm**-3.33, bare skin, reduced scattering.
        Kubelka and Munk 1931 for the dermis, K = 2 mu_a and S = 0.75 mu_s'.
    """
    nm = WAVELENGTHS_NM
    bare = 0.244 + 85.3 * np.exp(-(nm - 154) / 66.2)
    pigment = 6.6e11 * nm**-3.33
    # 150 g/l of haemoglobin at 64,500 g/mol; ln(10) turns a decadic extinction into an absorption
    hemoglobin = SATURATION * OXYGENATED + (1 - SATURATION) * DEOXYGENATED
    whole_blood = np.log(10) * hemoglobin * 150 / 64_500
    scattering = 2e5 * nm**-1.5 + 2e12 * nm**-4

    part = np.asarray(melanin)[..., None]
    epidermis = part * pigment + (1 - part) * bare
    crossed_twice = np.exp(-2 * PATH_FACTOR * EPIDERMIS_CM * epidermis)
    part = np.asarray(blood)[..., None]
    ratio = 2 * (part * whole_blood + (1 - part) * bare) / (0.75 * scattering)
    inside = crossed_twice * (1 + ratio - np.sqrt(ratio**2 + 2 * ratio))
    return np.asarray(SURFACE + (1 - SURFACE) * inside)


def _lobe(peak: float, below: float, above: float) -> FloatArray:
    width = np.where(peak > WAVELENGTHS_NM, below, above)
    return np.asarray(np.exp(-0.5 * ((WAVELENGTHS_NM - peak) * width) ** 2))


@cache
def _spectrum_to_rgb() -> FloatArray:
    """(31, 3) weights from a spectrum to linear sRGB, a white spectrum being (1, 1, 1).

    Source: Wyman, Sloan and Shirley 2013, Simple Analytic Approximations to the CIE XYZ Color
    Matching Functions, JCGT 2(2), the multi-lobe fit.
    """
    x = 1.056 * _lobe(599.8, 0.0264, 0.0323) + 0.362 * _lobe(442.0, 0.0624, 0.0374)
    x -= 0.065 * _lobe(501.1, 0.0490, 0.0382)
    y = 0.821 * _lobe(568.8, 0.0213, 0.0247) + 0.286 * _lobe(530.9, 0.0613, 0.0322)
    z = 1.217 * _lobe(437.0, 0.0845, 0.0278) + 0.681 * _lobe(459.0, 0.0385, 0.0725)
    observer = np.stack([x, y, z], axis=1)
    return np.asarray(observer / observer.sum(axis=0) * D65_WHITE @ XYZ_TO_SRGB.T)


@cache
def _colour_table() -> FloatArray:
    """(3, GRID, GRID) linear sRGB over the square roots of melanin and blood."""
    fractions = np.linspace(0, 1, GRID) ** 2
    melanin, blood = np.meshgrid(fractions, fractions, indexing="ij")
    rgb = np.clip(reflectance(melanin, blood) @ _spectrum_to_rgb(), 0, 1)
    return np.ascontiguousarray(np.moveaxis(rgb, -1, 0))


def skin_colour(melanin: FloatArray, blood: FloatArray) -> FloatArray:
    """Colour of skin under even white light.

    Args:
        melanin: (...) volume fraction of melanosomes; taken into 0 to 1.
        blood: (...) volume fraction of blood; taken into 0 to 1.

    Returns:
        (..., 3) linear sRGB from 0 to 1, read from a table of 96 by 96 fractions.
    """
    shape = np.broadcast_shapes(np.shape(melanin), np.shape(blood))
    fractions = [np.broadcast_to(part, shape).ravel() for part in (melanin, blood)]
    place = np.sqrt(np.clip(fractions, 0, 1)) * (GRID - 1)
    layers = [map_coordinates(layer, place, order=1) for layer in _colour_table()]
    return np.stack(layers, axis=-1).reshape(*shape, 3)


def ita_degrees(rgb: FloatArray) -> FloatArray:
    """Individual typology angle of a colour.

    Args:
        rgb: (..., 3) linear sRGB from 0 to 1.

    Returns:
        (...) degrees, greater is lighter.

    Source:
        Chardon, Cretois and Hourseau 1991: arctan((L* - 50) / b*), here with the two-argument
        arctangent, which does not jump where b* is small.
    """
    xyz = np.asarray(rgb) @ np.linalg.inv(XYZ_TO_SRGB).T / D65_WHITE
    cut = (6 / 29) ** 3
    f = np.where(xyz > cut, np.cbrt(np.maximum(xyz, cut)), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    lightness = 116 * f[..., 1] - 16
    yellow = 200 * (f[..., 1] - f[..., 2])
    return np.asarray(np.degrees(np.arctan2(lightness - 50, yellow)))
