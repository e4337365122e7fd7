"""Lesions: the classes differ in what they should, by statistics of the drawn outlines."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from skimage.measure import perimeter

from skinml.data.synthetic.lesions import (
    CENTRES,
    MALIGNANT,
    Appearance,
    draw_appearance,
    draw_lesion,
    outline_mask,
)
from skinml.data.synthetic.settings import class_signal
from skinml.errors import ConfigError

NUM_DRAWS = 80


def asymmetry(mask: np.ndarray) -> float:
    """Share of the area that is not covered by its half-turn about the centroid."""
    rows, columns = np.nonzero(mask)
    turned_rows = np.round(2 * rows.mean() - rows).astype(int)
    turned_columns = np.round(2 * columns.mean() - columns).astype(int)
    inside = (
        (turned_rows >= 0)
        & (turned_rows < mask.shape[0])
        & (turned_columns >= 0)
        & (turned_columns < mask.shape[1])
    )
    covered = mask[turned_rows[inside], turned_columns[inside]].sum()
    return float(1 - covered / len(rows))


def irregularity(mask: np.ndarray) -> float:
    """Perimeter squared over area, 1 for a disc."""
    return float(perimeter(mask) ** 2 / (4 * np.pi * mask.sum()))


def masks(diagnosis: str, signal: float) -> list[np.ndarray]:
    drawn = []
    for seed in range(NUM_DRAWS):
        rng = np.random.default_rng(seed)
        drawn.append(outline_mask(draw_appearance(diagnosis, signal, rng), 64, rng))
    return drawn


@pytest.mark.parametrize("statistic", [asymmetry, irregularity])
def test_melanomas_are_drawn_less_regular_than_naevi(statistic) -> None:
    melanomas = np.array([statistic(mask) for mask in masks("mel", 1.0)])
    naevi = np.array([statistic(mask) for mask in masks("nv", 1.0)])
    assert (melanomas[:, None] > naevi[None, :]).mean() > 0.75


@pytest.mark.parametrize("statistic", [asymmetry, irregularity])
def test_the_difference_of_outlines_is_gone_without_signal(statistic) -> None:
    melanomas = [statistic(mask) for mask in masks("mel", 0.0)]
    naevi = [statistic(mask) for mask in masks("nv", 0.0)]
    assert melanomas == naevi


@pytest.mark.parametrize("signal", [1.0, 0.65, 0.3])
def test_signal_scales_the_distance_between_classes(signal: float) -> None:
    def middle(diagnosis: str, signal: float) -> np.ndarray:
        draws = [
            astuple(draw_appearance(diagnosis, signal, np.random.default_rng(seed)))
            for seed in range(3000)
        ]
        return np.median(draws, axis=0)

    whole = np.subtract(CENTRES["mel"], CENTRES["nv"])
    left = middle("mel", signal) - middle("nv", signal)
    clear = np.abs(whole) > 0.3
    np.testing.assert_allclose(left[clear], signal * whole[clear], atol=0.03)


@pytest.mark.parametrize("diagnosis", MALIGNANT)
def test_every_class_gives_maps_within_their_limits(diagnosis: str) -> None:
    rng = np.random.default_rng(5)
    maps = draw_lesion(draw_appearance(diagnosis, 1.0, rng), 64, rng)
    assert maps.layers().shape == (7, 64, 64)
    assert np.isfinite(maps.layers()).all()
    for share in (maps.cover, maps.veil, maps.scale, maps.crust):
        assert share.min() >= 0
        assert share.max() <= 1
    assert maps.cover.max() > 0.9
    assert maps.cover[[0, -1]].max() < 0.2  # it ends inside its frame


def test_naevi_are_pigmented_and_vascular_lesions_are_full_of_blood() -> None:
    def mean(diagnosis: str, layer: str) -> float:
        total = 0.0
        for seed in range(20):
            rng = np.random.default_rng(seed)
            maps = draw_lesion(draw_appearance(diagnosis, 1.0, rng), 48, rng)
            total += float(np.average(getattr(maps, layer), weights=maps.cover))
        return total / 20

    assert mean("nv", "pigment") > 2 * mean("vasc", "pigment")
    assert mean("vasc", "blood") > 3 * mean("nv", "blood")


def test_attributes_stay_within_zero_and_one() -> None:
    draws = [
        astuple(draw_appearance("mel", 1.0, np.random.default_rng(seed))) for seed in range(200)
    ]
    assert np.min(draws) >= 0
    assert np.max(draws) <= 1
    assert len(draws[0]) == len(Appearance.__dataclass_fields__)


@pytest.mark.parametrize(
    ("tone", "difficulty", "expected"),
    [(1, 0.35, 1.0), (10, 0.35, 0.65), (10, 0, 1), (4, 0.9, 0.7)],
)
def test_class_signal_falls_linearly_with_tone(
    tone: int, difficulty: float, expected: float
) -> None:
    assert class_signal(tone, difficulty) == pytest.approx(expected)


def test_an_impossible_difficulty_is_refused() -> None:
    with pytest.raises(ConfigError):
        class_signal(5, 1.5)
