"""Settings of the model: what fits together and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from skinml.models.settings import ModelSettings

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs" / "model").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_valid(path):
    ModelSettings.model_validate(yaml.safe_load(path.read_text()))


def test_the_shipped_configs_are_found():
    assert len(CONFIGS) >= 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "network"},
        {"kind": "linear_head", "network": "small_cnn"},
        {"backbone": "torchvision/resnet18"},
        {"backbone": "efficientnet_lite0", "weights": "x.pth"},
        {"backbone": "../resnet18", "weights": "x.pth"},
        {"image_size": 0},
        {"batch_size": 0},
        {"colour": "red"},
    ],
    ids=str,
)
def test_settings_of_which_a_part_would_be_ignored_are_refused(wrong):
    with pytest.raises(ValidationError):
        ModelSettings.model_validate(wrong)
