from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from skinml.data.manifest import CANONICAL, Manifest, read_manifest
from skinml.data.taxonomy import load_taxonomy
from skinml.errors import DataError

if TYPE_CHECKING:
    from tests.data.conftest import Folder


def read(folder: Folder) -> Manifest:
    return read_manifest(folder.manifest, root=folder.root)


def failure(folder: Folder, rows: pd.DataFrame) -> DataError:
    folder.write(rows)
    with pytest.raises(DataError) as caught:
        read(folder)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return caught.value


def changed(folder: Folder, column: str, value: str, row: int = 3) -> pd.DataFrame:
    rows = folder.rows.copy()
    rows.loc[row - 2, column] = value
    return rows


def test_sound_manifest_is_read_in_shared_words(folder: Folder) -> None:
    manifest = read(folder)
    first = manifest.frame.iloc[0]
    assert list(manifest.frame.columns) == ["row", *CANONICAL]
    assert (first.row, first.diagnosis, first.diagnosis_source) == (2, "nevus", "nv")
    assert not first.malignant
    assert first.sex is None
    assert first.anatomical_site == "trunk"
    assert manifest.frame["malignant"].tolist() == [False, True] * 6


@pytest.mark.parametrize("column", ["image", "patient_id", "diagnosis"])
def test_missing_column_is_named(folder: Folder, column: str) -> None:
    error = failure(folder, folder.rows.drop(columns=column))
    assert f"column {column} is missing" in str(error)


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("age", "old", "age must be a number of years"),
        ("age", "-3", "age must be a number of years"),
        ("age", "inf", "age must be a number of years"),
        ("sex", "lady", "sex must be one of"),
        ("malignant", "perhaps", "malignant must be one of"),
        ("patient_id", " ", "patient_id must not be empty"),
        ("diagnosis", "unknown", "diagnosis must not be empty"),
        ("image", "", "image must not be empty"),
        ("image", "images/none.png", "image names a file that is not there"),
        ("image", "images", "image must be a file"),
        ("image", "../secret.png", "image must be a path below the data folder"),
        ("image", "/etc/hostname", "image must be a path below the data folder"),
        ("image", "images/a\x07.png", "image must not hold control characters"),
    ],
)
def test_broken_cell_is_named_by_row_and_rule(
    folder: Folder, column: str, value: str, rule: str
) -> None:
    error = failure(folder, changed(folder, column, value))
    assert f"1 problem in row 3: {rule}" in str(error)


@pytest.mark.parametrize("image", ["images/none.png", "images", "images/.", "linked/../0.png"])
def test_one_bad_path_among_many_good_ones_is_found(folder: Folder, image: str) -> None:
    os.symlink(folder.root / "images", folder.root / "linked")  # stays inside: it may be used
    rows = folder.rows.copy()
    rows.loc[1:5, "image"] = [f"linked/{name}.png" for name in range(1, 6)]
    rows.loc[6:8, "image"] = [f"./images//{name}.png" for name in range(6, 9)]
    folder.write(rows)
    assert len(read(folder).frame) == 12
    rows.loc[9, "image"] = image
    assert "1 problem in row 11: image" in str(failure(folder, rows))


def test_link_out_of_the_folder_is_refused(folder: Folder, tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    outside.write_bytes((folder.root / "images/0.png").read_bytes())
    os.symlink(outside, folder.root / "images/link.png")
    error = failure(folder, changed(folder, "image", "images/link.png"))
    assert "leave the data folder" in str(error)


def test_folder_whose_name_begins_like_the_root_is_outside(folder: Folder) -> None:
    beside = folder.root.with_name(folder.root.name + "-other")
    beside.mkdir()
    (beside / "a.png").write_bytes(b"")
    os.symlink(beside, folder.root / "linked")
    error = failure(folder, changed(folder, "image", "linked/a.png"))
    assert "leave the data folder" in str(error)


def test_image_in_two_rows_is_refused(folder: Folder) -> None:
    error = failure(folder, changed(folder, "image", "images/0.png"))
    assert "image stands in two rows" in str(error)
    assert error.details == (
        "row 2: image stands in two rows",
        "row 3: image stands in two rows",
    )


def test_lesion_of_two_patients_is_refused(folder: Folder) -> None:
    assert "another patient" in str(failure(folder, changed(folder, "lesion_id", "L0")))


def test_all_problems_come_at_once_and_without_private_words(folder: Folder) -> None:
    rows = folder.rows.copy()
    rows["age"] = "old"
    rows["sex"] = "lady"
    error = failure(folder, rows)
    assert "24 problems" in str(error)
    assert len(error.details) == 21
    assert error.details[-1] == "and 4 more"
    said = " ".join((str(error), *error.details))
    assert "P0" not in said
    assert "images/" not in said
    assert "lady" not in said


@pytest.mark.parametrize(
    "content", [b"", b"image,patient_id,diagnosis\n", b"a,b\n1,2,3\n", b"\xff\xfe\x00", b'a\n"b\n']
)
def test_empty_or_broken_file_is_one_clear_error(folder: Folder, content: bytes) -> None:
    folder.manifest.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def test_row_with_too_many_cells_is_refused(folder: Folder) -> None:
    lines = folder.manifest.read_text().splitlines()
    folder.manifest.write_text("\n".join([lines[0], *(line + ",more" for line in lines[1:])]))
    with pytest.raises(DataError, match="broken file"):
        read(folder)


def test_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="readable manifest"):
        read_manifest(tmp_path / "manifest.csv", root=tmp_path)


