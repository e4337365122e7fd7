from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import imagehash
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from skinml.data.images import decode_image, inspect_images, prepare_image, resize_square
from skinml.data.settings import ImageLimits
from skinml.errors import ConfigError, DataError

LIMITS = ImageLimits(max_bytes=200_000, max_pixels=10_000, min_side=4)


@pytest.fixture
def picture() -> Image.Image:
    random = np.random.default_rng(0)
    return Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds hardly a pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def decoded(tmp_path: Path, data: bytes, limits: ImageLimits = LIMITS) -> np.ndarray:
    path = tmp_path / "secret-name.bin"
    path.write_bytes(data)
    return decode_image(path, limits).numpy().transpose(1, 2, 0)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("TIFF", {}), ("BMP", {}), ("WEBP", {"lossless": True})],
)
def test_lossless_formats_come_back_to_the_bit(
    tmp_path: Path, picture: Image.Image, kind: str, options: dict[str, object]
) -> None:
    assert (decoded(tmp_path, saved(picture, kind, **options)) == np.asarray(picture)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(
    tmp_path: Path, picture: Image.Image, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.asarray(picture)
    turned = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: np.rot90(pixels, 2).transpose(1, 0, 2),
        8: np.rot90(pixels, 1),
    }[orientation]
    assert (decoded(tmp_path, saved(picture, "PNG", exif=exif)) == turned).all()


def test_colour_modes_become_rgb(tmp_path: Path, picture: Image.Image) -> None:
    grey = picture.convert("L")
    expected = np.repeat(np.asarray(grey)[:, :, None], 3, axis=2)
    assert (decoded(tmp_path, saved(grey, "PNG")) == expected).all()
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert (decoded(tmp_path, saved(deep, "PNG")) == expected).all()
    palette = picture.quantize(16)
    assert (decoded(tmp_path, saved(palette, "PNG")) == np.asarray(palette.convert("RGB"))).all()
    cmyk = decoded(tmp_path, saved(picture.convert("CMYK"), "TIFF"))
    assert (cmyk == np.asarray(picture)).all()
    two = decoded(tmp_path, saved(grey.point(lambda value: 255 * (value > 127), "1"), "PNG"))
    assert set(np.unique(two)) == {0, 255}


def test_transparent_pixels_show_white(tmp_path: Path, picture: Image.Image) -> None:
    seen = picture.copy()
    alpha = Image.new("L", picture.size, 255)
    alpha.paste(0, (0, 0, 10, 20))
    seen.putalpha(alpha)
    pixels = decoded(tmp_path, saved(seen, "PNG"))
    assert (pixels[:, :10] == 255).all()
    assert (pixels[:, 10:] == np.asarray(picture)[:, 10:]).all()


HOSTILE: dict[str, tuple[Callable[[Image.Image], bytes], str]] = {
    "empty": (lambda _: b"", "no image in JPEG"),
    "text": (lambda _: b"#!/bin/sh\n" * 20, "no image in JPEG"),
    "gif": (lambda picture: saved(picture, "GIF"), "no image in JPEG"),
    "truncated jpeg": (lambda picture: saved(picture, "JPEG")[:-200], "truncated or corrupt"),
    "truncated png": (lambda picture: saved(picture, "PNG")[:-900], "truncated or corrupt"),
    "truncated webp": (lambda picture: saved(picture, "WEBP")[:-200], "image"),
    "truncated tiff": (
        lambda picture: saved(picture, "TIFF", compression="tiff_lzw")[:-200],
        "image",
    ),
    "corrupt png": (
        lambda picture: saved(picture, "PNG")[:80] + b"\xff" * 40 + saved(picture, "PNG")[120:],
        "truncated or corrupt",
    ),
    "more pixels than allowed": (lambda _: png_header(101, 100), "101 x 100 pixels"),
    "bomb": (lambda _: png_header(12_000, 12_000), "pixels"),
    "greater bomb": (lambda _: png_header(60_000, 60_000), "more pixels than"),
    "sliver": (lambda _: png_header(3, 100), "a side below 4"),
    "floating point": (
        lambda _: saved(Image.fromarray(np.ones((20, 20), dtype=np.float32)), "TIFF"),
        "floating point",
    ),
    "large file": (lambda picture: saved(picture, "PNG") + b"\0" * 200_000, "200000 bytes"),
}


# Pillow's remarks on broken metadata, which skinml.data.images silences outside pytest.
@pytest.mark.filterwarnings("ignore:.*EXIF:UserWarning")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_refused_without_its_name(
    tmp_path: Path, picture: Image.Image, name: str
) -> None:
    make, says = HOSTILE[name]
    with pytest.raises(DataError, match=says) as caught:
        decoded(tmp_path, make(picture))
    assert "secret-name" not in str(caught.value)


def test_named_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="no regular file"):
        decode_image(tmp_path / "pipe.png", LIMITS)


def test_square_is_the_middle_resized() -> None:
    image = torch.zeros(3, 40, 80, dtype=torch.uint8)
    image[:, :, 20:60] = 200
    square = resize_square(image, 10)
    assert square.shape == (3, 10, 10)
    assert square.dtype == torch.uint8
    assert (square == 200).all()
    assert (resize_square(image.transpose(1, 2), 64) == 200).all()


