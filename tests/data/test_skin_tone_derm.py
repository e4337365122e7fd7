"""Masks and tones on real photographs: drawn lesion masks, and tone classes that people gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from skinml.data.images import decode_image
from skinml.data.settings import ImageLimits
from skinml.data.skin_tone import ToneMeasurement, ToneSettings, measure_tone
from skinml.data.tone_colour import read_light
from skinml.seeding import Seeds

pytestmark = pytest.mark.derm
LIMITS = ImageLimits()
REPLICATES = 500


def masked(root: Path, number: int) -> list[tuple[Path, np.ndarray]]:
    paths = sorted((root / "lesion_masks").glob("*.png"))
    chosen = np.random.default_rng(0).permutation(len(paths))[:number]
    masks = [decode_image(paths[index], LIMITS)[0].numpy() > 127 for index in chosen]
    images = [root / "images" / f"{paths[index].stem}.jpg" for index in chosen]
    return list(zip(images, masks, strict=True))


def test_the_lesion_that_is_found_is_the_lesion_that_was_drawn(derm_root: Path) -> None:
    overlaps, moved = [], []
    for image, lesion in masked(derm_root, 20):
        light, _ = read_light(image, LIMITS)
        found, mask = measure_tone(light, ToneSettings(), Seeds(0), "x")
        given, _ = measure_tone(light, ToneSettings(), Seeds(0), "x", lesion=lesion)
        overlaps.append((mask.excluded["lesion"] & lesion).sum() / lesion.sum())
        if found.measurable and given.measurable:
            moved.append(abs(found.ita_degrees - given.ita_degrees))
    assert np.median(overlaps) > 0.85
    assert len(moved) > 10
    assert np.median(moved) < 2


def close_ups(root: Path, most: int) -> pd.DataFrame:
    frame = pd.read_csv(root / "manifest.csv")
    frame = frame[(frame["dataset"] == "MILK10k") & (frame["modality"] == "clinical_closeup")]
    return pd.concat(
        rows.sample(min(most, len(rows)), random_state=0) for _, rows in frame.groupby("skin_tone")
    )


def rank_limits(frame: pd.DataFrame, seed: int) -> tuple[float, float, float]:
    """Spearman's correlation with 95% limits, by drawing patients anew."""
    rng = np.random.default_rng(seed)
    rows_of = list(frame.groupby("patient_id").indices.values())
    classes, angles = frame["skin_tone"].to_numpy(), frame["ita"].to_numpy()
    drawn = []
    for _ in range(REPLICATES):
        rows = np.concatenate([rows_of[i] for i in rng.integers(len(rows_of), size=len(rows_of))])
        drawn.append(spearmanr(classes[rows], angles[rows]).statistic)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(spearmanr(classes, angles).statistic), float(low), float(high)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_close_ups_follow_the_tone_classes_that_people_gave(derm_root: Path) -> None:
    frame = close_ups(derm_root, 50)
    tones: list[ToneMeasurement] = []
    for image in frame["image"]:
        light, _ = read_light(derm_root / image, LIMITS)
        tones.append(measure_tone(light, ToneSettings(), Seeds(0), image)[0])
    frame = frame.assign(ita=[tone.ita_degrees for tone in tones])
    failed = frame["ita"].isna().groupby(frame["skin_tone"]).mean()
    assert failed.max() < 0.2
    correlation, low, high = rank_limits(frame.dropna(subset="ita").reset_index(drop=True), 0)
    assert low > 0.6
    assert low < correlation < high
    medians = frame.groupby("skin_tone")["ita"].median()
    assert medians[1] < 0 < medians[3] < medians[4] < medians[5]
