"""Making pictures safe with the real models: writing, faces of several tones, DICOM's ways."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.uid import JPEGBaseline8Bit, RLELossless

from skinml.data.deidentify import covered, make_safe, masked_by_hand, shipped_finders
from skinml.data.foreign_pictures import Refused, open_picture, read_below
from skinml.data.onnx_models import _place, without_fixed_sizes
from skinml.data.settings import ImageLimits
from skinml.errors import EnvironmentProblem, IntegrityError
from skinml.stewardship.deidentification import Box, Choices
from tests.clinic.hostile_pictures import dicom, jpeg, png, skin, with_face, with_writing

LIMITS = ImageLimits()
# What a face's light is multiplied by, from very dark to very light skin, channel by channel.
TONES = {
    "very dark": (0.28, 0.22, 0.19),
    "dark": (0.45, 0.36, 0.31),
    "brown": (0.7, 0.58, 0.5),
    "as it is": (1.0, 1.0, 1.0),
    "very light": (1.25, 1.22, 1.2),
}


def portrait(factors=(1.0, 1.0, 1.0)) -> np.ndarray:
    """A public portrait, its light changed as another skin would change it."""
    from skimage.data import astronaut

    return (astronaut() * np.array(factors)).clip(0, 255).astype(np.uint8)


def safe(content: bytes, **choices):
    chosen = Choices(**choices)
    return make_safe(content, chosen, shipped_finders(chosen), LIMITS)


def test_a_name_that_was_burned_in_is_covered_by_one_colour() -> None:
    made = safe(with_writing(2))
    assert (made.decision.state, made.decision.reasons) == ("masked", ("text",))
    pixels = open_picture(made.content, LIMITS).pixels
    written = pixels[10:28, 14:240].reshape(-1, 3).astype(int)
    assert np.ptp(written, axis=0).max() < 12  # what JPEG leaves of an even patch
    assert np.ptp(open_picture(with_writing(2), LIMITS).pixels[10:28, 14:240]) > 80


def test_skin_without_writing_or_face_is_accepted_as_it_is() -> None:
    for seed in range(3):
        made = safe(png(skin(seed, 240, 180)))
        assert made.decision.state == "accepted"
        again = open_picture(made.content, LIMITS)
        assert again.lossless
        assert (again.pixels == np.asarray(skin(seed, 240, 180))).all()


@pytest.mark.parametrize("tone", TONES)
def test_a_face_is_covered_or_a_person_asked_whatever_its_tone(tone: str) -> None:
    image = Image.fromarray(portrait(TONES[tone])).crop((90, 0, 500, 400))
    wide = skin(0, 900, 600)
    wide.paste(image.resize((205, 200)), (0, 0))
    made = safe(jpeg(wide))
    assert made.decision.state in ("masked", "to_review")
    box = made.decision.masks[0]
    face = Box(50, 46, 80, 75, "face")  # eyes to mouth
    assert box.left <= face.left
    assert box.top <= face.top
    assert box.right >= face.right
    assert box.bottom >= face.bottom


@pytest.mark.parametrize("turns", range(4))
def test_a_face_is_found_lying_and_upside_down(turns: int) -> None:
    made = safe(png(Image.fromarray(np.rot90(portrait(), turns))))
    assert "face" in made.decision.reasons


def test_a_face_that_fills_the_picture_goes_to_a_person_with_nothing_covered() -> None:
    close = Image.fromarray(portrait()[45:195, 165:285])
    made = safe(png(close))
    assert made.decision.state == "to_review"
    assert "mask over the middle" in made.decision.reasons
    assert (open_picture(made.content, LIMITS).pixels == np.asarray(close)).all()


def test_a_face_can_be_cut_away_or_only_its_eyes_covered() -> None:
    whole, cut, eyes = (safe(with_face(1), faces=how) for how in ("mask", "crop", "eyes"))
    assert (cut.width, cut.height) < (whole.width, whole.height)
    assert cut.decision.reasons == eyes.decision.reasons == ("face",)
    assert 0 < eyes.decision.masks[0].area < whole.decision.masks[0].area / 2
    assert eyes.decision.masks[0].sort == "eyes"


def test_a_mask_by_hand_leaves_nothing_under_it() -> None:
    pixels = np.asarray(skin(1))
    box = Box(20, 20, 60, 50, "by hand")
    one, other = covered(pixels, [box]), pixels.copy()
    other[20:50, 20:60] = 0
    made = open_picture(masked_by_hand(png(Image.fromarray(other)), [box], LIMITS), LIMITS).pixels
    assert np.ptp(made[20:50, 20:60].reshape(-1, 3), axis=0).max() == 0
    assert np.ptp(one[20:50, 20:60].reshape(-1, 3), axis=0).max() == 0
    assert (one[:15] == pixels[:15]).all()


def grey(**more) -> bytes:
    values = np.arange(96 * 128, dtype=np.uint16).reshape(96, 128) % 4096
    return dicom(
        1,
        SamplesPerPixel=1,
        BitsAllocated=16,
        BitsStored=12,
        HighBit=11,
        PixelData=values.tobytes(),
        **more,
    )


def test_dicom_pixels_come_out_in_each_photometric_interpretation() -> None:
    drawn = np.asarray(skin(1))
    assert (open_picture(dicom(1), LIMITS).pixels == drawn).all()
    wanted = (np.arange(96 * 128).reshape(96, 128) % 4096 * 255 + 2047) // 4095
    light = open_picture(grey(PhotometricInterpretation="MONOCHROME2"), LIMITS).pixels
    dark = open_picture(grey(PhotometricInterpretation="MONOCHROME1"), LIMITS).pixels
    assert (light[..., 0] == wanted).all()
    assert (dark.astype(int) == 255 - light).all()


def test_dicom_pixels_come_out_of_run_lengths_and_of_jpeg() -> None:
    import pydicom
    from pydicom.encaps import encapsulate

    drawn = np.asarray(skin(1))
    file = pydicom.dcmread(io.BytesIO(dicom(1)))
    file.compress(RLELossless)
    made = io.BytesIO()
    file.save_as(made)
    assert (open_picture(made.getvalue(), LIMITS).pixels == drawn).all()
    packed = dicom(
        1,
        syntax=JPEGBaseline8Bit,
        PhotometricInterpretation="YBR_FULL_422",
        PixelData=encapsulate([jpeg(skin(1))]),
    )
    opened = open_picture(packed, LIMITS)
    assert not opened.lossless
    assert abs(opened.pixels.astype(int) - drawn).mean() < 4


def test_a_declared_annotation_that_is_not_found_goes_to_a_person() -> None:
    made = safe(dicom(1, BurnedInAnnotation="YES"))
    assert made.decision.state == "to_review"
    assert made.decision.reasons == ("annotation declared and not found",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: dicom(1, Rows=60000, Columns=60000), "too many pixels"),
        (lambda: dicom(1, frames=3), "several pictures in one file"),
        (lambda: dicom(1, kind="1.2.840.10008.5.1.4.1.1.2"), "unknown kind of DICOM"),
        (lambda: dicom(1)[:600], "broken file"),
        (lambda: dicom(1, PixelData=b"12"), "pixels that cannot be read"),
        (lambda: dicom(1, PhotometricInterpretation="ARGB"), "pixels that cannot be read"),
        (lambda: b"no picture", "unknown format"),
        (lambda: jpeg(skin(1))[:900], "broken file"),
    ],
)
def test_what_cannot_be_read_is_refused_for_its_reason(content, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        open_picture(content(), LIMITS)
    assert caught.value.reason == reason


def test_a_file_is_read_only_below_its_folder(tmp_path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out.jpg").write_bytes(b"out")
    (tmp_path / "in" / "a.jpg").write_bytes(b"in")
    (tmp_path / "in" / "link.jpg").symlink_to(tmp_path / "out.jpg")
    (tmp_path / "in" / "way").symlink_to(tmp_path)
    assert read_below(tmp_path / "in", "./a.jpg", LIMITS) == b"in"
    for name, reason in (
        ("../out.jpg", "outside the folder"),
        (str(tmp_path / "out.jpg"), "outside the folder"),
        ("", "outside the folder"),
        ("link.jpg", "link"),
        ("way/out.jpg", "link"),
        ("b.jpg", "no such file"),
        ("a.jpg/b", "no such file"),
        ("\0.jpg", "outside the folder"),
    ):
        with pytest.raises(Refused) as caught:
            read_below(tmp_path / "in", name, LIMITS)
        assert caught.value.reason == reason, name
    with pytest.raises(Refused, match="too many bytes"):
        read_below(tmp_path / "in", "a.jpg", ImageLimits(max_bytes=1))


def test_a_missing_extra_says_what_to_install() -> None:
    with pytest.raises(EnvironmentProblem, match=r"skinml\[import\]"):
        _place("no_such_package_of_models", "model.onnx")


def test_a_cut_model_file_is_noticed() -> None:
    with pytest.raises(IntegrityError):
        without_fixed_sizes(b"\x3a\x05\x5a")


@pytest.mark.slow
@pytest.mark.derm
@pytest.mark.parametrize(
    ("dataset", "modality"),
    [
        ("HAM10000", "dermoscopic"),
        ("MILK10k", "clinical_closeup"),
        ("MILK10k", "dermoscopic"),
    ],
)
def test_few_real_close_ups_are_taken_for_faces_or_writing(derm_root, dataset, modality) -> None:
    with (derm_root / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = [r for r in rows if (r["dataset"], r["modality"]) == (dataset, modality)][::23][:120]
    states = [safe((derm_root / row["image"]).read_bytes()).decision for row in chosen]
    assert sum("face" in each.reasons for each in states) <= 1
    assert sum(each.state != "accepted" for each in states) <= 0.08 * len(states)


@pytest.mark.slow
@pytest.mark.parametrize("degrees", [0, 20, 90, 180])
def test_writing_is_found_in_each_direction(degrees: int) -> None:
    found = 0
    for seed in range(20):
        image = skin(seed, 600, 450)
        layer = Image.new("RGBA", (300, 300))
        ImageDraw.Draw(layer).text(
            (20, 130), "Zyxwina 04.05.1961", fill="white", font=ImageFont.load_default(22)
        )
        layer = layer.rotate(degrees)
        image.paste(layer, (seed * 10, seed * 5), layer)
        found += safe(jpeg(image)).decision.state != "accepted"
    assert found >= 19
