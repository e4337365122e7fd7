"""Fed-ISIC2019 (FLamby): 23,247 images of ISIC 2019 at six centres, and the published split."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from skinml.data.manifest_rules import PUBLISHED_PARTS
from skinml.data.readers import isic2019
from skinml.data.readers.published import read_table
from skinml.errors import DataError

CENTRES = ("bcn", "vidir_molemax", "vidir_modern", "rosendahl", "msk", "vienna_dias")
"""The centres in the order of their numbers in the published file."""

_SPLIT = "train_test_split"
_AGAIN = "Take the file that FLamby publishes, and metadata and ground truth of ISIC 2019."


def read(source: Path) -> pd.DataFrame:
    """Read ISIC 2019 as published by the ISIC challenge, and FLamby's centres and parts.

    The published parts divide images, not lesions: photographs of one lesion may be in both.
    FLamby's own pictures are made smaller and of even colour; the manifest names ISIC's.

    Args:
        source: Folder with ISIC_2019_Training_Metadata.csv, ISIC_2019_Training_GroundTruth.csv and
            train_test_split, from flamby/datasets/fed_isic2019/dataset_creation_scripts.

    Returns:
        Rows in a manifest's columns: the centre as clinic, "train" or "test" as published_split.

    Raises:
        DataError: If a file is missing or not as published, or an image is listed twice, is not in
            ISIC 2019 or has another diagnosis there.

    Source:
        Ogier du Terrail et al. 2022, FLamby, arXiv:2210.04620; see also `isic2019.read`.
    """
    split = read_table(source, _SPLIT, ("image", "target", "center", "fold")).set_index("image")
    rows = isic2019.read(source)
    names = pd.Series([Path(image).stem for image in rows["image"]], index=rows.index)
    targets = {name: str(index) for index, name in enumerate(isic2019.CLASSES)}
    rows = rows[names.isin(split.index)].reset_index(drop=True)
    names = names[names.isin(split.index)]
    _require(int(split.index.duplicated().sum()), "each image once", "images listed again")
    _require(len(split) - len(rows), "images of ISIC 2019 alone", "images that are not in it")
    parts = split.loc[names.tolist()].reset_index(drop=True)
    centres = {str(number): name for number, name in enumerate(CENTRES)}
    for rule, broken in (
        ("centres 0 to 5", ~parts["center"].isin(centres)),
        ("the parts train and test", ~parts["fold"].isin(PUBLISHED_PARTS)),
        ("ISIC 2019's diagnoses", parts["target"] != rows["diagnosis"].map(targets)),
    ):
        _require(int(broken.sum()), rule, "images with others")
    return rows.assign(
        clinic=parts["center"].map(centres), published_split=parts["fold"], dataset="FedISIC2019"
    )


def _require(broken: int, rule: str, what: str) -> None:
    if broken:
        raise DataError(rule=f"{rule} in {_SPLIT}", got=f"{broken} {what}", do=_AGAIN)
