"""Apparent tone of the skin in a photograph: its individual typology angle (ITA), with doubt.

What is measured is the colour of the skin as this image shows it, which depends on the light and
the camera as well as on the skin. It is neither a Fitzpatrick type nor a statement about a person.

Shapes: HW is (height, width), HW3 is (height, width, 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from skinml.data.skin_mask import (
    SkinMask,
    excluded_before_lesion,
    find_lesion,
    near_middle,
    with_lesion,
)
from skinml.data.tone_colour import to_lab, to_linear
from skinml.data.tone_scales import TABLES, one_scale, scale_by_name, tone_scale
from skinml.errors import DataError
from skinml.records import BoolArray, FloatArray

if TYPE_CHECKING:
    from skinml.seeding import Seeds

BLOCK = 16
"""Side in pixels of the blocks that the interval resamples: neighbouring pixels are alike."""

NUM_DRAWS = 400
LEVEL = 0.95
_TAILS = (50 * (1 - LEVEL), 50 * (1 + LEVEL))
_DEVIATIONS = 2.5
_ROUNDS = 8
_MAD_TO_SD = 1.4826
_LEAST_WIDTH = 0.5
_LEAST_NEAR = 0.1
_MOST_FITTED = 5_000
_NUM_LEVELS = 512
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])

Number = float | None


class ToneSettings(BaseModel):
    """How a tone is measured and when it is not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str = Field(TABLES[0], description="The table of cuts, one of tone_scales.TABLES.")
    # Chosen on 236 photographs of the drawn cohort by six cameras with automatic exposure, where
    # the 95% interval then holds the true angle in 95%; 0.2 and 0.03 give 80%.
    exposure_stops: float = Field(
        0.4, ge=0, le=2, description="Standard deviation of the exposure nobody measured, in stops."
    )
    white_balance: float = Field(
        0.05,
        ge=0,
        le=0.5,
        description="Standard deviation of the gains of red and blue against green, as a share.",
    )
    least_skin: float = Field(
        0.05, gt=0, lt=1, description="Smallest share of the image that must be plain skin."
    )
    least_yellow: float = Field(
        1.0, description="b* up to which the angle says nothing: at 0 it turns over."
    )
    most_foreign: float = Field(
        0.4, gt=0, le=1, description="Greatest share of the image in colours no skin has."
    )
    most_shading: float = Field(
        3.0, gt=0, description="Greatest unevenness of the light that is still taken out, in stops."
    )
    most_spread: float = Field(
        14.0, gt=0, description="Greatest robust standard deviation of L* over the skin."
    )


@dataclass(frozen=True, eq=False)
class ToneMeasurement:
    """The apparent tone of one image, or of one patient. Per patient: never log.

    Attributes:
        scale: The scale's name: what is measured and the table that cuts it.
        reason: Why there is no tone; empty where there is one.
        ita_degrees: The angle; greater is lighter. None where not measurable, as are the next six.
        low: Lower limit at 95%, with the doubt about exposure and white balance.
        high: Upper limit of the same.
        image_low: Lower limit at 95% from the unevenness of the skin alone.
        image_high: Upper limit of the same.
        lightness: Median L*.
        yellow: Median b*.
        memberships: The share of each class of the table, from dark to light, in what the tone
            may be; they sum to 1. Empty where not measurable.
        skin_share: Share of the image that counts as plain skin.
        shading_stops: How uneven the light was that has been taken out: from the 5th to the 95th
            percentile of the skin.
        spread: Robust standard deviation of L* over the skin, after that.
        num_images: Images that it was measured on.
        draws: (NUM_DRAWS,) angles that the doubt allows; never written anywhere.
    """

    scale: str
    reason: str = ""
    ita_degrees: Number = None
    low: Number = None
    high: Number = None
    image_low: Number = None
    image_high: Number = None
    lightness: Number = None
    yellow: Number = None
    memberships: Mapping[str, float] = field(default_factory=dict)
    skin_share: Number = None
    shading_stops: Number = None
    spread: Number = None
    num_images: int = 1
    draws: FloatArray = field(default_factory=lambda: np.empty(0), repr=False)

    @property
    def measurable(self) -> bool:
        """Whether there is a tone."""
        return self.ita_degrees is not None

    @property
    def bin(self) -> str | None:
        """The class of the angle itself; None where not measurable."""
        if self.ita_degrees is None:
            return None
        return str(scale_by_name(self.scale).bins_of(np.array([self.ita_degrees]))[0])

    def values(self) -> dict[str, str | float | int | None]:
        """The measurement as one row of a table: plain values, one column a class."""
        bins = scale_by_name(self.scale).bins
        return {
            "tone_scale": self.scale,
            "image_tone": self.bin,
            "ita_degrees": self.ita_degrees,
            "ita_low": self.low,
            "ita_high": self.high,
            "ita_image_low": self.image_low,
            "ita_image_high": self.image_high,
            "not_measurable": self.reason or None,
            "lightness": self.lightness,
            "yellow": self.yellow,
            "skin_share": self.skin_share,
            "shading_stops": self.shading_stops,
            "spread": self.spread,
            **{f"p_{name}": self.memberships.get(name) for name in bins},
        }


