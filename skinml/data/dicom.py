"""Pixels, and nothing else that was not asked for, out of DICOM files.

The basic profile of PS3.15 (annex E) lists what has to go. Here the direction is the other one:
what is not named does not come out, so that private tags, overlays, curves and whatever a later
edition adds need no list. Photographs of one frame are read; anything else is refused.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from skinml.errors import EnvironmentProblem
from skinml.stewardship.deidentification import Reason

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
TAGS = (
    "PatientAge",
    "PatientBirthDate",
    "PatientSex",
    "AcquisitionDate",
    "ContentDate",
    "StudyDate",
)
"""The only tags whose values can be asked for."""

_KINDS = {
    "1.2.840.10008.5.1.4.1.1.7": "Secondary Capture Image Storage",
    "1.2.840.10008.5.1.4.1.1.7.4": "Multi-frame True Color Secondary Capture Image Storage",
    "1.2.840.10008.5.1.4.1.1.77.1.4": "VL Photographic Image Storage",
    "1.2.840.10008.5.1.4.1.1.77.1.7": "Dermoscopic Photography Image Storage",
}
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # a whole file compressed: it could grow to any size
_RUN_LENGTH = "1.2.840.10008.1.2.5"
_MOST_RUN_LENGTH = 20_000_000  # bytes of pixels; two bytes of such a file can stand for 128
_LOSSY = (
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.91",
)
_MOST_TEXT = 64


@dataclass(frozen=True, repr=False)
class Read:
    """What came out of a DICOM file.

    Attributes:
        pixels: (H, W, 3) uint8, RGB.
        lossless: Whether no lossy compression is on record.
        annotated: Whether the file says that something is written in the picture.
        tags: Keyword and value of each tag that was asked for and is there.
    """

    pixels: Pixels
    lossless: bool
    annotated: bool
    tags: tuple[tuple[str, str], ...]


def is_dicom(content: bytes) -> bool:
    """Tell a DICOM file by the four letters behind its preamble.

    Args:
        content: The file.

    Returns:
        Whether it says that it is one. A file whose preamble looks like another format, too, is
        read as DICOM, and the preamble goes.
    """
    return content[128:132] == b"DICM"


def read_dicom(
    content: bytes,
    tags: tuple[str, ...],
    require_size: Callable[[int, int], None],
    refused: Callable[[Reason], Exception],
) -> Read:
    """Read a photograph of one frame.

    Args:
        content: The file.
        tags: Keywords out of `TAGS` whose values are wanted.
        require_size: Raises where width and height break a limit; asked before any pixel is read.
        refused: Makes the error for a file of which nothing is kept.

    Returns:
        Pixels and wanted tags.

    Raises:
        EnvironmentProblem: If pydicom is not installed.
        Exception: What `refused` makes.
    """
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError:
        raise EnvironmentProblem(
            rule="pydicom, which reads DICOM files",
            got="no pydicom",
            do="Install it: pip install 'skinml[import]'",
        ) from None
    # Whatever a broken or hostile header makes pydicom raise; memory and interrupts are not caught.
    broken = (
        InvalidDicomError,
        AttributeError,
        KeyError,
        IndexError,
        NotImplementedError,
        OSError,
        EOFError,
        RuntimeError,
        TypeError,
        ValueError,
        OverflowError,
        struct.error,
        zlib.error,
    )
    if _DEFLATED in content:
        raise refused("pixels that cannot be read")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # their words quote values of the header
        try:
            header = pydicom.dcmread(io.BytesIO(content))
            kind, frames = str(header.get("SOPClassUID", "")), header.get("NumberOfFrames") or 1
            frames, rows, columns = int(frames), int(header.Rows), int(header.Columns)
            samples, bits = int(header.SamplesPerPixel), int(header.BitsAllocated)
        except broken:
            raise refused("broken file") from None
        if kind not in _KINDS:
            raise refused("unknown kind of DICOM")
        if frames != 1:
            raise refused("several pictures in one file")
        require_size(columns, rows)
        runs = str(header.file_meta.get("TransferSyntaxUID", "")) == _RUN_LENGTH
        if runs and rows * columns * samples * bits // 8 > _MOST_RUN_LENGTH:
            raise refused("too many pixels")
        if samples not in (1, 3) or bits not in (8, 16):
            raise refused("pixels that cannot be read")
        try:
            pixels = _pixels(header)
        except broken:
            raise refused("pixels that cannot be read") from None
    if pixels.shape != (rows, columns, 3):
        raise refused("pixels that cannot be read")
    return Read(
        pixels=pixels,
        lossless=_is_lossless(header),
        annotated=str(header.get("BurnedInAnnotation", "")).strip().upper() == "YES",
        tags=tuple(_wanted(header, tags)),
    )


def _pixels(header: Any) -> Pixels:
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    stored = pixel_array(header)  # YBR becomes RGB here
    colours = str(header.PhotometricInterpretation)
    if colours == "PALETTE COLOR":
        return _eight_bits(apply_color_lut(stored, header), 16)
    if colours in ("MONOCHROME1", "MONOCHROME2"):
        grey = _eight_bits(stored, int(header.BitsStored))
        grey = 255 - grey if colours == "MONOCHROME1" else grey
        return np.stack([grey] * 3, axis=-1)
    if not (colours == "RGB" or colours.startswith("YBR")) or stored.ndim != 3:
        raise ValueError("an unknown photometric interpretation")
    return _eight_bits(stored, int(header.BitsStored))


def _eight_bits(values: Any, bits: int) -> Pixels:
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    most = 2**bits - 1
    scaled = values.astype(np.int64).clip(0, most) * 255
    return np.asarray((scaled + most // 2) // most, dtype=np.uint8)


def _is_lossless(header: Any) -> bool:
    told = str(header.get("LossyImageCompression", "00")).strip()
    return told != "01" and str(header.file_meta.get("TransferSyntaxUID", "")) not in _LOSSY


def _wanted(header: Any, tags: tuple[str, ...]) -> list[tuple[str, str]]:
    found = []
    for keyword in tags:
        value = str(header.get(keyword, "") or "").strip() if keyword in TAGS else ""
        if value and value.isprintable() and len(value) <= _MOST_TEXT:
            found.append((keyword, value))
    return found
