"""Each public dataset's experiment, on a small folder in the layout of its publisher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from skinml.config import load_config
from skinml.data.images import inspect_images
from skinml.data.leakage import audit_leakage
from skinml.data.manifest import read_manifest
from skinml.data.readers.prepare import DATASETS, prepare
from skinml.data.settings import ImageLimits, LeakageSettings
from skinml.errors import DataError
from skinml.experiments.cohorts import gather
from skinml.experiments.progress import Silence
from skinml.experiments.workspace import Workspace

COUNT = 160
ISIC = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"]
MILK = ["AKIEC", "BCC", "BEN_OTH", "BKL", "DF", "INF", "MAL_OTH", "MEL", "NV", "SCCKA", "VASC"]
NUMBERS = range(COUNT)


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


LAYOUTS: dict[str, Callable[[Path], None]] = {
    each.__name__: each for each in (ham10000, isic2019, milk10k, pad_ufes_20, fitzpatrick17k, ddi)
}


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
    for name in DATASETS:
        config = load_config(name)
        assert config.data.unit == DATASETS[name].unit
        assert config.data.tone_scale == DATASETS[name].tone_scale


@pytest.mark.parametrize("name", DATASETS)
def test_an_experiment_takes_its_dataset_as_published(
    name: str, laid_out: Callable[[str], Path], tmp_path: Path
) -> None:
    words = [f"data.root={laid_out(name)}", f"work_dir={tmp_path / 'work'}"]
    config = load_config(name, words)
    gathered = gather(config, Workspace(config.work_dir), "look", Silence())
    cohort = gathered.cohort
    assert cohort.unit == DATASETS[name].unit
    assert len(gathered.folders) == config.data.partition.num_clinics
    assert (cohort.images.groupby("patient_id")["split"].nunique() == 1).all()
    if DATASETS[name].tone_scale:
        assert set(cohort.items["skin_tone"]) == set(config.data.bins["skin_tone"])


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
