"""Apparent tone against published swatches, planted disturbances and renders of a known angle."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from skimage.color import lab2rgb, rgb2lab

from skinml.data.skin_tone import ToneMeasurement, ToneSettings, measure_tone, patient_tone
from skinml.data.synthetic.cohort import plan_cohort, render_shot
from skinml.data.synthetic.lesions import draw_appearance, draw_lesion
from skinml.data.synthetic.scene import Skin, bare_colour, render_scene
from skinml.data.synthetic.settings import SyntheticSettings
from skinml.data.synthetic.skin import ita_degrees, tone_melanin
from skinml.data.tone_colour import to_light
from skinml.errors import DataError
from skinml.seeding import Seeds

# The ten colours of the Monk Skin Tone scale, lightest first (Ellis Monk, Google, 2022).
LIGHT = ["f6ede4", "f3e7db", "f7ead0", "eadaba", "d7bd96"]
MONK = [*LIGHT, "a07e56", "825c43", "604134", "3a312a", "292420"]
SIZE = 128
SEEDS = Seeds(0)


def swatch(hexadecimal: str, noise: float = 2.0) -> np.ndarray:
    rng = np.random.default_rng(int(hexadecimal, 16))
    code = np.array([int(hexadecimal[i : i + 2], 16) for i in (0, 2, 4)], dtype=float)
    return code + noise * rng.standard_normal((SIZE, SIZE, 1))


def coded(image: np.ndarray) -> np.ndarray:
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def measured(image: np.ndarray, **settings: object) -> ToneMeasurement:
    return measure_tone(to_light(coded(image)), ToneSettings(**settings), SEEDS, "image")[0]


def angle_of(hexadecimal: str) -> float:
    lightness, _, yellow = rgb2lab(swatch(hexadecimal, 0)[:1, :1] / 255)[0, 0]
    return float(np.degrees(np.arctan2(lightness - 50, yellow)))


def curved(light: np.ndarray) -> np.ndarray:
    """The sRGB curve (IEC 61966-2-1)."""
    safe = np.clip(light, 0, 1)
    return 255 * np.where(safe <= 0.0031308, 12.92 * safe, 1.055 * safe ** (1 / 2.4) - 0.055)


def relit(image: np.ndarray, gains: np.ndarray) -> np.ndarray:
    return curved(to_light(coded(image)) * gains)


def test_no_monk_swatch_is_gated_and_all_keep_their_angle_and_rank() -> None:
    tones = [measured(swatch(each)) for each in MONK]
    for hexadecimal, tone in zip(MONK, tones, strict=True):
        assert tone.reason == ""
        assert tone.skin_share > 0.95
        assert tone.ita_degrees == pytest.approx(angle_of(hexadecimal), abs=1.5)
        assert tone.low < tone.image_low <= tone.ita_degrees <= tone.image_high < tone.high
    angles = [tone.ita_degrees for tone in tones]
    assert angles == sorted(angles, reverse=True)


@pytest.mark.parametrize(
    "colour", [(75, 2, 0.5), (75, 6, -4), (30, 1, 0.3), (90, 0, 0), (12, 0, 0), (60, 1, -6)]
)
def test_skin_without_yellow_has_no_angle(colour: tuple[float, float, float]) -> None:
    plain = lab2rgb(np.broadcast_to(np.asarray(colour, dtype=float), (SIZE, SIZE, 3))) * 255
    tone = measured(plain + np.random.default_rng(0).normal(0, 1, (SIZE, SIZE, 1)))
    assert tone.reason == "no yellow in the skin (b* near 0)"
    assert tone.values()["ita_degrees"] is None
    assert tone.values()["image_tone"] is None
    assert tone.memberships == {}


@pytest.mark.parametrize("name", ["exposure_stops", "white_balance"])
@pytest.mark.parametrize("hexadecimal", [MONK[3], MONK[7]])
def test_more_doubt_about_the_camera_widens_the_interval(name: str, hexadecimal: str) -> None:
    none = {"exposure_stops": 0.0, "white_balance": 0.0}
    tones = [measured(swatch(hexadecimal), **none | {name: doubt}) for doubt in (0, 0.05, 0.2)]
    widths = [tone.high - tone.low for tone in tones]
    assert widths[0] == pytest.approx(tones[0].image_high - tones[0].image_low)
    assert widths[1] > widths[0]
    assert widths[2] > 1.5 * widths[1]


# Where L* is 50 the angle is 0 whatever the yellow, so the middle tones do not move.
@pytest.mark.parametrize("hexadecimal", [MONK[4], MONK[7]])
@pytest.mark.parametrize(
    "sweep",
    [
        [(factor,) * 3 for factor in (0.6, 0.8, 1.0, 1.2)],
        [(1, 1, factor) for factor in (0.7, 0.85, 1.0, 1.15)],
    ],
    ids=["exposure", "white balance"],
)
def test_a_sweep_over_a_patients_images_widens_the_patients_interval(
    hexadecimal: str, sweep: list[tuple[float, float, float]]
) -> None:
    sure = {"exposure_stops": 0.05, "white_balance": 0.01}
    steady = [measured(swatch(hexadecimal), **sure)] * len(sweep)
    swept = [measured(relit(swatch(hexadecimal), np.asarray(gains)), **sure) for gains in sweep]
    alike, different = (patient_tone(each, SEEDS, "p") for each in (steady, swept))
    assert different.high - different.low > 1.5 * (alike.high - alike.low)
    assert different.low <= alike.ita_degrees <= different.high


def _hair(image: np.ndarray) -> None:
    for start in range(4, SIZE, 12):
        rows = np.arange(SIZE)
        image[rows, (start + rows // 3) % SIZE] = (40, 28, 20)


def _ruler(image: np.ndarray) -> None:
    image[:, :14] = 252
    image[::6, :8] = 60


def _ink(image: np.ndarray) -> None:
    image[20:36, 16:112] = (70, 60, 160)


def _glare(image: np.ndarray) -> None:
    image[90:110, 20:50] = 255


def _corners(image: np.ndarray) -> None:
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    image[np.hypot(x, y) > 0.55 * SIZE] = 4


def _lesion(image: np.ndarray) -> None:
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    image[np.hypot(x - 5, y + 4) < 26] *= np.array([0.5, 0.4, 0.35])


@pytest.mark.parametrize(
    ("cause", "plant"),
    [
        ("hair", _hair),
        ("glare", _ruler),
        ("foreign", _ink),
        ("glare", _glare),
        ("dark_corner", _corners),
        ("lesion", _lesion),
    ],
    ids=["hair", "ruler", "ink", "glare", "dark corners", "lesion"],
)
@pytest.mark.parametrize("hexadecimal", [MONK[4], MONK[6]])
def test_what_is_planted_is_left_out_and_does_not_move_the_angle(
    cause: str, plant: object, hexadecimal: str
) -> None:
    image = swatch(hexadecimal)
    clean = image.copy()
    plant(image)
    planted = np.abs(image - clean).max(axis=-1) > 5
    tone, mask = measure_tone(to_light(coded(image)), ToneSettings(), SEEDS, "image")
    assert (planted & mask.usable).sum() < 0.1 * planted.sum()
    assert (planted & mask.excluded[cause]).sum() > 0.6 * planted.sum()
    assert tone.ita_degrees == pytest.approx(angle_of(hexadecimal), abs=2)


def test_uneven_light_is_taken_out_and_its_size_is_told() -> None:
    slope = np.linspace(0.5, 1.5, SIZE)[None, :, None]
    flat = measured(relit(swatch(MONK[4]), np.array(0.6)))
    tone = measured(relit(swatch(MONK[4]), 0.6 * slope))
    assert tone.ita_degrees == pytest.approx(flat.ita_degrees, abs=2)
    assert flat.shading_stops < 0.1
    assert 0.9 < tone.shading_stops < 1.8


def test_plain_skin_has_no_lesion() -> None:
    _, mask = measure_tone(to_light(coded(swatch(MONK[5]))), ToneSettings(), SEEDS, "image")
    assert not mask.excluded["lesion"].any()


def test_a_given_lesion_mask_is_used_where_the_lesion_is_most_of_the_image() -> None:
    image = swatch(MONK[4])
    image[:, :80] *= np.array([0.5, 0.4, 0.35])
    lesion = np.zeros((SIZE, SIZE), dtype=bool)
    lesion[:, :80] = True
    light = to_light(coded(image))
    guided, _ = measure_tone(light, ToneSettings(), SEEDS, "image", lesion=lesion)
    guessed, _ = measure_tone(light, ToneSettings(), SEEDS, "image")
    assert guided.ita_degrees == pytest.approx(angle_of(MONK[4]), abs=2)
    assert guessed.ita_degrees is None or abs(guessed.ita_degrees - angle_of(MONK[4])) > 10


def test_a_lesion_mask_of_another_size_is_refused() -> None:
    light = to_light(coded(swatch(MONK[4])))
    with pytest.raises(DataError, match="4 x 3 for 128 x 128"):
        measure_tone(light, ToneSettings(), SEEDS, "x", lesion=np.zeros((3, 4), dtype=bool))


def _all_ink() -> np.ndarray:
    return np.broadcast_to(np.array([90.0, 80, 200]), (SIZE, SIZE, 3))


def _black() -> np.ndarray:
    return np.zeros((SIZE, SIZE, 3))


def _patches() -> np.ndarray:
    tiles = np.random.default_rng(0).uniform(0.25, 1, (16, 16, 1)).repeat(8, 0).repeat(8, 1)
    return swatch(MONK[4]) * tiles


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (_all_ink(), "colours that skin does not have"),
        (_black(), "too little skin"),
        (_patches(), "skin too uneven"),
        (relit(swatch(MONK[4]), 2.0 ** np.linspace(-6, 0, SIZE)[None, :, None]), "light"),
    ],
)
def test_what_cannot_be_measured_says_why(image: np.ndarray, reason: str) -> None:
    tone = measured(image)
    assert tone.reason.startswith(reason)
    assert not tone.measurable


def test_image_smaller_than_a_block_is_measured() -> None:
    tone = measured(swatch(MONK[5])[:16, :16])
    assert tone.ita_degrees == pytest.approx(angle_of(MONK[5]), abs=3)


def test_the_seed_moves_the_interval_only_and_the_key_names_the_stream() -> None:
    light = to_light(coded(render(4, 0)[0]))
    results = {
        (seed, key): measure_tone(light, ToneSettings(), Seeds(seed), key)[0].values()
        for seed in (0, 1)
        for key in ("a", "b")
    }
    assert len({result["ita_degrees"] for result in results.values()}) == 1
    assert len({result["ita_image_low"] for result in results.values()}) > 1
    assert results[0, "a"] == measure_tone(light, ToneSettings(), Seeds(0), "a")[0].values()


def test_memberships_are_the_share_of_the_draws_and_spread_at_a_cut() -> None:
    tone = measured(swatch(MONK[5]))  # its angle is 10.9 and tan begins at 10
    assert sum(tone.memberships.values()) == pytest.approx(1)
    assert tone.bin == "tan"
    assert tone.memberships["tan"] == pytest.approx(np.mean((tone.draws > 10) & (tone.draws <= 28)))
    assert 0.2 < tone.memberships["brown"] < 0.7
    assert tone.values()["p_brown"] == tone.memberships["brown"]
    assert "draws" not in tone.values()


def test_a_patient_is_the_median_of_the_images_that_can_be_measured() -> None:
    tones = [measured(swatch(each)) for each in (MONK[3], MONK[4], MONK[6])]
    blind = measured(_black())
    joined = patient_tone([*tones, blind], SEEDS, "p")
    assert joined.ita_degrees == tones[1].ita_degrees
    assert joined.num_images == 3
    assert patient_tone([blind], SEEDS, "p").reason == "too little skin"


def test_tones_of_two_scales_are_not_joined() -> None:
    tones = [measured(swatch(MONK[4]), table=table) for table in ("del_bino_2013", "groh_2021")]
    with pytest.raises(DataError, match="ita_apparent_del_bino_2013, ita_apparent_groh_2021"):
        patient_tone(tones, SEEDS, "p")


def render(tone: int, number: int) -> tuple[np.ndarray, float]:
    """A lesion on skin of a known angle, lit unevenly, with noise; no camera's exposure."""
    rng = np.random.default_rng([tone, number])
    skin = Skin(tone_melanin(tone), 0.008, rng.uniform(0, 0.8), rng.uniform(0, 0.4), 0.6)
    look = draw_appearance(("nv", "bcc", "mel")[number % 3], 1.0, rng)
    scene = render_scene(skin, look, draw_lesion(look, SIZE, rng), rng)
    y, x = np.meshgrid(*[np.linspace(-1, 1, SIZE)] * 2, indexing="ij")
    slant = 1 + rng.normal(0, 0.1) * y + rng.normal(0, 0.1) * x
    light = scene * (slant * (1 - 0.2 * np.hypot(x, y) ** 3))[..., None]
    noisy = curved(light) + 2.5 * rng.standard_normal(scene.shape)
    return noisy, float(ita_degrees(bare_colour(skin)))


