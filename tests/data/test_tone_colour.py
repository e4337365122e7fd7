"""Files to light: profiles, orientation, linear reduction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from skimage.color import rgb2lab

from skinml.data.images import decode_colour
from skinml.data.settings import ImageLimits
from skinml.data.tone_colour import LONG_SIDE, read_light, to_lab, to_light, to_linear

ORIENTATION = 0x0112
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# A profile whose red primary is called green and the other way round.
SWAPPED = SRGB.replace(b"rXYZ", b"tmp_").replace(b"gXYZ", b"rXYZ").replace(b"tmp_", b"gXYZ")


def saved(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def red() -> np.ndarray:
    return np.broadcast_to(np.array([200, 30, 30], dtype=np.uint8), (20, 30, 3))


@pytest.mark.parametrize(
    ("profile", "expected", "known"),
    [
        (None, (200, 30, 30), True),
        (SRGB, (200, 30, 30), True),
        (SWAPPED, (30, 200, 30), True),
        (b"no profile at all", (200, 30, 30), False),
    ],
)
def test_colours_are_those_of_the_embedded_profile(
    profile: bytes | None,
    expected: tuple[int, int, int],
    known: bool,
    red: np.ndarray,
    tmp_path: Path,
) -> None:
    path = saved(tmp_path / "a.png", red, icc_profile=profile)
    pixels, told = decode_colour(path, ImageLimits())
    assert told is known
    np.testing.assert_allclose(pixels[0, 0], expected, atol=2)


def test_inks_without_a_profile_have_no_known_colour(red: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(red).convert("CMYK").save(path)
    assert decode_colour(path, ImageLimits())[1] is False


def test_the_orientation_is_applied(red: np.ndarray, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    light, _ = read_light(saved(tmp_path / "a.png", red, exif=exif), ImageLimits())
    assert light.shape == (30, 20, 3)


def test_large_images_are_reduced_in_linear_light() -> None:
    board = np.zeros((2 * LONG_SIDE, 4 * LONG_SIDE, 3), dtype=np.uint8)
    board[::2, ::2] = board[1::2, 1::2] = 255
    light = to_light(board)
    assert light.shape == (LONG_SIDE // 2, LONG_SIDE, 3)
    np.testing.assert_allclose(light, 0.5, atol=1e-6)


def test_lab_is_that_of_scikit_image_and_comes_back() -> None:
    codes = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    light = to_light(codes)
    np.testing.assert_allclose(to_lab(light), rgb2lab(codes), atol=1e-4)
    np.testing.assert_allclose(to_linear(to_lab(light)), light, atol=1e-6)