@dataclass(frozen=True)
class _Colour:
    """Skin after the uneven light was taken out and outliers were trimmed."""

    lab: FloatArray
    blocks: FloatArray
    spread: float


def measure_tone(
    light: FloatArray,
    settings: ToneSettings,
    seeds: Seeds,
    key: str,
    *,
    lesion: BoolArray | None = None,
) -> tuple[ToneMeasurement, SkinMask]:
    """Measure the apparent tone of one close-up.

    Lesion, hair, rulers, glare, ink and dark corners are left out; a smooth field of light is
    fitted and taken out; outliers in L* or b* are trimmed together; the angle is that of the
    medians.

    Args:
        light: HW3 linear sRGB from 0 to 1.
        settings: How to measure.
        seeds: The root of the random streams.
        key: The image's own name, which names its stream.
        lesion: HW, the lesion where a mask is known; otherwise it is looked for.

    Returns:
        The measurement, and the mask that it was made on.

    Raises:
        DataError: If the lesion's mask has another size than the image.

    Guarantees:
        The result depends on the arguments only, not on other images or their order.

    Source:
        Chardon, Cretois and Hourseau 1991 for the angle, here with the two-argument arctangent.
    """
    if lesion is not None and lesion.shape != light.shape[:2]:
        raise DataError(
            rule="a lesion mask of the image's own size",
            got=f"{lesion.shape[1]} x {lesion.shape[0]} for {light.shape[1]} x {light.shape[0]}",
            do="Give a mask made from the same image.",
        )
    lab = to_lab(light)
    excluded = excluded_before_lesion(lab)
    if lesion is None:
        # A lesion has dark lines of its own, so hair is no reason to look elsewhere.
        causes = [pixels for cause, pixels in excluded.items() if cause != "hair"]
        candidates = ~np.logical_or.reduce(causes)
        # Only its slant: a parabola would take a dark lesion in the middle for a shadow.
        field_of_light, _ = fit_light(light, candidates, slant_only=True)
        lesion = find_lesion(to_lab(light / field_of_light[..., None]), candidates)
    mask = with_lesion(excluded, lesion)
    share = float(mask.usable.mean())
    facts = ToneMeasurement(tone_scale(settings.table).name, skin_share=share)
    if float(excluded["foreign"].mean()) > settings.most_foreign:
        return replace(facts, reason="colours that skin does not have"), mask
    if share < settings.least_skin:
        return replace(facts, reason="too little skin"), mask
    field_of_light, stops = fit_light(light, mask.usable)
    facts = replace(facts, shading_stops=stops)
    if stops > settings.most_shading:
        return replace(facts, reason="light too uneven"), mask
    colour = _trimmed(to_lab(light / field_of_light[..., None]), mask.usable)
    rng = seeds.stream(f"skin-tone/blocks/{key}")
    camera = seeds.stream("skin-tone/camera")
    return _concluded(colour, settings, facts, rng, camera), mask


