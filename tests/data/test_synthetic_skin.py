"""Skin colour against what is known of skin, and the typology angle against scikit-image."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from skimage.color import rgb2lab

from skinml.data.synthetic.scene import Skin, bare_colour
from skinml.data.synthetic.skin import (
    SURFACE,
    TONES,
    WAVELENGTHS_NM,
    ita_degrees,
    reflectance,
    skin_colour,
    tone_melanin,
)
from skinml.data.synthetic.texture import pores, skin_lines, smooth_noise
from skinml.errors import ConfigError

BLOODS = [0.003, 0.008, 0.02]


def luminance(rgb: np.ndarray) -> np.ndarray:
    return rgb @ np.array([0.2126, 0.7152, 0.0722])


def test_melanin_of_neighbouring_tones_never_overlaps() -> None:
    ends = [(tone_melanin(tone, -0.45), tone_melanin(tone, 0.45)) for tone in TONES]
    assert all(low < high for low, high in ends)
    assert all(high < next_low for (_, high), (next_low, _) in pairwise(ends))


@pytest.mark.parametrize(("tone", "offset"), [(0, 0.0), (11, 0.0), (5, 0.5)])
def test_a_tone_outside_the_scale_is_refused(tone: int, offset: float) -> None:
    with pytest.raises(ConfigError):
        tone_melanin(tone, offset)


@pytest.mark.parametrize("blood", BLOODS)
def test_darker_tones_have_less_luminance_and_a_smaller_angle(blood: float) -> None:
    colours = np.stack(
        [
            bare_colour(Skin(tone_melanin(tone), blood, hair=0, freckles=0, relief=0))
            for tone in TONES
        ]
    )
    assert np.all(np.diff(luminance(colours)) < 0)
    assert np.all(np.diff(ita_degrees(colours)) < 0)


@pytest.mark.parametrize("blood", BLOODS)
def test_the_angle_agrees_with_scikit_image(blood: float) -> None:
    melanin = np.array([tone_melanin(tone) for tone in TONES])
    linear = skin_colour(melanin, np.full(len(melanin), blood))
    coded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    lab = rgb2lab(coded)
    expected = np.degrees(np.arctan2(lab[:, 0] - 50, lab[:, 2]))
    np.testing.assert_allclose(ita_degrees(linear), expected, atol=0.1)


def test_the_tones_span_very_light_to_dark_by_published_cuts() -> None:
    angles = ita_degrees(skin_colour(np.array([0.012, 0.4]), np.array([0.008, 0.008])))
    assert angles[0] > 55  # "very light" of Chardon et al. 1991
    assert angles[1] < -30  # "dark"


def test_blood_takes_green_light_before_red() -> None:
    little, much = reflectance(np.full(2, 0.02), np.array([0.005, 0.05]))
    lost = 1 - much / little
    green, red = lost[WAVELENGTHS_NM == 540], lost[WAVELENGTHS_NM == 660]
    assert green > 0.3
    assert red < green / 3


def test_melanin_takes_blue_light_before_red() -> None:
    light, dark = reflectance(np.array([0.02, 0.2]), np.full(2, 0.008))
    assert np.all(np.diff((dark - SURFACE) / (light - SURFACE)) > 0)


@pytest.mark.parametrize(("melanin", "blood"), [(0.012, 0.008), (0.1, 0.02), (0.4, 0.1)])
def test_the_colour_table_is_close_to_the_spectral_sum(melanin: float, blood: float) -> None:
    grid = (np.linspace(0, 1, 96) ** 2).tolist()
    near_melanin = min(grid, key=lambda value: abs(value - melanin))
    near_blood = min(grid, key=lambda value: abs(value - blood))
    at_node = skin_colour(np.array(near_melanin), np.array(near_blood))
    between = skin_colour(np.array(melanin), np.array(blood))
    assert at_node.shape == (3,)
    np.testing.assert_allclose(between, at_node, atol=0.02)


def test_noise_is_standardised_and_repeats() -> None:
    field = smooth_noise(np.random.default_rng(3), 64, 4)
    assert abs(field.mean()) < 1e-9
    assert field.std() == pytest.approx(1)
    np.testing.assert_array_equal(field, smooth_noise(np.random.default_rng(3), 64, 4))


def test_a_larger_image_shows_the_same_field_in_more_pixels() -> None:
    small, large = (smooth_noise(np.random.default_rng(3), size, 4) for size in (64, 128))
    np.testing.assert_allclose(large[::2, ::2], small, atol=1e-9)


def test_fewer_cycles_make_smoother_noise() -> None:
    coarse, fine = (smooth_noise(np.random.default_rng(3), 128, cycles) for cycles in (2, 20))
    assert np.abs(np.diff(coarse)).mean() < np.abs(np.diff(fine)).mean() / 3


def test_skin_lines_are_cut_in_rather_than_raised() -> None:
    height = skin_lines(np.random.default_rng(3), 128, 16)
    assert np.median(height) > 0  # a flat plateau above narrow furrows


def test_pores_cover_little_of_the_skin() -> None:
    dots = pores(np.random.default_rng(3), 128, 10)
    assert dots.min() >= 0
    assert 0 < (dots > 0.2).mean() < 0.1
