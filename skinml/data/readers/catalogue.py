"""The published datasets that skinml knows: the one list that commands and docs have them from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skinml.data.readers import (
    ddi,
    fed_isic2019,
    fitzpatrick17k,
    ham10000,
    isic2019,
    milk10k,
    pad_ufes_20,
)

if TYPE_CHECKING:
    import pandas as pd

    from skinml.data.settings import Unit


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A published dataset that skinml can read.

    Attributes:
        title: Its name in manifests and reports.
        what: How many images of what, in words.
        read: From the folder to rows in a manifest's columns.
        unit: What patient_id stands for.
        licence: Under which it was published.
        where: Its publisher.
        tones: What it tells of skin tones, in words.
        tone_scale: The scale of its skin tones; None where it has none.
        experiments: The shipped experiments on it; a config of the data has each one's name.
    """

    title: str
    what: str
    read: Callable[[Path], pd.DataFrame]
    unit: Unit
    licence: str
    where: str
    experiments: tuple[str, ...]
    tones: str = "none"
    tone_scale: str | None = None


DATASETS: Mapping[str, Dataset] = {
    "ham10000": Dataset(
        title="HAM10000",
        what="10,015 dermoscopic images, 7 diagnoses",
        read=ham10000.read,
        unit="lesion",
        licence="CC BY-NC 4.0",
        where="Harvard Dataverse, doi:10.7910/DVN/DBW86T",
        experiments=("ham10000",),
    ),
    "isic2019": Dataset(
        title="ISIC2019",
        what="25,331 dermoscopic images, 8 diagnoses",
        read=isic2019.read,
        unit="lesion",
        licence="CC BY-NC 4.0",
        where="challenge.isic-archive.com, 2019 training data",
        experiments=("isic2019",),
    ),
    "fed_isic2019": Dataset(
        title="Fed-ISIC2019",
        what="23,247 images of ISIC 2019 at six centres, with FLamby's split",
        read=fed_isic2019.read,
        unit="lesion",
        licence="CC BY-NC 4.0",
        where="ISIC 2019, and the file train_test_split of github.com/owkin/FLamby",
        experiments=("fed_isic2019", "fed_isic2019_published"),
    ),
    "milk10k": Dataset(
        title="MILK10k",
        what="a close-up and a dermoscopic image a lesion, 11 diagnoses",
        read=milk10k.read,
        unit="lesion",
        licence="CC BY-NC 4.0",
        where="ISIC archive, 2025",
        experiments=("milk10k",),
        tones="MILK10k's own, 0 to 5",
        tone_scale="milk",
    ),
    "pad_ufes_20": Dataset(
        title="PAD-UFES-20",
        what="2,298 smartphone photographs of 1,373 patients, 6 diagnoses",
        read=pad_ufes_20.read,
        unit="patient",
        licence="CC BY 4.0",
        where="Mendeley Data, doi:10.17632/zr7vgbcyr2.1",
        experiments=("pad_ufes_20",),
        tones="Fitzpatrick",
        tone_scale="fitzpatrick",
    ),
    "fitzpatrick17k": Dataset(
        title="Fitzpatrick17k",
        what="16,577 clinical photographs, 114 conditions",
        read=fitzpatrick17k.read,
        unit="image",
        licence="CC BY-NC-SA 3.0",
        where="github.com/mattgroh/fitzpatrick17k",
        experiments=("fitzpatrick17k",),
        tones="Fitzpatrick",
        tone_scale="fitzpatrick",
    ),
    "ddi": Dataset(
        title="DDI",
        what="656 biopsied lesions",
        read=ddi.read,
        unit="image",
        licence="research only (Stanford University DDI agreement)",
        where="ddi-dataset.github.io",
        experiments=("ddi",),
        tones="pairs of Fitzpatrick types",
        tone_scale="fitzpatrick",
    ),
}