def fit_light(
    light: FloatArray, usable: BoolArray, *, slant_only: bool = False
) -> tuple[FloatArray, float]:
    """Fit a smooth field of light: a parabola of the logarithm of the luminance.

    Args:
        light: HW3 linear sRGB.
        usable: HW, pixels to fit on.
        slant_only: Fit a plane, and start from all pixels instead of those near the middle.

    Returns:
        HW factor that is 1 in the image's middle, and its size in stops, from the 5th to the 95th
        percentile of the pixels fitted on. Where there are too few pixels, 1 and 0.
    """
    height, width = usable.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    plane, bends = [np.ones_like(x), x, y], [x * x, x * y, y * y]
    terms = np.stack(plane if slant_only else plane + bends, axis=-1)
    luminance = np.log(np.maximum(light @ _LUMINANCE, 1e-4))
    design, target = terms[usable], luminance[usable]
    if len(target) < 10 * terms.shape[-1]:
        return np.ones((height, width)), 0.0
    step = max(1, len(target) // _MOST_FITTED)
    design, target = design[::step], target[::step]
    kept = np.ones(len(target), dtype=bool) if slant_only else _begin(usable)[::step]
    for _ in range(_ROUNDS):
        weights, *_ = np.linalg.lstsq(design[kept], target[kept], rcond=None)
        rest = target - design @ weights
        width_of_rest = _MAD_TO_SD * np.median(np.abs(rest[kept] - np.median(rest[kept])))
        now = np.abs(rest) <= _DEVIATIONS * max(width_of_rest, 0.01)
        if (now == kept).all() or now.sum() < 10 * terms.shape[-1]:
            break
        kept = now
    low, high = np.percentile(design @ weights, [5, 95])
    # Beyond the skin that was fitted on, a parabola may go anywhere.
    fitted = np.clip(terms @ weights, low - 0.2, high + 0.2) - np.clip(
        weights[0], low - 0.2, high + 0.2
    )
    return np.exp(fitted), float((high - low) / np.log(2))


def _begin(usable: BoolArray) -> BoolArray:
    """(n,) which of the usable pixels lie near the middle; all where too few do.

    Where the background fills more of the image than the skin, only the middle tells them apart.
    """
    near = near_middle((usable.shape[0], usable.shape[1]), 0.0, 0.5)[usable]
    return near if near.mean() > _LEAST_NEAR else np.ones_like(near)


def _trimmed(lab: FloatArray, usable: BoolArray) -> _Colour:
    """Trim L* and b* together by their median deviations until nothing more goes."""
    width = usable.shape[1]
    rows, columns = np.nonzero(usable)
    blocks = rows // BLOCK * (width // BLOCK + 1) + columns // BLOCK
    skin = lab[usable]
    both = skin[:, [0, 2]]
    kept = _begin(usable)
    spread = 0.0
    for turn in range(_ROUNDS):
        middle = np.median(both[kept], axis=0)
        deviation = _MAD_TO_SD * np.median(np.abs(both[kept] - middle), axis=0)
        spread = spread if turn else float(deviation[0])
        within = np.abs(both - middle) <= _DEVIATIONS * np.maximum(deviation, _LEAST_WIDTH)
        now = np.asarray(within.all(axis=1))
        if (now == kept).all():
            break
        kept = now
    return _Colour(skin[kept], blocks[kept], spread)


def _concluded(
    colour: _Colour,
    settings: ToneSettings,
    facts: ToneMeasurement,
    rng: np.random.Generator,
    camera: np.random.Generator,
) -> ToneMeasurement:
    facts = replace(facts, spread=colour.spread)
    middle = np.median(colour.lab, axis=0)
    drawn = _resampled(colour, rng)
    lit = _relit(drawn, settings, camera)
    if np.percentile(drawn[:, 2], _TAILS[0]) <= settings.least_yellow:
        return replace(facts, reason="no yellow in the skin (b* near 0)")
    if colour.spread > settings.most_spread:
        return replace(facts, reason="skin too uneven")
    angle, angles = float(_angle(middle)), _angle(lit)
    image_low, image_high = _limits(angle, _angle(drawn))
    low, high = _limits(angle, angles)
    return replace(
        facts,
        ita_degrees=angle,
        low=low,
        high=high,
        image_low=image_low,
        image_high=image_high,
        lightness=float(middle[0]),
        yellow=float(middle[2]),
        memberships=scale_by_name(facts.scale).shares(angles),
        draws=angles,
    )


def _limits(angle: float, draws: FloatArray) -> tuple[float, float]:
    """Percentiles of the draws; their medians are rounded to a level, the angle itself is not."""
    low, high = np.percentile(draws, _TAILS)
    return min(float(low), angle), max(float(high), angle)


def _angle(lab: FloatArray) -> FloatArray:
    return np.asarray(np.degrees(np.arctan2(lab[..., 0] - 50, lab[..., 2])))


def _resampled(colour: _Colour, rng: np.random.Generator) -> FloatArray:
    """(NUM_DRAWS, 3) median colours of blocks drawn with replacement.

    A median is read off summed histograms of the blocks instead of sorting the pixels anew.
    """
    _, block = np.unique(colour.blocks, return_inverse=True)
    num_blocks = int(block.max()) + 1
    weights = rng.multinomial(
        num_blocks, np.full(num_blocks, 1 / num_blocks), size=NUM_DRAWS
    ).astype(float)
    medians = np.empty((NUM_DRAWS, 3))
    for channel in range(3):
        values = colour.lab[:, channel]
        edges = np.linspace(values.min(), values.max() + 1e-9, _NUM_LEVELS + 1)
        level = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, _NUM_LEVELS - 1)
        table = np.bincount(block * _NUM_LEVELS + level, minlength=num_blocks * _NUM_LEVELS)
        sums = np.cumsum(weights @ table.reshape(num_blocks, _NUM_LEVELS).astype(float), axis=1)
        place = (sums < sums[:, -1:] / 2).sum(axis=1)
        medians[:, channel] = (edges[place] + edges[place + 1]) / 2
    return medians


