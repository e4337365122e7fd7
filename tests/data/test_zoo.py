"""Each public dataset's experiment, on a small folder in the layout of its publisher."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from skinml.cli.main import main
from skinml.config import RunConfig, load_config
from skinml.data.images import inspect_images
from skinml.data.leakage import audit_leakage
from skinml.data.manifest import read_manifest
from skinml.data.readers.catalogue import DATASETS
from skinml.data.readers.fed_isic2019 import CENTRES
from skinml.data.readers.prepare import prepare
from skinml.data.settings import ImageLimits, LeakageSettings
from skinml.errors import ConfigError, DataError
from skinml.experiments.cohorts import Gathered, gather
from skinml.experiments.learners import split_key_id
from skinml.experiments.outcome import split_words
from skinml.experiments.progress import Silence
from skinml.experiments.workspace import Workspace

COUNT = 160
ISIC = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"]
MILK = ["AKIEC", "BCC", "BEN_OTH", "BKL", "DF", "INF", "MAL_OTH", "MEL", "NV", "SCCKA", "VASC"]
NUMBERS = range(COUNT)
WHOLLY_TESTED = (1, 8, 11)


def one_hot(key: str, keys: list[str], classes: list[str], chosen: list[str]) -> pd.DataFrame:
    marks = {name: [float(word == name) for word in chosen] for name in classes}
    return pd.DataFrame({key: keys, **marks})


def ham10000(folder: Path) -> None:
    dx = ["mel" if n // 2 % 2 else "nv" for n in NUMBERS]
    lesions = [f"HAM_{n // 2:07d}" for n in NUMBERS]
    images = [f"ISIC_{n:07d}" for n in NUMBERS]
    table = {"lesion_id": lesions, "image_id": images, "dx": dx, "dx_type": "histo"}
    frame = pd.DataFrame({**table, "age": 50.0, "sex": "male", "localization": "back"})
    frame.to_csv(folder / "HAM10000_metadata.csv", index=False)


def isic2019(folder: Path) -> None:
    images = [f"ISIC_{n:07d}" for n in NUMBERS]
    lesions = [f"BCN_{n // 2:07d}" for n in NUMBERS]
    table = {"image": images, "age_approx": 50, "anatom_site_general": "anterior torso"}
    frame = pd.DataFrame({**table, "lesion_id": lesions, "sex": "female"})
    frame.to_csv(folder / "ISIC_2019_Training_Metadata.csv", index=False)
    chosen = ["MEL" if n // 2 % 2 else "NV" for n in NUMBERS]
    truth = one_hot("image", images, ISIC, chosen)
    truth.to_csv(folder / "ISIC_2019_Training_GroundTruth.csv", index=False)


def fed_isic2019(folder: Path) -> None:
    """FLamby's file beside ISIC's: most lesions that are tested have another image in training."""
    isic2019(folder)
    truth = pd.read_csv(folder / "ISIC_2019_Training_GroundTruth.csv")
    truth["target"] = [0 if n // 2 % 2 else 1 for n in NUMBERS]
    truth["center"] = [n // 4 % 6 for n in NUMBERS]
    truth["fold"] = ["test" if n % 5 == 0 or n // 2 in WHOLLY_TESTED else "train" for n in NUMBERS]
    truth["fold2"] = truth["fold"] + "_" + truth["center"].astype(str)
    # Six of ISIC's images are of no known centre and not in the file.
    truth[:-6].sample(frac=1, random_state=0).to_csv(folder / "train_test_split", index=False)


def milk10k(folder: Path) -> None:
    lesions = [f"IL_{n:07d}" for n in NUMBERS]
    parts = []
    for view, kind in enumerate(("clinical: close-up", "dermoscopic")):
        table = {"lesion_id": lesions, "image_type": kind, "age_approx": 60, "sex": "female"}
        isic = [f"ISIC_{2 * n + view:07d}" for n in NUMBERS]
        tones = [n % 6 for n in NUMBERS]
        parts.append({**table, "isic_id": isic, "skin_tone_class": tones, "site": "trunk"})
    pd.concat(map(pd.DataFrame, parts)).to_csv(
        folder / "MILK10k_Training_Metadata.csv", index=False
    )
    truth = one_hot("lesion_id", lesions, MILK, ["MEL" if n % 2 else "NV" for n in NUMBERS])
    truth.to_csv(folder / "MILK10k_Training_GroundTruth.csv", index=False)


def pad_ufes_20(folder: Path) -> None:
    table = {
        "patient_id": [f"PAT_{n}" for n in NUMBERS],
        "lesion_id": [str(n) for n in NUMBERS],
        "age": 40,
        "gender": "FEMALE",
        "fitspatrick": [float(n % 6 + 1) for n in NUMBERS],
        "region": "ARM",
        "diagnostic": ["MEL" if n % 2 else "NEV" for n in NUMBERS],
        "img_id": [f"PAT_{n}.png" for n in NUMBERS],
        "biopsed": True,
    }
    pd.DataFrame(table).to_csv(folder / "PAD-UFES-20_metadata.csv", index=False)


def fitzpatrick17k(folder: Path) -> None:
    table = {
        "md5hash": [f"{n:032x}" for n in NUMBERS],
        "fitzpatrick_scale": [n % 6 + 1 for n in NUMBERS],
        "label": ["melanoma" if n % 2 else "psoriasis" for n in NUMBERS],
        "three_partition_label": ["malignant" if n % 2 else "non-neoplastic" for n in NUMBERS],
    }
    pd.DataFrame(table).to_csv(folder / "fitzpatrick17k.csv", index=False)


def ddi(folder: Path) -> None:
    table = {
        "DDI_ID": list(NUMBERS),
        "DDI_file": [f"{n:06d}.png" for n in NUMBERS],
        "skin_tone": [(12, 34, 56)[n % 3] for n in NUMBERS],
        "malignant": [bool(n % 2) for n in NUMBERS],
        "disease": ["melanoma-in-situ" if n % 2 else "dermatofibroma" for n in NUMBERS],
    }
    pd.DataFrame(table).to_csv(folder / "ddi_metadata.csv", index=False)


LAID_OUT = (ham10000, isic2019, fed_isic2019, milk10k, pad_ufes_20, fitzpatrick17k, ddi)
LAYOUTS: dict[str, Callable[[Path], None]] = {each.__name__: each for each in LAID_OUT}


@pytest.fixture
def laid_out(tmp_path: Path) -> Callable[[str], Path]:
    """Lay a dataset out as published, with noise for pictures, and write its manifest."""

    def call(name: str) -> Path:
        root = tmp_path / name
        root.mkdir()
        LAYOUTS[name](root)
        manifest = prepare(name, root, root)
        draw = np.random.default_rng(0)
        for image in pd.read_csv(manifest)["image"]:
            (root / image).parent.mkdir(parents=True, exist_ok=True)
            pixels = draw.integers(0, 256, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / image)
        return root

    return call


def test_every_reader_has_a_layout_and_an_experiment_of_its_name() -> None:
    assert set(LAYOUTS) == set(DATASETS)
    for name, dataset in DATASETS.items():
        assert name in dataset.experiments
        for experiment in dataset.experiments:
            config = load_config(experiment)
            assert config.data.name == experiment
            assert config.data.unit == dataset.unit
            assert config.data.tone_scale == dataset.tone_scale


def test_the_page_has_the_table_of_known_datasets() -> None:
    page = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()
    table = page.partition("| experiment |")[2].partition("\n\n")[0]
    told = table.splitlines()[2:]
    assert told == [
        f"| {', '.join(f'`{name}`' for name in each.experiments)} | {each.what} | {each.unit} "
        f"| {each.tones} | {each.licence} | {each.where} |"
        for each in DATASETS.values()
    ]


def test_a_command_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["datasets"]
    assert {name: each["licence"] for name, each in told.items()} == {
        name: each.licence for name, each in DATASETS.items()
    }
    assert main(["data", "list"]) == 0
    screen = capsys.readouterr().out
    assert all(name in screen for each in DATASETS.values() for name in each.experiments)
    assert max(map(len, screen.splitlines())) <= 80


@pytest.mark.parametrize("name", DATASETS)
def test_an_experiment_takes_its_dataset_as_published(
    name: str, laid_out: Callable[[str], Path], tmp_path: Path
) -> None:
    words = [f"data.root={laid_out(name)}", f"work_dir={tmp_path / 'work'}"]
    config = load_config(name, words)
    gathered = gather(config, Workspace(config.work_dir), "look", Silence())
    cohort = gathered.cohort
    assert cohort.unit == DATASETS[name].unit
    made = config.data.partition.num_clinics
    assert len(gathered.folders) == (len(CENTRES) if name == "fed_isic2019" else made)
    assert (cohort.images.groupby("patient_id")["split"].nunique() == 1).all()
    if DATASETS[name].tone_scale:
        assert set(cohort.items["skin_tone"]) == set(config.data.bins["skin_tone"])


def fed(laid_out: Callable[[str], Path], tmp_path: Path, *changes: str) -> RunConfig:
    """Lay Fed-ISIC2019 out and load the experiment on its published split."""
    words = [f"data.root={laid_out('fed_isic2019')}", f"work_dir={tmp_path / 'work'}"]
    return load_config("fed_isic2019_published", [*words, *changes])


def look(config: RunConfig) -> Gathered:
    return gather(config, Workspace(config.work_dir), "look", Silence())


def published(root: Path) -> tuple[pd.DataFrame, set[str], int]:
    """The manifest, and by hand the lesions in both parts and how many test images show one."""
    rows = pd.read_csv(root / "manifest.csv")
    parts = rows.groupby("lesion_id")["published_split"]
    shared = {lesion for lesion, part in parts if part.nunique() == 2}
    tested = rows[rows["published_split"] == "test"]
    return rows, shared, int(tested["lesion_id"].isin(shared).sum())


def test_fed_isic2019_has_the_centres_and_the_parts_of_flamby(
    laid_out: Callable[[str], Path],
) -> None:
    root = laid_out("fed_isic2019")
    rows, shared, _ = published(root)
    assert len(rows) == COUNT - 6
    assert len(shared) > 20
    split = pd.read_csv(root / "train_test_split").set_index("image")
    beside = split.loc[[Path(image).stem for image in rows["image"]]]
    assert rows["published_split"].tolist() == beside["fold"].tolist()
    assert rows["clinic"].tolist() == [CENTRES[number] for number in beside["center"]]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [("center", "6", "centres 0 to 5"), ("fold", "left", "parts"), ("target", "3", "diagnoses")],
)
def test_a_changed_file_of_flamby_is_refused(
    column: str, value: str, said: str, tmp_path: Path
) -> None:
    fed_isic2019(tmp_path)
    split = pd.read_csv(tmp_path / "train_test_split", dtype=str)
    split.loc[3, column] = value
    split.to_csv(tmp_path / "train_test_split", index=False)
    with pytest.raises(DataError, match=f"{said}.*1 images"):
        prepare("fed_isic2019", tmp_path, tmp_path)


def test_images_twice_or_unknown_to_isic_are_refused(tmp_path: Path) -> None:
    fed_isic2019(tmp_path)
    split = pd.read_csv(tmp_path / "train_test_split", dtype=str)
    pd.concat([split, split[:2]]).to_csv(tmp_path / "train_test_split", index=False)
    with pytest.raises(DataError, match="2 images listed again"):
        prepare("fed_isic2019", tmp_path, tmp_path)
    split.replace({"image": {split.loc[0, "image"]: "ISIC_9"}}).to_csv(
        tmp_path / "train_test_split", index=False
    )
    with pytest.raises(DataError, match="1 images that are not in it"):
        prepare("fed_isic2019", tmp_path, tmp_path)


def test_a_lesion_in_both_published_parts_is_refused_with_the_count(
    laid_out: Callable[[str], Path], tmp_path: Path
) -> None:
    config = fed(laid_out, tmp_path, "data.leakage.shared_units=error")
    _, shared, images = published(tmp_path / "fed_isic2019")
    with pytest.raises(DataError, match=f"{len(shared)} in both, with {images} of .* test images"):
        look(config)


def test_the_published_part_is_tested_whole_and_its_lesions_train_nothing(
    laid_out: Callable[[str], Path], tmp_path: Path
) -> None:
    gathered = look(fed(laid_out, tmp_path))
    rows, shared, _ = published(tmp_path / "fed_isic2019")
    images = gathered.cohort.images
    tested = set(rows["image"][rows["published_split"] == "test"])
    assert set(images["image"][images["split"] == "test"]) == tested
    assert not shared & set(images["lesion_id"][images["split"] != "test"])
    assert len(images) == len(rows) - int(
        (rows["lesion_id"].isin(shared) & (rows["published_split"] == "train")).sum()
    )
    assert {"train", "validation", "test"} == set(images["split"])
    assert (images.groupby("patient_id")["split"].nunique() == 1).all()
    assert sorted(gathered.folders) == sorted(CENTRES)
    assert gathered.num_shared == 0


def test_figures_of_a_leaking_split_come_without_a_promise_and_under_a_stamp(
    laid_out: Callable[[str], Path], tmp_path: Path
) -> None:
    leaking = "data.leakage.shared_units=report"
    with pytest.raises(ConfigError, match="trust=none"):
        fed(laid_out, tmp_path, leaking)
    root = f"data.root={tmp_path / 'fed_isic2019'}"
    words = [root, f"work_dir={tmp_path / 'work'}", leaking, "privacy.trust=none"]
    config = load_config("fed_isic2019_published", words)
    gathered = look(config)
    rows, shared, _ = published(tmp_path / "fed_isic2019")
    assert len(gathered.cohort.images) == len(rows)
    assert gathered.num_shared == len(shared)
    assert any(f"{len(shared)} lesions in two splits" in s.note for s in gathered.cohort.flow)
    told = split_words(config.data, gathered.cohort.unit, gathered.num_shared)
    assert told["leak"].startswith(f"{len(shared)} lesions")
    assert split_key_id(config.data) != split_key_id(load_config("fed_isic2019").data)


def test_a_manifest_without_published_parts_has_no_published_split(
    laid_out: Callable[[str], Path], tmp_path: Path
) -> None:
    words = [f"data.root={laid_out('isic2019')}", f"work_dir={tmp_path / 'work'}"]
    config = load_config("isic2019", [*words, "data.split=published"])
    with pytest.raises(DataError, match=f"{COUNT} rows without"):
        look(config)


def test_a_split_by_image_as_peers_publish_one_is_refused_with_what_it_leaks(
    laid_out: Callable[[str], Path],
) -> None:
    root = laid_out("isic2019")
    frame = read_manifest(root / "manifest.csv", root=root).frame
    inspections = inspect_images(frame["image"].tolist(), root, ImageLimits())
    lesions = frame["patient_id"].to_numpy(str)
    # Every fifth image is tested, whatever its lesion: as Fed-ISIC2019 divides.
    splits = np.where(np.arange(len(frame)) % 5 == 0, "test", "train")
    with pytest.raises(DataError, match=f"{COUNT // 5} patients in two or more splits"):
        audit_leakage(inspections, lesions, splits, LeakageSettings())
    by_lesion = np.where(np.arange(len(frame)) // 2 % 5 == 0, "test", "train")
    report = audit_leakage(inspections, lesions, by_lesion, LeakageSettings())
    assert report.num_patients_shared == 0
