"""Files out of cameras, editors and hostile hands, with identifiers planted in them."""

from __future__ import annotations

import csv
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

NAME = "Zyxwina Plantedova"
STREET = "Plantedstrasse 77"
PHONE = "0171-5550177"
INSURER = "PLANTED-INS-4471"
GPS = (47.0, 22.0, 13.77)
PLANTED = (NAME, "Plantedova", STREET, PHONE, INSURER, "Zyxwina")
OUTSIDE = b"outside " + NAME.encode()
PHOTO = "1.2.840.10008.5.1.4.1.1.77.1.4"


@dataclass(frozen=True)
class Hostile:
    """A folder of hostile files and their list.

    Attributes:
        source: The folder.
        records: The list.
        expected: By file, the state that it must end in, or None where a model decides.
        kinds: By file, what it is.
    """

    source: Path
    records: Path
    expected: dict[str, str]
    kinds: dict[str, str]


def skin(seed: int, width: int = 128, height: int = 96) -> Image.Image:
    """Draw a patch of skin with a darker spot."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    tone = np.array([(224, 180, 160), (198, 140, 110), (120, 80, 60)][seed % 3], float)
    middle = height * rng.uniform(0.4, 0.6), width * rng.uniform(0.4, 0.6)
    away = np.hypot(rows - middle[0], columns - middle[1]) / (0.2 * height)
    shade = 1 - 0.5 / (1 + np.exp(6 * (away - 1)))
    pixels = tone * shade[..., None] + rng.normal(0, 3, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, **more) -> bytes:
    made = io.BytesIO()
    image.save(made, "JPEG", quality=92, **more)
    return made.getvalue()


def png(image: Image.Image, **more) -> bytes:
    made = io.BytesIO()
    image.save(made, "PNG", **more)
    return made.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def inserted(file: bytes, *segments: bytes) -> bytes:
    """Put segments behind the first two bytes of a JPEG."""
    return file[:2] + b"".join(segments) + file[2:]


def with_gps(seed: int) -> bytes:
    exif = Image.Exif()
    exif[0x013B], exif[0x8298], exif[0x0112] = NAME, f"{NAME}, {STREET}", 6
    exif[0x9C9D] = NAME.encode("utf-16-le")
    exif.get_ifd(0x8825).update({1: "N", 2: GPS, 3: "E", 4: GPS})
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0" + NAME.encode()
    return jpeg(skin(seed), exif=exif)


def with_xmp(seed: int) -> bytes:
    packet = f"<x:xmpmeta xmlns:x='adobe:ns:meta/'><dc:creator>{NAME}</dc:creator></x:xmpmeta>"
    iptc = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", 40) + NAME.encode()
    return inserted(
        jpeg(skin(seed)),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet.encode()),
        segment(0xED, iptc),
        segment(0xFE, f"{NAME} {PHONE}".encode()),
        segment(0xEB, f"JUMBF {STREET}".encode()),
    )


def with_thumbnail(seed: int) -> bytes:
    small = inserted(jpeg(skin(seed, 48, 36)), segment(0xFE, NAME.encode()))
    ifd = ImageFileDirectory_v2()
    ifd[0x010E] = NAME
    head = b"Exif\0\0II*\0\x08\0\0\0\0\0" + struct.pack("<I", 14)
    second = struct.pack("<H", 2) + struct.pack("<HHII", 0x0201, 4, 1, 50)
    second += struct.pack("<HHII", 0x0202, 4, 1, len(small)) + struct.pack("<I", 0)
    return inserted(jpeg(skin(seed)), segment(0xE1, head + second.ljust(36, b"\0") + small))


def with_profile(seed: int) -> bytes:
    from PIL import ImageCms

    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    return jpeg(skin(seed), icc_profile=bytes(profile) + NAME.encode())


def with_png_text(seed: int) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", NAME)
    info.add_text("Comment", f"{STREET} {PHONE}", zip=True)
    info.add_itxt("XML:com.adobe.xmp", f"<dc:creator>{NAME}</dc:creator>")
    return png(skin(seed), pnginfo=info) + f"behind the end: {NAME}".encode()


def with_tiff_tags(seed: int) -> bytes:
    made = io.BytesIO()
    ifd = ImageFileDirectory_v2()
    ifd[270], ifd[315], ifd[65000] = f"{NAME}, {STREET}", NAME, INSURER
    skin(seed).save(made, "TIFF", tiffinfo=ifd)
    return made.getvalue()


def with_webp_parts(seed: int) -> bytes:
    made = io.BytesIO()
    exif = Image.Exif()
    exif[0x013B] = NAME
    skin(seed).save(made, "WEBP", exif=exif, xmp=f"<creator>{NAME}</creator>".encode())
    return made.getvalue()


def dicom(seed: int, *, kind: str = PHOTO, frames: int = 1, syntax: str = "", **more) -> bytes:
    """Write a DICOM photograph full of identifiers."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, generate_uid()
    meta.TransferSyntaxUID = syntax or ExplicitVRLittleEndian
    file = FileDataset("", {}, file_meta=meta, preamble=f"{NAME}".encode().ljust(128, b"\0"))
    file.SOPClassUID, file.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    file.PatientName, file.PatientID, file.PatientBirthDate = NAME, INSURER, "19610405"
    file.PatientAddress, file.PatientTelephoneNumbers = STREET, PHONE
    file.ReferringPhysicianName = NAME
    file.PatientAge, file.PatientSex = "093Y", "F"
    file.ContentDate = "20240307"
    block = file.private_block(0x0011, NAME, create=True)
    block.add_new(1, "LO", f"{NAME} {STREET}")
    file.add_new(0x60003000, "OW", NAME.encode().ljust(64, b"\0"))
    file.add_new(0x60000010, "US", 8)
    file.add_new(0x60000011, "US", 8)
    pixels = np.asarray(skin(seed))
    file.Rows, file.Columns = pixels.shape[:2]
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PlanarConfiguration = 3, "RGB", 0
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 8, 8, 7, 0
    if frames > 1:
        file.NumberOfFrames = frames
    file.PixelData = np.stack([pixels] * frames).tobytes()
    for keyword, value in more.items():
        setattr(file, keyword, value)
    made = io.BytesIO()
    pydicom.dcmwrite(made, file, enforce_file_format=True)
    return made.getvalue()


