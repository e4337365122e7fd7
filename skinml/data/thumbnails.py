"""Small copies of pictures, for a list of many on one screen."""

from __future__ import annotations

import io

from PIL import Image

from skinml.data.foreign_pictures import open_picture
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
    image = Image.fromarray(open_picture(content, limits).pixels)
    image.thumbnail((longest, longest))
    made = io.BytesIO()
    image.save(made, "JPEG", quality=80)
    return made.getvalue()


def media_type(content: bytes) -> str:
    """Name the kind of file that the vault keeps a picture in.

    Args:
        content: Its bytes.

    Returns:
        `image/png` or `image/jpeg`.
    """
    return "image/png" if content.startswith(b"\x89PNG") else "image/jpeg"
