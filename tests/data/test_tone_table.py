"""Tones of a whole manifest: what is measured, refused, written, joined and said."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from skinml.cli.main import main
from skinml.data.manifest import read_manifest
from skinml.data.settings import ImageLimits
from skinml.data.skin_tone import ToneSettings
from skinml.data.tone_table import (
    ToneTable,
    join_tones,
    measure_manifest,
    read_tones,
    write_manifest_by_tone,
    write_table,
)
from skinml.errors import ConfigError, DataError
from skinml.seeding import Seeds

LIGHT, BROWN, GREY = (215, 189, 150), (130, 92, 67), (200, 200, 200)
SIDE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patient P1 is light, P2 brown, P3 grey; D is dermoscopic, U of no said kind."""
    place = tmp_path_factory.mktemp("tones")
    rng = np.random.default_rng(0)
    for name, colour in {"a": LIGHT, "b": LIGHT, "c": BROWN, "d": BROWN, "e": GREY}.items():
        noisy = np.array(colour) + 4 * rng.standard_normal((SIDE, SIDE, 1))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(place / f"{name}.png")
    (place / "f.png").write_bytes(b"no image")
    (place / "manifest.csv").write_text(
        "image,patient_id,diagnosis,skin_tone,skin_tone_scale,modality,sex\n"
        "a.png,P1,nevus,1,monk,clinical_closeup,f\n"
        "c.png,P2,nevus,7,monk,clinical_closeup,m\n"
        "b.png,P1,nevus,1,monk,dermoscopic,f\n"
        "d.png,P2,nevus,,,,m\n"
        "e.png,P3,nevus,2,monk,clinical,\n"
        "f.png,P4,nevus,2,monk,clinical,\n"
    )
    return place


def measure(folder: Path, **options: object) -> ToneTable:
    manifest = read_manifest(folder / "manifest.csv", root=folder)
    table = options.pop("table", "del_bino_2013")
    return measure_manifest(manifest, ToneSettings(table=table), ImageLimits(), Seeds(0), **options)


@pytest.fixture(scope="module")
def table(folder: Path) -> ToneTable:
    return measure(folder)


def test_rows_keep_the_order_and_each_has_a_tone_or_a_reason(table: ToneTable) -> None:
    assert table.images["image"].tolist() == [f"{name}.png" for name in "acbdef"]
    assert table.images["image_tone"].fillna("").tolist() == ["light", "brown", "", "", "", ""]
    assert table.images["not_measurable"].fillna("").tolist() == [
        "",
        "",
        "dermoscopic",
        "kind of image not known",
        "no yellow in the skin (b* near 0)",
        "a file that cannot be read",
    ]
    assert set(table.images["tone_scale"]) == {"ita_apparent_del_bino_2013"}


def test_dermoscopic_and_unknown_images_are_measured_when_forced(folder: Path) -> None:
    forced = measure(folder, force=True).images
    assert forced["image_tone"].fillna("").tolist()[:4] == ["light", "brown", "light", "brown"]


def test_a_manifest_of_dermoscopic_images_only_is_refused(folder: Path, tmp_path: Path) -> None:
    text = "image,patient_id,diagnosis,modality\na.png,P1,nevus,Dermatoscopy\n"
    (tmp_path / "m.csv").write_text(text)
    manifest = read_manifest(tmp_path / "m.csv", root=folder)
    with pytest.raises(DataError, match=r"close-ups .* got dermoscopic in 1 rows.*--force"):
        measure_manifest(manifest, ToneSettings(), ImageLimits(), Seeds(0))


def test_patients_have_one_tone(table: ToneTable) -> None:
    tones = dict(zip(table.patients["patient_id"], table.patients["image_tone"], strict=True))
    assert tones["P1"] == "light"
    assert tones["P2"] == "brown"
    assert pd.isna(tones["P3"])


