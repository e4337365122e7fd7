"""Small copies of pictures, for a list of many on one screen."""

from __future__ import annotations

import io

from PIL import Image

from skinml.data.foreign_pictures import Refused
from skinml.data.images import BOMB, BROKEN
from skinml.data.settings import ImageLimits


def small_copy(content: bytes, longest: int, limits: ImageLimits) -> bytes:
    """Shrink a picture; a smaller one keeps its size.

    Args:
        content: A picture as the vault keeps it.
        longest: The longer side of the copy, in pixels.
        limits: What the picture may ask of this machine.

    Returns:
        A JPEG file without metadata.

    Raises:
        Refused: If it is no picture.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            if image.width * image.height > limits.max_pixels:
                raise Refused("too many pixels")
            image.thumbnail((longest, longest))  # of a JPEG it decodes no more than it needs
            small = image.convert("RGB")
    except BOMB:
        raise Refused("too many pixels") from None
    except BROKEN:
        raise Refused("broken file") from None
    made = io.BytesIO()
    small.save(made, "JPEG", quality=80)
    return made.getvalue()


def media_type(content: bytes) -> str:
    """Name the kind of file that the vault keeps a picture in.

    Args:
        content: Its bytes.

    Returns:
        `image/png` or `image/jpeg`.
    """
    return "image/png" if content.startswith(b"\x89PNG") else "image/jpeg"