def _relit(lab: FloatArray, settings: ToneSettings, camera: np.random.Generator) -> FloatArray:
    """The same colours under the exposures and white balances that nobody can rule out.

    All images share the draws: one camera's error is the same in all images of a patient.
    """
    stops = settings.exposure_stops * camera.standard_normal(NUM_DRAWS)
    gains = np.exp(settings.white_balance * camera.standard_normal((NUM_DRAWS, 2)))
    factors = np.stack([gains[:, 0], np.ones(NUM_DRAWS), gains[:, 1]], axis=1)
    return to_lab(to_linear(lab) * factors * 2 ** stops[:, None])


def patient_tone(images: Sequence[ToneMeasurement], seeds: Seeds, key: str) -> ToneMeasurement:
    """Join the images of one patient: the median angle, with doubt about which images there are.

    Args:
        images: The patient's measurements, at least one; those without a tone do not count.
        seeds: The root of the random streams.
        key: What the patient is called, which names the stream.

    Returns:
        One measurement. Its interval draws images anew, and within each what its own doubt allows;
        the camera's error is taken to be the same in all of them.

    Raises:
        DataError: If the images are measured on different scales.
    """
    scale = one_scale([image.scale for image in images])
    known = [image for image in images if image.measurable]
    if not known:
        reasons = sorted({image.reason for image in images})
        return ToneMeasurement(scale, "; ".join(reasons), num_images=len(images))
    rng = seeds.stream(f"skin-tone/patient/{key}")
    draws = np.stack([image.draws for image in known])
    chosen = rng.integers(len(known), size=draws.shape)
    joined = np.median(np.take_along_axis(draws, chosen, axis=0), axis=0)

    def middle(name: str) -> float:
        return float(np.median([getattr(image, name) for image in known]))

    low, high = _limits(middle("ita_degrees"), joined)
    return ToneMeasurement(
        scale=scale,
        ita_degrees=middle("ita_degrees"),
        low=low,
        high=high,
        lightness=middle("lightness"),
        yellow=middle("yellow"),
        memberships=scale_by_name(scale).shares(joined),
        skin_share=middle("skin_share"),
        shading_stops=middle("shading_stops"),
        spread=middle("spread"),
        num_images=len(known),
        draws=joined,
    )