def test_unmapped_words_are_all_listed_with_counts(folder: Folder) -> None:
    rows = folder.rows.copy()
    rows.loc[0:2, "diagnosis"] = "foozle"
    rows.loc[3, "diagnosis"] = "barzle"
    rows.loc[4, "anatomical_site"] = "tail"
    rows.loc[5, "skin_tone"] = "7"
    error = failure(folder, rows)
    assert error.details == (
        "diagnosis: 'foozle' in 3 rows",
        "diagnosis: 'barzle' in 1 rows",
        "anatomical_site: 'tail' in 1 rows",
        "skin_tone: '7' in 1 rows",
    )
    assert all(word in str(error) for word in ("'foozle' in 3 rows", "'barzle'", "'tail'"))


def test_own_flag_wins_over_the_taxonomy(folder: Folder) -> None:
    rows = folder.rows.assign(malignant="")
    rows.loc[1, "malignant"] = "0"
    folder.write(rows)
    assert read(folder).frame["malignant"].tolist() == [False, False, *([False, True] * 5)]


def test_parquet_and_csv_give_the_same_frame(folder: Folder) -> None:
    path = folder.root / "manifest.parquet"
    typed = folder.rows.assign(age=folder.rows["age"].astype(float), extra=1)
    typed.to_parquet(path)
    from_parquet = read_manifest(path, root=folder.root)
    pd.testing.assert_frame_equal(from_parquet.frame, read(folder).frame)
    assert from_parquet.dropped_columns == ("extra",)


def test_typed_cells_of_parquet_are_read_as_they_would_be_written(folder: Folder) -> None:
    rows = folder.rows.copy()
    rows["malignant"] = [place % 2 == 1 for place in range(12)]
    rows["age"] = pd.array([None, *range(31, 42)], dtype="Int64")
    rows["sex"] = pd.Categorical(["female", " N/A ", None, *["male"] * 9])
    path = folder.root / "manifest.parquet"
    rows.to_parquet(path)
    frame = read_manifest(path, root=folder.root).frame
    assert frame["malignant"].tolist() == [False, True] * 6
    assert frame["age"].isna().tolist() == [True, *[False] * 11]
    assert frame["age"].tolist()[1:] == [float(age) for age in range(31, 42)]
    assert frame["sex"].tolist() == ["female", None, None, *["male"] * 9]


def test_sidecar_wins_over_the_arguments(folder: Folder) -> None:
    folder.write(folder.rows.drop(columns=["licence", "skin_tone_scale"]))
    sidecar = folder.root / "manifest.yaml"
    sidecar.write_text("name: mine\nunit: lesion\nlicence: CC0\ntone_scale: milk\n")
    manifest = read(folder)
    assert (manifest.name, manifest.unit) == ("mine", "lesion")
    assert set(manifest.frame["licence"]) == {"CC0"}
    assert set(manifest.frame["skin_tone_scale"]) == {"milk"}
    sidecar.write_text("units: lesion\n")
    with pytest.raises(DataError, match="units"):
        read(folder)


def test_tone_without_a_scale_is_refused_and_a_default_fills_it(folder: Folder) -> None:
    folder.write(folder.rows.drop(columns="skin_tone_scale"))
    with pytest.raises(DataError, match="12 rows with a tone of no known scale"):
        read(folder)
    manifest = read_manifest(folder.manifest, root=folder.root, tone_scale="milk")
    assert set(manifest.frame["skin_tone_scale"]) == {"milk"}


def test_digest_is_of_the_file(folder: Folder) -> None:
    before = read(folder).digest
    assert read(folder).digest == before
    folder.write(changed(folder, "age", "50"))
    assert read(folder).digest != before


@pytest.mark.derm
def test_malignancy_of_every_real_row_agrees_with_the_taxonomy(derm_root: Path) -> None:
    raw = pd.read_csv(derm_root / "manifest.csv", dtype=str, keep_default_na=False)
    manifest = read_manifest(derm_root / "manifest.csv", root=derm_root)
    taxonomy = load_taxonomy()
    by_taxonomy = manifest.frame["diagnosis"].map(taxonomy.malignant)
    assert len(manifest.frame) == len(raw) == 13984
    assert (by_taxonomy == (raw["malignant"] == "1")).all()
    assert (manifest.frame["malignant"] == by_taxonomy).all()
    tones = manifest.frame["skin_tone"].value_counts().to_dict()
    assert tones == {"0": 8, "1": 126, "2": 766, "3": 4074, "4": 1400, "5": 498}


def test_a_sidecar_declares_what_its_licence_is_for(make_folder) -> None:
    folder = make_folder(3)
    sidecar = folder.manifest.with_suffix(".yaml")
    assert read_manifest(folder.manifest, root=folder.root).frame["licensed_for"].isna().all()
    sidecar.write_text("licence: CC0\npurposes: [research, teaching]\n")
    frame = read_manifest(folder.manifest, root=folder.root).frame
    assert set(frame["licensed_for"]) == {"research teaching"}
    sidecar.write_text("purposes: [anything]\n")
    with pytest.raises(DataError, match=r"manifest\.yaml"):
        read_manifest(folder.manifest, root=folder.root)
