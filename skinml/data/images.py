"""From a file that nobody vouches for to pixels: limits, formats, orientation, colour modes.

Shapes: C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import imagehash
import numpy as np
import pyarrow as pa
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from skinml.data.manifest_rules import FIRST_ROW
from skinml.data.sealed_images import SealedImage
from skinml.errors import DataError, require_positive, require_same_length

if TYPE_CHECKING:
    import torch

    from skinml.data.sealed_images import ImageFile, ImageFolder
    from skinml.data.settings import ImageLimits

PREPARATION = "centre-square-2"
"""What `prepare_image` does to a picture: part of the version of all that is computed from it."""
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
_LEAST_DETAIL = 4  # pixels decoded for one that is kept, along a side
_HASH_SIDE = 16
_NUM_THREADS = 2
_MOST_LINES = 20
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    ArithmeticError,
    LookupError,
    TypeError,
    struct.error,
    zlib.error,
)
"""What Pillow raises on broken files. A defect of ours is none of these on a sound file."""
_Made = TypeVar("_Made")
BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)
"""What Pillow raises where a header asks for very many pixels."""

# Pillow warns from 89 million pixels on. Our own limit is checked from the header right after,
# and its message says what to do.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# A camera's broken metadata does not make its picture unusable, and nobody can act on the warning.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")


@dataclass(frozen=True, repr=False)
class Inspection:
    """What one pass over an image file tells. Per patient: never log.

    Attributes:
        digest: SHA-256 of the file's bytes, in hexadecimal.
        perceptual_hash: 32 bytes; pictures that look alike differ in few bits.
        width: Pixels across, after the orientation is applied.
        height: Pixels down, after the orientation is applied.
    """

    digest: str
    perceptual_hash: bytes
    width: int
    height: int


def decode_image(path: ImageFile, limits: ImageLimits) -> torch.Tensor:
    """Decode one image file that may be hostile.

    The EXIF orientation is applied. Transparent pixels show white, 16-bit grey is scaled to
    8 bits, the first frame stands for an animation.

    Args:
        path: A JPEG, PNG, WebP, TIFF or BMP file, also in a clinic's vault.
        limits: What the file may ask of this machine.

    Returns:
        (3, H, W) uint8, RGB.

    Raises:
        DataError: If the file is missing, too large, too small, of another format, truncated or
            corrupt. The message does not name the file.

    Guarantees:
        No more than `max_bytes` are read, and no pixel is decoded of an image whose header asks
        for more than `max_pixels`.
    """
    from torchvision.transforms import v2  # brings torch along, which a clinic's import never needs

    image = _open(_read_bytes(path, limits), limits, _to_rgb)
    tensor: torch.Tensor = v2.functional.pil_to_tensor(image)
    return tensor


def decode_colour(
    path: ImageFile, limits: ImageLimits
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], bool]:
    """Decode one image file, hostile or not, with the colours that its profile gives it.

    Like `decode_image`, and an embedded ICC profile is converted to sRGB (relative colorimetric).
    A file without a profile is read as sRGB, as every browser does.

    Args:
        path: A JPEG, PNG, WebP, TIFF or BMP file, also in a clinic's vault.
        limits: What the file may ask of this machine.

    Returns:
        (H, W, 3) uint8, sRGB, and whether the colours have a known meaning: False for a profile
        that cannot be used, and for inks (CMYK) without one.

    Raises:
        DataError: As `decode_image`.

    Guarantees:
        As `decode_image`.
    """
    image, known = _open(_read_bytes(path, limits), limits, to_srgb)
    return np.asarray(image), known


def prepare_image(path: ImageFile, limits: ImageLimits, size: int) -> torch.Tensor:
    """Decode an image file for a network: the square in its middle, resized.

    A JPEG of eight times the size or more is decoded at a half, a quarter or an eighth, still at
    least four times the size, so that a photograph of many megapixels costs a fifth.

    Args:
        path: A JPEG, PNG, WebP, TIFF or BMP file, also in a clinic's vault.
        limits: What the file may ask of this machine.
        size: Side of the square in pixels.

    Returns:
        (3, size, size) uint8, RGB.

    Raises:
        ConfigError: If the size is not above zero.
        DataError: As `decode_image`.

    Guarantees:
        As `decode_image`.
    """
    require_positive(size=size)
    image = _open(_read_bytes(path, limits), limits, _to_rgb, at_least=_LEAST_DETAIL * size)
    return resize_square(_pixels(image), size)[:3]


def _pixels(image: Image.Image) -> torch.Tensor:
    """Look at an image's pixels where they lie.

    Args:
        image: In RGB.

    Returns:
        (C, H, W) uint8: red, green, blue, and a channel of no meaning where nothing is copied. It
        keeps the image's memory, which is not to be written to.
    """
    from torch.utils.dlpack import from_dlpack
    from torchvision.transforms import v2

    try:
        raw = from_dlpack(pa.array(image).flatten())
    except ValueError:  # a large image lies in several pieces
        copied: torch.Tensor = v2.functional.pil_to_tensor(image)
        return copied
    return raw.view(image.height, image.width, -1).permute(2, 0, 1)


def resize_square(image: torch.Tensor, size: int) -> torch.Tensor:
    """Cut the largest square out of the middle of an image and resize it.

    Shapes are kept, since asymmetry and border are signs that a lesion is judged by; what is lost
    lies at the ends of the longer side, and the lesion is in the middle.

    Args:
        image: (C, H, W) uint8.
        size: Side of the square in pixels.

    Returns:
        (C, size, size) uint8, resized with antialiasing.

    Raises:
        ConfigError: If the size is not above zero.
    """
    require_positive(size=size)
    from torchvision.transforms import v2

    # Cut before resizing: a strip of 16 x 3,000,000 pixels would grow beyond any memory.
    middle = v2.functional.center_crop(image, [min(image.shape[-2:])] * 2)
    square: torch.Tensor = v2.functional.resize(
        middle, [size, size], interpolation=v2.InterpolationMode.BILINEAR, antialias=True
    )
    return square


def inspect_images(
    images: Sequence[str],
    root: ImageFolder,
    limits: ImageLimits,
    known: Mapping[str, Inspection] | None = None,
    progress: Callable[[int], None] | None = None,
    *,
    rows: Sequence[int] | None = None,
) -> list[Inspection]:
    """Read every image once: digest, perceptual hash, size, and whether it can be decoded.

    Args:
        images: (n,) paths below the root.
        root: The folder of the images.
        limits: What a file may ask of this machine.
        known: Inspections of earlier runs by digest; their images are not decoded again.
        progress: Called with the number of images done so far.
        rows: (n,) row of each image in the manifest, for messages; by default in order.

    Returns:
        (n,) inspections in the order of the images.

    Raises:
        DataError: If any image breaks a rule. All of them are collected into one error that names
            rows of the manifest, never a path.
    """
    numbers = range(FIRST_ROW, FIRST_ROW + len(images)) if rows is None else rows
    require_same_length(images=images, rows=numbers)

    def inspect(image: str) -> Inspection | DataError:
        try:
            return _inspect(root / image, limits, known or {})
        except DataError as error:
            return error

    done: list[Inspection] = []
    failures: list[str] = []
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for count, (row, result) in enumerate(
            zip(numbers, pool.map(inspect, images), strict=True), start=1
        ):
            if isinstance(result, DataError):
                failures.append(f"row {row}: {result.got}")
            else:
                done.append(result)
            if progress is not None:
                progress(count)
    if failures:
        raise _collected(failures)
    return done


def _collected(failures: list[str]) -> DataError:
    details = failures[:_MOST_LINES]
    if len(failures) > _MOST_LINES:
        details.append(f"and {len(failures) - _MOST_LINES} more")
    count = "1 image in" if len(failures) == 1 else f"{len(failures)} images, the first in"
    return DataError(
        rule="images that can be read within data.limits",
        got=f"{count} {failures[0]}",
        do="Replace these files, take their rows out of the manifest, or change data.limits.",
        details=details,
    )


def _inspect(path: ImageFile, limits: ImageLimits, known: Mapping[str, Inspection]) -> Inspection:
    data = _read_bytes(path, limits)
    digest = hashlib.sha256(data).hexdigest()
    if digest in known:
        return known[digest]
    image = _open(data, limits, _to_rgb)
    bits = np.asarray(imagehash.phash(image, hash_size=_HASH_SIDE).hash, dtype=bool)
    return Inspection(digest, np.packbits(bits).tobytes(), image.width, image.height)


def _failure(got: str) -> DataError:
    return DataError(
        rule="an image that can be read within data.limits",
        got=got,
        do="Replace the file or change data.limits.",
    )


def _read_bytes(path: ImageFile, limits: ImageLimits) -> bytes:
    if isinstance(path, SealedImage):
        return path.read()
    try:
        # Without this, a named pipe would keep us waiting for ever.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise _failure("no regular file")
        with path.open("rb") as file:
            data = file.read(limits.max_bytes + 1)
    except OSError as error:
        raise _failure(f"no readable file ({type(error).__name__})") from None
    if len(data) > limits.max_bytes:
        raise _failure(f"a file of more than {limits.max_bytes} bytes")
    return data


def _open(
    data: bytes,
    limits: ImageLimits,
    finish: Callable[[Image.Image], _Made],
    *,
    at_least: int | None = None,
) -> _Made:
    """Decode bytes and finish; the limits are checked between the header and the pixels.

    Where `at_least` is given, a JPEG may come smaller, its shorter side at least so many pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > limits.max_pixels:
                raise _failure(f"{width} x {height} pixels, more than {limits.max_pixels}")
            if min(width, height) < limits.min_side:
                raise _failure(f"{width} x {height} pixels, a side below {limits.min_side}")
            if at_least is not None:
                image.draft(None, (at_least, at_least))  # of other formats, nothing
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return finish(image)
    except BOMB:
        raise _failure(f"more pixels than {limits.max_pixels}") from None
    except UnidentifiedImageError:
        raise _failure(f"no image in {', '.join(_FORMATS)}") from None
    except BROKEN:
        raise _failure("a truncated or corrupt image") from None


def to_srgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """Convert by the embedded profile, and say whether the colours mean something known.

    Args:
        image: A decoded image.

    Returns:
        The image in RGB, and False where the profile cannot be used or there are inks without one.

    Raises:
        DataError: If its pixels have a range that nobody knows.
    """
    profile = image.info.get("icc_profile")
    known = image.mode != "CMYK"
    if profile:
        if image.mode in ("P", "PA"):
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        try:
            own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(
                image,
                own,
                ImageCms.createProfile("sRGB"),
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                outputMode="RGBA" if image.mode == "RGBA" else "RGB",
            )
        except (ImageCms.PyCMSError, *BROKEN):
            known = False
        else:
            image, known = converted or image, True
    return _to_rgb(image), known


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16 bits a pixel; older Pillow calls the same thing "I".
        deep = np.asarray(image).astype(np.int64)
        image = Image.fromarray(((deep.clip(0, 65535) * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode == "F":
        raise _failure("pixels of floating point, whose range nobody knows")
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        white = Image.new("RGBA", opaque.size, "white")
        return Image.alpha_composite(white, opaque).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
