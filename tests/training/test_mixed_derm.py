"""What two precisions change for a classifier of real images: minutes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skinml.data.settings import ImageLimits
from skinml.models.backbones import load_backbone
from skinml.models.settings import ModelSettings, Precision
from skinml.training.features import compute_features

WITHIN = 0.001


def _scores(
    features: NDArray[np.float32], malignant: NDArray[np.int64], patients: NDArray[np.str_]
) -> NDArray[np.float64]:
    """Score each image by a ridge regression that never saw its patient."""
    scores = np.empty(len(malignant))
    for train, test in GroupKFold(5).split(features, malignant, patients):
        model = make_pipeline(StandardScaler(), Ridge(alpha=1000.0))
        model.fit(features[train].astype(np.float64), malignant[train])
        scores[test] = model.predict(features[test].astype(np.float64))
    return scores


@pytest.mark.slow
@pytest.mark.derm
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("dataset", ["HAM10000", "MILK10k"])
def test_mixed_precision_moves_auroc_on_real_images_by_less_than_a_thousandth(
    derm_root: Path, dataset: str
) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra pretrained is missing")
    table = pd.read_csv(derm_root / "manifest.csv")
    table = table[table["dataset"] == dataset]
    malignant = table["malignant"].to_numpy()
    patients = table["patient_id"].to_numpy()
    paths = [derm_root / each for each in table["image"]]
    found = {}
    ways: tuple[Precision, ...] = ("float32", "mixed")
    for precision in ways:
        backbone = load_backbone(ModelSettings(precision=precision))
        features = compute_features(paths, backbone, ImageLimits())
        found[precision] = roc_auc_score(malignant, _scores(features, malignant, patients))
    assert found["float32"] > 0.8
    assert found["mixed"] == pytest.approx(found["float32"], rel=0, abs=WITHIN), found
