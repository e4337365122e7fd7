"""Pictures from files that nobody vouches for: what they may be, and why they are refused.

Nothing of a file but its pixels comes out of here. What a camera, an editor or a person put beside
them (EXIF, XMP, IPTC, comments, thumbnails, colour profiles, bytes behind the end, a second file
inside) has no way through, whether anybody knows that it is there or not.
"""

from __future__ import annotations

import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from skinml.data.dicom import is_dicom, read_dicom
from skinml.data.images import BOMB, BROKEN, to_srgb
from skinml.data.settings import ImageLimits
from skinml.errors import DataError
from skinml.stewardship.deidentification import Reason

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")
_LOSSY = ("JPEG", "MPO", "WEBP")  # MPO: a JPEG with further pictures behind it
_QUALITY = 95


class Refused(Exception):
    """A file of which nothing is kept.

    Args:
        reason: Why, a word of the closed list.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, repr=False)
class Foreign:
    """What came out of a file.

    Attributes:
        pixels: (H, W, 3) uint8, sRGB, as the picture is meant to be seen.
        lossless: Whether the file kept every pixel.
        annotated: Whether the file says that something is written in the picture.
        tags: The values of the DICOM tags that were asked for, as text.
    """

    pixels: Pixels
    lossless: bool
    annotated: bool = False
    tags: tuple[tuple[str, str], ...] = ()


def read_below(folder: Path, name: str, limits: ImageLimits) -> bytes:
    """Read a file below a folder, and no other.

    Args:
        folder: The folder; a link there is the user's own and followed.
        name: A path below it, with slashes.
        limits: What a file may be.

    Returns:
        Its content.

    Raises:
        EnvironmentProblem: If the folder itself cannot be read.
        Refused: If the path leaves the folder, passes a link, or is no regular file within limits.

    Guarantees:
        No link below the folder is followed, also not one that is put there meanwhile, and a pipe
        or a device is not waited for.
    """
    parts = PurePosixPath(name).parts
    if not name.isprintable() or not parts or ".." in parts or PurePosixPath(name).is_absolute():
        raise Refused("outside the folder")
    opened: list[int] = []
    try:
        opened.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
        for part in parts[:-1]:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            opened.append(os.open(part, flags, dir_fd=opened[-1]))
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        opened.append(os.open(parts[-1], flags, dir_fd=opened[-1]))
        return _content(opened[-1], limits)
    except (OSError, ValueError):
        raise Refused(_why(folder, parts)) from None
    finally:
        for descriptor in opened:
            os.close(descriptor)


def open_picture(content: bytes, limits: ImageLimits, tags: tuple[str, ...] = ()) -> Foreign:
    """Decode a file, whatever its name ends in.

    Args:
        content: The file.
        limits: What it may ask of this machine.
        tags: DICOM keywords whose values are wanted; nothing else of a header comes out.

    Returns:
        Its pixels.

    Raises:
        Refused: If it is no picture, or breaks a limit.
    """
    if is_dicom(content):
        return _from_dicom(content, limits, tags)
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            kind = str(image.format)
            _require_size(*image.size, limits)
            # A JPEG's further pictures are a camera's previews; of pages nobody knows which is it.
            if kind not in _LOSSY[:2] and getattr(image, "n_frames", 1) > 1:
                raise Refused("several pictures in one file")
            image.load()
            upright = ImageOps.exif_transpose(image)
            picture, _ = to_srgb(upright)
    except BOMB:
        raise Refused("too many pixels") from None
    except UnidentifiedImageError:
        raise Refused("unknown format") from None
    except DataError:
        raise Refused("pixels that cannot be read") from None
    except BROKEN:
        raise Refused("broken file") from None
    return Foreign(np.array(picture, dtype=np.uint8), kind not in _LOSSY)


def encode(pixels: Pixels, *, lossless: bool) -> bytes:
    """Write pixels and nothing else.

    Args:
        pixels: (H, W, 3) uint8, sRGB.
        lossless: Whether to keep every pixel, as PNG; otherwise JPEG, quality 95, no subsampling.

    Returns:
        The file's content.
    """
    made = io.BytesIO()
    image = Image.fromarray(pixels)
    if lossless:
        image.save(made, "PNG", compress_level=4)
    else:
        image.save(made, "JPEG", quality=_QUALITY, subsampling=0)
    return made.getvalue()


def _from_dicom(content: bytes, limits: ImageLimits, tags: tuple[str, ...]) -> Foreign:
    found = read_dicom(
        content, tags, lambda width, height: _require_size(width, height, limits), Refused
    )
    return Foreign(found.pixels, found.lossless, found.annotated, found.tags)


def _content(descriptor: int, limits: ImageLimits) -> bytes:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise Refused("no regular file")
    if status.st_size > limits.max_bytes:
        raise Refused("too many bytes")
    with os.fdopen(os.dup(descriptor), "rb") as file:
        content = file.read(limits.max_bytes + 1)
    if len(content) > limits.max_bytes:
        raise Refused("too many bytes")
    return content


def _why(folder: Path, parts: tuple[str, ...]) -> Reason:
    """Say why a file could not be opened; only for the count, so that a race does no harm."""
    place = folder
    for part in parts:
        place = place / part
        try:
            mode = place.lstat().st_mode
        except (OSError, ValueError):
            return "no such file"
        if stat.S_ISLNK(mode):
            return "link"
    return "no regular file"


def _require_size(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels:
        raise Refused("too many pixels")
    if min(width, height) < limits.min_side:
        raise Refused("too small")