def test_rates_are_counted_by_noted_tone_sex_and_reason(table: ToneTable) -> None:
    rates = table.rates.set_index(["attribute", "group"])
    assert rates.loc[("all", "all"), ["num_images", "num_measured"]].tolist() == [6, 2]
    assert rates.loc[("skin_tone (monk)", "1"), "rate"] == 0.5
    assert rates.loc[("skin_tone (monk)", "2"), "rate"] == 0
    assert rates.loc[("skin_tone (monk)", "2"), "a file that cannot be read"] == 0.5
    assert rates.loc[("sex", "unknown"), "num_images"] == 2
    assert rates.loc[("skin_tone (monk)", "2"), "high"] > 0.5  # Wilson: 0 of 2 tells little


def test_a_lesion_mask_is_read_at_the_images_own_size(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((2 * SIDE, 2 * SIDE), 255, dtype=np.uint8)).save(tmp_path / "a.png")
    images = measure(folder, lesion_masks=tmp_path).images
    assert images["not_measurable"][0] == "too little skin"
    assert images["image_tone"][1] == "brown"


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tones_are_read_as_they_were_written_closed_to_others(
    table: ToneTable, ending: str, tmp_path: Path
) -> None:
    path = tmp_path / f"tones.{ending}"
    write_table(table.images, path, "the table of tones")
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0
    again = read_tones(path)
    assert list(again.columns) == list(table.images.columns)
    assert again["ita_degrees"][0] == pytest.approx(table.images["ita_degrees"][0], abs=1e-4)
    assert again["not_measurable"].fillna("").tolist()[2] == "dermoscopic"


def test_tables_of_two_scales_and_of_the_same_images_are_not_joined(
    table: ToneTable, folder: Path
) -> None:
    frame = read_manifest(folder / "manifest.csv", root=folder).frame
    joined = join_tones(frame, [table.images[:3], table.images[3:]])
    assert joined["image_tone"].tolist()[:2] == ["light", "brown"]
    with pytest.raises(DataError, match="3 images in two"):
        join_tones(frame, [table.images, table.images[:3]])
    with pytest.raises(DataError, match="one scale of tone"):
        join_tones(frame, [table.images[:3], measure(folder, table="groh_2021").images[3:]])


@pytest.mark.parametrize("text", ["image\na.png\n", "image,tone_scale\na.png,monk\n", ""])
def test_another_table_is_not_read_as_tones(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match="as `skinml data tone` writes it"):
        read_tones(tmp_path / "t.csv")


def test_a_manifest_by_tone_is_of_its_own_scale_and_keeps_the_noted_one(
    table: ToneTable, folder: Path, tmp_path: Path
) -> None:
    source = tmp_path / "m.csv"
    source.write_bytes((folder / "manifest.csv").read_bytes())
    source.with_suffix(".yaml").write_text("name: practice\ntone_scale: monk\n")
    write_manifest_by_tone(source, table, tmp_path / "by_tone.csv")
    new = read_manifest(tmp_path / "by_tone.csv", root=folder)
    assert new.name == "practice"
    assert (
        new.frame["skin_tone"].fillna("").tolist()
        == ["light", "brown", "light", "brown"] + [""] * 2
    )
    assert set(new.frame["skin_tone_scale"].dropna()) == {table.scale}
    assert source.read_bytes() == (folder / "manifest.csv").read_bytes()
    with pytest.raises(ConfigError, match="Give another name"):
        write_manifest_by_tone(source, table, source)


def test_the_command_prints_rates_and_nothing_of_a_patient(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "tone", str(folder / "manifest.csv"), "--out", str(tmp_path / "t.csv")]
    assert main([*words, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["scale"] == "ita_apparent_del_bino_2013"
    assert facts["rates"][0]["num_measured"] == 2
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "Tone measured on 2 of 6 images." in shown
    for private in ("a.png", "P1", "50.3"):
        assert private not in shown
        assert private not in json.dumps(facts)
    assert read_tones(tmp_path / "t.csv")["image_tone"][0] == "light"
    assert (tmp_path / "t.rates.csv").is_file()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--table", "fitzpatrick"], 2),
        (["--exposure", "-1"], 2),
        (["--out", "tones.xlsx"], 2),
    ],
)
def test_bad_choices_are_told(words: list[str], code: int, folder: Path) -> None:
    assert main(["data", "tone", str(folder / "manifest.csv"), *words]) == code