def with_writing(seed: int) -> bytes:
    """Burn a name into the upper edge of a larger picture."""
    image = skin(seed, 480, 360)
    draw = ImageDraw.Draw(image)
    draw.text((12, 8), f"{NAME} 04.05.1961", fill="white", font=ImageFont.load_default(20))
    return jpeg(image)


def with_face(seed: int) -> bytes:
    """Paste a public portrait's face into a corner of a larger picture."""
    from skimage.data import astronaut

    image = skin(seed, 480, 360)
    face = Image.fromarray(astronaut()[30:200, 150:300]).resize((120, 136))
    image.paste(face, (0, 0))
    return jpeg(image)


def with_archive(seed: int) -> bytes:
    """Make a file that is a JPEG and a ZIP archive."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(f"{NAME}.txt", f"{NAME} {STREET}")
    return jpeg(skin(seed)) + made.getvalue()


def bomb(width: int, height: int) -> bytes:
    """Claim an enormous picture in a small PNG."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(2**20), 9)
    note = chunk(b"tEXt", b"Author\0" + NAME.encode())
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + note
        + chunk(b"IDAT", body)
        + chunk(b"IEND", b"")
    )


def pages(seed: int) -> bytes:
    made = io.BytesIO()
    skin(seed).save(made, "TIFF", save_all=True, append_images=[skin(seed + 1)])
    return made.getvalue()