@pytest.mark.parametrize("tone", range(1, 11))
def test_renders_of_every_tone_are_measured_within_five_degrees(tone: int) -> None:
    pairs = [render(tone, number) for number in range(2)]
    errors = [measured(image).ita_degrees - truth for image, truth in pairs]
    assert np.abs(errors).mean() < 5


@pytest.mark.slow
def test_photographs_by_automatic_cameras_keep_rank_and_their_intervals_hold_the_truth() -> None:
    # Automatic exposure brightens dark skin, so no angle of a photograph is the skin's own.
    from io import BytesIO

    from PIL import Image

    settings = SyntheticSettings(num_patients=100)
    truths, tones = [], []
    for shot in plan_cohort(settings, 5):
        pixels = np.asarray(Image.open(BytesIO(render_shot(shot, settings, 5))))
        truths.append(float(ita_degrees(bare_colour(shot.patient.skin))))
        tones.append(measure_tone(to_light(pixels), ToneSettings(), SEEDS, shot.image)[0])
    assert all(tone.measurable for tone in tones)
    assert spearmanr(truths, [tone.ita_degrees for tone in tones]).statistic > 0.95
    held = [tone.low <= truth <= tone.high for tone, truth in zip(tones, truths, strict=True)]
    assert np.mean(held) > 0.9
