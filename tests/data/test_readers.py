from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from skinml.data.manifest import read_manifest
from skinml.data.readers.catalogue import DATASETS
from skinml.data.readers.prepare import prepare
from skinml.errors import ConfigError, DataError, EnvironmentProblem

UNITS = {
    "ham10000": "lesion",
    "milk10k": "lesion",
    "pad_ufes_20": "patient",
    "fitzpatrick17k": "image",
    "ddi": "image",
    "isic2019": "lesion",
}


@pytest.fixture
def layouts(derm_root: Path) -> Path:
    return derm_root / "published_layouts"


def prepared(dataset: str, layouts: Path, target: Path) -> pd.DataFrame:
    """Prepare, put empty files where the images belong, and read back."""
    path = prepare(dataset, layouts, target)
    for image in pd.read_csv(path)["image"]:
        (target / image).parent.mkdir(parents=True, exist_ok=True)
        (target / image).touch()
    manifest = read_manifest(path, root=target)
    assert manifest.unit == UNITS[dataset]
    assert manifest.name == DATASETS[dataset].title
    assert manifest.dropped_columns == ()
    return manifest.frame


@pytest.mark.derm
@pytest.mark.parametrize(
    ("dataset", "first", "malignant"),
    [
        ("ham10000", ("HAM_0000118", "benign_keratosis", 80.0, "male", "head_neck", None), 0),
        ("milk10k", ("IL_0000652", "basal_cell_carcinoma", 70.0, "male", "head_neck", "1"), 50),
        ("pad_ufes_20", ("PAT_1516", "nevus", 8.0, None, "upper_extremity", None), 29),
        (
            "fitzpatrick17k",
            (
                "5e82a45bc5d78bd24ae9202d194423f8",
                "inflammatory_or_infectious",
                None,
                None,
                None,
                "3",
            ),
            7,
        ),
        ("ddi", ("DDI_1", "melanoma", None, None, None, "5-6"), 11),
        ("isic2019", ("ISIC_0000000", "nevus", 55.0, "female", "trunk", None), 16),
    ],
)
def test_published_layout_becomes_a_manifest(
    layouts: Path, tmp_path: Path, dataset: str, first: tuple[object, ...], malignant: int
) -> None:
    frame = prepared(dataset, layouts, tmp_path / "out")
    row = frame.astype(object).where(frame.notna(), None).iloc[0]
    columns = ["patient_id", "diagnosis", "age", "sex", "anatomical_site", "skin_tone"]
    assert tuple(row[columns]) == first
    assert frame["malignant"].sum() == malignant
    assert frame["licence"].notna().all()
    assert set(frame["dataset"]) == {DATASETS[dataset].title}


@pytest.mark.derm
def test_milk10k_has_two_views_of_each_lesion(layouts: Path, tmp_path: Path) -> None:
    frame = prepared("milk10k", layouts, tmp_path / "out")
    views = frame.groupby("lesion_id")["modality"].agg(set)
    assert (views == {"clinical_closeup", "dermoscopic"}).all()
    assert (frame["skin_tone_scale"] == "milk").all()


@pytest.mark.derm
def test_pad_ufes_20_keeps_its_patients_and_their_lesions(layouts: Path, tmp_path: Path) -> None:
    raw = pd.read_csv(layouts / "PAD-UFES-20_metadata.csv")
    frame = prepared("pad_ufes_20", layouts, tmp_path / "out")
    assert frame["patient_id"].tolist() == raw["patient_id"].tolist()
    assert frame["lesion_id"].nunique() == raw["lesion_id"].nunique()
    assert frame["skin_tone"].notna().sum() == raw["fitspatrick"].notna().sum()


@pytest.mark.parametrize(
    ("word", "nearest"), [("ham1000", "ham10000"), ("PAD-UFES-20", "pad_ufes_20")]
)
def test_unknown_dataset_names_the_nearest(tmp_path: Path, word: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"Did you mean {nearest}"):
        prepare(word, tmp_path, tmp_path / "out")


@pytest.mark.parametrize("dataset", DATASETS)
def test_missing_metadata_leaves_nothing_behind(tmp_path: Path, dataset: str) -> None:
    with pytest.raises(DataError, match="as published"):
        prepare(dataset, tmp_path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def ham(folder: Path, header: str, *rows: str) -> Path:
    (folder / "HAM10000_metadata.csv").write_text("\n".join([header, *rows]))
    return folder


HEADER = "lesion_id,image_id,dx,dx_type,age,sex,localization"


@pytest.mark.parametrize(
    ("header", "rows", "says"),
    [
        (HEADER.replace("dx,", "x,"), ["a,b,c,d,1,male,back"], "no column dx"),
        (HEADER, [], "no row"),
        (HEADER, ["a,b,foo,histo,1,male,tail"], "2 unmapped: diagnosis: 'foo' in 1 rows; anat"),
    ],
)
def test_other_layout_is_refused(tmp_path: Path, header: str, rows: list[str], says: str) -> None:
    with pytest.raises(DataError, match=says):
        prepare("ham10000", ham(tmp_path, header, *rows), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_later_release_of_ham10000_names_the_clinic(tmp_path: Path) -> None:
    ham(tmp_path, HEADER + ",dataset", "L,I,nv,histo,40.0,male,back,rosendahl")
    path = prepare("ham10000", tmp_path, tmp_path / "out")
    assert pd.read_csv(path)["clinic"].tolist() == ["rosendahl"]


def test_target_that_cannot_be_written_is_the_environments_fault(tmp_path: Path) -> None:
    ham(tmp_path, HEADER, "L,I,nv,histo,40.0,male,back")
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentProblem):
        prepare("ham10000", tmp_path, tmp_path / "file")


def test_a_failed_write_keeps_the_old_manifest(tmp_path: Path) -> None:
    ham(tmp_path, HEADER, "L,I,nv,histo,40.0,male,back")
    path = prepare("ham10000", tmp_path, tmp_path / "out")
    before = path.read_bytes()
    ham(tmp_path, HEADER, "L,I,foo,histo,40.0,male,back")
    with pytest.raises(DataError):
        prepare("ham10000", tmp_path, tmp_path / "out")
    assert path.read_bytes() == before
    assert sorted(each.name for each in path.parent.iterdir()) == ["manifest.csv", "manifest.yaml"]
