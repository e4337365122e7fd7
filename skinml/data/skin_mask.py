"""Which pixels of a photograph show plain skin: no lesion, hair, ruler, glare, ink or dark corner.

Nothing here asks how light or how brown a pixel is: gates that do so reject the lightest and the
darkest skin (see docs/skin-tone.md). Shapes: HW is (height, width), HW3 is (height, width, 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from skinml.records import BoolArray, FloatArray

# Lengths are shares of the longer side, so that a photograph gives the same mask at any size.
_HAIR_REACH = 0.016
_LEAST_HAIR = 0.06
_CORNER_MARGIN = 0.03
_FRINGE = 0.008
_SMOOTH = 0.006
_HALO = 0.10
_BLACK = 8.0
_HAIR_DEPTH = 4.0
_HAIR_NOISES = 2.0
_STRAIGHT = 0.5
_MAD_TO_SD = 1.4826
_WHITE, _COLOURLESS, _STANDS_OUT = 88.0, 6.0, 6.0
_HUES = (10.0, 100.0)
_COLOURED = 10.0
_LESION_CONTRAST = 8.0
_LEAST_LESION = 0.002
_MIDDLE = 0.25
_SKIN_ZONES = ((0.4, np.inf), (0.2, 0.5))
_MOST_BORDER = 0.2


@dataclass(frozen=True, eq=False, repr=False)
class SkinMask:
    """The pixels of an image that a tone is measured on. Per patient: never log.

    Attributes:
        usable: HW, plain skin as far as this can be told.
        excluded: For each cause, HW, the pixels left out by it: "lesion", "dark_corner", "hair",
            "glare", "foreign".
    """

    usable: BoolArray
    excluded: Mapping[str, BoolArray]


def excluded_before_lesion(lab: FloatArray) -> dict[str, BoolArray]:
    """Find what is no skin whatever the lesion is.

    - dark_corner: L* below 8 and connected to the image's border, with a margin.
    - hair: hairs, ticks of rulers, folds: deeper in the black top-hat of L* (closing less image)
      than 4 and than the texture's own noise, bent across but not along (eigenvalues of the
      Hessian), and long.
    - glare: L* above 88 with chroma below 6, where that is at least 6 lighter than everything
      else. Very light skin has such colours too, and then nothing stands out.
    - foreign: ink, gloves, stickers, cloth: a hue outside 10 to 100 degrees where the smoothed
      chroma is at least 10. In less colour, hue is noise, and to cut its one half away would make
      bluish skin look yellow.

    Args:
        lab: HW3, L*, a*, b*.

    Returns:
        HW by cause.
    """
    side = max(lab.shape[:2])
    smooth = ndimage.gaussian_filter(lab, (_SMOOTH * side, _SMOOTH * side, 0))
    chroma = np.hypot(smooth[..., 1], smooth[..., 2])
    hue = np.degrees(np.arctan2(smooth[..., 2], smooth[..., 1]))
    strange = (chroma >= _COLOURED) & ((hue < _HUES[0]) | (hue > _HUES[1]))
    return {
        "dark_corner": _dilated(_at_border(smooth[..., 0] < _BLACK), _CORNER_MARGIN * side),
        "hair": _narrow_and_dark(lab[..., 0]),
        "glare": _glare(lab),
        "foreign": _dilated(strange, _FRINGE * side),
    }


def near_middle(shape: tuple[int, int], inner: float, outer: float) -> BoolArray:
    """Mark a ring around the middle, where a photograph of a lesion shows the lesion's own skin.

    Args:
        shape: Height and width.
        inner: Radius that the ring begins at, as a share of the shorter side.
        outer: Radius that it ends at.

    Returns:
        HW.
    """
    from_middle = _from_middle(shape) / min(shape)
    return np.asarray((from_middle >= inner) & (from_middle <= outer))


def find_lesion(lab: FloatArray, candidates: BoolArray) -> BoolArray:
    """Find the lesion where no mask was given.

    Otsu's threshold on the colour distance (CIE76) to the skin, which is taken to be what lies
    away from the middle; of the parts beyond it the largest, where parts far from the middle count
    less, since lesions are photographed in the middle. A part that takes a fifth of the image's
    border is no lesion but an ear or a finger before a background: then the skin is looked for
    nearer to the middle. Where both sides of the threshold differ by less than 8 units, there is
    no lesion that would change the measurement.

    Args:
        lab: HW3, L*, a*, b*, best with slanting light taken out.
        candidates: HW, pixels that may be skin or lesion.

    Returns:
        HW, the lesion without any margin; empty where none was found.
    """
    shape = (lab.shape[0], lab.shape[1])
    side = max(shape)
    smooth = ndimage.gaussian_filter(lab, (_SMOOTH * side, _SMOOTH * side, 0))
    for zone in _SKIN_ZONES:
        around = candidates & near_middle(shape, *zone)
        if not around.any():
            continue
        skin = np.median(smooth[around], axis=0)
        lesion = _set_apart(np.linalg.norm(smooth - skin, axis=-1), candidates)
        edges = (lesion[0], lesion[-1], lesion[1:-1, 0], lesion[1:-1, -1])
        if np.concatenate(edges).mean() < _MOST_BORDER:
            return lesion
    return np.zeros(shape, dtype=bool)


def _set_apart(distance: FloatArray, candidates: BoolArray) -> BoolArray:
    """Find the part of an image that is furthest from the skin in colour and near the middle."""
    from skimage.filters import threshold_otsu

    shape = (distance.shape[0], distance.shape[1])
    nothing = np.zeros(shape, dtype=bool)
    seen = distance[candidates]
    if np.ptp(seen) == 0:
        return nothing
    threshold = threshold_otsu(seen)
    beyond, within = seen[seen > threshold], seen[seen <= threshold]
    if len(beyond) == 0 or beyond.mean() - within.mean() < _LESION_CONTRAST:
        return nothing
    side = max(shape)
    apart = ndimage.binary_opening(candidates & (distance > threshold), _disc(_FRINGE * side))
    parts, count = ndimage.label(ndimage.binary_fill_holes(apart))
    if count == 0:
        return nothing
    weight = np.exp(-0.5 * (_from_middle(shape) / (_MIDDLE * side)) ** 2)
    numbers = np.arange(1, count + 1)
    chosen = numbers[np.argmax(ndimage.sum_labels(weight, parts, numbers))]
    lesion = np.asarray(parts == chosen)
    return lesion if lesion.mean() >= _LEAST_LESION else nothing


def with_lesion(excluded: Mapping[str, BoolArray], lesion: BoolArray) -> SkinMask:
    """Leave the lesion out too, with the reddened skin around it.

    Args:
        excluded: What else is left out, by cause.
        lesion: HW, the lesion.

    Returns:
        The mask. The lesion has grown by a tenth of the diameter of a disc of its area.
    """
    diameter = 2 * np.sqrt(lesion.sum() / np.pi)
    causes = {**excluded, "lesion": _dilated(lesion, max(2.0, _HALO * diameter))}
    usable = ~np.logical_or.reduce(list(causes.values()))
    return SkinMask(usable, causes)


def _from_middle(shape: tuple[int, int]) -> FloatArray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.asarray(np.hypot(y - (shape[0] - 1) / 2, x - (shape[1] - 1) / 2))


def _disc(radius: float) -> BoolArray:
    reach = max(1, round(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray(y**2 + x**2 <= reach**2 + 0.5)


def _dilated(mask: BoolArray, radius: float) -> BoolArray:
    if not mask.any():
        return mask
    reach = max(1.0, radius)
    return np.asarray(ndimage.distance_transform_edt(~mask) <= reach)


def _at_border(mask: BoolArray) -> BoolArray:
    parts, _ = ndimage.label(mask)
    edges = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    return np.isin(parts, np.unique(edges[edges > 0]))


def _narrow_and_dark(lightness: FloatArray) -> BoolArray:
    from skimage.feature import hessian_matrix, hessian_matrix_eigvals
    from skimage.morphology import remove_small_objects

    side = max(lightness.shape)
    reach = max(2, round(_HAIR_REACH * side))
    depth = ndimage.black_tophat(lightness, size=2 * reach + 1)
    noise = _MAD_TO_SD * np.median(np.abs(depth - np.median(depth)))
    dark = depth > max(_HAIR_DEPTH, float(np.median(depth) + _HAIR_NOISES * noise))
    bends = hessian_matrix(lightness, sigma=max(1.0, 0.25 * reach), use_gaussian_derivatives=False)
    across, along = hessian_matrix_eigvals(bends)
    line = dark & (across > 0) & (np.abs(along) < _STRAIGHT * across)
    size = max(1, round(_LEAST_HAIR * side))
    long_ones = remove_small_objects(line, max_size=size, connectivity=2)
    return _dilated(long_ones, 1.5)


def _glare(lab: FloatArray) -> BoolArray:
    lightness = lab[..., 0]
    white = (lightness > _WHITE) & (np.hypot(lab[..., 1], lab[..., 2]) < _COLOURLESS)
    if not white.any() or white.all():
        return np.zeros_like(white)
    rest = np.median(lightness[~white])
    white &= lightness > rest + _STANDS_OUT
    return _dilated(white, _FRINGE * max(lightness.shape))