_OK: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "gps": ("jpg", with_gps),
    "xmp": ("jpg", with_xmp),
    "thumbnail": ("jpg", with_thumbnail),
    "profile": ("jpeg", with_profile),
    "png text": ("png", with_png_text),
    "tiff tags": ("tif", with_tiff_tags),
    "webp": ("webp", with_webp_parts),
    "dicom": ("dcm", dicom),
    "archive": ("jpg", with_archive),
    "wrong ending": ("jpg", with_png_text),
}
_NOT: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "bomb": ("png", lambda seed: bomb(60000, 60000)),
    "long bomb": ("png", lambda seed: bomb(16, 2**22)),
    "truncated": ("jpg", lambda seed: with_gps(seed)[:-900]),
    "page": ("png", lambda seed: f"<html>{NAME}<script>1</script></html>".encode()),
    "empty": ("jpg", lambda seed: b""),
    "pages": ("tif", pages),
    "frames": ("dcm", lambda seed: dicom(seed, frames=2)),
    "scan": ("dcm", lambda seed: dicom(seed, kind="1.2.840.10008.5.1.4.1.1.2")),
    "tiny": ("png", lambda seed: png(skin(seed, 8, 8))),
    "cut dicom": ("dcm", lambda seed: dicom(seed)[:400]),
}
_MODELS: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "writing": ("jpg", with_writing),
    "face": ("jpg", with_face),
}
_ODD = ("link", "linked folder", "above", "absolute", "missing", "pipe", "folder")


def make_hostile(place: Path, number: int, *, with_models: bool) -> Hostile:
    """Write files of all kinds in turn, with a list that has more columns than anybody needs."""
    source = place / "camera"
    (source / f"Ms {NAME}").mkdir(parents=True)
    outside = place / "outside"
    outside.mkdir()
    (outside / "secret.jpg").write_bytes(jpeg(skin(1)) + OUTSIDE)
    os.symlink(outside, source / "way")
    kinds = [*_OK, *_NOT, *_ODD, *(_MODELS if with_models else ())]
    expected, told, rows = {}, {}, []
    for place_in_list in range(number):
        kind = kinds[place_in_list % len(kinds)]
        image, state = _put(source, outside, kind, place_in_list)
        told[image] = kind
        if state:
            expected[image] = state
        rows.append(_row(place_in_list, image))
    records = place / "list.csv"
    with records.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return Hostile(source, records, expected, told)


def _put(source: Path, outside: Path, kind: str, number: int) -> tuple[str, str | None]:
    if kind in _ODD:
        return _odd(source, outside, kind, number), "rejected"
    ending, make = (_OK | _NOT | _MODELS)[kind]
    image = f"Ms {NAME}/{NAME} {number}.{ending}"
    (source / image).write_bytes(make(number))
    if kind in _MODELS:
        return image, None
    return image, "accepted" if kind in _OK else "rejected"


def _odd(source: Path, outside: Path, kind: str, number: int) -> str:
    image = f"{NAME} {number}.jpg"
    if kind == "link":
        os.symlink(outside / "secret.jpg", source / image)
    elif kind == "pipe":
        os.mkfifo(source / image)
    elif kind == "folder":
        (source / image).mkdir()
    ways = {
        "linked folder": f"way/{'./' * number}secret.jpg",
        "above": f"{'./' * number}../outside/secret.jpg",
        "absolute": f"{'/' * number}{outside}/secret.jpg",
    }
    return ways.get(kind, image)


def _row(number: int, image: str) -> dict[str, str]:
    patient = f"P{number // 2:05d}-{NAME.split()[1]}"
    return {
        "patient_id": patient,
        "image": image,
        "diagnosis": ("nevus", "melanoma")[number // 2 % 2],
        "lesion_id": f"{patient}/L{number // 2}",
        "age": str(40 + number // 2 % 60),
        "sex": ("female", "male")[number // 2 % 2],
        "taken": f"2024-{1 + number % 12:02d}-{1 + number % 28:02d}",
        "Full name": NAME,
        "Notes": f"{NAME} lives at {STREET} and called from {PHONE} about her mother's melanoma.",
        "Insurance no": INSURER,
        "Gene test": "BRAF V600E",
    }