def test_resizing_is_antialiased() -> None:
    # Bright where a resize without antialiasing samples, dark elsewhere: a quarter of each period.
    stripes = torch.zeros(3, 64, 64, dtype=torch.uint8)
    stripes[:, :, 3::8] = 255
    stripes[:, :, 4::8] = 255
    assert resize_square(stripes, 8).max() < 128


def test_long_strip_does_not_grow_beyond_memory() -> None:
    assert resize_square(torch.zeros(3, 16, 200_000, dtype=torch.uint8), 224).shape[-1] == 224


def test_size_must_be_above_zero() -> None:
    with pytest.raises(ConfigError):
        resize_square(torch.zeros(3, 8, 8, dtype=torch.uint8), 0)


def _photograph(side: int) -> Image.Image:
    """A picture with detail at every scale down to a few pixels."""
    rng = np.random.default_rng(0)
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize(
                (side, side), Image.Resampling.BICUBIC
            ),
            dtype=float,
        )
        for n in (4, 16, 64, 256)
    ]
    return Image.fromarray(np.mean(layers, axis=0).astype(np.uint8))


@pytest.mark.parametrize(("shown", "decoded"), [(511, 511), (512, 256), (1032, 258)])
def test_a_photograph_is_decoded_no_larger_than_it_must_be(
    tmp_path: Path, shown: int, decoded: int
) -> None:
    size, limits = 64, ImageLimits()
    path = tmp_path / "photograph.jpg"
    _photograph(shown).crop((0, 0, shown, shown)).save(path, quality=95)
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        image.draft(None, (4 * size, 4 * size))
        assert image.size == (decoded, decoded)
    whole = resize_square(decode_image(path, limits), size).float()
    prepared = prepare_image(path, limits, size).float()
    assert prepared.shape == (3, size, size)
    difference = (prepared - whole).abs()
    assert (difference.max() == 0) == (shown == decoded)
    assert difference.mean() < 0.5


@pytest.mark.parametrize("file", ["picture.png", "picture.webp", "picture.bmp"])
def test_other_formats_are_prepared_from_all_their_pixels(tmp_path: Path, file: str) -> None:
    path = tmp_path / file
    _photograph(300).save(path)
    whole = resize_square(decode_image(path, ImageLimits()), 64)
    assert torch.equal(prepare_image(path, ImageLimits(), 64), whole)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "CMYK"])
def test_pixels_that_are_not_copied_are_those_that_are(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "picture.tiff"
    upright = Image.Exif()
    upright[0x0112] = 6  # turned by a quarter
    _photograph(301).crop((0, 0, 299, 301)).convert(mode).save(path, exif=upright)
    whole = resize_square(decode_image(path, ImageLimits()), 224)
    assert torch.equal(prepare_image(path, ImageLimits(), 224), whole)


def test_a_picture_that_lies_in_several_pieces_of_memory_is_prepared(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    large = _photograph(600).resize((2400, 2000))
    with pytest.raises(ValueError, match=r"contiguous|blocks"):
        pa.array(large)
    large.save(path, compress_level=1)
    whole = resize_square(decode_image(path, ImageLimits()), 64)
    assert torch.equal(prepare_image(path, ImageLimits(), 64), whole)


def test_inspection_agrees_with_the_file_and_imagehash(
    tmp_path: Path, picture: Image.Image
) -> None:
    picture.save(tmp_path / "a.png")
    seen: list[int] = []
    only = inspect_images(["a.png", "a.png"], tmp_path, LIMITS, progress=seen.append)[1]
    bits = np.unpackbits(np.frombuffer(only.perceptual_hash, dtype=np.uint8))
    assert (bits == imagehash.phash(picture, hash_size=16).hash.ravel()).all()
    assert (only.width, only.height) == (30, 20)
    assert seen == [1, 2]


def test_known_image_is_not_decoded_again(tmp_path: Path, picture: Image.Image) -> None:
    picture.save(tmp_path / "a.png")
    first = inspect_images(["a.png"], tmp_path, LIMITS)
    # Limits that would refuse the pixels show that nobody looks at them.
    strict = ImageLimits(max_pixels=1, min_side=1)
    again = inspect_images(["a.png"], tmp_path, strict, {first[0].digest: first[0]})
    assert again == first


def test_all_broken_images_are_reported_by_row(tmp_path: Path, picture: Image.Image) -> None:
    picture.save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    images = ["bad.png", "good.png", "gone.png"]
    with pytest.raises(DataError, match="2 images, the first in row 5") as caught:
        inspect_images(images, tmp_path, LIMITS, rows=[5, 6, 9])
    assert [line.split(":")[0] for line in caught.value.details] == ["row 5", "row 9"]
    assert "png" not in " ".join((str(caught.value), *caught.value.details))


@pytest.mark.derm
def test_real_images_are_read(derm_root: Path) -> None:
    images = sorted(path.name for path in (derm_root / "images").iterdir())[:40]
    inspections = inspect_images(images, derm_root / "images", ImageLimits())
    assert {(each.width, each.height) for each in inspections} <= {(200, 150), (256, 192)}
